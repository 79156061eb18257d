//! What every transport promises, as checks that run over any implementation: ours and yours.
//!
//! Implement [`Harness`] for your transport, and let each check be a test:
//!
//! ```ignore
//! struct OverMine;
//! impl Harness for OverMine { /* ... */ }
//! selvedge_transport::conformance_tests!(OverMine);
//! ```
//!
//! or run them all with [`check_all`], as `examples/custom_transport.rs` does.
//!
//! The suite drives transports itself, by a `mio::Poll` and nothing but the contract: it calls
//! `recv` and `send` only after registration, an event, a timer, [`Progress::More`](crate::Pace::More)
//! or a new frame. A transport that relies on being asked more often hangs here, as it would hang
//! in a driver. Nothing sleeps; each check has a deadline.
//!
//! Besides what each check is about, all of them watch these rules in every call:
//!
//! - the phase never goes back, and is `Ended` after an `Err` and only then;
//! - the peer is known once the phase is `Open`;
//! - no frame is received before `Open`, and none is taken before it nor after `close`;
//! - every frame arrives as it was sent, at most `frame_max` long;
//! - where the transport is reliable: all frames of a flow, in order, each once.

mod driven_transport;
mod driving;
mod ending;
mod frame_generator;
mod harness;
mod moving;
mod opening;
mod test_bed;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use harness::{Abilities, Harness};

/// One rule, and how to find out whether a transport keeps it.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// The rule in short.
    pub name: &'static str,
    /// The rule in full.
    pub rule: &'static str,
    body: fn(&dyn Harness) -> CheckOutcome,
}

/// What came of a check that found no fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The rule is kept.
    Kept,
    /// The rule says nothing about such a transport, or the harness cannot stage it.
    Skipped(&'static str),
}

/// A rule that is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{scheme}:// breaks `{check}`: {rule}\n{detail}")]
pub struct CheckFailure {
    /// The transport, by its scheme.
    pub scheme: &'static str,
    /// The check's name.
    pub check: &'static str,
    /// The rule.
    pub rule: &'static str,
    /// What was seen.
    pub detail: String,
}

impl Check {
    /// Runs it.
    ///
    /// # Errors
    /// The rule is broken, or the harness panicked.
    pub fn run(&self, harness: &dyn Harness) -> Result<CheckOutcome, CheckFailure> {
        catch_unwind(AssertUnwindSafe(|| (self.body)(harness))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            CheckFailure {
                scheme: harness.abilities().scheme,
                check: self.name,
                rule: self.rule,
                detail: text.unwrap_or_default(),
            }
        })
    }
}

impl fmt::Display for CheckOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("ok"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// All checks, in the order in which they are best read.
pub const CHECKS: &[Check] = &[
    opening::OPENS,
    opening::INFO,
    opening::WRONG_PEER,
    opening::NOT_ADMITTED,
    opening::RUBBISH,
    opening::NOWHERE,
    opening::MANY_AT_ONCE,
    moving::LENGTHS,
    moving::ORDER,
    moving::SMALL_FRAMES,
    moving::FULL_LOAD,
    moving::DRY_SOURCE,
    moving::BACKPRESSURE,
    moving::DATAGRAMS,
    driving::IDLE,
    driving::BUDGET,
    driving::SMALLEST_BUDGET,
    driving::TIMERS,
    driving::MOVES_POLL,
    driving::MOVES_BLOCKED,
    ending::CLOSE_DELIVERS,
    ending::CLOSE_IDLE,
    ending::CLOSE_BOTH,
    ending::CLOSE_EARLY,
    ending::VANISHED,
];

/// Runs all checks, and tells `report` of each.
///
/// # Errors
/// The first rule that is broken.
pub fn check_all(
    harness: &dyn Harness,
    mut report: impl FnMut(&Check, CheckOutcome),
) -> Result<(), CheckFailure> {
    CHECKS.iter().try_for_each(|check| {
        let outcome = check.run(harness)?;
        report(check, outcome);
        Ok(())
    })
}

/// Runs the check of that name.
///
/// # Panics
/// The rule is broken, or there is no such check.
pub fn assert_kept(harness: &dyn Harness, name: &str) {
    let check = CHECKS.iter().find(|check| check.name == name);
    let Some(check) = check else {
        panic!("there is no check `{name}`");
    };
    if let Err(failure) = check.run(harness) {
        panic!("{failure}");
    }
}

/// Makes a `#[test]` of each check, over the harness that the expression gives.
///
/// Use it once in a module.
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr) => {
        $crate::conformance_tests! { @each $harness;
            both_sides_open_and_know_each_other
            info_is_truthful
            a_wrong_peer_is_not_opened
            a_peer_that_is_not_admitted_moves_no_frame
            rubbish_instead_of_a_handshake_opens_nothing
            an_address_of_nobody_is_unreachable
            many_connections_open_at_once
            frames_of_every_length_arrive_whole
            flows_keep_their_order
            many_small_frames_arrive
            both_directions_at_full_load_do_not_block_each_other
            a_source_that_ran_dry_is_asked_again
            a_reader_that_stops_stops_the_writer
            datagrams_arrive_where_there_are_any
            idle_is_idle
            the_budget_is_respected
            the_smallest_budget_moves_frames
            timers_may_be_asked_and_called_at_any_time
            moving_to_another_poll_under_load_loses_nothing
            moving_to_another_poll_while_blocked_loses_nothing
            close_delivers_what_was_taken
            close_of_an_idle_connection_ends_both_sides
            both_sides_may_close_at_once
            close_before_open_ends_it
            a_vanished_peer_ends_the_other_side
        }
    };
    (@each $harness:expr; $($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                $crate::conformance::assert_kept(&$harness, stringify!($name));
            }
        )+

        #[test]
        fn every_check_is_a_test() {
            let names = $crate::conformance::CHECKS.iter().map(|check| check.name);
            assert!(names.eq([$(stringify!($name)),+]));
        }
    };
}
