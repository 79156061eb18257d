//! The built-in transports. All code that uses sockets, rustls or quinn is in this module.

mod clock;
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

/// Returns dialers for all built-in schemes. They authenticate this node with `identity`.
#[must_use]
pub fn dialers(identity: &Identity) -> Arc<[Arc<dyn Dialer>]> {
    let quic: Arc<dyn Dialer> = Arc::new(QuicDialer::new(identity.clone()));
    let tcp: Arc<dyn Dialer> = Arc::new(TcpDialer::new(identity.clone()));
    let udp: Arc<dyn Dialer> = Arc::new(UdpDialer::new(identity.clone()));
    [quic, tcp, udp].into()
}

/// Binds the built-in listener of the scheme of `address`. Port 0 lets the operating system choose
/// a port.
///
/// # Errors
/// [`ListenError`] for an unknown scheme, an address that is no IP address and port, and a refusal
/// of the operating system.
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
