//! Plain UDP for trusted links: a frame a datagram, identities proved once by signatures.
//!
//! Nothing is encrypted, and after the handshake nothing is authenticated but by a tag that only
//! those on the path can see. Frames may be lost, repeated and reordered; the session above repairs
//! that. See [`handshake`] for how the peers prove who they are.
//!
//! ```text
//! ┌──────┬────────┬───────┐   kind: 16 = control, 17 = datagram, 18 = close, 32 + n = lane n
//! │ kind │ tag: 8 │ frame │   tag: of this connection, from both nonces of its handshake
//! └──────┴────────┴───────┘   at most 1200 bytes, which any path carries (RFC 9000, 14)
//! ```
//!
//! Sockets are as in [`quic`](super::quic): each transport owns one that is connected to its peer,
//! and the listener forwards what arrived before that. But a datagram has no connection id, so a
//! peer whose address changes is lost; it has to dial again.

mod batch;
mod dialer;
mod handshake;
mod listener;
mod transport;

pub use dialer::UdpDialer;
pub use listener::UdpListener;
pub use transport::UdpTransport;

/// The scheme of the addresses.
const SCHEME: &str = "udp+plain";

/// The longest datagram.
const DATAGRAM_LEN_MAX: usize = 1200;

/// Kind and tag.
const OVERHEAD: usize = 1 + handshake::TAG_LEN;

/// The longest frame.
const FRAME_MAX: usize = DATAGRAM_LEN_MAX - OVERHEAD;

/// Feeds all who read datagrams before anybody has proved anything.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz_handshake(identity: &super::Identity, datagram: &[u8]) {
    use handshake::{Accepting, Dialing, Greeter};
    let from = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    if let (Ok(greeter), Ok(mut dialing)) = (Greeter::new(), Dialing::new(identity.clone(), None)) {
        drop(greeter.greet(from, 0, datagram));
        drop(dialing.handle(datagram));
    }
    let anyone = super::Admission::anyone();
    if let Ok(accepting) = Accepting::new(identity.clone(), anyone, [7; 32]) {
        drop(accepting.handle(datagram));
    }
}
