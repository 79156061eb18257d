//! Clients without a raw public key (S1), or with another protocol or version (S4).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::ClientConnection;
use selvedge_transport::End;

use crate::log_capture::capture_logs;
use crate::raw_quic::RawQuic;
use crate::raw_tls::{self, Wrong};
use crate::test_bed::{Side, TestBed};

/// Connects an invalid client. Returns the reason of its rejection and the error that the client
/// received.
fn connect_invalid(scheme: &str, wrong: Wrong) -> (String, String) {
    let mut bed = TestBed::new(scheme);
    let (error, lines) = capture_logs(|| match scheme {
        "quic" => connect_by_quic(&mut bed, wrong),
        _ => connect_by_tls(&mut bed, wrong),
    });
    let sides: Vec<&Side> = bed.accepted().collect();
    let reason = match &sides[..] {
        // QUIC rejects some clients in response to their first packet; only the log contains the
        // reason.
        [] => {
            let mut lines = lines.into_iter();
            lines
                .find(|line| line.contains("connection not accepted"))
                .unwrap()
        }
        [side] => {
            assert!(!side.is_open && side.inbox.is_empty(), "{side:?}");
            assert!(!side.greeting.is_pulled, "a frame was sent");
            let Some(End::Unauthenticated { detail }) = &side.end else {
                panic!("{scheme} {wrong:?}: {:?}", side.end);
            };
            detail.clone()
        }
        sides => panic!("{scheme} {wrong:?}: {sides:?}"),
    };
    let honest = bed.dial();
    bed.until("the honest peer is open", |bed| bed.sides[honest].is_open);
    (reason, error)
}

fn connect_by_quic(bed: &mut TestBed, wrong: Wrong) -> String {
    let mut client = RawQuic::new("127.0.0.1", bed.address(), wrong);
    bed.until("both sides have ended", |bed| {
        client.pump();
        client.lost.is_some() && bed.accepted().all(|side| side.end.is_some())
    });
    client.lost.unwrap()
}

fn connect_by_tls(bed: &mut TestBed, wrong: Wrong) -> String {
    let config = Arc::new(raw_tls::client(wrong));
    let mut conn = ClientConnection::new(config, "selvedge".try_into().unwrap()).unwrap();
    let mut stream = TcpStream::connect(bed.address()).unwrap();
    stream.set_nonblocking(true).unwrap();
    // A frame that is sent as soon as the client considers itself connected.
    conn.writer().write_all(b"\x05\x00\x00\x00hello").unwrap();
    let mut error = None;
    bed.until("both sides have ended", |bed| {
        let mut bytes = Vec::new();
        while conn.wants_write() {
            conn.write_tls(&mut bytes).unwrap();
        }
        if wrong == Wrong::Tls12 && !bytes.is_empty() && conn.is_handshaking() && error.is_none() {
            raw_tls::offer_tls12_only(&mut bytes);
        }
        // The bytes fit into an empty socket buffer, or the listener has closed the connection.
        let _ = stream.write(&bytes);
        error = error.take().or_else(|| read_error(&mut conn, &mut stream));
        error.is_some() && bed.accepted().any(|side| side.end.is_some())
    });
    error.unwrap()
}

/// Returns the error of the client's side, if it has ended.
fn read_error(conn: &mut ClientConnection, stream: &mut TcpStream) -> Option<String> {
    match conn.read_tls(stream as &mut dyn Read) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => Some(error.to_string()),
        Ok(0) => Some("closed".to_owned()),
        Ok(_) => Some(conn.process_new_packets().err()?.to_string()),
    }
}

/// Asserts the alert that the client received (RFC 8446, section 6.2); QUIC reports its number.
fn assert_alert(scheme: &str, error: &str, name: &str, number: u8) {
    let expected = match scheme {
        "quic" => format!("error {number}:"),
        _ => name.to_owned(),
    };
    assert!(error.contains(&expected), "{scheme}: {error}");
}

#[test]
fn s1_a_peer_with_an_x509_certificate_is_rejected_with_a_reason() {
    for scheme in ["tcp", "quic"] {
        let (reason, error) = connect_invalid(scheme, Wrong::X509);
        assert!(reason.contains("no raw public key"), "{scheme}: {reason}");
        assert_alert(scheme, &error, "HandshakeFailure", 40);
    }
}

#[test]
fn s1_a_peer_without_a_certificate_is_rejected_with_a_reason() {
    for scheme in ["tcp", "quic"] {
        let (reason, error) = connect_invalid(scheme, Wrong::NoCertificate);
        assert!(reason.contains("no raw public key"), "{scheme}: {reason}");
        assert_alert(scheme, &error, "HandshakeFailure", 40);
        let (reason, error) = connect_invalid(scheme, Wrong::NoKey);
        assert!(reason.contains("presented no key"), "{scheme}: {reason}");
        assert_alert(scheme, &error, "CertificateRequired", 116);
    }
}

#[test]
fn s4_a_client_of_tls_1_2_is_rejected_with_a_reason() {
    for scheme in ["tcp", "quic"] {
        let (reason, error) = connect_invalid(scheme, Wrong::Tls12);
        assert!(reason.contains("TLS 1.3"), "{scheme}: {reason}");
        assert_alert(scheme, &error, "ProtocolVersion", 70);
    }
}

#[test]
fn s4_a_client_of_another_protocol_is_rejected_with_a_reason() {
    for scheme in ["tcp", "quic"] {
        let (reason, error) = connect_invalid(scheme, Wrong::Alpn);
        assert!(reason.contains("another protocol"), "{scheme}: {reason}");
        assert_alert(scheme, &error, "NoApplicationProtocol", 120);
        // A client that offers no protocol is rejected as well; over TCP it receives no alert for
        // it.
        let (reason, _) = connect_invalid(scheme, Wrong::NoAlpn);
        assert!(reason.contains("another protocol"), "{scheme}: {reason}");
    }
}
