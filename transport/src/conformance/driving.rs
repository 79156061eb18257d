//! Checks of the driving: events, budgets, timers, polls.

use std::time::Duration;

use super::ending::assert_ends;
use super::moving::{UNRELIABLE, ordered_sequences, until_all_arrived};
use super::test_bed::TestBed;
use super::{Check, CheckOutcome};
use crate::{FRAME_LEN_MAX, FrameOrder, Instant, Phase};

pub(super) const IDLE: Check = Check {
    name: "an_idle_transport_needs_no_calls",
    rule: "without work, recv and send return Idle, no timer expires and no event occurs",
    body: |harness| {
        let mut bed = TestBed::connected(harness);
        bed.transports[0]
            .outgoing
            .generate(FrameOrder::Lane(0), 10, 1000);
        bed.until_quiet();
        CheckOutcome::Kept
    },
};

/// The amount by which a call may exceed its budget: a batch of datagrams or a frame that it has
/// begun.
const EXCESS_MAX: usize = 4 * FRAME_LEN_MAX;

pub(super) const BUDGET: Check = Check {
    name: "the_budget_is_respected",
    rule: "a call of recv transfers about as much as its budget, and returns More when it stops \
           for that",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut bed = TestBed::connected(harness);
        let frame_max = bed.transports[0].transport.info().frame_max;
        // A kernel enlarges the receive buffer of an active reader, so more data than one call may
        // read accumulates below.
        bed.transports[0]
            .outgoing
            .generate(FrameOrder::Lane(0), 300, frame_max);
        until_all_arrived(&mut bed);
        bed.transports[1].received_max = 0;
        bed.transports[1].more_results = 0;
        // Data that arrives while the reader is paused becomes readable at once.
        bed.transports[1].receive_paused = true;
        bed.transports[0]
            .outgoing
            .generate(FrameOrder::Lane(0), 300, frame_max);
        bed.transports[0]
            .outgoing
            .generate(FrameOrder::Lane(1), 300, frame_max);
        bed.until_quiet();
        bed.budget = 16 * 1024;
        bed.transports[1].receive_paused = false;
        until_all_arrived(&mut bed);
        let (most, more) = (
            bed.transports[1].received_max,
            bed.transports[1].more_results,
        );
        assert!(more > 0, "no call returned More");
        assert!(
            most <= bed.budget + EXCESS_MAX,
            "one call received {most} bytes with a budget of {}",
            bed.budget
        );
        CheckOutcome::Kept
    },
};

pub(super) const SMALLEST_BUDGET: Check = Check {
    name: "a_budget_of_one_byte_transfers_frames",
    rule: "with a budget of one byte all frames still arrive, however slowly",
    body: |harness| {
        let mut bed = TestBed::connected(harness);
        bed.budget = 1;
        let is_reliable = harness.abilities().reliable;
        let frame_max = bed.transports[0].transport.info().frame_max;
        for driven in &mut bed.transports {
            driven.outgoing.generate(FrameOrder::Lane(0), 20, 20);
            driven
                .outgoing
                .generate(FrameOrder::Lane(1), 2, frame_max.min(5_000));
        }
        if is_reliable {
            until_all_arrived(&mut bed);
        } else {
            bed.until_quiet();
            assert!(
                bed.transports
                    .iter()
                    .all(|driven| driven.incoming.count > 0)
            );
        }
        CheckOutcome::Kept
    },
};

pub(super) const TIMERS: Check = Check {
    name: "timers_may_be_read_and_handled_at_any_time",
    rule: "timeout and on_timeout may be called at any time; a call before the timeout has no effect",
    body: |harness| {
        let mut bed = TestBed::new(harness);
        bed.dial(None);
        let call = |bed: &mut TestBed<'_>| {
            let now = Instant::now();
            for driven in &mut bed.transports {
                let before = driven.transport.timeout();
                if driven.end.is_none() && before.is_none_or(|at| at > now) {
                    driven.transport.on_timeout(now);
                }
            }
        };
        bed.until("both sides are open", |bed| {
            call(bed);
            let is_open = |driven: &super::driven_transport::DrivenTransport| {
                driven.transport.phase() == Phase::Open
            };
            bed.transports.len() == 2 && bed.transports.iter().all(is_open)
        });
        let is_reliable = harness.abilities().reliable;
        for driven in &mut bed.transports {
            let count = if is_reliable { 500 } else { 20 };
            driven.outgoing.generate(FrameOrder::Lane(0), count, 1000);
        }
        bed.until("frames have arrived", |bed| {
            call(bed);
            let is_done = |driven: &super::driven_transport::DrivenTransport| {
                driven.incoming.count >= if is_reliable { 500 } else { 1 }
            };
            bed.transports.iter().all(is_done)
        });
        bed.transports[0].close();
        bed.until("both have ended", |bed| {
            call(bed);
            bed.transports.iter().all(|driven| driven.end.is_some())
        });
        assert_ends(&bed);
        CheckOutcome::Kept
    },
};

pub(super) const MOVE_UNDER_LOAD: Check = Check {
    name: "moving_to_another_poll_under_load_loses_nothing",
    rule: "a transport that is repeatedly moved between two polls while it transfers frames \
           loses, repeats and reorders nothing",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut bed = TestBed::connected(harness);
        let frame_max = bed.transports[0].transport.info().frame_max;
        for driven in &mut bed.transports {
            for (at, order) in ordered_sequences().enumerate() {
                let len = [40, 900, 8_000, frame_max][at % 4];
                driven.outgoing.generate(order, 60, len);
            }
        }
        let mut turns = 0;
        bed.until("all is taken", |bed| {
            turns += 1;
            if turns % 3 == 0 {
                bed.move_transport(turns / 3 % 2);
            }
            bed.transports
                .iter()
                .all(|driven| driven.outgoing.waiting() == 0)
        });
        for at in 0..2 {
            if bed.transports[at].poll == 1 {
                bed.move_transport(at);
            }
        }
        until_all_arrived(&mut bed);
        CheckOutcome::Kept
    },
};

pub(super) const MOVE_BLOCKED: Check = Check {
    name: "moving_to_another_poll_while_blocked_loses_nothing",
    rule: "a transport that is moved while it is blocked continues when its peer receives again",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut bed = TestBed::connected(harness);
        let frame_max = bed.transports[0].transport.info().frame_max;
        bed.transports[1].receive_paused = true;
        bed.transports[0]
            .outgoing
            .generate(FrameOrder::Lane(0), (64 << 20) / frame_max, frame_max);
        bed.until_quiet();
        // The writer moves while it is blocked, the reader while it has unread data.
        bed.move_transport(0);
        bed.turn(Duration::ZERO);
        bed.move_transport(1);
        bed.turn(Duration::ZERO);
        bed.transports[1].receive_paused = false;
        bed.until("all is taken", |bed| {
            bed.transports[0].outgoing.waiting() == 0
        });
        bed.move_transport(0);
        bed.move_transport(1);
        until_all_arrived(&mut bed);
        CheckOutcome::Kept
    },
};
