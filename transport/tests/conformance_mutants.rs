//! Mutation tests of the conformance suite: each mutant is TCP or UDP with one fault, and one check
//! must detect it.

#![cfg(feature = "conformance")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test harnesses panic and print like tests"
)]

#[path = "conformance_mutants/buffering_listener.rs"]
mod buffering_listener;
#[path = "conformance_mutants/frames.rs"]
mod frames;
#[path = "conformance_mutants/harness.rs"]
mod harness;
#[path = "conformance_mutants/transport.rs"]
mod transport;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use harness::{Base, Faulty};
use selvedge_transport::conformance::{CHECKS, Check, CheckOutcome};

/// A mistake in the implementation of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The listener accepts one connection per event, although registration is edge-triggered.
    AcceptsOnePerEvent,
    /// The listener ignores its admission.
    AdmitsAnyone,
    /// The admission is checked only when the connection is open and has transferred frames.
    AdmitsLate,
    /// Every call of `on_timeout` during the handshake counts as a timeout of it.
    TimesOutHandshakeOnAnyTimer,
    /// Every call of `on_timeout` during a close counts as a timeout of it.
    TimesOutCloseOnAnyTimer,
    /// A refused connection attempt is reported as `Broken`.
    ReportsRefusalAsBroken,
    /// A close during the handshake takes effect only after it.
    ClosesOnceOpen,
    /// The budget is counted in blocks of 4 KiB, so a smaller budget permits nothing.
    CountsBudgetInBlocks,
    /// Datagrams are truncated to 1 KiB.
    TruncatesDatagrams,
    DamagesFrames,
    DropsFrame,
    /// Frames that arrive during a close are dropped.
    DropsArrivalsOnClose,
    AcceptsUnexpectedPeer,
    LosesStateInMove,
    /// A handshake message is buffered without limit until it is complete.
    BuffersInvalidHandshakes,
    BuffersWithoutLimit,
    IgnoresBudget,
    IgnoresClose,
    IgnoresFirstWakeups,
    /// Later registrations use the token of the first one.
    KeepsFirstToken,
    /// A peer without a proved identity is accepted.
    AcceptsUnauthenticated,
    ClaimsEncryption,
    NeverIdle,
    OpensEarly,
    /// `recv` reads everything before it reports that its budget is used up.
    OverrunsBudget,
    RepeatsFrame,
    /// A failed handshake is a fatal error of the listener.
    FailedHandshakeEndsListener,
    /// A second close aborts the connection.
    SecondCloseAborts,
    /// An empty source is polled again only after an event.
    StopsPollingEmptySource,
    SwapsFrames,
    PullsAfterClose,
    /// The end of the stream is treated like `WouldBlock`.
    IgnoresEndOfStream,
    /// Nothing is read while there is unsent data.
    WritesFirst,
}

/// A fault, the check that must detect it, and a part of the failure message: a check that fails for
/// another reason has not detected the fault.
struct ExpectedFailure(Fault, &'static str, &'static str);

