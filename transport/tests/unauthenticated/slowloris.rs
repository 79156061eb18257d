//! Unauthenticated peers that delay their handshake (N1).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use selvedge_transport::{End, UNAUTHENTICATED_LEN_MAX};

use crate::own_process::{descriptors, in_own_process};
use crate::raw_quic::RawQuic;
use crate::raw_tls::{self, Wrong};
use crate::test_bed::TestBed;

/// The number of concurrent peers.
const PEERS: usize = 200;

/// Enough for both ends of all connections.
const DESCRIPTORS: usize = 1024;

/// The limit stated in the README.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Sends byte `n` of the data of a peer.
type SlowSend = Box<dyn FnMut(usize)>;

/// Connects unauthenticated peers, of which at most `accepted` get a transport, and asserts that
/// all are closed in time.
fn assert_closed_in_time(scheme: &str, accepted: usize, peers: fn(&mut TestBed) -> Vec<SlowSend>) {
    let mut bed = TestBed::new(scheme);
    let before = descriptors();
    let mut slow_sends = peers(&mut bed);
    bed.until("the unauthenticated peers are accepted", |bed| {
        bed.accepted().count() == accepted
    });
    let honest = bed.dial();
    bed.until("the honest peer is open", |bed| {
        bed.sides[honest].is_open && bed.accepted().filter(|side| side.is_open).count() == 1
    });
    // Occasional bytes do not extend the deadline.
    for n in 0..10 {
        slow_sends.iter_mut().for_each(|slow_send| slow_send(n));
        bed.turn();
        bed.advance(HANDSHAKE_MAX / 10);
    }
    bed.until("the unauthenticated peers are closed", |bed| {
        bed.accepted().filter(|side| side.end.is_some()).count() == accepted
    });
    for side in bed.accepted().filter(|side| !side.is_open) {
        assert!(matches!(side.end, Some(End::TimedOut)), "{:?}", side.end);
        assert!(side.inbox.is_empty() && !side.greeting.is_pulled);
    }
    assert!(bed.sides[honest].is_open, "{:?}", bed.sides[honest]);
    drop(slow_sends);
    bed.sides.clear();
    assert_eq!(descriptors(), before, "a descriptor leaks");
    let next = bed.dial();
    bed.until("the next peer is open", |bed| bed.sides[next].is_open);
}

/// A third sends nothing, a third one byte at a time, and a third a complete ClientHello.
fn tcp_peers(bed: &mut TestBed) -> Vec<SlowSend> {
    let address = bed.address();
    let peer = |kind| -> SlowSend {
        let mut stream = TcpStream::connect(address).unwrap();
        let hello = client_hello();
        if kind == 2 {
            stream.write_all(&hello).unwrap();
        }
        Box::new(move |n| {
            if kind == 1 {
                stream.write_all(&hello[n..=n]).unwrap();
            }
        })
    };
    (0..PEERS).map(|number| peer(number % 3)).collect()
}

fn plain_peers(bed: &mut TestBed) -> Vec<SlowSend> {
    let address = bed.address();
    let peer = |is_silent: bool| -> SlowSend {
        let mut stream = TcpStream::connect(address).unwrap();
        Box::new(move |n| {
            if !is_silent {
                stream.write_all(&b"svdg\x01aaaaaaaaa"[n..=n]).unwrap();
            }
        })
    };
    (0..PEERS).map(|number| peer(number % 2 == 0)).collect()
}

fn client_hello() -> Vec<u8> {
    let config = Arc::new(raw_tls::client(Wrong::NoKey));
    let name = "selvedge".try_into().unwrap();
    let mut conn = ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    conn.write_tls(&mut bytes).unwrap();
    bytes
}

/// Each sends a valid first datagram, and then invalid ones of one byte.
fn quic_peers(bed: &mut TestBed) -> Vec<SlowSend> {
    let peer = |to: SocketAddr| -> SlowSend {
        let mut client = RawQuic::new("127.0.0.1", to, Wrong::NoKey);
        let initial = client.next_datagram().unwrap();
        client.send(&initial);
        Box::new(move |n| client.send(&[n as u8]))
    };
    let to = bed.address();
    (0..PEERS).map(|_| peer(to)).collect()
}

