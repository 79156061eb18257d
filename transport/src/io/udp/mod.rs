//! UDP: one frame per datagram. Frames may be lost, duplicated and reordered; the session recovers
//! them.
//!
//! `udp://` is authenticated and encrypted by a Noise handshake and AES-256-GCM. `udp+plain://` is
//! for trusted links: identities are authenticated once by signatures, nothing is encrypted, and
//! each datagram carries only a tag that observers on the path can read. [`handshake`] describes
//! the authentication, [`packet_protection`] the format of datagrams. A datagram has at most 1,200
//! bytes, which every path of QUIC carries (RFC 9000, section 14).
//!
//! ```text
//! kind of a frame:  16 = control, 17 = datagram, 18 = close, 32 + n = lane n
//! ```
//!
//! Sockets are used as in [`quic`](super::quic): each transport owns a socket connected to its
//! peer, and the listener forwards datagrams that arrived before the connect. A datagram carries no
//! connection id, so a connection does not survive a change of the peer's address; the peer must
//! dial again.

mod dialer;
mod handshake;
mod listener;
mod noise;
mod packet_protection;
mod replay_window;
mod segment_batch;
mod signed;
mod transport;

pub use dialer::UdpDialer;
pub use listener::UdpListener;
pub use transport::UdpTransport;

use handshake::UdpSecurity;

/// The schemes of the addresses.
const ENCRYPTED_SCHEME: &str = "udp";
const PLAIN_SCHEME: &str = "udp+plain";
const SCHEMES: &str = "udp, udp+plain";

/// The maximum length of a datagram, in bytes.
const DATAGRAM_LEN_MAX: usize = 1200;

impl UdpSecurity {
    fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            ENCRYPTED_SCHEME => Some(Self::Encrypted),
            PLAIN_SCHEME => Some(Self::Plain),
            _ => None,
        }
    }

    const fn scheme(self) -> &'static str {
        match self {
            Self::Encrypted => ENCRYPTED_SCHEME,
            Self::Plain => PLAIN_SCHEME,
        }
    }

    /// The maximum length of a frame, in bytes.
    const fn frame_max(self) -> usize {
        DATAGRAM_LEN_MAX
            - match self {
                Self::Encrypted => packet_protection::ENCRYPTED_OVERHEAD,
                Self::Plain => packet_protection::TAGGED_OVERHEAD,
            }
    }
}

/// Feeds a datagram to every decoder of unauthenticated input.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz_handshake(identity: &super::Identity, datagram: &[u8]) {
    use handshake::{AcceptorHandshake, DialerHandshake, HelloValidator, ListenerKey};
    let from = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    for security in [UdpSecurity::Plain, UdpSecurity::Encrypted] {
        let hello_validator = HelloValidator::new(security);
        let dialing = DialerHandshake::new(security, identity.clone(), None);
        let key = ListenerKey::new(security, identity.clone());
        if let (Ok(hello_validator), Ok(mut dialing), Ok(key)) = (hello_validator, dialing, key) {
            drop(hello_validator.check_hello(from, 0, datagram));
            drop(dialing.handle(datagram));
            // The base point of X25519, which is a valid first message.
            let mut nonce = [0; 32];
            nonce[0] = 9;
            if let Ok(mut accepting) =
                AcceptorHandshake::new(&key, super::Admission::anyone(), nonce)
            {
                drop(accepting.handle(datagram));
            }
        }
    }
    let mut protection = packet_protection::PacketProtection::encrypted([1; 32], [2; 32]);
    drop(protection.unwrap(datagram.into()));
}
