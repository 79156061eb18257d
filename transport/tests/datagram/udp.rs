//! Tests of UDP, encrypted and plain.

use std::net::UdpSocket;
use std::time::Duration;

use bytes::Bytes;
use selvedge_transport::{
    Address, Admission, DialTarget, Dialer, End, FrameOrder, Identity, Instant, ListenError,
    Listener, Phase, UdpDialer, UdpListener,
};

use crate::test_bed::{TestBed, numbered, numbers};

pub(crate) fn listener(identity: &Identity, admission: Admission) -> UdpListener {
    listener_of("udp", identity, admission)
}

fn listener_of(scheme: &str, identity: &Identity, admission: Admission) -> UdpListener {
    let address = format!("{scheme}://127.0.0.1:0").parse().unwrap();
    UdpListener::bind(&address, identity.clone(), admission).unwrap()
}

fn connected() -> (TestBed, usize, usize) {
    let mut bed = TestBed::new();
    bed.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let dialer = UdpDialer::new(Identity::generate().unwrap());
    let (dialing, accepted) = bed.connect(&dialer);
    (bed, dialing, accepted)
}

#[test]
fn both_sides_authenticate_and_report_an_unreliable_transport() {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut bed = TestBed::new();
    bed.listen(listener(&theirs, Admission::anyone()));
    let (dialing, accepted) = bed.connect(&UdpDialer::new(ours.clone()));
    let (dialer, acceptor) = (&bed.sides[dialing], &bed.sides[accepted]);
    assert_eq!(dialer.transport.info().peer, Some(theirs.node_id()));
    assert_eq!(acceptor.transport.info().peer, Some(ours.node_id()));
    for side in [dialer, acceptor] {
        let info = side.transport.info();
        assert!(!info.reliable && info.encrypted);
    }
}

#[test]
fn frames_of_all_orders_and_lengths_arrive() {
    let (mut bed, dialing, accepted) = connected();
    let max = bed.sides[dialing].transport.info().frame_max;
    for number in 0..600 {
        let len = [max, max, 1000, 5, 5, 64][number as usize % 6];
        let order = [
            FrameOrder::Control,
            FrameOrder::Datagram,
            FrameOrder::Lane(31),
        ][number as usize % 3];
        for side in [dialing, accepted] {
            bed.sides[side].push(order, numbered(0, number, len));
        }
    }
    bed.until("all frames have arrived", |bed| {
        bed.sides.iter().all(|side| side.inbox.len() == 600)
    });
    // Loopback preserves the order, although UDP does not guarantee it.
    for side in &bed.sides {
        assert_eq!(numbers(&side.inbox, 0), (0..600).collect::<Vec<_>>());
    }
}

#[test]
fn a_handshake_completes_on_a_lossy_network() {
    for seed in 0..5 {
        println!("seed {seed}");
        let mut bed = TestBed::new();
        let to = bed.listen(listener(
            &Identity::generate().unwrap(),
            Admission::anyone(),
        ));
        let relay = bed.relay(to, seed);
        bed.relays[0].loss = 15;
        let dialing = bed.dial(&UdpDialer::new(Identity::generate().unwrap()), relay, None);
        bed.until("both sides are open, or time is up", |bed| {
            let is_open = |side: &crate::test_bed::Side| side.is_open();
            bed.sides[dialing].end.is_some()
                || (bed.sides.len() == 2 && bed.sides.iter().all(is_open))
        });
        // Five attempts in 5 s; three consecutive exchanges must succeed.
        if let Some(end) = &bed.sides[dialing].end {
            assert!(matches!(end, End::TimedOut), "{end:?}");
        }
    }
}

#[test]
fn unexpected_and_unadmitted_keys_are_rejected() {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut bed = TestBed::new();
    let to = bed.listen(listener(&theirs, Admission::new(|_| false)));
    let dialer = UdpDialer::new(ours.clone());
    let wrong = bed.dial(&dialer, to, Some(ours.node_id()));
    bed.until("the first has ended", |bed| bed.sides[wrong].end.is_some());
    assert!(matches!(bed.sides[wrong].end, Some(End::WrongPeer { .. })));
    let unadmitted = bed.sides.len();
    bed.dial(&dialer, to, Some(theirs.node_id()));
    bed.until("the second has ended", |bed| {
        bed.sides[unadmitted].end.is_some() && bed.sides.last().unwrap().end.is_some()
    });
    assert!(matches!(
        bed.sides[unadmitted].end,
        Some(End::Refused { .. })
    ));
    assert!(matches!(
        bed.sides.last().unwrap().end,
        Some(End::NotAdmitted { peer }) if peer == ours.node_id()
    ));
}

