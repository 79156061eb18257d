//! Tests of the ends of QUIC connections and their reasons.

use std::net::UdpSocket;

use bytes::Bytes;
use selvedge_transport::{
    Address, Admission, DialTarget, Dialer, End, FrameOrder, Identity, ListenError, Phase,
    QuicDialer, QuicListener,
};

use crate::quic_connections::{connected, listener};
use crate::test_bed::{TestBed, numbered, numbers};

#[test]
fn an_unexpected_peer_is_reported_with_its_identity() {
    let (theirs, wanted) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut bed = TestBed::new();
    let to = bed.listen(listener(&theirs, Admission::anyone()));
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let dialing = bed.dial(&dialer, to, Some(wanted.node_id()));
    bed.until("both have ended", |bed| {
        bed.sides.len() == 2 && bed.sides.iter().all(|side| side.end.is_some())
    });
    let Some(End::WrongPeer { expected, found }) = bed.sides[dialing].end.clone() else {
        panic!("{:?}", bed.sides[dialing].end);
    };
    assert_eq!(expected, wanted.node_id());
    assert_eq!(found, theirs.node_id());
    assert!(matches!(bed.sides[1].end, Some(End::Refused { .. })));
}

#[test]
fn a_peer_that_is_not_admitted_receives_nothing_and_both_sides_report_the_reason() {
    let unadmitted = Identity::generate().unwrap();
    let mut bed = TestBed::new();
    let to = bed.listen(listener(
        &Identity::generate().unwrap(),
        Admission::new(|_| false),
    ));
    let dialing = bed.dial(&QuicDialer::new(unadmitted.clone()), to, None);
    // The dialer authenticates its peer first, and may send at once.
    bed.sides[dialing].push(FrameOrder::Control, Bytes::from_static(b"let me in"));
    bed.until("both have ended", |bed| {
        bed.sides.len() == 2 && bed.sides.iter().all(|side| side.end.is_some())
    });
    assert!(matches!(bed.sides[dialing].end, Some(End::Refused { .. })));
    let Some(End::NotAdmitted { peer }) = bed.sides[1].end.clone() else {
        panic!("{:?}", bed.sides[1].end);
    };
    assert_eq!(peer, unadmitted.node_id());
    assert!(bed.sides[1].inbox.is_empty());
}

#[test]
fn a_closed_port_is_unreachable() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = free.local_addr().unwrap();
    drop(free);
    let mut bed = TestBed::new();
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let dialing = bed.dial(&dialer, to, None);
    bed.until("it has ended", |bed| bed.sides[dialing].end.is_some());
    assert!(matches!(bed.sides[dialing].end, Some(End::Unreachable(_))));
}

#[test]
fn a_silent_peer_times_out() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut bed = TestBed::new();
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let dialing = bed.dial(&dialer, silent.local_addr().unwrap(), None);
    bed.until("it has ended", |bed| bed.sides[dialing].end.is_some());
    assert!(matches!(bed.sides[dialing].end, Some(End::TimedOut)));
}

#[test]
fn an_orderly_close_delivers_all_accepted_frames() {
    let (mut bed, dialing, accepted) = connected();
    for number in 0..300 {
        bed.sides[dialing].push(FrameOrder::Lane(3), numbered(3, number, 60_000));
    }
    bed.until("all frames are taken", |bed| {
        bed.sides[dialing].queue.frames.is_empty()
    });
    bed.sides[dialing]
        .transport
        .close(selvedge_transport::Instant::now());
    assert_eq!(bed.sides[dialing].phase(), Phase::Closing);
    bed.until("both have ended", |bed| {
        bed.sides.iter().all(|side| side.end.is_some())
    });
    assert!(matches!(bed.sides[dialing].end, Some(End::Closed)));
    assert!(matches!(bed.sides[accepted].end, Some(End::PeerClosed)));
    let in_order: Vec<u32> = (0..300).collect();
    assert_eq!(numbers(&bed.sides[accepted].inbox, 3), in_order);
}

#[test]
fn both_may_close_at_once() {
    let (mut bed, dialing, accepted) = connected();
    for side in [dialing, accepted] {
        bed.sides[side].push(FrameOrder::Control, Bytes::from_static(b"bye"));
    }
    bed.turn(std::time::Duration::ZERO);
    for side in [dialing, accepted] {
        bed.sides[side]
            .transport
            .close(selvedge_transport::Instant::now());
    }
    bed.until("both have ended", |bed| {
        bed.sides.iter().all(|side| side.end.is_some())
    });
    for side in &bed.sides {
        assert!(matches!(side.end, Some(End::Closed | End::PeerClosed)));
        assert_eq!(side.inbox, ["bye"]);
    }
}

#[test]
fn a_close_in_the_handshake_ends_at_once() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut bed = TestBed::new();
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let dialing = bed.dial(&dialer, silent.local_addr().unwrap(), None);
    bed.sides[dialing]
        .transport
        .close(selvedge_transport::Instant::now());
    bed.turn(std::time::Duration::ZERO);
    assert!(matches!(bed.sides[dialing].end, Some(End::Closed)));
}

#[test]
fn n14_a_restarted_node_resets_old_connections_of_its_peers() {
    let identity = Identity::generate().unwrap();
    let mut bed = TestBed::new();
    bed.listen(listener(&identity, Admission::anyone()));
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let (dialing, accepted) = bed.connect(&dialer);
    let at = bed.listeners[0].local_address();
    drop(bed.remove(accepted));
    bed.listeners.clear();
    let reborn = QuicListener::bind(&at, identity, Admission::anyone()).unwrap();
    bed.listen(reborn);
    bed.sides[dialing].push(FrameOrder::Control, Bytes::from_static(b"anyone?"));
    bed.until("it has ended", |bed| bed.sides[dialing].end.is_some());
    assert!(matches!(bed.sides[dialing].end, Some(End::Broken(_))));
}

#[test]
fn a_second_listener_on_an_address_is_rejected() {
    let first = listener(&Identity::generate().unwrap(), Admission::anyone());
    let at = selvedge_transport::Listener::local_address(&first);
    let second = QuicListener::bind(&at, Identity::generate().unwrap(), Admission::anyone());
    assert!(matches!(second, Err(ListenError::Bind { .. })));
}

#[test]
fn invalid_addresses_are_rejected() {
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    for text in ["quic://127.0.0.1:0", "quic://0.0.0.0:1", "quic:///path"] {
        let address: Address = text.parse().unwrap();
        let target = DialTarget {
            address,
            peer: None,
        };
        let error = dialer
            .dial(selvedge_transport::Instant::now(), &target)
            .unwrap_err();
        assert!(!error.retry_helps(), "{text}: {error}");
    }
    for text in ["tcp://127.0.0.1:0", "quic://localhost:1"] {
        let address = text.parse().unwrap();
        let error =
            QuicListener::bind(&address, Identity::generate().unwrap(), Admission::anyone());
        assert!(error.is_err(), "{text}");
    }
}
