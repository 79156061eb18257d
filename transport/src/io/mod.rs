//! Everything that touches a socket. Nothing outside this folder names rustls or quinn.

mod datagram_socket;
mod door;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod mailbox;
mod plain;
mod quic;
mod tcp;
mod tls;
mod udp;

pub use identity::{Admission, Identity, IdentityError};
pub use quic::{QuicDialer, QuicListener, QuicStats, QuicTransport};
pub use tcp::{TcpDialer, TcpListener, TcpTransport};
pub use udp::{UdpDialer, UdpListener, UdpTransport};

use crate::{Address, ListenError, Listener};

/// Listens on `address` with the built-in transport of its scheme.
///
/// # Errors
/// [`ListenError`].
pub fn bind(
    address: &Address,
    identity: &Identity,
    admission: &Admission,
) -> Result<Box<dyn Listener>, ListenError> {
    let (identity, admission) = (identity.clone(), admission.clone());
    match address.scheme() {
        "quic" => Ok(Box::new(QuicListener::bind(address, identity, admission)?)),
        "tcp" | "tcp+plain" => Ok(Box::new(TcpListener::bind(address, identity, admission)?)),
        "udp" | "udp+plain" => Ok(Box::new(UdpListener::bind(address, identity, admission)?)),
        scheme => Err(ListenError::UnknownScheme {
            scheme: scheme.to_owned(),
            known: "quic, tcp, tcp+plain, udp, udp+plain",
        }),
    }
}
