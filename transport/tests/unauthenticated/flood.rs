//! Floods from addresses that are not validated (N12).
//!
//! A socket that sends a valid first datagram and never responds stands for a spoofed source: the
//! listener cannot distinguish the two, and the socket counts what a victim would receive.

use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use crate::raw_quic::RawQuic;
use crate::raw_tls::Wrong;
use crate::slowloris::hello;
use crate::test_bed::TestBed;

/// The number of concurrent handshakes from which a QUIC peer must validate its address.
const RETRY_FROM: usize = 128;

/// The limit of sent to received bytes before validation (RFC 9000, section 8.1).
const AMPLIFICATION_MAX: usize = 3;

/// Advances the clock in steps until all retransmissions are sent and all handshakes have expired.
fn expire_handshakes(bed: &mut TestBed) {
    for _ in 0..60 {
        bed.turn();
        bed.advance(Duration::from_millis(100));
    }
    bed.until_quiet();
}

#[test]
fn n12_a_flood_of_initials_receives_at_most_three_times_its_bytes_and_then_retries() {
    let mut bed = TestBed::new("quic");
    let to = bed.address();
    let mut sources = Vec::new();
    for number in 0..RETRY_FROM + 22 {
        let from = format!("127.0.0.{}", 2 + number);
        let mut client = RawQuic::new(&from, to, Wrong::NoKey);
        let mut initial = client.next_datagram().unwrap();
        // Bytes after the packet count as received and make three times their sum no multiple of a
        // datagram.
        initial.resize(initial.len() + [0, 1, 52, 200][number % 4], 0);
        client.send(&initial);
        sources.push((client, initial.len()));
        bed.turn();
    }
    bed.until_quiet();
    let accepted = bed.accepted().count();
    assert_eq!(accepted, RETRY_FROM, "too many connections are held");
    let honest = bed.dial();
    bed.until("the honest peer is open", |bed| bed.sides[honest].is_open);
    expire_handshakes(&mut bed);
    for (number, (client, sent)) in sources.iter().enumerate() {
        let received = client.received();
        let len = received.iter().map(Vec::len).sum::<usize>();
        assert!(
            len <= AMPLIFICATION_MAX * sent,
            "source {number} sent {sent} bytes and received {len}"
        );
        // Long header, fixed bit, and the packet type in the next two bits (RFC 9000, section
        // 17.2).
        let kinds: Vec<_> = received.iter().map(|one| one[0] >> 4).collect();
        if number < RETRY_FROM {
            assert!(!kinds.contains(&0xf), "source {number} received {kinds:x?}");
        } else {
            assert_eq!(kinds, [0xf], "source {number}");
            assert!(len < *sent);
        }
    }
    // All held handshakes have expired.
    let held = bed.accepted().filter(|side| side.end.is_none());
    assert!(held.count() <= 1);
}

#[test]
fn n12_one_call_accepts_a_bounded_number_of_connections() {
    let mut by_tcp = TestBed::new("tcp");
    let streams: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(by_tcp.address()).unwrap())
        .collect();
    assert_bounded(&mut by_tcp, 32);
    drop(streams);

    let mut by_quic = TestBed::new("quic");
    let to = by_quic.address();
    for _ in 0..100 {
        let mut client = RawQuic::new("127.0.0.1", to, Wrong::NoKey);
        let initial = client.next_datagram().unwrap();
        client.send(&initial);
    }
    assert_bounded(&mut by_quic, 16);
}

/// Asserts that of 100 connecting peers each call accepts at most `per_turn`, and finally all.
fn assert_bounded(bed: &mut TestBed, per_turn: usize) {
    let mut accepted = 0;
    while accepted < 100 {
        bed.turn();
        let new = bed.sides.len() - accepted;
        assert!((1..=per_turn).contains(&new), "{new} in one call");
        accepted += new;
    }
    let honest = bed.dial();
    bed.until("the honest peer is open", |bed| bed.sides[honest].is_open);
}

#[test]
fn n12_other_packets_receive_at_most_their_own_bytes() {
    let mut bed = TestBed::new("quic");
    let to = bed.address();
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
            bed.turn();
        }
        bed.until_quiet();
        got += std::iter::from_fn(|| socket.recv(&mut buffer).ok()).sum::<usize>();
        let sent = 20 * kind.len();
        assert!(
            got <= sent,
            "kind {number}: {sent} bytes sent, {got} received"
        );
    }
    assert!(bed.sides.is_empty());
    let honest = bed.dial();
    bed.until("the honest peer is open", |bed| bed.sides[honest].is_open);
}

#[test]
fn n12_a_flood_of_hellos_receives_fewer_bytes_and_allocates_nothing() {
    for (scheme, magic) in [("udp", *b"svdn\x01"), ("udp+plain", *b"svdg\x01")] {
        let mut bed = TestBed::new(scheme);
        let to = bed.address();
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
            bed.until_quiet();
        }
        expire_handshakes(&mut bed);
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
            let mut buffer = [0; 65_536];
            let got = std::iter::from_fn(|| socket.recv(&mut buffer).ok()).sum::<usize>();
            assert!(0 < got && got < sent, "{sent} bytes sent, {got} received");
        }
        assert!(bed.sides.is_empty(), "{scheme} keeps state for a peer");
        let honest = bed.dial();
        bed.until("the honest peer is open", |bed| bed.sides[honest].is_open);
    }
}
