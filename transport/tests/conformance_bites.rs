//! The conformance suite finds faults: each transport here is TCP or UDP with one, and one check says so.

#![cfg(feature = "conformance")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "harnesses and rows of a table panic and print as tests do"
)]

#[path = "conformance_bites/frames.rs"]
mod frames;
#[path = "conformance_bites/gatherer.rs"]
mod gatherer;
#[path = "conformance_bites/harness.rs"]
mod harness;
#[path = "conformance_bites/transport.rs"]
mod transport;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use harness::{Base, Faulty};
use selvedge_transport::conformance::{CHECKS, Check, CheckOutcome};

/// What an author of a transport may get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Its listener takes one connection an event, though registration is edge-triggered.
    AcceptsOneAnEvent,
    /// Its listener forgets whom it may admit.
    AdmitsAnyone,
    /// It looks at whom it has let in when the connection is open, and the first frames are gone.
    AdmitsLate,
    /// Whatever the timer is for, a call of `on_timeout` means to it that a handshake took too long.
    BelievesTimersInHandshake,
    /// The same of a close.
    BelievesTimersInClose,
    /// It says that a connection broke which never began.
    CallsRefusalBroken,
    /// A close during the handshake waits until the handshake is done.
    ClosesOnceOpen,
    /// A budget is so many blocks of 4 KiB, and of a small one nothing is left.
    CountsBudgetInBlocks,
    /// It receives datagrams into one KiB.
    CutsDatagrams,
    DamagesFrames,
    DropsFrame,
    /// Who closes wants to hear nothing more, it believes.
    DropsArrivalsOnClose,
    ExpectsAnyone,
    ForgetsInMove,
    /// It reads on until it has a whole handshake, however long that is.
    GathersRubbish,
    Hoards,
    IgnoresBudget,
    IgnoresClose,
    IgnoresFirstWakeups,
    /// Its events come under the token of its first registration.
    KeepsFirstToken,
    /// Who could not prove an identity is told of in the log, and let in.
    LetsInUnproved,
    LiesAboutEncryption,
    NeverIdle,
    OpensEarly,
    /// It reads all there is, and says only then that its budget is used up.
    OverrunsBudget,
    RepeatsFrame,
    /// One failed handshake is an error of the listener.
    RubbishEndsListener,
    /// The second close is an abort.
    SecondCloseAborts,
    /// A source that had nothing is asked again only after an event.
    StaysDry,
    SwapsFrames,
    TakesAfterClose,
    /// To have read nothing means to it that there is nothing yet, even at the end of the stream.
    TakesEndForNothing,
    /// It does not read before it has written.
    WritesFirst,
}

/// A fault, the check that must find it, and what the check must say: a check that fails for
/// another reason has found nothing.
struct Finder(Fault, &'static str, &'static str);

