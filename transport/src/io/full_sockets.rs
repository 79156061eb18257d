//! Runs the conformance suite over sockets whose sends periodically return `WouldBlock`.

use super::datagram_socket::fault_injection;
use super::{QuicDialer, QuicListener, UdpDialer, UdpListener};
use crate::conformance::{Abilities, Harness, assert_kept};
use crate::{Address, Admission, Dialer, Identity, Listener};

struct FullSocketHarness(&'static str);

impl Harness for FullSocketHarness {
    fn abilities(&self) -> Abilities {
        Abilities {
            scheme: self.0,
            reliable: self.0 == "quic",
            encrypted: true,
            authenticated: true,
            datagrams: true,
        }
    }

    fn listen(&self, identity: &Identity, admission: Admission) -> Box<dyn Listener> {
        let at: Address = format!("{}://127.0.0.1:0", self.0)
            .parse()
            .expect("an address");
        let identity = identity.clone();
        if self.0 == "quic" {
            Box::new(QuicListener::bind(&at, identity, admission).expect("a port"))
        } else {
            Box::new(UdpListener::bind(&at, identity, admission).expect("a port"))
        }
    }

    fn dialer(&self, identity: &Identity) -> Box<dyn Dialer> {
        let identity = identity.clone();
        if self.0 == "quic" {
            Box::new(QuicDialer::new(identity))
        } else {
            Box::new(UdpDialer::new(identity))
        }
    }
}

/// The checks of data transfer. The final message of a close is sent only once, as the contract
/// allows, and may be lost on a full socket; checks of closes are therefore left out.
const CHECKS: &[&str] = &[
    "both_sides_open_and_authenticate",
    "frames_of_every_length_arrive_whole",
    "frames_of_one_order_arrive_in_order",
    "many_small_frames_arrive",
    "both_directions_at_full_load_do_not_block_each_other",
    "an_empty_source_is_polled_again",
    "an_idle_transport_needs_no_calls",
    "moving_to_another_poll_under_load_loses_nothing",
    "close_delivers_accepted_frames",
];

/// The transport scheme, and the period of the sends that fail. UDP loses a handshake message that
/// does not fit into the socket, so for UDP at most every fifth send fails.
const CASES: [(&str, u32); 5] = [
    ("quic", 2),
    ("quic", 3),
    ("quic", 7),
    ("udp", 5),
    ("udp", 7),
];

#[test]
fn transports_conform_when_sends_periodically_block() {
    for (scheme, every) in CASES {
        fault_injection::set(every);
        for check in CHECKS {
            assert_kept(&FullSocketHarness(scheme), check);
        }
    }
}
