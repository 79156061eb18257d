//! Frames move.

use std::time::Duration;

use bytes::Bytes;
use selvedge_transport::{
    Admission, FrameOrder, Identity, Instant, QuicDialer, QuicListener, Role,
};

use crate::world::{Side, World, numbered, numbers};

pub(crate) fn listener(identity: &Identity, admission: Admission) -> QuicListener {
    let address = "quic://127.0.0.1:0".parse().unwrap();
    QuicListener::bind(&address, identity.clone(), admission).unwrap()
}

/// A listener that admits anyone, and a connection to it: world, dialer's side, listener's side.
pub(crate) fn connected() -> (World, usize, usize) {
    let mut world = World::new();
    world.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let (dialing, accepted) = world.connect(&dialer);
    (world, dialing, accepted)
}

#[test]
fn both_sides_authenticate_each_other() {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut world = World::new();
    let to = world.listen(listener(&theirs, Admission::anyone()));
    let (dialing, accepted) = world.connect(&QuicDialer::new(ours.clone()));
    let (dialer, acceptor) = (&world.sides[dialing], &world.sides[accepted]);
    assert_eq!(dialer.transport.info().peer, Some(theirs.node_id()));
    assert_eq!(acceptor.transport.info().peer, Some(ours.node_id()));
    assert_eq!(dialer.transport.info().role, Role::Dialer);
    assert_eq!(acceptor.transport.info().role, Role::Acceptor);
    let place = |address: &Option<selvedge_transport::Address>| {
        address.as_ref().and_then(|address| address.as_socket())
    };
    assert_eq!(place(&dialer.transport.info().remote), Some(to));
    assert_eq!(place(&acceptor.transport.info().local), Some(to));
}

#[test]
fn frames_of_all_orders_arrive_in_order() {
    let (mut world, dialing, accepted) = connected();
    for number in 0..200 {
        let len = [5, 64, 1200, 5000, 64 * 1024][number as usize % 5];
        for lane in [0, 1, 31] {
            world.sides[dialing].put(FrameOrder::Lane(lane), numbered(lane, number, len));
            world.sides[accepted].put(FrameOrder::Lane(lane), numbered(lane, number, len));
        }
        world.sides[dialing].put(FrameOrder::Control, numbered(99, number, 30));
    }
    world.until("all frames are there", |world| {
        world.sides[dialing].inbox.len() == 600 && world.sides[accepted].inbox.len() == 800
    });
    for lane in [0, 1, 31, 99] {
        let in_order: Vec<u32> = (0..200).collect();
        assert_eq!(numbers(&world.sides[accepted].inbox, lane), in_order);
        if lane != 99 {
            assert_eq!(numbers(&world.sides[dialing].inbox, lane), in_order);
        }
    }
}

#[test]
fn datagrams_up_to_the_reported_length_arrive() {
    let (mut world, dialing, accepted) = connected();
    world.until("datagrams are possible", |world| {
        world.sides[dialing].transport.info().datagram_max > 1000
    });
    let max = world.sides[dialing].transport.info().datagram_max;
    for len in [0, 1, 1000, max] {
        world.sides[dialing].put(FrameOrder::Datagram, Bytes::from(vec![1; len]));
    }
    world.until("all datagrams are there", |world| {
        world.sides[accepted].inbox.len() == 4
    });
    let lens = |inbox: &[Bytes]| inbox.iter().map(Bytes::len).collect::<Vec<_>>();
    assert_eq!(lens(&world.sides[accepted].inbox), [0, 1, 1000, max]);
}

#[test]
fn a_path_with_a_large_mtu_is_found() {
    let (mut world, dialing, _) = connected();
    world.until("loopback carries more than Ethernet", |world| {
        // Something has to move for the probes to be sent.
        world.sides[dialing].put(FrameOrder::Control, Bytes::from_static(b"x"));
        world.sides[dialing].transport.info().datagram_max > 8000
    });
}

