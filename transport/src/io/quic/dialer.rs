//! Dials QUIC connections.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use quinn_proto::{ConnectError, Endpoint, EndpointConfig};

use super::config::{
    self, CONNECTION_WINDOW, MTU_CAP_MIN, MTU_CAP_NONE, TlsConfigError, TransportConfigs,
};
use super::transport::{ConnectionParts, QuicTransport};
use super::{SCHEME, SERVER_NAME};
use crate::io::datagram_socket::DatagramSocket;
use crate::io::identity::Identity;
use crate::io::tls::RefusalCell;
use crate::{DialError, DialTarget, Dialer, End, Instant, NodeId, Role, Transport};

/// Dials `quic://`.
#[derive(Debug, Clone)]
pub struct QuicDialer {
    identity: Identity,
    mtu_cap: u16,
    shared: OnceLock<SharedQuicConfig>,
}

/// The configuration that all connections of a dialer share, created with the first.
#[derive(Debug, Clone)]
struct SharedQuicConfig {
    endpoint: Arc<EndpointConfig>,
    transport_configs: TransportConfigs,
}

impl QuicDialer {
    /// Creates a dialer that authenticates with `identity`.
    #[must_use]
    pub const fn new(identity: Identity) -> Self {
        Self {
            identity,
            mtu_cap: MTU_CAP_NONE,
            shared: OnceLock::new(),
        }
    }

    /// Limits the datagrams of both sides to `bytes`; values below 1200, the minimum of QUIC, are
    /// raised to it. By default path MTU discovery finds the limit, at most 8952 on loopback and
    /// private networks and 1452 elsewhere.
    ///
    /// Use it for paths that mishandle large datagrams instead of dropping them, and for
    /// measurements.
    #[must_use]
    pub fn with_mtu_max(mut self, bytes: u16) -> Self {
        self.mtu_cap = bytes.max(MTU_CAP_MIN);
        self.shared = OnceLock::new();
        self
    }

    /// Like [`Dialer::dial`], but returns the concrete transport type.
    ///
    /// # Errors
    /// As [`Dialer::dial`].
    pub fn connect(&self, now: Instant, target: &DialTarget) -> Result<QuicTransport, DialError> {
        let bad_place = || DialError::BadPlace {
            address: target.address.clone(),
        };
        if target.address.scheme() != SCHEME {
            return Err(DialError::UnknownScheme {
                scheme: target.address.scheme().to_owned(),
                known: SCHEME.to_owned(),
            });
        }
        let remote = target.address.as_socket().ok_or_else(bad_place)?;
        if remote.port() == 0 || remote.ip().is_unspecified() {
            return Err(bad_place());
        }
        let transport = self
            .begin(now, remote, target.peer)
            .map_err(End::unreachable)?;
        Ok(transport)
    }

    fn begin(
        &self,
        now: Instant,
        remote: SocketAddr,
        peer: Option<NodeId>,
    ) -> io::Result<QuicTransport> {
        let socket = DatagramSocket::dialing(remote)?;
        let refusal = RefusalCell::default();
        let shared = self.shared.get_or_init(|| SharedQuicConfig {
            endpoint: Arc::new(config::endpoint_config(&self.identity, self.mtu_cap)),
            transport_configs: TransportConfigs::new(self.mtu_cap, CONNECTION_WINDOW),
        });
        let transport_configs = shared.transport_configs.of(remote.ip());
        let config = config::client_config(
            &self.identity,
            peer,
            transport_configs,
            Arc::clone(&refusal),
        )
        .map_err(TlsConfigError::into_io)?;
        let probes_mtu = !socket.may_fragment();
        let mut endpoint = Endpoint::new(Arc::clone(&shared.endpoint), None, probes_mtu, None);
        let (handle, conn) = endpoint
            .connect(now.into(), config, remote, SERVER_NAME)
            .map_err(|error: ConnectError| io::Error::other(error))?;
        Ok(QuicTransport::new(
            now,
            ConnectionParts {
                role: Role::Dialer,
                socket,
                endpoint,
                handle,
                conn,
                refusal,
                forward_queue: None,
                amplification_limit: None,
            },
        ))
    }
}

impl Dialer for QuicDialer {
    fn schemes(&self) -> &[&'static str] {
        &[SCHEME]
    }

    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        Ok(Box::new(self.connect(now, target)?))
    }
}
