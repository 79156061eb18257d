//! Strangers that keep a handshake waiting (N1).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use selvedge_transport::{End, UNAUTHENTICATED_LEN_MAX};

use crate::alone::{alone, descriptors};
use crate::raw_quic::RawQuic;
use crate::raw_tls::{self, Wrong};
use crate::scene::Scene;

/// How many strangers there are at once.
const STRANGERS: usize = 200;

/// Enough for both ends of so many.
const DESCRIPTORS: usize = 1024;

/// What the README promises.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Sends byte `n` of whatever a stranger has to say.
type Dribble = Box<dyn FnMut(usize)>;

/// Lets strangers in, at most `let_in` of them into memory, and checks what comes of them.
fn withstand(scheme: &str, let_in: usize, strangers: fn(&mut Scene) -> Vec<Dribble>) {
    let mut scene = Scene::new(scheme);
    let before = descriptors();
    let mut dribbles = strangers(&mut scene);
    scene.until("the strangers are in", |scene| {
        scene.accepted().count() == let_in
    });
    let honest = scene.dial();
    scene.until("the honest one is open", |scene| {
        scene.sides[honest].is_open && scene.accepted().filter(|side| side.is_open).count() == 1
    });
    // A byte now and then does not buy them time.
    for n in 0..10 {
        dribbles.iter_mut().for_each(|dribble| dribble(n));
        scene.turn();
        scene.advance(HANDSHAKE_MAX / 10);
    }
    scene.until("the strangers have been shown the door", |scene| {
        scene.accepted().filter(|side| side.end.is_some()).count() == let_in
    });
    for side in scene.accepted().filter(|side| !side.is_open) {
        assert!(matches!(side.end, Some(End::TimedOut)), "{:?}", side.end);
        assert!(side.inbox.is_empty() && !side.greeting.is_taken);
    }
    assert!(scene.sides[honest].is_open, "{:?}", scene.sides[honest]);
    drop(dribbles);
    scene.sides.clear();
    assert_eq!(descriptors(), before, "a descriptor stays behind");
    let next = scene.dial();
    scene.until("the next one is open", |scene| scene.sides[next].is_open);
}

/// A third says nothing, a third one byte at a time, and a third all of its ClientHello at once.
fn tcp_strangers(scene: &mut Scene) -> Vec<Dribble> {
    let address = scene.address();
    let stranger = |kind| -> Dribble {
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
    (0..STRANGERS).map(|number| stranger(number % 3)).collect()
}

fn plain_strangers(scene: &mut Scene) -> Vec<Dribble> {
    let address = scene.address();
    let stranger = |is_mute: bool| -> Dribble {
        let mut stream = TcpStream::connect(address).unwrap();
        Box::new(move |n| {
            if !is_mute {
                stream.write_all(&b"svdg\x01aaaaaaaaa"[n..=n]).unwrap();
            }
        })
    };
    (0..STRANGERS)
        .map(|number| stranger(number % 2 == 0))
        .collect()
}

fn client_hello() -> Vec<u8> {
    let config = Arc::new(raw_tls::client(Wrong::NoKey));
    let name = "selvedge".try_into().unwrap();
    let mut conn = ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    conn.write_tls(&mut bytes).unwrap();
    bytes
}

/// Each sends a real first datagram, and then rubbish of one byte.
fn quic_strangers(scene: &mut Scene) -> Vec<Dribble> {
    let stranger = |to: SocketAddr| -> Dribble {
        let mut client = RawQuic::new("127.0.0.1", to, Wrong::NoKey);
        let initial = client.next_datagram().unwrap();
        client.send(&initial);
        Box::new(move |n| client.send(&[n as u8]))
    };
    let to = scene.address();
    (0..STRANGERS).map(|_| stranger(to)).collect()
}

/// Each proves its address, and then sends bytes one at a time.
fn udp_strangers(scene: &mut Scene) -> Vec<Dribble> {
    let to = scene.address();
    let mut strangers = Vec::new();
    for number in 0..STRANGERS {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let nonce = [number as u8; 32];
        socket.send_to(&hello(nonce, &[0; 16]), to).unwrap();
        let mut answer = [0; 100];
        let mut len = 0;
        scene.until("there is a cookie", |_| {
            len = socket.recv(&mut answer).unwrap_or(0);
            len > 0
        });
        assert_eq!((answer[0], len), (2, 1 + 32 + 16));
        socket
            .send_to(&hello(nonce, &answer[1 + 32..len]), to)
            .unwrap();
        let dribble: Dribble = Box::new(move |n| drop(socket.send_to(&[n as u8], to)));
        strangers.push(dribble);
    }
    strangers
}

/// The first datagram of a dialer of `udp://`.
pub(crate) fn hello(nonce: [u8; 32], cookie: &[u8]) -> Vec<u8> {
    [&[1], &b"svdn\x01"[..], &nonce, cookie].concat()
}

#[test]
fn n1_slow_strangers_of_tcp_are_shown_the_door_in_time() {
    let name = "slowloris::n1_slow_strangers_of_tcp_are_shown_the_door_in_time";
    alone(name, DESCRIPTORS, || {
        withstand("tcp", STRANGERS, tcp_strangers);
    });
}

#[test]
fn n1_slow_strangers_of_plain_tcp_are_shown_the_door_in_time() {
    let name = "slowloris::n1_slow_strangers_of_plain_tcp_are_shown_the_door_in_time";
    alone(name, DESCRIPTORS, || {
        withstand("tcp+plain", STRANGERS, plain_strangers);
    });
}

#[test]
fn n1_slow_strangers_of_quic_are_shown_the_door_in_time() {
    let name = "slowloris::n1_slow_strangers_of_quic_are_shown_the_door_in_time";
    // From the 129th on a stranger has to prove its address first, and none of these does.
    alone(name, DESCRIPTORS, || withstand("quic", 128, quic_strangers));
}

#[test]
fn n1_slow_strangers_of_udp_are_shown_the_door_in_time() {
    let name = "slowloris::n1_slow_strangers_of_udp_are_shown_the_door_in_time";
    alone(name, DESCRIPTORS, || {
        withstand("udp", STRANGERS, udp_strangers);
    });
}

#[test]
fn n1_a_stranger_with_an_endless_hello_is_cut_off_at_16_kib() {
    let mut scene = Scene::new("tcp");
    let mut stream = TcpStream::connect(scene.address()).unwrap();
    stream.set_nonblocking(true).unwrap();
    // Records of a ClientHello that says it is 60,000 bytes long.
    let mut bytes = Vec::new();
    while bytes.len() < 60_000 {
        bytes.extend_from_slice(&[22, 3, 1, 0x10, 0x00]);
        bytes.resize(bytes.len() + 0x1000, 0);
    }
    bytes[5..9].copy_from_slice(&[1, 0, 0xea, 0x60]);
    let mut said = 0;
    scene.until("it is cut off", |scene| {
        if scene.accepted().all(|side| side.end.is_none()) && said < bytes.len() {
            // Little by little: what was taken at the end was taken by the transport.
            let piece = &bytes[said..bytes.len().min(said + 1000)];
            said += stream.write(piece).unwrap_or(0);
        }
        scene.accepted().any(|side| side.end.is_some())
    });
    let end = scene.accepted().next().unwrap().end.clone();
    assert!(matches!(end, Some(End::Misbehaved { .. })), "{end:?}");
    assert!(said > UNAUTHENTICATED_LEN_MAX, "already at {said}");
    stream.set_nonblocking(false).unwrap();
    let mut rest = Vec::new();
    // Closed, by a reset since bytes were unread, or in order.
    let _ = stream.read_to_end(&mut rest);
}
