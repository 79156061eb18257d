//! Floods from addresses that nobody has proved (N12).
//!
//! A spoofed source is played by a socket that sends a real first datagram and never answers: the
//! listener cannot tell the two apart, and the socket can count what a victim would get.

use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use crate::raw_quic::RawQuic;
use crate::raw_tls::Wrong;
use crate::scene::Scene;
use crate::slowloris::hello;

/// From how many concurrent handshakes on a QUIC stranger must prove its address.
const RETRY_FROM: usize = 128;

/// By how much an answer to an unproved address may be larger than the question (RFC 9000, 8.1).
const AMPLIFICATION_MAX: usize = 3;

/// Lets so much time pass that whatever is repeated has been repeated, until handshakes are over.
fn wait_long(scene: &mut Scene) {
    for _ in 0..60 {
        scene.turn();
        scene.advance(Duration::from_millis(100));
    }
    scene.until_quiet();
}

#[test]
fn n12_a_flood_of_initials_gets_at_most_three_times_its_bytes_and_then_retries() {
    let mut scene = Scene::new("quic");
    let to = scene.address();
    let mut sources = Vec::new();
    for number in 0..RETRY_FROM + 22 {
        let from = format!("127.0.0.{}", 2 + number);
        let mut client = RawQuic::new(&from, to, Wrong::NoKey);
        let mut initial = client.next_datagram().unwrap();
        // Bytes behind the packet count as received, and make three times of it no whole datagrams.
        initial.resize(initial.len() + [0, 1, 52, 200][number % 4], 0);
        client.send(&initial);
        sources.push((client, initial.len()));
        scene.turn();
    }
    scene.until_quiet();
    let is_in = scene.accepted().count();
    assert_eq!(is_in, RETRY_FROM, "more are held than may be");
    let honest = scene.dial();
    scene.until("the honest one is open", |scene| {
        scene.sides[honest].is_open
    });
    wait_long(&mut scene);
    for (number, (client, sent)) in sources.iter().enumerate() {
        let received = client.received();
        let len = received.iter().map(Vec::len).sum::<usize>();
        assert!(
            len <= AMPLIFICATION_MAX * sent,
            "source {number} sent {sent} bytes and got {len}"
        );
        // Long header, fixed bit, and the type in the next two (RFC 9000, 17.2).
        let kinds: Vec<_> = received.iter().map(|one| one[0] >> 4).collect();
        if number < RETRY_FROM {
            assert!(!kinds.contains(&0xf), "source {number} got {kinds:x?}");
        } else {
            assert_eq!(kinds, [0xf], "source {number}");
            assert!(len < *sent);
        }
    }
    // All that were held have run out of time.
    let held = scene.accepted().filter(|side| side.end.is_none());
    assert!(held.count() <= 1);
}

#[test]
fn n12_one_turn_lets_in_a_bounded_number_and_asks_for_another() {
    let mut by_tcp = Scene::new("tcp");
    let streams: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(by_tcp.address()).unwrap())
        .collect();
    assert_bounded(&mut by_tcp, 32);
    drop(streams);

    let mut by_quic = Scene::new("quic");
    let to = by_quic.address();
    for _ in 0..100 {
        let mut client = RawQuic::new("127.0.0.1", to, Wrong::NoKey);
        let initial = client.next_datagram().unwrap();
        client.send(&initial);
    }
    assert_bounded(&mut by_quic, 16);
}

/// Of 100 who knock, each turn lets in at most so many, and they all get in.
fn assert_bounded(scene: &mut Scene, per_turn: usize) {
    let mut is_in = 0;
    while is_in < 100 {
        scene.turn();
        let new = scene.sides.len() - is_in;
        assert!((1..=per_turn).contains(&new), "{new} in one turn");
        is_in += new;
    }
    let honest = scene.dial();
    scene.until("the honest one is open", |scene| {
        scene.sides[honest].is_open
    });
}

#[test]
fn n12_what_is_no_initial_gets_at_most_its_own_bytes() {
    let mut scene = Scene::new("quic");
    let to = scene.address();
    let long = |version: u32, len: usize| {
        let mut datagram = vec![0xc0];
        datagram.extend_from_slice(&version.to_be_bytes());
        datagram.extend_from_slice(&[8, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
        datagram.resize(len, 0);
        datagram
    };
    let short = |len: usize| {
        let mut datagram = vec![7; len];
        datagram[0] = 0x40;
        datagram
    };
    let kinds = [
        long(0x1a2a_3a4a, 20),
        long(0x1a2a_3a4a, 1199),
        long(0x1a2a_3a4a, 1200),
        long(1, 1200),
        long(0, 1200),
        short(10),
        short(22),
        short(43),
        short(1200),
        vec![0xff; 1200],
        vec![0],
    ];
    for (number, kind) in kinds.iter().enumerate() {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut got = 0;
        let mut buffer = [0; 65_536];
        for _ in 0..20 {
            socket.send_to(kind, to).unwrap();
            scene.turn();
        }
        scene.until_quiet();
        got += std::iter::from_fn(|| socket.recv(&mut buffer).ok()).sum::<usize>();
        let sent = 20 * kind.len();
        assert!(got <= sent, "kind {number}: {sent} bytes sent, {got} got");
    }
    assert!(scene.sides.is_empty());
    let honest = scene.dial();
    scene.until("the honest one is open", |scene| {
        scene.sides[honest].is_open
    });
}

#[test]
fn n12_a_flood_of_hellos_gets_fewer_bytes_than_it_has_and_holds_nothing() {
    for (scheme, magic) in [("udp", *b"svdn\x01"), ("udp+plain", *b"svdg\x01")] {
        let mut scene = Scene::new(scheme);
        let to = scene.address();
        let sockets: Vec<_> = (0..200)
            .map(|number| UdpSocket::bind((format!("127.0.0.{}", 2 + number), 0)).unwrap())
            .collect();
        let mut sent = 0;
        for nonce in 0..10 {
            let mut hello = hello([nonce; 32], &[nonce; 16]);
            hello[1..6].copy_from_slice(&magic);
            sent += hello.len();
            for socket in &sockets {
                socket.send_to(&hello, to).unwrap();
            }
            scene.until_quiet();
        }
        wait_long(&mut scene);
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
            let mut buffer = [0; 65_536];
            let got = std::iter::from_fn(|| socket.recv(&mut buffer).ok()).sum::<usize>();
            assert!(0 < got && got < sent, "{sent} bytes sent, {got} got");
        }
        assert!(scene.sides.is_empty(), "{scheme} holds a stranger");
        let honest = scene.dial();
        scene.until("the honest one is open", |scene| {
            scene.sides[honest].is_open
        });
    }
}