/// A sender that has one packet under way waits for an acknowledgement that its receiver delays, and
/// that a clock that stands still never sends.
#[test]
fn a_first_burst_at_a_large_mtu_waits_for_no_timer() {
    let (mut world, dialing, accepted) = connected();
    world.until("the whole mtu is found", |world| {
        // Something has to move for the probes to be sent.
        world.sides[dialing].put(FrameOrder::Control, Bytes::from_static(b"x"));
        world.sides[dialing].transport.info().datagram_max > 8900
    });
    // Late enough for what is under way to be acknowledged, and for pacing to be no limit.
    world.stands_at = Some(Instant::now() + Duration::from_secs(1));
    world.turn(Duration::ZERO);
    for number in 0..32 {
        world.sides[dialing].put(FrameOrder::Lane(0), numbered(0, number, 1024));
    }
    let has_all = |side: &Side| side.inbox.iter().filter(|it| it.len() > 1).count() == 32;
    world.until("the burst is there", |world| {
        has_all(&world.sides[accepted])
    });
}

#[test]
fn a_datagram_limit_of_the_dialer_applies_to_both_sides() {
    let mut world = World::new();
    world.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let dialer = QuicDialer::new(Identity::generate().unwrap()).with_mtu_max(1452);
    let sides: [usize; 2] = world.connect(&dialer).into();
    let capacity =
        |world: &World| sides.map(|side| world.sides[side].transport.info().datagram_max);
    world.until("both have probed up to the cap", |world| {
        // Something has to move for the probes to be sent.
        for side in sides {
            world.sides[side].put(FrameOrder::Control, Bytes::from_static(b"x"));
        }
        capacity(world).into_iter().all(|max| max > 1350)
    });
    for side in sides {
        for number in 0..100 {
            world.sides[side].put(FrameOrder::Lane(0), numbered(0, number, 64 * 1024));
        }
    }
    world.until("all frames are there", |world| {
        sides
            .iter()
            .all(|&side| numbers(&world.sides[side].inbox, 0).len() == 100)
    });
    assert!(capacity(&world).into_iter().all(|max| max < 1452));
}

#[test]
fn a_paused_receiver_applies_backpressure_and_loses_nothing() {
    let (mut world, dialing, accepted) = connected();
    world.sides[accepted].is_deaf = true;
    for number in 0..1000 {
        world.sides[dialing].put(FrameOrder::Lane(0), numbered(0, number, 64 * 1024));
    }
    let mut left = usize::MAX;
    for _ in 0..20 {
        world.turn(Duration::from_millis(5));
        left = world.sides[dialing].queue.frames.len();
    }
    assert!(left > 700, "{} were taken", 1000 - left);
    world.sides[accepted].is_deaf = false;
    world.until("all frames are there", |world| {
        world.sides[accepted].inbox.len() == 1000
    });
    let in_order: Vec<u32> = (0..1000).collect();
    assert_eq!(numbers(&world.sides[accepted].inbox, 0), in_order);
}

#[test]
fn moving_to_another_poll_in_mid_stream_loses_nothing() {
    let (mut world, dialing, accepted) = connected();
    let mut other = World::new();
    let mut moving = world.remove(accepted);
    let mut sent = 0;
    for step in 0..40 {
        for _ in 0..20 {
            world.sides[dialing].put(FrameOrder::Lane(0), numbered(0, sent, 20_000));
            moving.put(FrameOrder::Lane(0), numbered(0, sent, 20_000));
            sent += 1;
        }
        let place = other.adopt(moving);
        for _ in 0..1 + step % 3 {
            world.turn(Duration::ZERO);
            other.turn(Duration::ZERO);
        }
        moving = other.remove(place);
    }
    let place = other.adopt(moving);
    let all = sent as usize;
    other.until("all frames are there", |other| {
        world.turn(Duration::ZERO);
        world.sides[dialing].inbox.len() == all && other.sides[place].inbox.len() == all
    });
    let in_order: Vec<u32> = (0..sent).collect();
    assert_eq!(numbers(&world.sides[dialing].inbox, 0), in_order);
    assert_eq!(numbers(&other.sides[place].inbox, 0), in_order);
}