const FINDERS: &[Finder] = &[
    Finder(
        Fault::AcceptsOneAnEvent,
        "many_connections_open_at_once",
        "this was not reached: all are open and have their frames",
    ),
    Finder(
        Fault::AdmitsAnyone,
        "a_peer_that_is_not_admitted_transfers_no_frame",
        "this was not reached: both have ended",
    ),
    Finder(
        Fault::AdmitsLate,
        "a_peer_that_is_not_admitted_transfers_no_frame",
        // The dialer received one, or the acceptor took one in vain.
        " a frame",
    ),
    Finder(
        Fault::BelievesTimersInHandshake,
        "timers_may_be_read_and_handled_at_any_time",
        "this was not reached: both sides are open",
    ),
    Finder(
        Fault::BelievesTimersInClose,
        "timers_may_be_read_and_handled_at_any_time",
        "they ended with [Some(TimedOut)",
    ),
    Finder(
        Fault::CallsRefusalBroken,
        "an_address_without_listener_is_unreachable",
        "it ended with Some(Broken",
    ),
    Finder(
        Fault::ClosesOnceOpen,
        "close_before_open_ends_the_transport",
        "a frame was pulled",
    ),
    Finder(
        Fault::CountsBudgetInBlocks,
        "a_budget_of_one_byte_transfers_frames",
        "this was not reached: all frames have arrived",
    ),
    Finder(
        Fault::CutsDatagrams,
        "datagrams_arrive_whole_or_not_at_all",
        "is damaged",
    ),
    Finder(
        Fault::DamagesFrames,
        "frames_of_every_length_arrive_whole",
        "arrived as a different one",
    ),
    Finder(
        Fault::DropsFrame,
        "many_small_frames_arrive",
        "lost, repeated or reordered",
    ),
    Finder(
        Fault::DropsArrivalsOnClose,
        "both_sides_may_close_at_once",
        "frames were lost",
    ),
    Finder(
        Fault::ExpectsAnyone,
        "an_unexpected_peer_does_not_open",
        "this was not reached: the dialer has ended",
    ),
    Finder(
        Fault::ForgetsInMove,
        "moving_to_another_poll_under_load_loses_nothing",
        "lost, repeated or reordered",
    ),
    Finder(
        Fault::GathersRubbish,
        "invalid_handshakes_open_nothing",
        "invalid bytes were accepted",
    ),
    Finder(
        Fault::Hoards,
        "a_stopped_reader_applies_backpressure",
        "were pulled though the peer does not receive",
    ),
    Finder(
        Fault::IgnoresBudget,
        "the_budget_is_respected",
        "no call returned More",
    ),
    Finder(
        Fault::IgnoresClose,
        "close_delivers_accepted_frames",
        "the phase is Open after close",
    ),
    Finder(
        Fault::IgnoresFirstWakeups,
        "many_small_frames_arrive",
        "this was not reached: all frames have arrived",
    ),
    Finder(
        Fault::KeepsFirstToken,
        "moving_to_another_poll_while_blocked_loses_nothing",
        "this was not reached: all is taken",
    ),
    Finder(
        Fault::LetsInUnproved,
        "invalid_handshakes_open_nothing",
        "led to Open",
    ),
    Finder(Fault::LiesAboutEncryption, "info_is_truthful", "info has"),
    Finder(
        Fault::NeverIdle,
        "an_idle_transport_needs_no_calls",
        "activity did not stop",
    ),
    Finder(
        Fault::OpensEarly,
        "both_sides_open_and_authenticate",
        "the phase is Open, but the peer is not authenticated",
    ),
    Finder(
        Fault::OverrunsBudget,
        "the_budget_is_respected",
        "one call received",
    ),
    Finder(
        Fault::RepeatsFrame,
        "frames_of_one_order_arrive_in_order",
        "lost, repeated or reordered",
    ),
    Finder(
        Fault::RubbishEndsListener,
        "invalid_handshakes_open_nothing",
        "accept failed",
    ),
    Finder(
        Fault::SecondCloseAborts,
        "close_of_an_idle_connection_ends_both_sides",
        "they ended with [Some(Broken",
    ),
    Finder(
        Fault::StaysDry,
        "an_empty_source_is_polled_again",
        "this was not reached: the frame has arrived",
    ),
    Finder(
        Fault::SwapsFrames,
        "frames_of_one_order_arrive_in_order",
        "lost, repeated or reordered",
    ),
    Finder(
        Fault::TakesAfterClose,
        "close_delivers_accepted_frames",
        "a frame was pulled though the phase was Closing",
    ),
    Finder(
        Fault::TakesEndForNothing,
        "a_vanished_peer_ends_the_other_side",
        "this was not reached: the other has ended",
    ),
    Finder(
        Fault::WritesFirst,
        "both_directions_at_full_load_do_not_block_each_other",
        "this was not reached: all frames have arrived",
    ),
];

impl Finder {
    fn check(&self) -> &'static Check {
        CHECKS.iter().find(|check| check.name == self.1).unwrap()
    }

    fn base(&self) -> Base {
        match self.0 {
            Fault::CutsDatagrams => Base::Udp,
            _ => Base::Tcp,
        }
    }
}

/// Most of a check that finds something is waiting for what never comes, so many wait at once.
const AT_ONCE: usize = 8;

fn for_each_finder(body: impl Fn(&Finder) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(finder) = FINDERS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    body(finder);
                }
            });
        }
    });
}

#[test]
fn each_fault_is_detected_by_its_check() {
    for_each_finder(|finder| {
        let Finder(fault, name, says) = finder;
        let harness = Faulty {
            base: finder.base(),
            fault: *fault,
        };
        let failure = match finder.check().run(&harness) {
            Err(failure) => failure,
            Ok(outcome) => panic!("{fault:?} was not found by {name}: {outcome}"),
        };
        println!("{fault:?}: {name}: {}", failure.detail);
        assert!(
            failure.detail.contains(says),
            "{fault:?} was to be found by `{says}`, not by: {}",
            failure.detail
        );
    });
}

#[test]
fn without_a_fault_the_same_checks_pass() {
    for_each_finder(|finder| {
        let harness = Faulty {
            base: finder.base(),
            fault: Fault::None,
        };
        let outcome = finder.check().run(&harness).unwrap();
        assert_eq!(outcome, CheckOutcome::Kept, "{}", finder.1);
    });
}

#[test]
fn every_check_detects_a_fault() {
    let names = CHECKS.iter().map(|check| check.name);
    let idle: Vec<_> = names
        .filter(|name| FINDERS.iter().all(|Finder(_, finder, _)| finder != name))
        .collect();
    assert!(idle.is_empty(), "no fault shows that these bite: {idle:?}");
}
