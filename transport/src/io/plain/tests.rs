//! Both sides against each other and against forged messages.

use super::*;

struct PlainPair {
    dialer: PlainHandshake,
    acceptor: PlainHandshake,
    ids: (NodeId, NodeId),
}

fn pair(expected: impl Fn(NodeId, NodeId) -> Option<NodeId>, admission: Admission) -> PlainPair {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let ids = (ours.node_id(), theirs.node_id());
    PlainPair {
        dialer: PlainHandshake::dialer(ours, expected(ids.0, ids.1), [1; NONCE_LEN]),
        acceptor: PlainHandshake::acceptor(theirs, admission, [2; NONCE_LEN]),
        ids,
    }
}

/// Delivers `bytes` as a stream would, in pieces of the wanted lengths.
fn deliver(to: &mut PlainHandshake, bytes: &[u8]) -> Result<Option<NodeId>, End> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let wanted = to.wanted();
        assert!(wanted > 0, "more than the handshake was sent");
        if rest.len() < wanted {
            return Ok(None);
        }
        let (message, remainder) = rest.split_at(wanted);
        if let HandshakeStep::Open(peer) = to.handle(message)? {
            assert_eq!((to.wanted(), remainder.len()), (0, 0));
            return Ok(Some(peer));
        }
        rest = remainder;
    }
    Ok(None)
}

fn drive(pair: &mut PlainPair) -> [Result<Option<NodeId>, End>; 2] {
    let mut got = [Ok(None), Ok(None)];
    for _ in 0..2 {
        let output = pair.dialer.take_output();
        if matches!(got[1], Ok(None)) && !output.is_empty() {
            got[1] = deliver(&mut pair.acceptor, &output);
        }
        let output = pair.acceptor.take_output();
        if matches!(got[0], Ok(None)) && !output.is_empty() {
            got[0] = deliver(&mut pair.dialer, &output);
        }
    }
    got
}

#[test]
fn both_sides_authenticate_each_other() {
    for expects in [false, true] {
        let mut pair = pair(|_, id| expects.then_some(id), Admission::anyone());
        let [dialer, acceptor] = drive(&mut pair);
        assert_eq!(dialer.unwrap(), Some(pair.ids.1));
        assert_eq!(acceptor.unwrap(), Some(pair.ids.0));
    }
}

#[test]
fn a_dialer_sends_no_proof_to_another_peer_than_it_dialed() {
    let mut pair = pair(|own, _| Some(own), Admission::anyone());
    let [dialer, acceptor] = drive(&mut pair);
    assert!(matches!(dialer, Err(End::WrongPeer { .. })));
    assert!(matches!(acceptor, Ok(None)));
    assert_eq!(pair.dialer.take_output(), [0_u8; 0]);
}

#[test]
fn a_peer_that_is_not_admitted_is_refused_with_a_code() {
    let mut pair = pair(|_, _| None, Admission::new(|_| false));
    let [dialer, acceptor] = drive(&mut pair);
    assert!(matches!(dialer, Err(End::Refused { .. })), "{dialer:?}");
    assert!(matches!(acceptor, Err(End::NotAdmitted { peer }) if peer == pair.ids.0));
}

#[test]
fn another_version_is_refused_with_a_code() {
    let mut pair = pair(|_, _| None, Admission::anyone());
    let mut hello = pair.dialer.take_output();
    hello[MAGIC.len()] = VERSION + 1;
    let refused = deliver(&mut pair.acceptor, &hello);
    assert!(matches!(refused, Err(End::Unauthenticated { .. })));
    let result = deliver(&mut pair.dialer, &pair.acceptor.take_output());
    assert!(matches!(result, Err(End::Refused { .. })), "{result:?}");
}

/// The messages of one successful handshake, with their senders.
fn recorded_handshake(pair: &mut PlainPair) -> [(Role, Vec<u8>); 4] {
    let hello = pair.dialer.take_output();
    deliver(&mut pair.acceptor, &hello).unwrap();
    let accept = pair.acceptor.take_output();
    deliver(&mut pair.dialer, &accept).unwrap();
    let prove = pair.dialer.take_output();
    deliver(&mut pair.acceptor, &prove).unwrap();
    let welcome = pair.acceptor.take_output();
    [
        (Role::Dialer, hello),
        (Role::Acceptor, accept),
        (Role::Dialer, prove),
        (Role::Acceptor, welcome),
    ]
}

#[test]
fn no_message_with_a_flipped_bit_is_accepted() {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let fresh = || PlainPair {
        dialer: PlainHandshake::dialer(ours.clone(), None, [1; NONCE_LEN]),
        acceptor: PlainHandshake::acceptor(theirs.clone(), Admission::anyone(), [2; NONCE_LEN]),
        ids: (ours.node_id(), theirs.node_id()),
    };
    let messages = recorded_handshake(&mut fresh());
    for (at, (sender, message)) in messages.iter().enumerate() {
        for bit in 0..message.len() * 8 {
            let mut pair = fresh();
            let mut opened = Ok(None);
            for (number, (from, bytes)) in messages.iter().enumerate().take(at + 1) {
                let mut bytes = bytes.clone();
                if number == at {
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                let to = match from {
                    Role::Dialer => &mut pair.acceptor,
                    Role::Acceptor => &mut pair.dialer,
                };
                opened = deliver(to, &bytes);
            }
            // A changed key or nonce in the Hello is detected only by the next signatures, which
            // are absent here.
            let is_hello = at == 0 && bit / 8 > MAGIC.len();
            assert!(
                opened.is_err() || is_hello,
                "{sender:?} {at}, bit {bit}: {opened:?}"
            );
        }
    }
}

#[test]
fn replayed_and_reflected_signatures_are_rejected() {
    let mut first = pair(|_, _| None, Admission::anyone());
    let messages = recorded_handshake(&mut first);
    // The same signature, presented to an acceptor with another nonce.
    let theirs = Identity::generate().unwrap();
    let mut acceptor = PlainHandshake::acceptor(theirs, Admission::anyone(), [3; NONCE_LEN]);
    deliver(&mut acceptor, &messages[0].1).unwrap();
    assert!(deliver(&mut acceptor, &messages[2].1).is_err());
    // A dialer's own signature, reflected to it as that of its own key.
    let ours = Identity::generate().unwrap();
    let mut dialer = PlainHandshake::dialer(ours.clone(), None, [1; NONCE_LEN]);
    let (key, nonce) = (ours.node_id(), [1; NONCE_LEN]);
    let signed = transcript(Role::Dialer, (&key, &nonce), (&key, &nonce));
    let signature = ours.sign(&signed);
    let forged = [&[CODE_ACCEPTED], &key.as_bytes()[..], &nonce, &signature];
    assert!(deliver(&mut dialer, &forged.concat()).is_err());
}

#[test]
fn messages_of_any_length_are_rejected_without_a_panic() {
    let fresh = |role| {
        let pair = pair(|_, _| None, Admission::anyone());
        match role {
            Role::Dialer => pair.dialer,
            Role::Acceptor => pair.acceptor,
        }
    };
    for len in 0..300 {
        for role in [Role::Dialer, Role::Acceptor] {
            let mut side = fresh(role);
            assert!(side.handle(&vec![7; len]).is_err(), "{role:?} {len}");
            assert!(side.handle(&[CODE_ACCEPTED]).is_err());
        }
        let mut dialer = fresh(Role::Dialer);
        dialer.handle(&[CODE_ACCEPTED]).unwrap();
        assert!(dialer.handle(&vec![7; len]).is_err(), "{len}");
    }
}
