//! Both sides against each other and against forged messages.

use super::*;

const FROM: &str = "192.0.2.1:7";

const BOTH: [UdpSecurity; 2] = [UdpSecurity::Plain, UdpSecurity::Encrypted];

struct HandshakePair {
    dialing: DialerHandshake,
    accepting: AcceptorHandshake,
    hello_validator: HelloValidator,
    key: ListenerKey,
    ids: (NodeId, NodeId),
}

fn pair(
    security: UdpSecurity,
    expected: impl Fn(NodeId) -> Option<NodeId>,
    admission: Admission,
) -> HandshakePair {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let ids = (ours.node_id(), theirs.node_id());
    let mut dialing = DialerHandshake::new(security, ours, expected(ids.1)).unwrap();
    let hello_validator = HelloValidator::new(security).unwrap();
    let key = ListenerKey::new(security, theirs).unwrap();
    let HelloVerdict::SendCookie(cookie) =
        hello_validator.check_hello(FROM.parse().unwrap(), 0, &dialing.message())
    else {
        panic!("the first Hello is answered by a cookie");
    };
    assert!(cookie.len() <= dialing.message().len());
    assert!(matches!(dialing.handle(&cookie), HandshakeAction::Transmit));
    let greeting = hello_validator.check_hello(FROM.parse().unwrap(), 1, &dialing.message());
    let HelloVerdict::Accept(nonce) = greeting else {
        panic!("a Hello with a valid cookie is accepted");
    };
    HandshakePair {
        dialing,
        accepting: AcceptorHandshake::new(&key, admission, nonce).unwrap(),
        hello_validator,
        key,
        ids,
    }
}

/// Protects a frame on one side and unprotects it on the other.
fn transfer_frame(from: &mut PacketProtection, to: &mut PacketProtection) {
    let mut datagram = Vec::new();
    from.protect(16, [b"fra", b"me"], &mut datagram);
    let (kind, frame) = to.unwrap(datagram[..].into()).unwrap();
    assert_eq!((kind, &frame[..]), (16, &b"frame"[..]));
}

#[test]
fn both_sides_authenticate_and_exchange_frames() {
    for security in BOTH {
        let mut pair = pair(security, Some, Admission::anyone());
        let hello = pair.dialing.message();
        let accept = pair.accepting.message();
        assert!(matches!(
            pair.dialing.handle(&accept),
            HandshakeAction::Transmit
        ));
        let HandshakeAction::Open { peer, reply } = pair.accepting.handle(&pair.dialing.message())
        else {
            panic!("a proof opens");
        };
        assert_eq!(peer, pair.ids.0);
        assert_eq!(pair.dialing.protection_mut().unwrap().1, pair.ids.1);
        let HandshakeAction::Open { peer, .. } = pair.dialing.handle(&reply) else {
            panic!("a Welcome opens the connection");
        };
        assert_eq!(peer, pair.ids.1);
        let mut ours = pair.dialing.take_protection().unwrap();
        let mut theirs = pair.accepting.take_protection().unwrap();
        transfer_frame(&mut ours, &mut theirs);
        transfer_frame(&mut theirs, &mut ours);
        // Repeated messages are answered as before or ignored.
        assert!(matches!(
            pair.accepting.handle(&hello),
            HandshakeAction::Reply(_)
        ));
        assert!(matches!(
            pair.dialing.handle(&accept),
            HandshakeAction::Ignore
        ));
    }
}

#[test]
fn encrypted_and_plain_dialers_and_listeners_ignore_each_other() {
    for (ours, theirs) in [(BOTH[0], BOTH[1]), (BOTH[1], BOTH[0])] {
        let hello = pair(ours, Some, Admission::anyone()).dialing.message();
        let hello_validator = HelloValidator::new(theirs).unwrap();
        let greeting = hello_validator.check_hello(FROM.parse().unwrap(), 0, &hello);
        assert_eq!(greeting, HelloVerdict::Ignore);
    }
}

