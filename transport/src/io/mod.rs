//! Everything that touches a socket. Nothing outside this folder names rustls or quinn.

mod datagram_socket;
mod door;
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
