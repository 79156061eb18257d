//! Dials UDP connections.

use super::handshake::{DialerHandshake, UdpSecurity};
use super::transport::UdpTransport;
use super::{ENCRYPTED_SCHEME, PLAIN_SCHEME, SCHEMES};
use crate::io::datagram_socket::DatagramSocket;
use crate::io::identity::Identity;
use crate::{DialError, DialTarget, Dialer, End, Instant, Transport};

/// Dials `udp://` (encrypted) and `udp+plain://`.
#[derive(Debug, Clone)]
pub struct UdpDialer {
    identity: Identity,
}

impl UdpDialer {
    /// Creates a dialer that authenticates with `identity`.
    #[must_use]
    pub const fn new(identity: Identity) -> Self {
        Self { identity }
    }
}

impl Dialer for UdpDialer {
    fn schemes(&self) -> &[&'static str] {
        &[ENCRYPTED_SCHEME, PLAIN_SCHEME]
    }

    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        let address = &target.address;
        let Some(security) = UdpSecurity::of_scheme(address.scheme()) else {
            return Err(DialError::UnknownScheme {
                scheme: address.scheme().to_owned(),
                known: SCHEMES.to_owned(),
            });
        };
        let remote = address
            .as_socket()
            .filter(|remote| remote.port() != 0 && !remote.ip().is_unspecified())
            .ok_or_else(|| DialError::BadPlace {
                address: address.clone(),
            })?;
        let socket = DatagramSocket::dialing(remote).map_err(End::unreachable)?;
        let handshake = DialerHandshake::new(security, self.identity.clone(), target.peer)
            .map_err(End::unreachable)?;
        let transport = UdpTransport::dialing(now, security, socket, remote, handshake);
        Ok(Box::new(transport))
    }
}
