//! UDP, encrypted and plain.

use std::net::UdpSocket;
use std::time::Duration;

use bytes::Bytes;
use selvedge_transport::{
    Address, Admission, DialTarget, Dialer, End, FrameOrder, Identity, Instant, ListenError,
    Listener, Phase, UdpDialer, UdpListener,
};

use crate::world::{World, numbered, numbers};

pub(crate) fn listener(identity: &Identity, admission: Admission) -> UdpListener {
    listener_of("udp", identity, admission)
}

fn listener_of(scheme: &str, identity: &Identity, admission: Admission) -> UdpListener {
    let address = format!("{scheme}://127.0.0.1:0").parse().unwrap();
    UdpListener::bind(&address, identity.clone(), admission).unwrap()
}

fn connected() -> (World, usize, usize) {
    let mut world = World::new();
    world.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let dialer = UdpDialer::new(Identity::generate().unwrap());
    let (dialing, accepted) = world.connect(&dialer);
    (world, dialing, accepted)
}

#[test]
fn both_sides_authenticate_and_report_an_unreliable_transport() {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut world = World::new();
    world.listen(listener(&theirs, Admission::anyone()));
    let (dialing, accepted) = world.connect(&UdpDialer::new(ours.clone()));
    let (dialer, acceptor) = (&world.sides[dialing], &world.sides[accepted]);
    assert_eq!(dialer.transport.info().peer, Some(theirs.node_id()));
    assert_eq!(acceptor.transport.info().peer, Some(ours.node_id()));
    for side in [dialer, acceptor] {
        let info = side.transport.info();
        assert!(!info.reliable && info.encrypted);
    }
}

#[test]
fn frames_of_all_orders_and_lengths_arrive() {
    let (mut world, dialing, accepted) = connected();
    let max = world.sides[dialing].transport.info().frame_max;
    for number in 0..600 {
        let len = [max, max, 1000, 5, 5, 64][number as usize % 6];
        let order = [
            FrameOrder::Control,
            FrameOrder::Datagram,
            FrameOrder::Lane(31),
        ][number as usize % 3];
        for side in [dialing, accepted] {
            world.sides[side].put(order, numbered(0, number, len));
        }
    }
    world.until("all frames are there", |world| {
        world.sides.iter().all(|side| side.inbox.len() == 600)
    });
    // Loopback keeps the order, though UDP does not promise it.
    for side in &world.sides {
        assert_eq!(numbers(&side.inbox, 0), (0..600).collect::<Vec<_>>());
    }
}

#[test]
fn a_handshake_completes_on_a_lossy_network() {
    for seed in 0..5 {
        println!("seed {seed}");
        let mut world = World::new();
        let to = world.listen(listener(
            &Identity::generate().unwrap(),
            Admission::anyone(),
        ));
        let relay = world.relay(to, seed);
        world.relays[0].loss = 15;
        let dialing = world.dial(&UdpDialer::new(Identity::generate().unwrap()), relay, None);
        world.until("both sides are open, or time is up", |world| {
            let is_open = |side: &crate::world::Side| side.is_open();
            world.sides[dialing].end.is_some()
                || (world.sides.len() == 2 && world.sides.iter().all(is_open))
        });
        // Five tries in 5 s; three questions in a row must be answered.
        if let Some(end) = &world.sides[dialing].end {
            assert!(matches!(end, End::TimedOut), "{end:?}");
        }
    }
}

#[test]
fn unexpected_and_unadmitted_keys_are_rejected() {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut world = World::new();
    let to = world.listen(listener(&theirs, Admission::new(|_| false)));
    let dialer = UdpDialer::new(ours.clone());
    let wrong = world.dial(&dialer, to, Some(ours.node_id()));
    world.until("the first has ended", |world| {
        world.sides[wrong].end.is_some()
    });
    assert!(matches!(
        world.sides[wrong].end,
        Some(End::WrongPeer { .. })
    ));
    let unadmitted = world.sides.len();
    world.dial(&dialer, to, Some(theirs.node_id()));
    world.until("the second has ended", |world| {
        world.sides[unadmitted].end.is_some() && world.sides.last().unwrap().end.is_some()
    });
    assert!(matches!(
        world.sides[unadmitted].end,
        Some(End::Refused { .. })
    ));
    assert!(matches!(
        world.sides.last().unwrap().end,
        Some(End::NotAdmitted { peer }) if peer == ours.node_id()
    ));
}

