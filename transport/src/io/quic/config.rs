//! The parameters of a connection, and where their values come from.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, NoneTokenStore, ServerConfig,
    TransportConfig, VarInt,
};

use ring::hmac;

use super::congestion::CubicFactory;
use crate::io::identity::{Admission, Identity};
use crate::io::tls::{self, RefusalCell};
use crate::{LANES_MAX, NodeId};

/// How long a handshake may take. Nobody unauthenticated holds anything for longer.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How long a close waits until everything sent has been acknowledged.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Without a packet for so long, the connection has ended. A session's heartbeats (1 s) keep a
/// living one alive and notice a dead one first (3 s).
const IDLE_MAX: Duration = Duration::from_secs(10);

/// What one stream may have in flight: 40 MB/s over 100 ms of round trip, 4 GB/s over 1 ms.
const STREAM_WINDOW: u32 = 4 << 20;

/// What a connection may have received and not yet read: 160 MB/s over 100 ms of round trip.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The most that is taken from a session and not yet acknowledged.
pub(super) const SEND_WINDOW_MAX: u64 = 16 << 20;

/// What datagrams may wait for in each direction, in bytes.
const DATAGRAM_BUFFER_LEN: usize = 256 << 10;

/// The control flow and the lanes.
pub(super) const STREAMS_MAX: usize = 1 + LANES_MAX;

/// The least that a datagram may be capped to: what every path of QUIC carries (RFC 9000, 14).
pub(super) const MTU_CAP_MIN: u16 = 1200;

/// No cap, as large as UDP allows: a peer on loopback may probe for it.
pub(super) const MTU_CAP_NONE: u16 = 65_527;

/// How large a datagram the path is probed for. Larger datagrams mean fewer packets for the same
/// bytes: 8952 moves 2.1 times what 1452 does (perf.md T2).
///
/// A probe that is too large costs round trips, not data, yet a path that cannot carry 8952 takes
/// about twenty of them until it has found 1452. So it is probed where large ones are likely and
/// round trips short: on loopback and private networks.
fn path_scope(remote: IpAddr) -> PathScope {
    let ip = remote.to_canonical();
    let is_near = match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    match ip.is_loopback() {
        true => PathScope::Loopback,
        false if is_near => PathScope::Private,
        false => PathScope::Public,
    }
}

/// What a path may be expected to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathScope {
    /// Large datagrams from the start: its MTU is 65,536, and there is nothing to find out. Each probe
    /// is a large datagram of padding, which the library reads byte by byte: nine of them for 60 us
    /// each, while sessions introduce themselves. Should somebody have made it smaller, large ones are
    /// lost, and the library goes back to 1200 and searches (RFC 8899, section 4.3).
    Loopback,
    /// Large ones are looked for.
    Private,
    /// What Ethernet carries is looked for.
    Public,
}

const MTU_PRIVATE: u16 = 8952;
const MTU_PUBLIC: u16 = 1452;

/// The parameters of connections to near and to far peers. A connection keeps its own for as long as
/// it lives, so all of a listener or dialer share these.
#[derive(Debug, Clone)]
pub(super) struct TransportConfigs {
    loopback: Arc<TransportConfig>,
    private: Arc<TransportConfig>,
    public: Arc<TransportConfig>,
}

impl TransportConfigs {
    /// `cap` is the largest datagram to send, in bytes.
    pub(super) fn new(cap: u16) -> Self {
        let large = MTU_PRIVATE.min(cap);
        let mut loopback = transport_config(large);
        loopback.initial_mtu(large);
        Self {
            loopback: Arc::new(loopback),
            private: Arc::new(transport_config(large)),
            public: Arc::new(transport_config(MTU_PUBLIC.min(cap))),
        }
    }

    pub(super) fn of(&self, remote: IpAddr) -> Arc<TransportConfig> {
        let transport_configs = match path_scope(remote) {
            PathScope::Loopback => &self.loopback,
            PathScope::Private => &self.private,
            PathScope::Public => &self.public,
        };
        Arc::clone(transport_configs)
    }
}

fn transport_config(mtu_max: u16) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(mtu_max);
    let idle = u32::try_from(IDLE_MAX.as_millis()).unwrap_or(u32::MAX);
    let flows = u32::try_from(STREAMS_MAX).unwrap_or(u32::MAX);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(flows))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW_MAX)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_LEN))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_LEN)
        .congestion_controller_factory(Arc::new(CubicFactory::default()))
        .mtu_discovery_config(Some(mtu));
    config
}

/// The configuration of an endpoint, but for its connection ids.
///
/// The key of its stateless resets (RFC 9000, 10.3) comes from the node's: so a node that has
/// restarted can tell its old peers at once, where a random key would let them wait 10 s.
///
/// `cap` is the largest datagram that the peer may send, in bytes.
pub(super) fn endpoint_config(identity: &Identity, cap: u16) -> EndpointConfig {
    let secret = identity.sign(b"selvedge/1 key of QUIC stateless resets");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    let mut config = EndpointConfig::new(Arc::new(key));
    if let Err(error) = config.max_udp_payload_size(cap) {
        tracing::debug!(%error, "peers keep to the default datagram size");
    }
    config
}

/// The configuration of one dial.
pub(super) fn client_config(
    identity: &Identity,
    expected: Option<NodeId>,
    transport_configs: Arc<TransportConfig>,
    refusal: RefusalCell,
) -> Result<ClientConfig, TlsConfigError> {
    let tls = tls::recording_client_config(identity, expected, refusal)?;
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport_configs);
    // The default remembers tokens for the next dial, which has a configuration of its own.
    config.token_store(Arc::new(NoneTokenStore));
    Ok(config)
}

/// What the configurations of all connections of a listener share: the keys of its retry tokens.
pub(super) fn server_base(
    identity: &Identity,
    admission: &Admission,
) -> Result<ServerConfig, TlsConfigError> {
    let tls = tls::server_config(identity, admission.clone())?;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.incoming_buffer_size(0).incoming_buffer_size_total(0);
    Ok(config)
}

/// The configuration of one accepted connection.
pub(super) fn server_config(
    base: &ServerConfig,
    identity: &Identity,
    admission: &Admission,
    transport_configs: Arc<TransportConfig>,
    refusal: RefusalCell,
) -> Result<ServerConfig, TlsConfigError> {
    let tls = tls::recording_server_config(identity, admission.clone(), refusal)?;
    let mut config = base.clone();
    config.crypto = Arc::new(QuicServerConfig::try_from(tls)?);
    config.transport_config(transport_configs);
    Ok(config)
}

/// The TLS library does not take our key or our protocol version: a mistake of this crate.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsConfigError {
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    #[error(transparent)]
    InitialSuite(#[from] quinn_proto::crypto::rustls::NoInitialCipherSuite),
}

impl TlsConfigError {
    pub(super) fn into_io(self) -> std::io::Error {
        std::io::Error::other(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_datagrams_are_probed_on_near_networks_only() {
        for (ip, expected) in [
            ("127.0.0.1", PathScope::Loopback),
            ("::1", PathScope::Loopback),
            ("::ffff:127.0.0.1", PathScope::Loopback),
            ("10.1.2.3", PathScope::Private),
            ("fd00::1", PathScope::Private),
            ("192.0.2.1", PathScope::Public),
            ("2001:db8::1", PathScope::Public),
        ] {
            assert_eq!(path_scope(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
