//! Forged packets in an open connection (N14).

use std::net::UdpSocket;

use fastrand::Rng;
use selvedge_transport::{Admission, FrameOrder, Identity, QuicDialer};

use crate::quic_connections::listener;
use crate::test_bed::{Side, TestBed, numbered, numbers};

/// The destination and source connection ids in a packet with a long header.
fn ids(packet: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (len, rest) = packet[5..].split_first().unwrap();
    let (destination, rest) = rest.split_at(usize::from(*len));
    let (len, rest) = rest.split_first().unwrap();
    (destination.to_vec(), rest[..usize::from(*len)].to_vec())
}

fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// Packets that an observer of the connection ids can forge for the side with the id `id`.
fn forgeries(rng: &mut Rng, id: &[u8], from: &[u8]) -> Vec<Vec<u8>> {
    let long = |first: u8, version: [u8; 4], rest: &[u8]| {
        let lens = [id.len() as u8, from.len() as u8];
        [
            &[first],
            &version[..],
            &lens[..1],
            id,
            &lens[1..],
            from,
            rest,
        ]
        .concat()
    };
    let (v1, reserved) = ([0, 0, 0, 1], [0x1a, 0x2a, 0x3a, 0x4a]);
    // The length of the token, if there is one, and the length of the rest.
    let initial = [&[0, 0x44, 0x00][..], &noise(rng, 1024)].concat();
    let later = [&[0x40, 0x80][..], &noise(rng, 128)].concat();
    let len = rng.usize(21..200);
    let reset = |end: &[u8], rng: &mut Rng| {
        let first = 0x40 | rng.u8(0..0x40);
        [&[first], id, &noise(rng, len), end].concat()
    };
    let token = noise(rng, 16);
    vec![
        reset(&token, rng),
        reset(&[0; 16], rng),
        reset(id, rng),
        // A stateless reset needs no connection id.
        [&[0x40], &noise(rng, len)[..]].concat(),
        // Version Negotiation: without version 1, with it, without any version.
        long(0x80 | rng.u8(..), [0; 4], &reserved),
        long(0x80 | rng.u8(..), [0; 4], &v1),
        long(0x80 | rng.u8(..), [0; 4], &[]),
        // Packets of types Initial, 0-RTT, Handshake and Retry.
        long(0xc0 | rng.u8(..0x10), v1, &initial),
        long(0xd0 | rng.u8(..0x10), v1, &later),
        long(0xe0 | rng.u8(..0x10), v1, &later),
        long(0xf0, v1, &noise(rng, 64)),
        long(0xc0, reserved, &noise(rng, 1200)),
        noise(rng, len),
        Vec::new(),
    ]
}

#[test]
fn n14_forged_resets_version_negotiation_and_noise_do_not_affect_an_open_connection() {
    let mut bed = TestBed::new();
    let to = bed.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let relay = bed.relay(to, 1);
    bed.relays[0].keeps = true;
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    bed.dial(&dialer, relay, None);
    bed.until("both sides are open", |bed| {
        bed.sides.len() == 2 && bed.sides.iter().all(Side::is_open)
    });
    let kept = bed.relays[0].kept().to_vec();
    let (first_id, dialer_id) = ids(&kept[0]);
    // The dialer's next packet with a long header carries the id that the listener chose.
    let next = kept[1..].iter().find(|packet| packet[0] & 0x80 != 0);
    let (listener_id, _) = ids(next.unwrap());
    assert_ne!(first_id, listener_id);

    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let mut rng = Rng::with_seed(14);
    let mut buffer = [0; 65_536];
    for number in 0..100 {
        let mut forged = Vec::new();
        // The listener first: it sends at most one stateless reset in 20 ms.
        for (id, from) in [
            (&listener_id, &dialer_id),
            (&dialer_id, &listener_id),
            (&first_id, &dialer_id),
        ] {
            forged.extend(forgeries(&mut rng, id, from));
        }
        for packet in &kept {
            let mut damaged = packet.clone();
            let at = rng.usize(..damaged.len());
            damaged[at] ^= 1 << rng.u8(..8);
            forged.push(damaged);
        }
        for packet in &forged {
            bed.relays[0].inject(packet);
            elsewhere.send_to(packet, to).unwrap();
        }
        bed.relays[0].replay_in_place();
        for side in 0..2 {
            bed.sides[side].push(FrameOrder::Lane(0), numbered(0, number, 1000));
        }
        bed.turn(std::time::Duration::ZERO);
        // The listener must not disclose the reset token of a live connection.
        while let Ok(len) = elsewhere.recv(&mut buffer) {
            bed.relays[0].inject(&buffer[..len]);
        }
    }
    bed.until("all frames have arrived", |bed| {
        let count = |side: &Side| numbers(&side.inbox, 0).len();
        count(&bed.sides[0]) == 100 && count(&bed.sides[1]) == 100
    });
    for side in &bed.sides[..2] {
        assert_eq!(numbers(&side.inbox, 0), (0..100).collect::<Vec<_>>());
        assert!(side.end.is_none() && side.is_open(), "{side:?}");
    }
    // Some forgeries start a handshake; none of them opens.
    assert!(!bed.sides[2..].iter().any(Side::is_open));
}