#[test]
fn unexpected_and_unadmitted_keys_are_refused() {
    for security in BOTH {
        let other = Identity::generate().unwrap().node_id();
        let mut wrong = pair(security, |_| Some(other), Admission::anyone());
        let HandshakeAction::Failed { end, .. } = wrong.dialing.handle(&wrong.accepting.message())
        else {
            panic!("an unexpected key fails");
        };
        assert!(matches!(end, End::WrongPeer { found, .. } if found == wrong.ids.1));

        let mut refused = pair(security, Some, Admission::new(|_| false));
        refused.dialing.handle(&refused.accepting.message());
        let HandshakeAction::Failed { end, reply } =
            refused.accepting.handle(&refused.dialing.message())
        else {
            panic!("a key that is not admitted fails");
        };
        assert!(matches!(end, End::NotAdmitted { peer } if peer == refused.ids.0));
        assert!(matches!(
            refused.dialing.handle(&reply),
            HandshakeAction::Failed {
                end: End::Refused { .. },
                ..
            }
        ));
    }
}

#[test]
fn modified_and_truncated_messages_have_no_effect() {
    for security in BOTH {
        let mut pair = pair(security, Some, Admission::anyone());
        let accept = pair.accepting.message();
        for at in 0..accept.len() {
            let mut forged = accept.clone();
            forged[at] ^= 1;
            assert!(
                matches!(pair.dialing.handle(&forged), HandshakeAction::Ignore),
                "{at}"
            );
            assert!(matches!(
                pair.dialing.handle(&accept[..at]),
                HandshakeAction::Ignore
            ));
        }
        pair.dialing.handle(&accept);
        let prove = pair.dialing.message();
        for at in 0..prove.len() {
            let mut forged = prove.clone();
            forged[at] ^= 1;
            assert!(
                matches!(pair.accepting.handle(&forged), HandshakeAction::Ignore),
                "{at}"
            );
            assert!(matches!(
                pair.accepting.handle(&prove[..at]),
                HandshakeAction::Ignore
            ));
        }
        for kind in 0..=255_u8 {
            assert!(matches!(
                pair.dialing.handle(&[kind]),
                HandshakeAction::Ignore
            ));
            assert!(matches!(
                pair.accepting.handle(&[kind]),
                HandshakeAction::Ignore
            ));
        }
        assert!(matches!(pair.dialing.handle(&[]), HandshakeAction::Ignore));
    }
}

#[test]
fn a_proof_is_valid_for_one_connection() {
    for security in BOTH {
        let mut pair = pair(security, Some, Admission::anyone());
        pair.dialing.handle(&pair.accepting.message());
        let prove = pair.dialing.message();
        let mut again =
            AcceptorHandshake::new(&pair.key, Admission::anyone(), pair.accepting.dialer_nonce)
                .unwrap();
        assert!(matches!(again.handle(&prove), HandshakeAction::Ignore));
    }
}

#[test]
fn a_cookie_is_valid_for_its_address_and_period() {
    for security in BOTH {
        let pair = pair(security, Some, Admission::anyone());
        let hello = pair.dialing.message();
        let check_hello = |from: &str, seconds| {
            pair.hello_validator
                .check_hello(from.parse().unwrap(), seconds, &hello)
        };
        assert!(matches!(
            check_hello(FROM, 2 * COOKIE_SECONDS - 1),
            HelloVerdict::Accept(_)
        ));
        assert!(matches!(
            check_hello(FROM, 2 * COOKIE_SECONDS),
            HelloVerdict::SendCookie(_)
        ));
        assert!(matches!(
            check_hello("192.0.2.1:8", 0),
            HelloVerdict::SendCookie(_)
        ));
        assert!(matches!(
            check_hello("192.0.2.2:7", 0),
            HelloVerdict::SendCookie(_)
        ));
        for len in 0..hello.len() {
            let cut = pair
                .hello_validator
                .check_hello(FROM.parse().unwrap(), 0, &hello[..len]);
            assert_eq!(cut, HelloVerdict::Ignore);
        }
    }
}
