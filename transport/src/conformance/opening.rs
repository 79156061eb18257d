//! Checks of connecting and authentication.

use std::io;
use std::time::Duration;

use super::driven_transport::DrivenTransport;
use super::test_bed::TestBed;
use super::{Check, CheckOutcome};
use crate::{
    Admission, DialError, DialTarget, End, FRAME_LEN_MAX, FrameOrder, Info, Instant, Phase, Role,
};

const UNAUTHENTICATED: CheckOutcome = CheckOutcome::Skipped("peers do not prove their identity");

pub(super) const OPENS: Check = Check {
    name: "both_sides_open_and_authenticate",
    rule: "after the handshake each side is open and has the other's identity",
    body: |harness| {
        let bed = TestBed::connected(harness);
        let peers = bed
            .transports
            .iter()
            .map(|driven| driven.transport.info().peer);
        let peers: Vec<_> = peers.collect();
        let expected = [Some(bed.listener_id), Some(bed.dialer_id)];
        assert!(
            peers == expected,
            "the peers are {peers:?}, not {expected:?}"
        );
        CheckOutcome::Kept
    },
};

pub(super) const INFO: Check = Check {
    name: "info_is_truthful",
    rule: "info has the actual scheme, role, addresses, limits and properties",
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
            assert!(info.role == role, "{role:?} has the role {:?}", info.role);
            let claims = (info.scheme, info.reliable, info.encrypted);
            let truth = (abilities.scheme, abilities.reliable, abilities.encrypted);
            assert!(claims == truth, "info has {claims:?}, not {truth:?}");
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
            "the dialer has the remote address {:?}, not {address}",
            infos[0].remote
        );
        if let (Some(local), Some(remote)) = (&infos[0].local, &infos[1].remote) {
            assert!(
                local == remote,
                "the dialer is at {local}, but the acceptor has its peer at {remote}"
            );
        }
        CheckOutcome::Kept
    },
};

pub(super) const WRONG_PEER: Check = Check {
    name: "an_unexpected_peer_does_not_open",
    rule: "a dialer that expects another identity ends with WrongPeer, and no frame is transferred",
    body: |harness| {
        if !harness.abilities().authenticated {
            return UNAUTHENTICATED;
        }
        let mut bed = TestBed::new(harness);
        bed.greets_peers = true;
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
        assert_no_frames(&bed.transports);
        CheckOutcome::Kept
    },
};

pub(super) const NOT_ADMITTED: Check = Check {
    name: "a_peer_that_is_not_admitted_transfers_no_frame",
    rule: "a peer whose key is not admitted is refused: neither side receives a frame, and the \
           listener's side pulls none",
    body: |harness| {
        if !harness.abilities().authenticated {
            return UNAUTHENTICATED;
        }
        let mut bed = TestBed::admitting(harness, Admission::new(|_| false));
        bed.greets_peers = true;
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
        // Frames that a dialer sends before the refusal arrives are lost with the transport.
        assert!(
            bed.transports[0].incoming.count == 0,
            "the dialer received a frame"
        );
        assert_no_frames(&bed.transports[1..]);
        CheckOutcome::Kept
    },
};

fn assert_no_frames(transports: &[DrivenTransport]) {
    for driven in transports {
        let role = driven.transport.info().role;
        assert!(driven.incoming.count == 0, "{role:?} received a frame");
        assert!(driven.outgoing.pulled_len == 0, "{role:?} pulled a frame");
    }
}

pub(super) const INVALID_HANDSHAKE: Check = Check {
    name: "invalid_handshakes_open_nothing",
    rule: "invalid handshakes open nothing, use bounded memory and do not disturb the listener",
    body: |harness| {
        let mut bed = TestBed::new(harness);
        let address = bed.listener_address();
        for kind in 0..5 {
            let Some(mut raw_connection) = harness.raw_connection(&address) else {
                return CheckOutcome::Skipped("the harness provides no raw connection");
            };
            send_invalid_bytes(&mut bed, &mut *raw_connection, kind);
            drop(raw_connection);
        }
        assert!(
            bed.transports
                .iter()
                .all(|driven| driven.incoming.count == 0),
            "invalid bytes were received as a frame"
        );
        let valid = bed.transports.len();
        bed.dial(None);
        bed.until("a valid peer is accepted", |bed| {
            bed.transports[valid].is_open()
        });
        CheckOutcome::Kept
    },
};

/// More than any handshake has, and than a kernel buffers for a paused reader.
const INVALID_LEN: usize = 64 << 20;

fn send_invalid_bytes(bed: &mut TestBed<'_>, raw_connection: &mut dyn io::Write, kind: u64) {
    let first = bed.transports.len();
    // Deterministic noise from a xorshift generator (Marsaglia, 2003).
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ kind;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    let mut sent = 0;
    // Datagrams are accepted and dropped without limit, so their number is limited here.
    for _ in 0..INVALID_LEN / 1000 {
        let mut piece: Vec<u8> = (0..1000).map(|_| noise()).collect();
        match kind {
            0 => {}
            1 => piece.fill(0),
            2 => piece[..18].copy_from_slice(b"GET / HTTP/1.1\r\n\r\n"),
            // A TLS handshake record, and a frame of maximum length.
            3 => piece[..5].copy_from_slice(&[22, 3, 1, 3, 227]),
            _ => piece[..4].copy_from_slice(&[0, 0, 1, 0]),
        }
        match raw_connection.write(&piece) {
            Ok(written) => sent += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The listener closed the connection.
            Err(_) => break,
        }
        bed.turn(Duration::ZERO);
        let is_over = |driven: &DrivenTransport| driven.end.is_some();
        if bed.transports.len() > first && bed.transports[first..].iter().all(is_over) {
            break;
        }
        // The listener dropped the datagrams and created no transport.
        if sent > 2_000_000 && bed.transports.len() == first {
            break;
        }
        assert!(
            sent < INVALID_LEN - 1000,
            "{sent} invalid bytes were accepted"
        );
    }
    for driven in &bed.transports[first..] {
        let phase = driven.transport.phase();
        assert!(
            matches!(phase, Phase::Handshaking | Phase::Ended),
            "invalid bytes of kind {kind} led to {phase:?}"
        );
    }
    bed.until("the transport of the invalid peer has ended", |bed| {
        bed.transports[first..]
            .iter()
            .all(|driven| driven.end.is_some())
    });
}

pub(super) const UNREACHABLE: Check = Check {
    name: "an_address_without_listener_is_unreachable",
    rule: "dialing an address without a listener ends with Unreachable, which allows a retry",
    body: |harness| {
        let Some(address) = harness.unreachable_address() else {
            return CheckOutcome::Skipped("the harness provides no such address");
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
    rule: "many concurrent dialers are all accepted, and each receives its own frames",
    body: |harness| {
        const DIALERS: usize = 50;
        let mut bed = TestBed::new(harness);
        bed.greets_peers = true;
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
            // An unreliable transport may lose frames; loopback loses none of so few.
            dialers.iter().all(|driven| driven.incoming.count == 1)
                && counts.into_iter().eq(1..=DIALERS)
        });
        CheckOutcome::Kept
    },
};
