//! Connecting, and who the peer is.

use std::io;
use std::time::{Duration, Instant};

use super::driven_transport::DrivenTransport;
use super::test_bed::TestBed;
use super::{Check, CheckOutcome};
use crate::{Admission, DialError, DialTarget, End, FRAME_LEN_MAX, FrameOrder, Info, Phase, Role};

const UNPROVED: CheckOutcome = CheckOutcome::Skipped("its peers do not prove who they are");

pub(super) const OPENS: Check = Check {
    name: "both_sides_open_and_know_each_other",
    rule: "after its handshake each side is open and knows the other's identity",
    body: |harness| {
        let bed = TestBed::connected(harness);
        let peers = bed
            .transports
            .iter()
            .map(|driven| driven.transport.info().peer);
        let peers: Vec<_> = peers.collect();
        let expected = [Some(bed.listener_id), Some(bed.dialer_id)];
        assert!(peers == expected, "they know {peers:?}, not {expected:?}");
        CheckOutcome::Kept
    },
};

pub(super) const INFO: Check = Check {
    name: "info_is_truthful",
    rule: "info tells scheme, role, addresses, limits and abilities as they are",
    body: |harness| {
        let mut bed = TestBed::connected(harness);
        bed.until_quiet();
        let abilities = harness.abilities();
        let address = bed.listener_address();
        let infos: Vec<&Info> = bed
            .transports
            .iter()
            .map(|driven| driven.transport.info())
            .collect();
        for (info, role) in infos.iter().zip([Role::Dialer, Role::Acceptor]) {
            assert!(info.role == role, "{role:?} says {:?}", info.role);
            let claims = (info.scheme, info.reliable, info.encrypted);
            let truth = (abilities.scheme, abilities.reliable, abilities.encrypted);
            assert!(claims == truth, "it claims {claims:?}, not {truth:?}");
            assert!(
                (1..=FRAME_LEN_MAX).contains(&info.frame_max),
                "frame_max is {}",
                info.frame_max
            );
            assert!(
                (info.datagram_max > 0) == abilities.datagrams,
                "datagram_max is {}",
                info.datagram_max
            );
            for address in [&info.local, &info.remote].into_iter().flatten() {
                assert!(
                    address.scheme() == abilities.scheme,
                    "an address is {address}"
                );
            }
        }
        assert!(
            infos[0]
                .remote
                .as_ref()
                .is_none_or(|remote| *remote == address),
            "the dialer says that it dialed {:?}, not {address}",
            infos[0].remote
        );
        if let (Some(local), Some(remote)) = (&infos[0].local, &infos[1].remote) {
            assert!(
                local == remote,
                "the dialer is at {local}, but the acceptor's peer at {remote}"
            );
        }
        CheckOutcome::Kept
    },
};

pub(super) const WRONG_PEER: Check = Check {
    name: "a_wrong_peer_is_not_opened",
    rule: "a dialer that expects another identity ends with WrongPeer, and no frame moves either way",
    body: |harness| {
        if !harness.abilities().authenticated {
            return UNPROVED;
        }
        let mut bed = TestBed::new(harness);
        bed.greets = true;
        let (expected, found) = (bed.dialer_id, bed.listener_id);
        bed.dial(Some(expected));
        bed.transports[0]
            .outgoing
            .generate(FrameOrder::Control, 3, 0);
        bed.until("the dialer has ended", |bed| {
            bed.transports[0].end.is_some()
        });
        let end = bed.transports[0].end.clone();
        let is_right = matches!(end, Some(End::WrongPeer { expected: e, found: f })
            if e == expected && f == found);
        assert!(is_right, "the dialer ended with {end:?}");
        let is_over =
            |bed: &mut TestBed<'_>| bed.transports.iter().all(|driven| driven.end.is_some());
        bed.until("the acceptor has ended, if there is one", is_over);
        assert_nothing_moved(&bed.transports);
        CheckOutcome::Kept
    },
};

pub(super) const NOT_ADMITTED: Check = Check {
    name: "a_peer_that_is_not_admitted_moves_no_frame",
    rule: "a peer whose key is not admitted is refused: neither side receives a frame, and the \
           listener's side takes none",
    body: |harness| {
        if !harness.abilities().authenticated {
            return UNPROVED;
        }
        let mut bed = TestBed::admitting(harness, Admission::new(|_| false));
        bed.greets = true;
        bed.dial(None);
        bed.transports[0]
            .outgoing
            .generate(FrameOrder::Control, 3, 0);
        let is_over =
            |bed: &mut TestBed<'_>| bed.transports.iter().all(|driven| driven.end.is_some());
        bed.until("both have ended", is_over);
        let end = bed.transports[0].end.clone();
        assert!(
            matches!(end, Some(End::Refused { .. })),
            "the dialer ended with {end:?}"
        );
        for driven in &bed.transports[1..] {
            let end = &driven.end;
            let is_right = matches!(end, Some(End::NotAdmitted { peer }) if *peer == bed.dialer_id);
            assert!(is_right, "the acceptor ended with {end:?}");
        }
        // What a dialer takes before it hears of the refusal ends with the transport.
        assert!(
            bed.transports[0].incoming.count == 0,
            "the dialer received a frame"
        );
        assert_nothing_moved(&bed.transports[1..]);
        CheckOutcome::Kept
    },
};

