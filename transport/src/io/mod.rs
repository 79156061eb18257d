//! Everything that touches a socket. Nothing outside this folder names rustls or quinn.

mod datagram_socket;
mod handshake_slots;

mod forward_queue;
#[cfg(all(test, feature = "conformance"))]
mod full_sockets;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod plain;
mod quic;
mod tcp;
mod tls;
mod udp;

pub use identity::{Admission, Identity, IdentityError};
pub use quic::{QuicDialer, QuicListener, QuicStats, QuicTransport};
pub use tcp::{TcpDialer, TcpListener, TcpTransport};
pub use udp::{UdpDialer, UdpListener, UdpTransport};

use std::sync::Arc;

use crate::{Address, Dialer, ListenError, Listener};

/// Dialers of all built-in transports, which prove `identity`.
#[must_use]
pub fn dialers(identity: &Identity) -> Arc<[Arc<dyn Dialer>]> {
    let quic: Arc<dyn Dialer> = Arc::new(QuicDialer::new(identity.clone()));
    let tcp: Arc<dyn Dialer> = Arc::new(TcpDialer::new(identity.clone()));
    let udp: Arc<dyn Dialer> = Arc::new(UdpDialer::new(identity.clone()));
    [quic, tcp, udp].into()
}

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
