//! Tests of QUIC on networks with loss, NAT rebinding, invalid packets and floods.

use std::time::Duration;

use bytes::Bytes;
use selvedge_transport::{
    Address, Admission, DialTarget, Dialer, FrameOrder, Identity, Instant, Listener, QuicDialer,
    QuicListener,
};

use crate::quic_connections::{connected, listener};
use crate::test_bed::{TestBed, numbered, numbers};

/// An open connection through a relay: test bed, dialer's side, listener's side.
fn through_a_relay(seed: u64) -> (TestBed, usize, usize) {
    let mut bed = TestBed::new();
    let to = bed.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let relay = bed.relay(to, seed);
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let dialing = bed.dial(&dialer, relay, None);
    bed.until("both sides are open", |bed| {
        bed.sides.len() == 2 && bed.sides.iter().all(|side| side.is_open())
    });
    (bed, dialing, 1 - dialing)
}

#[test]
fn n9_a_connection_survives_nat_rebinding() {
    let (mut bed, dialing, accepted) = through_a_relay(1);
    let mut sent = 0;
    for _ in 0..3 {
        for _ in 0..200 {
            bed.sides[dialing].push(FrameOrder::Lane(0), numbered(0, sent, 3000));
            bed.sides[accepted].push(FrameOrder::Lane(0), numbered(0, sent, 3000));
            sent += 1;
        }
        bed.turn(Duration::ZERO);
        let registry = bed.poll.registry().try_clone().unwrap();
        bed.relays[0].rebind(&registry);
        let seen = bed.relays[0].outer_address();
        bed.until("the listener uses the new address", |bed| {
            // The dialer must send from the new address.
            bed.sides[dialing].push(FrameOrder::Control, Bytes::from_static(b"\xffhere"));
            let remote = bed.sides[accepted].transport.info().remote.clone();
            remote.and_then(|remote| remote.as_socket()) == Some(seen)
        });
    }
    let all = sent as usize;
    bed.until("all frames have arrived", |bed| {
        let is_all = |side: usize| numbers(&bed.sides[side].inbox, 0).len() == all;
        is_all(dialing) && is_all(accepted)
    });
    let in_order: Vec<u32> = (0..sent).collect();
    assert_eq!(numbers(&bed.sides[dialing].inbox, 0), in_order);
    assert_eq!(numbers(&bed.sides[accepted].inbox, 0), in_order);
}

#[test]
fn a_connection_returns_to_the_old_address_if_the_new_one_fails() {
    let (mut bed, dialing, accepted) = through_a_relay(1);
    let remote = |bed: &TestBed| {
        let remote = bed.sides[accepted].transport.info().remote.clone();
        remote.and_then(|remote| remote.as_socket())
    };
    let pass = |bed: &mut TestBed, time| {
        let end = Instant::now() + time;
        bed.until("time has passed", |_| Instant::now() >= end);
    };
    // Until no packet is in flight.
    pass(&mut bed, Duration::from_millis(200));
    let before = remote(&bed);
    let registry = bed.poll.registry().try_clone().unwrap();
    bed.relays[0].rebind(&registry);
    bed.relays[0].is_one_way = true;
    for number in 0..3 {
        bed.sides[dialing].push(FrameOrder::Lane(0), numbered(0, number, 3000));
    }
    bed.until("the listener uses the new address", |bed| {
        bed.sides[accepted].inbox.len() == 3 && remote(bed) != before
    });
    bed.relays[0].loss = 100;
    // The packet times out after path validation, not at the same moment.
    pass(&mut bed, Duration::from_millis(10));
    bed.sides[accepted].push(FrameOrder::Lane(0), numbered(0, 0, 100));
    bed.until("the listener uses the old address", |bed| {
        remote(bed) == before
    });
    // The loss timers of the abandoned path expire within this time.
    pass(&mut bed, Duration::from_secs(1));
    (bed.relays[0].loss, bed.relays[0].is_one_way) = (0, false);
    bed.sides[dialing].push(FrameOrder::Lane(0), numbered(0, 3, 100));
    bed.until("all frames have arrived", |bed| {
        bed.sides[accepted].inbox.len() == 4 && bed.sides[dialing].inbox.len() == 1
    });
}

#[test]
fn lost_packets_are_retransmitted() {
    for seed in 0..3 {
        println!("seed {seed}");
        let (mut bed, dialing, accepted) = through_a_relay(seed);
        bed.relays[0].loss = 5;
        for number in 0..150 {
            for lane in 0..3 {
                bed.sides[dialing].push(FrameOrder::Lane(lane), numbered(lane, number, 4000));
                bed.sides[accepted].push(FrameOrder::Lane(lane), numbered(lane, number, 4000));
            }
        }
        bed.until("all frames have arrived", |bed| {
            bed.sides.iter().all(|side| side.inbox.len() == 450)
        });
        let in_order: Vec<u32> = (0..150).collect();
        for side in &bed.sides {
            for lane in 0..3 {
                assert_eq!(numbers(&side.inbox, lane), in_order);
            }
        }
    }
}

