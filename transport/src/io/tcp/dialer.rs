//! Dials TCP connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::handshake_io::HandshakeIo;
use super::peer_stream::PeerStream;
use super::socket_stream::SocketStream;
use super::tls_stream::TlsStream;
use super::transport::TcpTransport;
use super::{SCHEME_PLAIN, SCHEME_TLS, SCHEMES_KNOWN, socket};
use crate::io::identity::{Identity, random};
use crate::io::plain::PlainHandshake;
use crate::io::tls;
use crate::{DialError, DialTarget, Dialer, End, Instant, NodeId, Role, Transport};

/// Dials `tcp://` (TLS 1.3) and `tcp+plain://`.
#[derive(Debug, Clone)]
pub struct TcpDialer {
    identity: Identity,
}

impl TcpDialer {
    /// Creates a dialer that authenticates with `identity`.
    #[must_use]
    pub const fn new(identity: Identity) -> Self {
        Self { identity }
    }

    fn plain(&self, remote: SocketAddr, peer: Option<NodeId>) -> io::Result<PeerStream> {
        let handshake = PlainHandshake::dialer(self.identity.clone(), peer, random()?);
        let proof = Box::new(HandshakeIo::new(handshake));
        Ok(PeerStream::Plain(
            SocketStream::new(socket::connecting(remote)?),
            Some(proof),
        ))
    }

    fn tls(&self, remote: SocketAddr, peer: Option<NodeId>) -> io::Result<PeerStream> {
        let config = tls::client_config(&self.identity, peer).map_err(io::Error::other)?;
        // The library requires a server name. Raw keys have none; an IP address is not sent to the
        // peer (RFC 6066, section 3).
        let name = ServerName::IpAddress(remote.ip().into());
        let conn = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let socket = SocketStream::new(socket::connecting(remote)?);
        Ok(PeerStream::Tls(Box::new(TlsStream::new(
            socket,
            conn.into(),
        ))))
    }
}

impl Dialer for TcpDialer {
    fn schemes(&self) -> &[&'static str] {
        &[SCHEME_TLS, SCHEME_PLAIN]
    }

    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        let address = &target.address;
        let begin = match address.scheme() {
            SCHEME_TLS => Self::tls,
            SCHEME_PLAIN => Self::plain,
            scheme => {
                return Err(DialError::UnknownScheme {
                    scheme: scheme.to_owned(),
                    known: SCHEMES_KNOWN.to_owned(),
                });
            }
        };
        let remote = address
            .as_socket()
            .filter(|remote| remote.port() != 0 && !remote.ip().is_unspecified())
            .ok_or_else(|| DialError::BadPlace {
                address: address.clone(),
            })?;
        let stream = begin(self, remote, target.peer).map_err(End::unreachable)?;
        let transport = TcpTransport::new(now, Role::Dialer, stream, address.clone());
        Ok(Box::new(transport))
    }
}
