//! Checks of closes and of lost peers.

use super::driven_transport::DrivenTransport;
use super::moving::ordered_sequences;
use super::test_bed::TestBed;
use super::{Check, CheckOutcome};
use crate::{End, FrameOrder, Phase};

fn until_both_ended(bed: &mut TestBed<'_>) {
    bed.until("both have ended", |bed| {
        bed.transports.iter().all(|driven| driven.end.is_some())
    });
}

/// Asserts that the closing side ended with `Closed` and the other with `PeerClosed`.
pub(super) fn assert_ends(bed: &TestBed<'_>) {
    let ends = [&bed.transports[0].end, &bed.transports[1].end];
    let are_right = matches!(ends, [Some(End::Closed), Some(End::PeerClosed)]);
    assert!(are_right, "they ended with {ends:?}");
}

pub(super) const CLOSE_DELIVERS: Check = Check {
    name: "close_delivers_accepted_frames",
    rule: "after close no frame is pulled, pulled frames arrive, and then one side ends with \
           Closed and the other with PeerClosed",
    body: |harness| {
        let is_reliable = harness.abilities().reliable;
        let mut bed = TestBed::connected(harness);
        let frame_max = bed.transports[0].transport.info().frame_max;
        // More than is accepted while the peer does not receive, if there is backpressure.
        let count = if is_reliable {
            (64 << 20) / frame_max / 33 + 1
        } else {
            1
        };
        bed.transports[1].receive_paused = true;
        for order in ordered_sequences() {
            bed.transports[0].outgoing.generate(order, count, frame_max);
        }
        bed.until("something is taken", |bed| {
            bed.transports[0].outgoing.pulled_len > 0
        });
        bed.until_quiet();
        bed.transports[0].close();
        let phase = bed.transports[0].transport.phase();
        assert!(
            phase >= Phase::Closing,
            "the phase is {phase:?} after close"
        );
        bed.transports[1].receive_paused = false;
        until_both_ended(&mut bed);
        assert_ends(&bed);
        let pulled = bed.transports[0].outgoing.pulled();
        let arrived = bed.transports[1].incoming.arrived();
        assert!(
            arrived == pulled || !is_reliable,
            "{pulled:?} frames of each order were accepted, but {arrived:?} arrived"
        );
        CheckOutcome::Kept
    },
};

pub(super) const CLOSE_IDLE: Check = Check {
    name: "close_of_an_idle_connection_ends_both_sides",
    rule: "either side may close an idle connection; a second close has no effect",
    body: |harness| {
        for closer in 0..2 {
            let mut bed = TestBed::connected(harness);
            bed.until_quiet();
            bed.transports.swap(0, closer);
            bed.transports[0].close();
            bed.transports[0].close();
            until_both_ended(&mut bed);
            assert_ends(&bed);
        }
        CheckOutcome::Kept
    },
};

pub(super) const CLOSE_BOTH: Check = Check {
    name: "both_sides_may_close_at_once",
    rule: "when both sides close at once, both ends are orderly, and accepted frames arrive",
    body: |harness| {
        let is_reliable = harness.abilities().reliable;
        let mut bed = TestBed::connected(harness);
        for driven in &mut bed.transports {
            driven.outgoing.generate(FrameOrder::Lane(1), 5, 1000);
        }
        bed.until("all is taken", |bed| {
            bed.transports
                .iter()
                .all(|driven| driven.outgoing.waiting() == 0)
        });
        bed.transports.iter_mut().for_each(DrivenTransport::close);
        until_both_ended(&mut bed);
        for (at, driven) in bed.transports.iter().enumerate() {
            let end = &driven.end;
            assert!(
                matches!(end, Some(End::Closed | End::PeerClosed)),
                "it ended with {end:?}"
            );
            let pulled = bed.transports[1 - at].outgoing.pulled();
            assert!(
                driven.incoming.arrived() == pulled || !is_reliable,
                "frames were lost"
            );
        }
        CheckOutcome::Kept
    },
};

pub(super) const CLOSE_EARLY: Check = Check {
    name: "close_before_open_ends_the_transport",
    rule: "a transport that is closed during its handshake ends with Closed and transfers no frame",
    body: |harness| {
        let mut bed = TestBed::new(harness);
        bed.dial(None);
        bed.transports[0]
            .outgoing
            .generate(FrameOrder::Control, 1, 0);
        bed.transports[0].close();
        bed.until("it has ended", |bed| bed.transports[0].end.is_some());
        let end = &bed.transports[0].end;
        assert!(matches!(end, Some(End::Closed)), "it ended with {end:?}");
        assert!(
            bed.transports[0].outgoing.pulled_len == 0,
            "a frame was pulled"
        );
        bed.until("the other has ended, if there is one", |bed| {
            bed.transports.iter().all(|driven| driven.end.is_some())
        });
        CheckOutcome::Kept
    },
};

pub(super) const LOST_PEER: Check = Check {
    name: "a_vanished_peer_ends_the_other_side",
    rule: "when a peer is lost without a close, the other side ends, and not with Closed",
    body: |harness| {
        for survivor in 0..2 {
            let mut bed = TestBed::connected(harness);
            bed.until_quiet();
            bed.drop_transport(1 - survivor);
            bed.until("the other has ended", |bed| {
                let outgoing = &mut bed.transports[0].outgoing;
                // As the heartbeats of a session: some transports detect the loss only when they
                // send.
                if outgoing.waiting() == 0 {
                    outgoing.generate(FrameOrder::Control, 1, 20);
                }
                bed.transports[0].end.is_some()
            });
            let end = &bed.transports[0].end;
            assert!(!matches!(end, Some(End::Closed)), "it ended with {end:?}");
        }
        CheckOutcome::Kept
    },
};
