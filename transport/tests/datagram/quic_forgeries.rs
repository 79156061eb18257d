//! What others inject into an open connection (N14).

use std::net::UdpSocket;

use fastrand::Rng;
use selvedge_transport::{Admission, FrameOrder, Identity, QuicDialer};

use crate::quic_connections::listener;
use crate::world::{Side, World, numbered, numbers};

/// The connection ids in a packet with a long header: whom it is for, and whom it is from.
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

/// What someone who has seen the connection ids may make up for the side that is called `id`.
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
    // Lengths: of the token, where there is one, and of what follows.
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
        // A reset need not name the connection.
        [&[0x40], &noise(rng, len)[..]].concat(),
        // Version negotiation: without ours, with ours, with none.
        long(0x80 | rng.u8(..), [0; 4], &reserved),
        long(0x80 | rng.u8(..), [0; 4], &v1),
        long(0x80 | rng.u8(..), [0; 4], &[]),
        // Initial, 0-RTT, Handshake and Retry.
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
    let mut world = World::new();
    let to = world.listen(listener(
        &Identity::generate().unwrap(),
        Admission::anyone(),
    ));
    let relay = world.relay(to, 1);
    world.relays[0].keeps = true;
    let dialer = QuicDialer::new(Identity::generate().unwrap());
    world.dial(&dialer, relay, None);
    world.until("both sides are open", |world| {
        world.sides.len() == 2 && world.sides.iter().all(Side::is_open)
    });
    let kept = world.relays[0].kept().to_vec();
    let (first_id, dialer_id) = ids(&kept[0]);
    // The dialer's next packet with a long header names the id that the listener chose.
    let next = kept[1..].iter().find(|packet| packet[0] & 0x80 != 0);
    let (listener_id, _) = ids(next.unwrap());
    assert_ne!(first_id, listener_id);

    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let mut rng = Rng::with_seed(14);
    let mut buffer = [0; 65_536];
    for number in 0..100 {
        let mut forged = Vec::new();
        // The listener's first: if it gave away a token, it would be only once in 20 ms.
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
            world.relays[0].inject(packet);
            elsewhere.send_to(packet, to).unwrap();
        }
        world.relays[0].replay_in_place();
        for side in 0..2 {
            world.sides[side].put(FrameOrder::Lane(0), numbered(0, number, 1000));
        }
        world.turn(std::time::Duration::ZERO);
        // Nor does the listener help to forge: it must not tell the token of a living connection.
        while let Ok(len) = elsewhere.recv(&mut buffer) {
            world.relays[0].inject(&buffer[..len]);
        }
    }
    world.until("all frames are there", |world| {
        let count = |side: &Side| numbers(&side.inbox, 0).len();
        count(&world.sides[0]) == 100 && count(&world.sides[1]) == 100
    });
    for side in &world.sides[..2] {
        assert_eq!(numbers(&side.inbox, 0), (0..100).collect::<Vec<_>>());
        assert!(side.end.is_none() && side.is_open(), "{side:?}");
    }
    // Some forgeries make a handshake of their own, and none of those opens.
    assert!(!world.sides[2..].iter().any(Side::is_open));
}
