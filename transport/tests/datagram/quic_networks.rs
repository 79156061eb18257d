//! The network loses, moves, lies and floods.

use std::time::Duration;

use bytes::Bytes;
use selvedge_transport::{
    Address, Admission, DialTarget, Dialer, FrameOrder, Identity, Instant, Listener, QuicDialer,
    QuicListener,
};

use crate::quic_connections::{connected, listener};
use crate::world::{World, numbered, numbers};

/// A connection through a relay: world, dialer's side, listener's side. The relay is the only one.
fn through_a_relay(seed: u64) -> (World, usize, usize) {
    let mut world = World::new();
    let to = world.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let relay = world.relay(to, seed);
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let dialing = world.dial(&dialer, relay, None);
    world.until("both sides are open", |world| {
        world.sides.len() == 2 && world.sides.iter().all(|side| side.is_open())
    });
    (world, dialing, 1 - dialing)
}

#[test]
fn n9_a_connection_survives_nat_rebinding() {
    let (mut world, dialing, accepted) = through_a_relay(1);
    let mut sent = 0;
    for _ in 0..3 {
        for _ in 0..200 {
            world.sides[dialing].put(FrameOrder::Lane(0), numbered(0, sent, 3000));
            world.sides[accepted].put(FrameOrder::Lane(0), numbered(0, sent, 3000));
            sent += 1;
        }
        world.turn(Duration::ZERO);
        let registry = world.poll.registry().try_clone().unwrap();
        world.relays[0].rebind(&registry);
        let seen = world.relays[0].outer_address();
        world.until("the listener's side has followed", |world| {
            // Something has to be said from the new address.
            world.sides[dialing].put(FrameOrder::Control, Bytes::from_static(b"\xffhere"));
            let remote = world.sides[accepted].transport.info().remote.clone();
            remote.and_then(|remote| remote.as_socket()) == Some(seen)
        });
    }
    let all = sent as usize;
    world.until("all frames are there", |world| {
        let is_all = |side: usize| numbers(&world.sides[side].inbox, 0).len() == all;
        is_all(dialing) && is_all(accepted)
    });
    let in_order: Vec<u32> = (0..sent).collect();
    assert_eq!(numbers(&world.sides[dialing].inbox, 0), in_order);
    assert_eq!(numbers(&world.sides[accepted].inbox, 0), in_order);
}

#[test]
fn a_connection_returns_to_the_old_address_if_the_new_one_fails() {
    let (mut world, dialing, accepted) = through_a_relay(1);
    let remote = |world: &World| {
        let remote = world.sides[accepted].transport.info().remote.clone();
        remote.and_then(|remote| remote.as_socket())
    };
    let pass = |world: &mut World, time| {
        let end = Instant::now() + time;
        world.until("time has passed", |_| Instant::now() >= end);
    };
    // Until nothing is under way.
    pass(&mut world, Duration::from_millis(200));
    let before = remote(&world);
    let registry = world.poll.registry().try_clone().unwrap();
    world.relays[0].rebind(&registry);
    world.relays[0].is_one_way = true;
    for number in 0..3 {
        world.sides[dialing].put(FrameOrder::Lane(0), numbered(0, number, 3000));
    }
    world.until("the listener's side has followed", |world| {
        world.sides[accepted].inbox.len() == 3 && remote(world) != before
    });
    world.relays[0].loss = 100;
    // So that it is given up after the new path is, and not in the same moment.
    pass(&mut world, Duration::from_millis(10));
    world.sides[accepted].put(FrameOrder::Lane(0), numbered(0, 0, 100));
    world.until("it has come back", |world| remote(world) == before);
    // What it had sent there was to be looked after in this time.
    pass(&mut world, Duration::from_secs(1));
    (world.relays[0].loss, world.relays[0].is_one_way) = (0, false);
    world.sides[dialing].put(FrameOrder::Lane(0), numbered(0, 3, 100));
    world.until("all frames are there", |world| {
        world.sides[accepted].inbox.len() == 4 && world.sides[dialing].inbox.len() == 1
    });
}

#[test]
fn lost_packets_are_retransmitted() {
    for seed in 0..3 {
        println!("seed {seed}");
        let (mut world, dialing, accepted) = through_a_relay(seed);
        world.relays[0].loss = 5;
        for number in 0..150 {
            for lane in 0..3 {
                world.sides[dialing].put(FrameOrder::Lane(lane), numbered(lane, number, 4000));
                world.sides[accepted].put(FrameOrder::Lane(lane), numbered(lane, number, 4000));
            }
        }
        world.until("all frames are there", |world| {
            world.sides.iter().all(|side| side.inbox.len() == 450)
        });
        let in_order: Vec<u32> = (0..150).collect();
        for side in &world.sides {
            for lane in 0..3 {
                assert_eq!(numbers(&side.inbox, lane), in_order);
            }
        }
    }
}