fn assert_nothing_moved(transports: &[DrivenTransport]) {
    for driven in transports {
        let role = driven.transport.info().role;
        assert!(driven.incoming.count == 0, "{role:?} received a frame");
        assert!(driven.outgoing.taken_len == 0, "{role:?} took a frame");
    }
}

pub(super) const RUBBISH: Check = Check {
    name: "rubbish_instead_of_a_handshake_opens_nothing",
    rule: "bytes that are no handshake open nothing, are not gathered up, and do not hurt the listener",
    body: |harness| {
        let mut bed = TestBed::new(harness);
        let address = bed.listener_address();
        for kind in 0..5 {
            let Some(mut raw_connection) = harness.raw_connection(&address) else {
                return CheckOutcome::Skipped("its harness knows no stranger");
            };
            say_rubbish(&mut bed, &mut *raw_connection, kind);
            drop(raw_connection);
        }
        assert!(
            bed.transports
                .iter()
                .all(|driven| driven.incoming.count == 0),
            "rubbish was received as a frame"
        );
        let friend = bed.transports.len();
        bed.dial(None);
        bed.until("a friend is let in", |bed| bed.transports[friend].is_open());
        CheckOutcome::Kept
    },
};

/// More than any handshake has, and than a kernel keeps for a reader that does not read.
const RUBBISH_LEN: usize = 64 << 20;

fn say_rubbish(bed: &mut TestBed<'_>, raw_connection: &mut dyn io::Write, kind: u64) {
    let first = bed.transports.len();
    // Deterministic noise: a xorshift generator (Marsaglia, 2003).
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ kind;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    let mut said = 0;
    // Datagrams are taken and dropped for ever, so these are few.
    for _ in 0..RUBBISH_LEN / 1000 {
        let mut piece: Vec<u8> = (0..1000).map(|_| noise()).collect();
        match kind {
            0 => {}
            1 => piece.fill(0),
            2 => piece[..18].copy_from_slice(b"GET / HTTP/1.1\r\n\r\n"),
            // A TLS handshake record, and a frame of the greatest length.
            3 => piece[..5].copy_from_slice(&[22, 3, 1, 3, 227]),
            _ => piece[..4].copy_from_slice(&[0, 0, 1, 0]),
        }
        match raw_connection.write(&piece) {
            Ok(written) => said += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It was shown the door.
            Err(_) => break,
        }
        bed.turn(Duration::ZERO);
        let is_over = |driven: &DrivenTransport| driven.end.is_some();
        if bed.transports.len() > first && bed.transports[first..].iter().all(is_over) {
            break;
        }
        // Nobody was made of it: it was dropped at the door.
        if said > 2_000_000 && bed.transports.len() == first {
            break;
        }
        assert!(
            said < RUBBISH_LEN - 1000,
            "{said} bytes of rubbish were taken"
        );
    }
    for driven in &bed.transports[first..] {
        let phase = driven.transport.phase();
        assert!(
            matches!(phase, Phase::Handshaking | Phase::Ended),
            "rubbish of kind {kind} led to {phase:?}"
        );
    }
    bed.until("whoever talked rubbish has been ended", |bed| {
        bed.transports[first..]
            .iter()
            .all(|driven| driven.end.is_some())
    });
}

pub(super) const NOWHERE: Check = Check {
    name: "an_address_of_nobody_is_unreachable",
    rule: "dialing where nobody listens ends with Unreachable, and says that a retry may help",
    body: |harness| {
        let Some(address) = harness.unreachable_address() else {
            return CheckOutcome::Skipped("its harness knows no such address");
        };
        let mut bed = TestBed::new(harness);
        let target = DialTarget {
            address,
            peer: None,
        };
        let end = match bed.dialer().dial(Instant::now(), &target) {
            Ok(transport) => {
                bed.add(transport);
                bed.until("it has ended", |bed| bed.transports[0].end.is_some());
                bed.transports[0].end.clone()
            }
            Err(DialError::Ended(end)) => Some(end),
            Err(error) => panic!("dial failed: {error:?}"),
        };
        let is_right = |end: &End| matches!(end, End::Unreachable(_)) && end.retry_helps();
        assert!(end.as_ref().is_some_and(is_right), "it ended with {end:?}");
        CheckOutcome::Kept
    },
};

pub(super) const MANY_AT_ONCE: Check = Check {
    name: "many_connections_open_at_once",
    rule: "many dialers at once are all let in, and each gets its own frames",
    body: |harness| {
        const DIALERS: usize = 50;
        let mut bed = TestBed::new(harness);
        bed.greets = true;
        for at in 0..DIALERS {
            bed.dial(None);
            bed.transports[at]
                .outgoing
                .generate(FrameOrder::Control, at + 1, 20);
        }
        bed.until("all are open and have their frames", |bed| {
            let (dialers, acceptors) = bed.transports.split_at(DIALERS);
            let mut counts: Vec<_> = acceptors
                .iter()
                .map(|driven| driven.incoming.count)
                .collect();
            counts.sort_unstable();
            // A frame of an unreliable transport may be lost; loopback loses none of so few.
            dialers.iter().all(|driven| driven.incoming.count == 1)
                && counts.into_iter().eq(1..=DIALERS)
        });
        CheckOutcome::Kept
    },
};