#[test]
fn a_loss_on_one_lane_does_not_delay_another() {
    let (mut bed, dialing, accepted) = through_a_relay(1);
    bed.until("the handshake has calmed down", |bed| {
        bed.turn(Duration::ZERO);
        bed.sides[dialing].transport.info().datagram_max > 8000
    });
    bed.relays[0].lose_one = 3000..3200;
    bed.sides[dialing].push(FrameOrder::Lane(0), numbered(0, 0, 3000));
    bed.until("the datagram is lost", |bed| {
        bed.relays[0].lose_one.is_empty()
    });
    bed.sides[dialing].push(FrameOrder::Lane(1), numbered(1, 0, 64));
    bed.until("one frame has arrived", |bed| {
        !bed.sides[accepted].inbox.is_empty()
    });
    assert_eq!(bed.sides[accepted].inbox, [numbered(1, 0, 64)]);
    bed.until("the other frame has arrived", |bed| {
        bed.sides[accepted].inbox.len() == 2
    });
}

#[test]
fn invalid_packets_are_ignored() {
    let (mut bed, dialing, accepted) = through_a_relay(1);
    let mut rng = fastrand::Rng::with_seed(7);
    for number in 0..300 {
        let mut noise = vec![0; rng.usize(0..1500)];
        rng.fill(&mut noise);
        bed.relays[0].inject(&noise);
        // A packet of an unknown version, a first packet and a packet with a short header.
        for first in [0x80, 0xc0, 0x40] {
            if let Some(byte) = noise.first_mut() {
                *byte = first | (*byte & 0x0f);
            }
            if let Some(version) = noise.get_mut(1..5) {
                version.copy_from_slice(&[0, 0, 0, u8::from(first == 0xc0)]);
            }
            bed.relays[0].inject(&noise);
        }
        bed.sides[dialing].push(FrameOrder::Lane(0), numbered(0, number, 100));
        bed.turn(Duration::ZERO);
    }
    bed.until("all frames have arrived", |bed| {
        bed.sides[accepted].inbox.len() == 300
    });
    assert_eq!(bed.sides.len(), 2);
}

#[test]
fn a_flood_of_first_packets_does_not_exclude_other_peers() {
    let mut bed = TestBed::new();
    let to = bed.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    let target = DialTarget {
        address: Address::socket("quic", to),
        peer: None,
    };
    // These peers send their first packet and never respond.
    for _ in 0..300 {
        let mute = bed.add(dialer.dial(Instant::now(), &target).unwrap());
        bed.turn(Duration::ZERO);
        bed.sides[mute].end = Some(selvedge_transport::End::Closed);
    }
    // The first 128 have a transport each; the others received a Retry.
    let let_in = bed.sides.len() - 300;
    assert_eq!(let_in, 128);
    let honest = bed.dial(&dialer, to, None);
    bed.until("the honest peer is open", |bed| bed.sides[honest].is_open());
}

#[test]
fn a_listener_on_all_addresses_responds_from_the_dialed_one() {
    for (listen, dial) in [
        ("quic://0.0.0.0:0", "127.0.0.2"),
        ("quic://[::]:0", "::1"),
        ("quic://[::]:0", "127.0.0.2"),
        ("quic://[::1]:0", "::1"),
    ] {
        let mut bed = TestBed::new();
        let address = listen.parse().unwrap();
        let identity = Identity::generate().unwrap();
        let listener = QuicListener::bind(&address, identity, Admission::anyone()).unwrap();
        let port = listener.local_address().as_socket().unwrap().port();
        bed.listen(listener);
        let dialer = QuicDialer::new(Identity::generate().unwrap());
        let to = std::net::SocketAddr::new(dial.parse().unwrap(), port);
        bed.dial(&dialer, to, None);
        bed.until("both sides are open", |bed| {
            bed.sides.len() == 2 && bed.sides.iter().all(|side| side.is_open())
        });
        let local = bed.sides[1].transport.info().local.clone().unwrap();
        assert_eq!(local.as_socket().unwrap().ip().to_canonical(), to.ip());
    }
}

#[test]
fn a_listener_removes_dropped_transports() {
    let (mut bed, dialing, accepted) = connected();
    bed.remove(accepted);
    bed.sides[dialing].push(FrameOrder::Control, Bytes::from_static(b"x"));
    // The listener resets the connection of the dialer.
    bed.until("the dialer has ended", |bed| {
        bed.sides[dialing].end.is_some()
    });
    assert!(format!("{:?}", bed.listeners[0]).contains("connections: 0"));
}
