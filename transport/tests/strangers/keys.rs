//! Strangers that do not show a raw public key (S1), or speak another protocol (S4).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::ClientConnection;
use selvedge_transport::End;

use crate::journal::logged;
use crate::raw_quic::RawQuic;
use crate::raw_tls::{self, Wrong};
use crate::scene::{Scene, Side};

/// Lets a wrong client knock, and returns why it was not let in and what it heard of it.
fn knock(scheme: &str, wrong: Wrong) -> (String, String) {
    let mut scene = Scene::new(scheme);
    let (heard, lines) = logged(|| match scheme {
        "quic" => knock_by_quic(&mut scene, wrong),
        _ => knock_by_tls(&mut scene, wrong),
    });
    let sides: Vec<&Side> = scene.accepted().collect();
    let reason = match &sides[..] {
        // QUIC refuses some with the answer to their first packet: only the log says why.
        [] => {
            let mut lines = lines.into_iter();
            lines
                .find(|line| line.contains("connection not accepted"))
                .unwrap()
        }
        [side] => {
            assert!(!side.is_open && side.inbox.is_empty(), "{side:?}");
            assert!(!side.greeting.is_taken, "a frame was sent");
            let Some(End::Unauthenticated { detail }) = &side.end else {
                panic!("{scheme} {wrong:?}: {:?}", side.end);
            };
            detail.clone()
        }
        sides => panic!("{scheme} {wrong:?}: {sides:?}"),
    };
    let honest = scene.dial();
    scene.until("the honest one is open", |scene| {
        scene.sides[honest].is_open
    });
    (reason, heard)
}

fn knock_by_quic(scene: &mut Scene, wrong: Wrong) -> String {
    let mut client = RawQuic::new("127.0.0.1", scene.address(), wrong);
    scene.until("both sides have ended", |scene| {
        client.pump();
        client.lost.is_some() && scene.accepted().all(|side| side.end.is_some())
    });
    client.lost.unwrap()
}

fn knock_by_tls(scene: &mut Scene, wrong: Wrong) -> String {
    let config = Arc::new(raw_tls::client(wrong));
    let mut conn = ClientConnection::new(config, "selvedge".try_into().unwrap()).unwrap();
    let mut stream = TcpStream::connect(scene.address()).unwrap();
    stream.set_nonblocking(true).unwrap();
    // A frame, sent as soon as the client believes that it is connected.
    conn.writer().write_all(b"\x05\x00\x00\x00hello").unwrap();
    let mut heard = None;
    scene.until("both sides have ended", |scene| {
        let mut bytes = Vec::new();
        while conn.wants_write() {
            conn.write_tls(&mut bytes).unwrap();
        }
        if wrong == Wrong::Tls12 && !bytes.is_empty() && conn.is_handshaking() && heard.is_none() {
            raw_tls::offer_tls12_only(&mut bytes);
        }
        // It fits into an empty socket, or nobody reads it any more.
        let _ = stream.write(&bytes);
        heard = heard.take().or_else(|| hear(&mut conn, &mut stream));
        heard.is_some() && scene.accepted().any(|side| side.end.is_some())
    });
    heard.unwrap()
}

/// Why the client's side is over, if it is.
fn hear(conn: &mut ClientConnection, stream: &mut TcpStream) -> Option<String> {
    match conn.read_tls(stream as &mut dyn Read) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => Some(error.to_string()),
        Ok(0) => Some("closed".to_owned()),
        Ok(_) => Some(conn.process_new_packets().err()?.to_string()),
    }
}

/// What the client hears: an alert (RFC 8446, 6.2), of which QUIC tells the number.
fn assert_alert(scheme: &str, heard: &str, name: &str, number: u8) {
    let told = match scheme {
        "quic" => format!("error {number}:"),
        _ => name.to_owned(),
    };
    assert!(heard.contains(&told), "{scheme}: {heard}");
}

#[test]
fn s1_a_peer_with_an_x509_certificate_is_refused_and_the_reason_is_told() {
    for scheme in ["tcp", "quic"] {
        let (reason, heard) = knock(scheme, Wrong::X509);
        assert!(reason.contains("no raw public key"), "{scheme}: {reason}");
        assert_alert(scheme, &heard, "HandshakeFailure", 40);
    }
}

#[test]
fn s1_a_peer_without_a_certificate_is_refused_and_the_reason_is_told() {
    for scheme in ["tcp", "quic"] {
        let (reason, heard) = knock(scheme, Wrong::NoCertificate);
        assert!(reason.contains("no raw public key"), "{scheme}: {reason}");
        assert_alert(scheme, &heard, "HandshakeFailure", 40);
        let (reason, heard) = knock(scheme, Wrong::NoKey);
        assert!(reason.contains("presented no key"), "{scheme}: {reason}");
        assert_alert(scheme, &heard, "CertificateRequired", 116);
    }
}

#[test]
fn s4_a_client_of_tls_1_2_is_refused_and_the_reason_is_told() {
    for scheme in ["tcp", "quic"] {
        let (reason, heard) = knock(scheme, Wrong::Tls12);
        assert!(reason.contains("TLS 1.3"), "{scheme}: {reason}");
        assert_alert(scheme, &heard, "ProtocolVersion", 70);
    }
}

#[test]
fn s4_a_client_of_another_protocol_is_refused_and_the_reason_is_told() {
    for scheme in ["tcp", "quic"] {
        let (reason, heard) = knock(scheme, Wrong::Alpn);
        assert!(reason.contains("another protocol"), "{scheme}: {reason}");
        assert_alert(scheme, &heard, "NoApplicationProtocol", 120);
        // One that names no protocol at all is refused too; by TCP it hears no more of it.
        let (reason, _) = knock(scheme, Wrong::NoAlpn);
        assert!(reason.contains("another protocol"), "{scheme}: {reason}");
    }
}
