//! Tests of the frame transfer over QUIC.

use std::time::Duration;

use bytes::Bytes;
use selvedge_transport::{
    Admission, FrameOrder, Identity, Instant, QuicDialer, QuicListener, Role,
};

use crate::test_bed::{Side, TestBed, numbered, numbers};

pub(crate) fn listener(identity: &Identity, admission: Admission) -> QuicListener {
    let address = "quic://127.0.0.1:0".parse().unwrap();
    QuicListener::bind(&address, identity.clone(), admission).unwrap()
}

/// An open connection to a listener that admits every peer: test bed, dialer's side, listener's side.
pub(crate) fn connected() -> (TestBed, usize, usize) {
    let mut bed = TestBed::new();
    bed.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let (dialing, accepted) = bed.connect(&dialer);
    (bed, dialing, accepted)
}

#[test]
fn both_sides_authenticate_each_other() {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut bed = TestBed::new();
    let to = bed.listen(listener(&theirs, Admission::anyone()));
    let (dialing, accepted) = bed.connect(&QuicDialer::new(ours.clone()));
    let (dialer, acceptor) = (&bed.sides[dialing], &bed.sides[accepted]);
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
fn a_restricted_listener_receives_all_frames_before_and_after_the_peer_is_admitted() {
    let mut bed = TestBed::new();
    let admission = Admission::anyone().restricted();
    bed.listen(listener(&Identity::generate().unwrap(), admission));
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let (dialing, accepted) = bed.connect(&dialer);
    for round in 1..=3 {
        for number in 0..64 {
            let frame = numbered(number as u8 % 4, number, 64 * 1024);
            bed.sides[dialing].push(FrameOrder::Lane(number as u8 % 4), frame);
        }
        bed.until("all frames have arrived", |bed| {
            bed.sides[accepted].inbox.len() == round * 64
        });
        bed.sides[accepted].transport.admit();
    }
}

#[test]
fn frames_of_all_orders_arrive_in_order() {
    let (mut bed, dialing, accepted) = connected();
    for number in 0..200 {
        let len = [5, 64, 1200, 5000, 64 * 1024][number as usize % 5];
        for lane in [0, 1, 31] {
            bed.sides[dialing].push(FrameOrder::Lane(lane), numbered(lane, number, len));
            bed.sides[accepted].push(FrameOrder::Lane(lane), numbered(lane, number, len));
        }
        bed.sides[dialing].push(FrameOrder::Control, numbered(99, number, 30));
    }
    bed.until("all frames have arrived", |bed| {
        bed.sides[dialing].inbox.len() == 600 && bed.sides[accepted].inbox.len() == 800
    });
    for lane in [0, 1, 31, 99] {
        let in_order: Vec<u32> = (0..200).collect();
        assert_eq!(numbers(&bed.sides[accepted].inbox, lane), in_order);
        if lane != 99 {
            assert_eq!(numbers(&bed.sides[dialing].inbox, lane), in_order);
        }
    }
}

#[test]
fn datagrams_up_to_the_reported_length_arrive() {
    let (mut bed, dialing, accepted) = connected();
    bed.until("datagrams are possible", |bed| {
        bed.sides[dialing].transport.info().datagram_max > 1000
    });
    let max = bed.sides[dialing].transport.info().datagram_max;
    for len in [0, 1, 1000, max] {
        bed.sides[dialing].push(FrameOrder::Datagram, Bytes::from(vec![1; len]));
    }
    bed.until("all datagrams have arrived", |bed| {
        bed.sides[accepted].inbox.len() == 4
    });
    let lens = |inbox: &[Bytes]| inbox.iter().map(Bytes::len).collect::<Vec<_>>();
    assert_eq!(lens(&bed.sides[accepted].inbox), [0, 1, 1000, max]);
}

#[test]
fn a_path_with_a_large_mtu_is_found() {
    let (mut bed, dialing, _) = connected();
    bed.until("loopback carries more than Ethernet", |bed| {
        // MTU probes are sent only with other traffic.
        bed.sides[dialing].push(FrameOrder::Control, Bytes::from_static(b"x"));
        bed.sides[dialing].transport.info().datagram_max > 8000
    });
}

/// With one packet in flight the sender would wait for an acknowledgement that its receiver delays,
/// and that a frozen clock prevents.
#[test]
fn a_first_burst_at_a_large_mtu_waits_for_no_timer() {
    let (mut bed, dialing, accepted) = connected();
    bed.until("the whole mtu is found", |bed| {
        // MTU probes are sent only with other traffic.
        bed.sides[dialing].push(FrameOrder::Control, Bytes::from_static(b"x"));
        bed.sides[dialing].transport.info().datagram_max > 8900
    });
    // Late enough for all packets in flight to be acknowledged, and for pacing not to limit.
    bed.frozen_at = Some(Instant::now() + Duration::from_secs(1));
    bed.turn(Duration::ZERO);
    for number in 0..32 {
        bed.sides[dialing].push(FrameOrder::Lane(0), numbered(0, number, 1024));
    }
    let has_all = |side: &Side| side.inbox.iter().filter(|it| it.len() > 1).count() == 32;
    bed.until("the burst has arrived", |bed| has_all(&bed.sides[accepted]));
}

#[test]
fn a_datagram_limit_of_the_dialer_applies_to_both_sides() {
    let mut bed = TestBed::new();
    bed.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let dialer = QuicDialer::new(Identity::generate().unwrap()).with_mtu_max(1452);
    let sides: [usize; 2] = bed.connect(&dialer).into();
    let capacity = |bed: &TestBed| sides.map(|side| bed.sides[side].transport.info().datagram_max);
    bed.until("both have probed up to the limit", |bed| {
        // MTU probes are sent only with other traffic.
        for side in sides {
            bed.sides[side].push(FrameOrder::Control, Bytes::from_static(b"x"));
        }
        capacity(bed).into_iter().all(|max| max > 1350)
    });
    for side in sides {
        for number in 0..100 {
            bed.sides[side].push(FrameOrder::Lane(0), numbered(0, number, 64 * 1024));
        }
    }
    bed.until("all frames have arrived", |bed| {
        sides
            .iter()
            .all(|&side| numbers(&bed.sides[side].inbox, 0).len() == 100)
    });
    assert!(capacity(&bed).into_iter().all(|max| max < 1452));
}

#[test]
fn a_paused_receiver_applies_backpressure_and_loses_nothing() {
    let (mut bed, dialing, accepted) = connected();
    bed.sides[accepted].receive_paused = true;
    for number in 0..1000 {
        bed.sides[dialing].push(FrameOrder::Lane(0), numbered(0, number, 64 * 1024));
    }
    let mut left = usize::MAX;
    for _ in 0..20 {
        bed.turn(Duration::from_millis(5));
        left = bed.sides[dialing].queue.frames.len();
    }
    assert!(left > 700, "{} were taken", 1000 - left);
    bed.sides[accepted].receive_paused = false;
    bed.until("all frames have arrived", |bed| {
        bed.sides[accepted].inbox.len() == 1000
    });
    let in_order: Vec<u32> = (0..1000).collect();
    assert_eq!(numbers(&bed.sides[accepted].inbox, 0), in_order);
}

#[test]
fn moving_to_another_poll_in_mid_stream_loses_nothing() {
    let (mut bed, dialing, accepted) = connected();
    let mut other = TestBed::new();
    let mut moving = bed.remove(accepted);
    let mut sent = 0;
    for step in 0..40 {
        for _ in 0..20 {
            bed.sides[dialing].push(FrameOrder::Lane(0), numbered(0, sent, 20_000));
            moving.push(FrameOrder::Lane(0), numbered(0, sent, 20_000));
            sent += 1;
        }
        let place = other.adopt(moving);
        for _ in 0..1 + step % 3 {
            bed.turn(Duration::ZERO);
            other.turn(Duration::ZERO);
        }
        moving = other.remove(place);
    }
    let place = other.adopt(moving);
    let all = sent as usize;
    other.until("all frames have arrived", |other| {
        bed.turn(Duration::ZERO);
        bed.sides[dialing].inbox.len() == all && other.sides[place].inbox.len() == all
    });
    let in_order: Vec<u32> = (0..sent).collect();
    assert_eq!(numbers(&bed.sides[dialing].inbox, 0), in_order);
    assert_eq!(numbers(&other.sides[place].inbox, 0), in_order);
}