const EXPECTED_FAILURES: &[ExpectedFailure] = &[
    ExpectedFailure(
        Fault::AcceptsOnePerEvent,
        "many_connections_open_at_once",
        "this was not reached: all are open and have their frames",
    ),
    ExpectedFailure(
        Fault::AdmitsAnyone,
        "a_peer_that_is_not_admitted_transfers_no_frame",
        "this was not reached: both have ended",
    ),
    ExpectedFailure(
        Fault::AdmitsLate,
        "a_peer_that_is_not_admitted_transfers_no_frame",
        // The dialer received one, or the acceptor took one in vain.
        " a frame",
    ),
    ExpectedFailure(
        Fault::TimesOutHandshakeOnAnyTimer,
        "timers_may_be_read_and_handled_at_any_time",
        "this was not reached: both sides are open",
    ),
    ExpectedFailure(
        Fault::TimesOutCloseOnAnyTimer,
        "timers_may_be_read_and_handled_at_any_time",
        "they ended with [Some(TimedOut)",
    ),
    ExpectedFailure(
        Fault::ReportsRefusalAsBroken,
        "an_address_without_listener_is_unreachable",
        "it ended with Some(Broken",
    ),
    ExpectedFailure(
        Fault::ClosesOnceOpen,
        "close_before_open_ends_the_transport",
        "a frame was pulled",
    ),
    ExpectedFailure(
        Fault::CountsBudgetInBlocks,
        "a_budget_of_one_byte_transfers_frames",
        "this was not reached: all frames have arrived",
    ),
    ExpectedFailure(
        Fault::TruncatesDatagrams,
        "datagrams_arrive_whole_or_not_at_all",
        "is damaged",
    ),
    ExpectedFailure(
        Fault::DamagesFrames,
        "frames_of_every_length_arrive_whole",
        "arrived as a different one",
    ),
    ExpectedFailure(
        Fault::DropsFrame,
        "many_small_frames_arrive",
        "lost, repeated or reordered",
    ),
    ExpectedFailure(
        Fault::DropsArrivalsOnClose,
        "both_sides_may_close_at_once",
        "frames were lost",
    ),
    ExpectedFailure(
        Fault::AcceptsUnexpectedPeer,
        "an_unexpected_peer_does_not_open",
        "this was not reached: the dialer has ended",
    ),
    ExpectedFailure(
        Fault::LosesStateInMove,
        "moving_to_another_poll_under_load_loses_nothing",
        "lost, repeated or reordered",
    ),
    ExpectedFailure(
        Fault::BuffersInvalidHandshakes,
        "invalid_handshakes_open_nothing",
        "invalid bytes were accepted",
    ),
    ExpectedFailure(
        Fault::BuffersWithoutLimit,
        "a_stopped_reader_applies_backpressure",
        "were pulled though the peer does not receive",
    ),
    ExpectedFailure(
        Fault::IgnoresBudget,
        "the_budget_is_respected",
        "no call returned More",
    ),
    ExpectedFailure(
        Fault::IgnoresClose,
        "close_delivers_accepted_frames",
        "the phase is Open after close",
    ),
    ExpectedFailure(
        Fault::IgnoresFirstWakeups,
        "many_small_frames_arrive",
        "this was not reached: all frames have arrived",
    ),
    ExpectedFailure(
        Fault::KeepsFirstToken,
        "moving_to_another_poll_while_blocked_loses_nothing",
        "this was not reached: all is taken",
    ),
    ExpectedFailure(
        Fault::AcceptsUnauthenticated,
        "invalid_handshakes_open_nothing",
        "led to Open",
    ),
    ExpectedFailure(Fault::ClaimsEncryption, "info_is_truthful", "info has"),
    ExpectedFailure(
        Fault::NeverIdle,
        "an_idle_transport_needs_no_calls",
        "activity did not stop",
    ),
    ExpectedFailure(
        Fault::OpensEarly,
        "both_sides_open_and_authenticate",
        "the phase is Open, but the peer is not authenticated",
    ),
    ExpectedFailure(
        Fault::OverrunsBudget,
        "the_budget_is_respected",
        "one call received",
    ),
    ExpectedFailure(
        Fault::RepeatsFrame,
        "frames_of_one_order_arrive_in_order",
        "lost, repeated or reordered",
    ),
    ExpectedFailure(
        Fault::FailedHandshakeEndsListener,
        "invalid_handshakes_open_nothing",
        "accept failed",
    ),
    ExpectedFailure(
        Fault::SecondCloseAborts,
        "close_of_an_idle_connection_ends_both_sides",
        "they ended with [Some(Broken",
    ),
    ExpectedFailure(
        Fault::StopsPollingEmptySource,
        "an_empty_source_is_polled_again",
        "this was not reached: the frame has arrived",
    ),
    ExpectedFailure(
        Fault::SwapsFrames,
        "frames_of_one_order_arrive_in_order",
        "lost, repeated or reordered",
    ),
    ExpectedFailure(
        Fault::PullsAfterClose,
        "close_delivers_accepted_frames",
        "a frame was pulled though the phase was Closing",
    ),
    ExpectedFailure(
        Fault::IgnoresEndOfStream,
        "a_vanished_peer_ends_the_other_side",
        "this was not reached: the other has ended",
    ),
    ExpectedFailure(
        Fault::WritesFirst,
        "both_directions_at_full_load_do_not_block_each_other",
        "this was not reached: all frames have arrived",
    ),
];

impl ExpectedFailure {
    fn check(&self) -> &'static Check {
        CHECKS.iter().find(|check| check.name == self.1).unwrap()
    }

    fn base(&self) -> Base {
        match self.0 {
            Fault::TruncatesDatagrams => Base::Udp,
            _ => Base::Tcp,
        }
    }
}

/// The number of checks that run concurrently: a check that fails mostly waits for a deadline.
const CONCURRENT: usize = 8;

fn for_each_mutant(body: impl Fn(&ExpectedFailure) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CONCURRENT {
            scope.spawn(|| {
                while let Some(mutant) = EXPECTED_FAILURES.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    body(mutant);
                }
            });
        }
    });
}

#[test]
fn each_fault_is_detected_by_its_check() {
    for_each_mutant(|mutant| {
        let ExpectedFailure(fault, name, message) = mutant;
        let harness = Faulty {
            base: mutant.base(),
            fault: *fault,
        };
        let failure = match mutant.check().run(&harness) {
            Err(failure) => failure,
            Ok(outcome) => panic!("{fault:?} was not detected by {name}: {outcome}"),
        };
        println!("{fault:?}: {name}: {}", failure.detail);
        assert!(
            failure.detail.contains(message),
            "{fault:?} must fail with `{message}`, not with: {}",
            failure.detail
        );
    });
}

#[test]
fn without_a_fault_the_same_checks_pass() {
    for_each_mutant(|mutant| {
        let harness = Faulty {
            base: mutant.base(),
            fault: Fault::None,
        };
        let outcome = mutant.check().run(&harness).unwrap();
        assert_eq!(outcome, CheckOutcome::Kept, "{}", mutant.1);
    });
}

#[test]
fn every_check_detects_a_fault() {
    let names = CHECKS.iter().map(|check| check.name);
    let idle: Vec<_> = names
        .filter(|name| {
            EXPECTED_FAILURES
                .iter()
                .all(|ExpectedFailure(_, mutant, _)| mutant != name)
        })
        .collect();
    assert!(idle.is_empty(), "checks that detect no fault: {idle:?}");
}
