//! The QUIC configuration, with the reasons for its values.

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

/// The maximum duration of a handshake, and so of the resources held for an unauthenticated peer.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// The maximum time that a close waits for the acknowledgement of sent data.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(5);

/// The idle timeout of a connection. The heartbeats of a session (1 s) keep a live connection open
/// and detect a dead peer earlier (3 s).
const IDLE_MAX: Duration = Duration::from_secs(10);

/// The flow control window of a stream: 40 MB/s at a round-trip time of 100 ms, 4 GB/s at 1 ms.
const STREAM_WINDOW: u32 = 4 << 20;

/// The flow control window of a connection: 160 MB/s at a round-trip time of 100 ms.
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;

/// The maximum number of bytes accepted from a session and not acknowledged.
pub(super) const SEND_WINDOW_MAX: u64 = 16 << 20;

/// The size of the DATAGRAM buffer in each direction, in bytes.
const DATAGRAM_BUFFER_LEN: usize = 256 << 10;

/// The number of streams in each direction: control and the lanes.
pub(super) const STREAMS_MAX: usize = 1 + LANES_MAX;

/// The minimum of the MTU limit: every path of QUIC carries datagrams of this length (RFC 9000,
/// section 14).
pub(super) const MTU_CAP_MIN: u16 = 1200;

/// No MTU limit: the maximum of a UDP payload, for which a peer on loopback may probe.
pub(super) const MTU_CAP_NONE: u16 = 65_527;

/// Classifies the path to `remote`, which determines the datagram length that MTU discovery probes
/// for. Larger datagrams need fewer packets for the same bytes: on loopback, 8952 bytes give 3848
/// MB/s and 1452 bytes 1849 MB/s.
///
/// A probe that is too large costs round trips but no data. A path that does not carry 8952 bytes
/// takes about twenty of them to settle at 1452. Large datagrams are therefore probed only where
/// they are likely to pass and round trips are short: on loopback and private networks.
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

/// The kind of network between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathScope {
    /// Large datagrams from the start: the MTU of loopback is 65,536, so discovery is unnecessary.
    /// Each probe is a large datagram of padding that the library parses byte by byte: nine probes
    /// of 60 µs each, during the introduction of sessions. If the MTU was configured smaller, large
    /// datagrams are lost, and the library falls back to 1200 bytes and searches (RFC 8899, section
    /// 4.3).
    Loopback,
    /// Discovery probes up to 8952 bytes.
    Private,
    /// Discovery probes up to 1452 bytes, which Ethernet carries.
    Public,
}

const MTU_PRIVATE: u16 = 8952;
const MTU_PUBLIC: u16 = 1452;

/// The transport configurations for each kind of path. A connection keeps its configuration for its
/// lifetime, so all connections of a listener or dialer share these.
#[derive(Debug, Clone)]
pub(super) struct TransportConfigs {
    loopback: Arc<TransportConfig>,
    private: Arc<TransportConfig>,
    public: Arc<TransportConfig>,
}

impl TransportConfigs {
    /// Creates the configurations. `cap` is the maximum datagram length to send, `window` the flow control
    /// window of a connection, in bytes.
    pub(super) fn new(cap: u16, window: u32) -> Self {
        let large = MTU_PRIVATE.min(cap);
        let mut loopback = transport_config(large, window);
        loopback.initial_mtu(large);
        Self {
            loopback: Arc::new(loopback),
            private: Arc::new(transport_config(large, window)),
            public: Arc::new(transport_config(MTU_PUBLIC.min(cap), window)),
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

fn transport_config(mtu_max: u16, window: u32) -> TransportConfig {
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
        .receive_window(VarInt::from_u32(window))
        .send_window(SEND_WINDOW_MAX)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_LEN))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_LEN)
        .congestion_controller_factory(Arc::new(CubicFactory::default()))
        .mtu_discovery_config(Some(mtu));
    config
}

/// Creates the configuration of an endpoint, without its connection ids.
///
/// The key of the stateless resets (RFC 9000, section 10.3) is derived from the key of the node. A
/// restarted node can therefore reset old connections of its peers at once; with a random key they
/// would wait 10 s for their idle timeout.
///
/// `cap` is the maximum datagram length that the peer may send, in bytes.
pub(super) fn endpoint_config(identity: &Identity, cap: u16) -> EndpointConfig {
    let secret = identity.sign(b"selvedge/1 key of QUIC stateless resets");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    let mut config = EndpointConfig::new(Arc::new(key));
    if let Err(error) = config.max_udp_payload_size(cap) {
        tracing::debug!(%error, cap, "invalid limit of the datagram length; the default applies");
    }
    config
}

/// Creates the configuration of one dial.
pub(super) fn client_config(
    identity: &Identity,
    expected: Option<NodeId>,
    transport_configs: Arc<TransportConfig>,
    refusal: RefusalCell,
) -> Result<ClientConfig, TlsConfigError> {
    let tls = tls::recording_client_config(identity, expected, refusal)?;
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport_configs);
    // The default stores tokens for the next dial, which has a configuration of its own.
    config.token_store(Arc::new(NoneTokenStore));
    Ok(config)
}

/// Creates the base of the configurations of a listener, with the key of its Retry tokens.
pub(super) fn server_base(
    identity: &Identity,
    admission: &Admission,
) -> Result<ServerConfig, TlsConfigError> {
    let tls = tls::server_config(identity, admission.clone())?;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.incoming_buffer_size(0).incoming_buffer_size_total(0);
    Ok(config)
}

/// Creates the configuration of one accepted connection.
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

/// The TLS library rejected the key or the protocol version: a defect of this crate.
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
    fn large_datagrams_are_probed_on_private_networks_only() {
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