#[test]
fn a_close_is_reported_and_a_lost_peer_is_detected() {
    let (mut bed, dialing, accepted) = connected();
    bed.sides[dialing].push(FrameOrder::Control, Bytes::from_static(b"bye"));
    bed.turn(Duration::ZERO);
    bed.sides[dialing].transport.close(Instant::now());
    assert_eq!(bed.sides[dialing].phase(), Phase::Closing);
    bed.until("both have ended", |bed| {
        bed.sides.iter().all(|side| side.end.is_some())
    });
    assert!(matches!(bed.sides[dialing].end, Some(End::Closed)));
    assert!(matches!(bed.sides[accepted].end, Some(End::PeerClosed)));
    assert_eq!(bed.sides[accepted].inbox, ["bye"]);

    let (mut bed, dialing, accepted) = connected();
    drop(bed.remove(dialing));
    let left = accepted - 1;
    bed.until("it has ended", |bed| {
        bed.sides[left].push(FrameOrder::Control, Bytes::from_static(b"?"));
        bed.sides[left].end.is_some()
    });
    assert!(matches!(bed.sides[left].end, Some(End::Broken(_))));
}

#[test]
fn a_closed_port_is_unreachable_and_a_silent_peer_times_out() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap();
    let closed_port = free.local_addr().unwrap();
    drop(free);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut bed = TestBed::new();
    let dialer = UdpDialer::new(Identity::generate().unwrap());
    let first = bed.dial(&dialer, closed_port, None);
    let second = bed.dial(&dialer, silent.local_addr().unwrap(), None);
    bed.until("both have ended", |bed| {
        bed.sides.iter().all(|side| side.end.is_some())
    });
    assert!(matches!(bed.sides[first].end, Some(End::Unreachable(_))));
    assert!(matches!(bed.sides[second].end, Some(End::TimedOut)));
    // It was sent at 0, 250, 750, 1750 and 3750 ms.
    silent.set_nonblocking(true).unwrap();
    let mut buffer = [0; 100];
    let received_hellos = std::iter::from_fn(|| silent.recv(&mut buffer).ok()).count();
    assert_eq!(received_hellos, 5);
}

#[test]
fn n13_invalid_and_replayed_datagrams_are_ignored() {
    let mut bed = TestBed::new();
    let to = bed.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let relay = bed.relay(to, 1);
    bed.relays[0].keeps = true;
    bed.dial(&UdpDialer::new(Identity::generate().unwrap()), relay, None);
    bed.until("both sides are open", |bed| {
        bed.sides.len() == 2 && bed.sides.iter().all(crate::test_bed::Side::is_open)
    });
    let mut rng = fastrand::Rng::with_seed(3);
    for number in 0..300 {
        let mut noise = vec![0; rng.usize(0..1300)];
        rng.fill(&mut noise);
        bed.relays[0].inject(&noise);
        for kind in [1, 2, 3, 4, 5, 6, 16, 17, 18, 32, 63, 64] {
            if let Some(first) = noise.first_mut() {
                *first = kind;
            }
            bed.relays[0].inject(&noise);
        }
        bed.relays[0].replay();
        bed.sides[0].push(FrameOrder::Lane(0), numbered(0, number, 100));
        bed.turn(Duration::ZERO);
    }
    bed.until("all frames have arrived", |bed| {
        numbers(&bed.sides[1].inbox, 0).len() == 300
    });
    assert_eq!(bed.sides.len(), 2);
    assert!(bed.sides.iter().all(|side| side.end.is_none()));
}

#[test]
fn a_listener_keeps_no_state_for_an_unvalidated_address() {
    let mut bed = TestBed::new();
    let to = bed.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let dialer = UdpDialer::new(Identity::generate().unwrap());
    let target = DialTarget {
        address: Address::socket("udp", to),
        peer: None,
    };
    for _ in 0..200 {
        let mute = bed.add(dialer.dial(Instant::now(), &target).unwrap());
        bed.turn(Duration::ZERO);
        bed.sides[mute].end = Some(End::Closed);
    }
    assert_eq!(bed.sides.len(), 200);
    let honest = bed.dial(&dialer, to, None);
    bed.until("the honest peer is open", |bed| bed.sides[honest].is_open());
}

#[test]
fn moving_to_another_poll_in_mid_stream_works() {
    let (mut bed, dialing, accepted) = connected();
    let mut other = TestBed::new();
    let mut moving = bed.remove(accepted);
    for number in 0..200 {
        bed.sides[dialing].push(FrameOrder::Lane(0), numbered(0, number, 1000));
        let place = other.adopt(moving);
        bed.turn(Duration::ZERO);
        other.turn(Duration::ZERO);
        moving = other.remove(place);
    }
    let place = other.adopt(moving);
    other.until("all frames have arrived", |other| {
        bed.turn(Duration::ZERO);
        other.sides[place].inbox.len() == 200
    });
}

#[test]
fn invalid_addresses_are_rejected() {
    let dialer = UdpDialer::new(Identity::generate().unwrap());
    for text in [
        "udp://127.0.0.1:0",
        "udp+plain:///path",
        "quic://127.0.0.1:1",
    ] {
        let address = text.parse().unwrap();
        let target = DialTarget {
            address,
            peer: None,
        };
        assert!(dialer.dial(Instant::now(), &target).is_err(), "{text}");
    }
    let first = listener(&Identity::generate().unwrap(), Admission::anyone());
    let second = UdpListener::bind(
        &first.local_address(),
        Identity::generate().unwrap(),
        Admission::anyone(),
    );
    assert!(matches!(second, Err(ListenError::Bind { .. })));
}