/// Each validates its address, and then sends bytes one at a time.
fn udp_peers(bed: &mut TestBed) -> Vec<SlowSend> {
    let to = bed.address();
    let mut peers = Vec::new();
    for number in 0..PEERS {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let nonce = [number as u8; 32];
        socket.send_to(&hello(nonce, &[0; 16]), to).unwrap();
        let mut answer = [0; 100];
        let mut len = 0;
        bed.until("there is a cookie", |_| {
            len = socket.recv(&mut answer).unwrap_or(0);
            len > 0
        });
        assert_eq!((answer[0], len), (2, 1 + 32 + 16));
        socket
            .send_to(&hello(nonce, &answer[1 + 32..len]), to)
            .unwrap();
        let slow_send: SlowSend = Box::new(move |n| drop(socket.send_to(&[n as u8], to)));
        peers.push(slow_send);
    }
    peers
}

/// The first datagram of a dialer of `udp://`.
pub(crate) fn hello(nonce: [u8; 32], cookie: &[u8]) -> Vec<u8> {
    [&[1], &b"svdn\x01"[..], &nonce, cookie].concat()
}

#[test]
fn n1_slow_unauthenticated_peers_of_tcp_are_closed_in_time() {
    let name = "slowloris::n1_slow_unauthenticated_peers_of_tcp_are_closed_in_time";
    in_own_process(name, DESCRIPTORS, || {
        assert_closed_in_time("tcp", PEERS, tcp_peers);
    });
}

#[test]
fn n1_slow_unauthenticated_peers_of_plain_tcp_are_closed_in_time() {
    let name = "slowloris::n1_slow_unauthenticated_peers_of_plain_tcp_are_closed_in_time";
    in_own_process(name, DESCRIPTORS, || {
        assert_closed_in_time("tcp+plain", PEERS, plain_peers);
    });
}

#[test]
fn n1_slow_unauthenticated_peers_of_quic_are_closed_in_time() {
    let name = "slowloris::n1_slow_unauthenticated_peers_of_quic_are_closed_in_time";
    // From the 129th on a peer must validate its address, and none of these does.
    in_own_process(name, DESCRIPTORS, || {
        assert_closed_in_time("quic", 128, quic_peers)
    });
}

#[test]
fn n1_slow_unauthenticated_peers_of_udp_are_closed_in_time() {
    let name = "slowloris::n1_slow_unauthenticated_peers_of_udp_are_closed_in_time";
    in_own_process(name, DESCRIPTORS, || {
        assert_closed_in_time("udp", PEERS, udp_peers);
    });
}

#[test]
fn n1_an_endless_client_hello_is_rejected_at_16_kib() {
    let mut bed = TestBed::new("tcp");
    let mut stream = TcpStream::connect(bed.address()).unwrap();
    stream.set_nonblocking(true).unwrap();
    // Records of a ClientHello with a declared length of 60,000 bytes.
    let mut bytes = Vec::new();
    while bytes.len() < 60_000 {
        bytes.extend_from_slice(&[22, 3, 1, 0x10, 0x00]);
        bytes.resize(bytes.len() + 0x1000, 0);
    }
    bytes[5..9].copy_from_slice(&[1, 0, 0xea, 0x60]);
    let mut written = 0;
    bed.until("it is cut off", |bed| {
        if bed.accepted().all(|side| side.end.is_none()) && written < bytes.len() {
            // Small pieces, so that the transport has read almost all written bytes at the end.
            let piece = &bytes[written..bytes.len().min(written + 1000)];
            written += stream.write(piece).unwrap_or(0);
        }
        bed.accepted().any(|side| side.end.is_some())
    });
    let end = bed.accepted().next().unwrap().end.clone();
    assert!(matches!(end, Some(End::Misbehaved { .. })), "{end:?}");
    assert!(written > UNAUTHENTICATED_LEN_MAX, "already at {written}");
    stream.set_nonblocking(false).unwrap();
    let mut rest = Vec::new();
    // Closed by a reset, because bytes were unread, or in order.
    let _ = stream.read_to_end(&mut rest);
}