#[test]
fn a_loss_on_one_lane_does_not_delay_another() {
    let (mut world, dialing, accepted) = through_a_relay(1);
    world.until("the handshake has calmed down", |world| {
        world.turn(Duration::ZERO);
        world.sides[dialing].transport.info().datagram_max > 8000
    });
    world.relays[0].lose_one = 3000..3200;
    world.sides[dialing].put(FrameOrder::Lane(0), numbered(0, 0, 3000));
    world.until("the datagram is lost", |world| {
        world.relays[0].lose_one.is_empty()
    });
    world.sides[dialing].put(FrameOrder::Lane(1), numbered(1, 0, 64));
    world.until("one frame is there", |world| {
        !world.sides[accepted].inbox.is_empty()
    });
    assert_eq!(world.sides[accepted].inbox, [numbered(1, 0, 64)]);
    world.until("the other is there", |world| {
        world.sides[accepted].inbox.len() == 2
    });
}

#[test]
fn invalid_packets_are_ignored() {
    let (mut world, dialing, accepted) = through_a_relay(1);
    let mut rng = fastrand::Rng::with_seed(7);
    for number in 0..300 {
        let mut rubbish = vec![0; rng.usize(0..1500)];
        rng.fill(&mut rubbish);
        world.relays[0].inject(&rubbish);
        // As an unknown version, a first packet and a short packet.
        for first in [0x80, 0xc0, 0x40] {
            if let Some(byte) = rubbish.first_mut() {
                *byte = first | (*byte & 0x0f);
            }
            if let Some(version) = rubbish.get_mut(1..5) {
                version.copy_from_slice(&[0, 0, 0, u8::from(first == 0xc0)]);
            }
            world.relays[0].inject(&rubbish);
        }
        world.sides[dialing].put(FrameOrder::Lane(0), numbered(0, number, 100));
        world.turn(Duration::ZERO);
    }
    world.until("all frames are there", |world| {
        world.sides[accepted].inbox.len() == 300
    });
    assert_eq!(world.sides.len(), 2);
}

#[test]
fn a_flood_of_first_packets_does_not_exclude_other_peers() {
    let mut world = World::new();
    let to = world.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let target = DialTarget {
        address: Address::socket("quic", to),
        peer: None,
    };
    // They send their first packet and never read an answer.
    for _ in 0..300 {
        let mute = world.add(dialer.dial(Instant::now(), &target).unwrap());
        world.turn(Duration::ZERO);
        world.sides[mute].end = Some(selvedge_transport::End::Closed);
    }
    // The first 128 got a transport each; the others were asked to prove their address.
    let let_in = world.sides.len() - 300;
    assert_eq!(let_in, 128);
    let honest = world.dial(&dialer, to, None);
    world.until("the honest one is open", |world| {
        world.sides[honest].is_open()
    });
}

#[test]
fn a_listener_on_all_addresses_responds_from_the_dialed_one() {
    for (listen, dial) in [
        ("quic://0.0.0.0:0", "127.0.0.2"),
        ("quic://[::]:0", "::1"),
        ("quic://[::]:0", "127.0.0.2"),
        ("quic://[::1]:0", "::1"),
    ] {
        let mut world = World::new();
        let address = listen.parse().unwrap();
        let identity = Identity::generate().unwrap();
        let listener = QuicListener::bind(&address, identity, Admission::anyone()).unwrap();
        let port = listener.local_address().as_socket().unwrap().port();
        world.listen(listener);
        let dialer = QuicDialer::new(Identity::generate().unwrap());
        let to = std::net::SocketAddr::new(dial.parse().unwrap(), port);
        world.dial(&dialer, to, None);
        world.until("both sides are open", |world| {
            world.sides.len() == 2 && world.sides.iter().all(|side| side.is_open())
        });
        let local = world.sides[1].transport.info().local.clone().unwrap();
        assert_eq!(local.as_socket().unwrap().ip().to_canonical(), to.ip());
    }
}

#[test]
fn a_listener_removes_dropped_transports() {
    let (mut world, dialing, accepted) = connected();
    world.remove(accepted);
    world.sides[dialing].put(FrameOrder::Control, Bytes::from_static(b"x"));
    // The listener tells the dialer that nobody is there any more.
    world.until("the dialer has ended", |world| {
        world.sides[dialing].end.is_some()
    });
    assert!(format!("{:?}", world.listeners[0]).contains("connections: 0"));
}