#[test]
fn a_close_is_reported_and_a_lost_peer_is_detected() {
    let (mut world, dialing, accepted) = connected();
    world.sides[dialing].put(FrameOrder::Control, Bytes::from_static(b"bye"));
    world.turn(Duration::ZERO);
    world.sides[dialing].transport.close(Instant::now());
    assert_eq!(world.sides[dialing].phase(), Phase::Closing);
    world.until("both have ended", |world| {
        world.sides.iter().all(|side| side.end.is_some())
    });
    assert!(matches!(world.sides[dialing].end, Some(End::Closed)));
    assert!(matches!(world.sides[accepted].end, Some(End::PeerClosed)));
    assert_eq!(world.sides[accepted].inbox, ["bye"]);

    let (mut world, dialing, accepted) = connected();
    drop(world.remove(dialing));
    let left = accepted - 1;
    world.until("it has ended", |world| {
        world.sides[left].put(FrameOrder::Control, Bytes::from_static(b"?"));
        world.sides[left].end.is_some()
    });
    assert!(matches!(world.sides[left].end, Some(End::Broken(_))));
}

#[test]
fn a_closed_port_is_unreachable_and_a_silent_peer_times_out() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut world = World::new();
    let dialer = UdpDialer::new(Identity::generate().unwrap());
    let first = world.dial(&dialer, nobody, None);
    let second = world.dial(&dialer, silent.local_addr().unwrap(), None);
    world.until("both have ended", |world| {
        world.sides.iter().all(|side| side.end.is_some())
    });
    assert!(matches!(world.sides[first].end, Some(End::Unreachable(_))));
    assert!(matches!(world.sides[second].end, Some(End::TimedOut)));
    // It asked again: 0, 250, 750, 1750 and 3750 ms.
    silent.set_nonblocking(true).unwrap();
    let mut buffer = [0; 100];
    let asked = std::iter::from_fn(|| silent.recv(&mut buffer).ok()).count();
    assert_eq!(asked, 5);
}

#[test]
fn n13_invalid_and_replayed_datagrams_are_ignored() {
    let mut world = World::new();
    let to = world.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let relay = world.relay(to, 1);
    world.relays[0].keeps = true;
    world.dial(&UdpDialer::new(Identity::generate().unwrap()), relay, None);
    world.until("both sides are open", |world| {
        world.sides.len() == 2 && world.sides.iter().all(crate::world::Side::is_open)
    });
    let mut rng = fastrand::Rng::with_seed(3);
    for number in 0..300 {
        let mut rubbish = vec![0; rng.usize(0..1300)];
        rng.fill(&mut rubbish);
        world.relays[0].inject(&rubbish);
        for kind in [1, 2, 3, 4, 5, 6, 16, 17, 18, 32, 63, 64] {
            if let Some(first) = rubbish.first_mut() {
                *first = kind;
            }
            world.relays[0].inject(&rubbish);
        }
        world.relays[0].replay();
        world.sides[0].put(FrameOrder::Lane(0), numbered(0, number, 100));
        world.turn(Duration::ZERO);
    }
    world.until("all frames are there", |world| {
        numbers(&world.sides[1].inbox, 0).len() == 300
    });
    assert_eq!(world.sides.len(), 2);
    assert!(world.sides.iter().all(|side| side.end.is_none()));
}

#[test]
fn a_listener_keeps_no_state_for_an_unvalidated_address() {
    let mut world = World::new();
    let to = world.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let dialer = UdpDialer::new(Identity::generate().unwrap());
    let target = DialTarget {
        address: Address::socket("udp", to),
        peer: None,
    };
    for _ in 0..200 {
        let mute = world.add(dialer.dial(Instant::now(), &target).unwrap());
        world.turn(Duration::ZERO);
        world.sides[mute].end = Some(End::Closed);
    }
    assert_eq!(world.sides.len(), 200);
    let honest = world.dial(&dialer, to, None);
    world.until("the honest one is open", |world| {
        world.sides[honest].is_open()
    });
}

#[test]
fn moving_to_another_poll_in_mid_stream_works() {
    let (mut world, dialing, accepted) = connected();
    let mut other = World::new();
    let mut moving = world.remove(accepted);
    for number in 0..200 {
        world.sides[dialing].put(FrameOrder::Lane(0), numbered(0, number, 1000));
        let place = other.adopt(moving);
        world.turn(Duration::ZERO);
        other.turn(Duration::ZERO);
        moving = other.remove(place);
    }
    let place = other.adopt(moving);
    other.until("all frames are there", |other| {
        world.turn(Duration::ZERO);
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
