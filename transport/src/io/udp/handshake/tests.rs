//! The two sides against each other, and against forgers.

use super::*;

const FROM: &str = "192.0.2.1:7";

const BOTH: [Protection; 2] = [Protection::Plain, Protection::Sealed];

struct Pair {
    dialing: Dialing,
    accepting: Accepting,
    greeter: Greeter,
    key: ListenKey,
    ids: (NodeId, NodeId),
}

fn pair(
    protection: Protection,
    expected: impl Fn(NodeId) -> Option<NodeId>,
    admission: Admission,
) -> Pair {
    let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let ids = (ours.node_id(), theirs.node_id());
    let mut dialing = Dialing::new(protection, ours, expected(ids.1)).unwrap();
    let greeter = Greeter::new(protection).unwrap();
    let key = ListenKey::new(protection, theirs).unwrap();
    let Greeting::Ask(cookie) = greeter.greet(FROM.parse().unwrap(), 0, &dialing.message()) else {
        panic!("a first Hello is asked for a cookie");
    };
    assert!(cookie.len() <= dialing.message().len());
    assert!(matches!(dialing.handle(&cookie), Outcome::Say));
    let greeting = greeter.greet(FROM.parse().unwrap(), 1, &dialing.message());
    let Greeting::Accept(nonce) = greeting else {
        panic!("a Hello with its cookie is taken");
    };
    Pair {
        dialing,
        accepting: Accepting::new(&key, admission, nonce).unwrap(),
        greeter,
        key,
        ids,
    }
}

/// Sends a frame from one side to the other.
fn hand_over(from: &mut Cover, to: &mut Cover) {
    let mut datagram = Vec::new();
    from.wrap(16, [b"fra", b"me"], &mut datagram);
    let (kind, frame) = to.unwrap(datagram[..].into()).unwrap();
    assert_eq!((kind, &frame[..]), (16, &b"frame"[..]));
}

#[test]
fn both_learn_who_the_other_is_and_understand_each_other() {
    for protection in BOTH {
        let mut pair = pair(protection, Some, Admission::anyone());
        let hello = pair.dialing.message();
        let accept = pair.accepting.message();
        assert!(matches!(pair.dialing.handle(&accept), Outcome::Say));
        let Outcome::Open { peer, answer } = pair.accepting.handle(&pair.dialing.message()) else {
            panic!("a proof opens");
        };
        assert_eq!(peer, pair.ids.0);
        assert_eq!(pair.dialing.cover_mut().unwrap().1, pair.ids.1);
        let Outcome::Open { peer, .. } = pair.dialing.handle(&answer) else {
            panic!("a Welcome opens");
        };
        assert_eq!(peer, pair.ids.1);
        let mut ours = pair.dialing.take_cover().unwrap();
        let mut theirs = pair.accepting.take_cover().unwrap();
        hand_over(&mut ours, &mut theirs);
        hand_over(&mut theirs, &mut ours);
        // What is repeated is answered as before, or ignored.
        assert!(matches!(pair.accepting.handle(&hello), Outcome::Answer(_)));
        assert!(matches!(pair.dialing.handle(&accept), Outcome::Nothing));
    }
}

#[test]
fn the_two_protections_do_not_take_each_other_for_their_own() {
    for (ours, theirs) in [(BOTH[0], BOTH[1]), (BOTH[1], BOTH[0])] {
        let hello = pair(ours, Some, Admission::anyone()).dialing.message();
        let greeter = Greeter::new(theirs).unwrap();
        let greeting = greeter.greet(FROM.parse().unwrap(), 0, &hello);
        assert_eq!(greeting, Greeting::Ignore);
    }
}

#[test]
fn the_wrong_peer_and_the_unadmitted_are_refused() {
    for protection in BOTH {
        let other = Identity::generate().unwrap().node_id();
        let mut wrong = pair(protection, |_| Some(other), Admission::anyone());
        let Outcome::Failed { end, .. } = wrong.dialing.handle(&wrong.accepting.message()) else {
            panic!("another key fails");
        };
        assert!(matches!(end, End::WrongPeer { found, .. } if found == wrong.ids.1));

        let mut refused = pair(protection, Some, Admission::new(|_| false));
        refused.dialing.handle(&refused.accepting.message());
        let Outcome::Failed { end, answer } = refused.accepting.handle(&refused.dialing.message())
        else {
            panic!("a key that is not admitted fails");
        };
        assert!(matches!(end, End::NotAdmitted { peer } if peer == refused.ids.0));
        assert!(matches!(
            refused.dialing.handle(&answer),
            Outcome::Failed {
                end: End::Refused { .. },
                ..
            }
        ));
    }
}

#[test]
fn nothing_altered_or_cut_has_an_effect() {
    for protection in BOTH {
        let mut pair = pair(protection, Some, Admission::anyone());
        let accept = pair.accepting.message();
        for at in 0..accept.len() {
            let mut forged = accept.clone();
            forged[at] ^= 1;
            assert!(
                matches!(pair.dialing.handle(&forged), Outcome::Nothing),
                "{at}"
            );
            assert!(matches!(
                pair.dialing.handle(&accept[..at]),
                Outcome::Nothing
            ));
        }
        pair.dialing.handle(&accept);
        let prove = pair.dialing.message();
        for at in 0..prove.len() {
            let mut forged = prove.clone();
            forged[at] ^= 1;
            assert!(
                matches!(pair.accepting.handle(&forged), Outcome::Nothing),
                "{at}"
            );
            assert!(matches!(
                pair.accepting.handle(&prove[..at]),
                Outcome::Nothing
            ));
        }
        for kind in 0..=255_u8 {
            assert!(matches!(pair.dialing.handle(&[kind]), Outcome::Nothing));
            assert!(matches!(pair.accepting.handle(&[kind]), Outcome::Nothing));
        }
        assert!(matches!(pair.dialing.handle(&[]), Outcome::Nothing));
    }
}

#[test]
fn a_proof_is_good_for_one_connection() {
    for protection in BOTH {
        let mut pair = pair(protection, Some, Admission::anyone());
        pair.dialing.handle(&pair.accepting.message());
        let prove = pair.dialing.message();
        let mut again =
            Accepting::new(&pair.key, Admission::anyone(), pair.accepting.dialer_nonce).unwrap();
        assert!(matches!(again.handle(&prove), Outcome::Nothing));
    }
}

#[test]
fn a_cookie_is_good_for_its_address_and_time() {
    for protection in BOTH {
        let pair = pair(protection, Some, Admission::anyone());
        let hello = pair.dialing.message();
        let greet =
            |from: &str, seconds| pair.greeter.greet(from.parse().unwrap(), seconds, &hello);
        assert!(matches!(
            greet(FROM, 2 * COOKIE_SECONDS - 1),
            Greeting::Accept(_)
        ));
        assert!(matches!(greet(FROM, 2 * COOKIE_SECONDS), Greeting::Ask(_)));
        assert!(matches!(greet("192.0.2.1:8", 0), Greeting::Ask(_)));
        assert!(matches!(greet("192.0.2.2:7", 0), Greeting::Ask(_)));
        for len in 0..hello.len() {
            let cut = pair.greeter.greet(FROM.parse().unwrap(), 0, &hello[..len]);
            assert_eq!(cut, Greeting::Ignore);
        }
    }
}
