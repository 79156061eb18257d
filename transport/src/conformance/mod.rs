//! The conformance suite: checks of the [`Transport`](crate::Transport) contract for any
//! implementation.
//!
//! Implement [`Harness`] for a transport and make each check a test:
//!
//! ```ignore
//! struct MyHarness;
//! impl Harness for MyHarness { /* ... */ }
//! selvedge_transport::conformance_tests!(MyHarness);
//! ```
//!
//! or run all checks with [`check_all`], as `examples/examples/custom_transport.rs` does.
//!
//! The suite drives transports with a `mio::Poll` exactly as the contract requires: it calls `recv`
//! and `send` only after registration, an event, a timer, [`Progress::More`](crate::Progress::More)
//! or a new frame. A transport that requires further calls stalls here, as it would in a driver. No
//! check sleeps; each fails after 30 s, or after 5 s without progress.
//!
//! In addition to its own rule each check asserts in every call:
//!
//! - the phase never goes back; it is `Ended` after an `Err` and only then;
//! - the peer is authenticated from the phase `Open` on;
//! - no frame is received before `Open`, and none is pulled before `Open` or after `close`;
//! - every frame arrives unchanged, with at most `frame_max` bytes;
//! - on a reliable transport all frames of one order arrive, in order, once.

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

/// One rule of the contract, and the check that a transport follows it.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// The name of the check.
    pub name: &'static str,
    /// The rule.
    pub rule: &'static str,
    body: fn(&dyn Harness) -> CheckOutcome,
}

/// The result of a check that found no violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The transport follows the rule.
    Kept,
    /// The check does not apply to the transport, for the given reason.
    Skipped(&'static str),
}

/// A violation of a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{scheme}:// violates `{check}`: {rule}\n{detail}")]
pub struct CheckFailure {
    /// The scheme of the transport.
    pub scheme: &'static str,
    /// The name of the check.
    pub check: &'static str,
    /// The violated rule.
    pub rule: &'static str,
    /// The observed behaviour.
    pub detail: String,
}

impl Check {
    /// Runs the check.
    ///
    /// # Errors
    /// The rule is violated, or the harness panicked.
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

/// All checks, in logical order.
pub const CHECKS: &[Check] = &[
    opening::OPENS,
    opening::INFO,
    opening::WRONG_PEER,
    opening::NOT_ADMITTED,
    opening::INVALID_HANDSHAKE,
    opening::UNREACHABLE,
    opening::MANY_AT_ONCE,
    moving::LENGTHS,
    moving::ORDER,
    moving::SMALL_FRAMES,
    moving::FULL_LOAD,
    moving::EMPTY_SOURCE,
    moving::BACKPRESSURE,
    moving::DATAGRAMS,
    driving::IDLE,
    driving::BUDGET,
    driving::SMALLEST_BUDGET,
    driving::TIMERS,
    driving::MOVE_UNDER_LOAD,
    driving::MOVE_BLOCKED,
    ending::CLOSE_DELIVERS,
    ending::CLOSE_IDLE,
    ending::CLOSE_BOTH,
    ending::CLOSE_EARLY,
    ending::LOST_PEER,
];

/// Runs all checks and passes each result to `report`.
///
/// # Errors
/// The first violation.
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

/// Runs the check with the given name.
///
/// # Panics
/// If the rule is violated, or there is no such check.
pub fn assert_kept(harness: &dyn Harness, name: &str) {
    let check = CHECKS.iter().find(|check| check.name == name);
    let Some(check) = check else {
        panic!("there is no check `{name}`");
    };
    if let Err(failure) = check.run(harness) {
        panic!("{failure}");
    }
}

/// Defines a `#[test]` for each check, with the harness that the expression creates.
///
/// Use it once per module.
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr) => {
        $crate::conformance_tests! { @each $harness;
            both_sides_open_and_authenticate
            info_is_truthful
            an_unexpected_peer_does_not_open
            a_peer_that_is_not_admitted_transfers_no_frame
            invalid_handshakes_open_nothing
            an_address_without_listener_is_unreachable
            many_connections_open_at_once
            frames_of_every_length_arrive_whole
            frames_of_one_order_arrive_in_order
            many_small_frames_arrive
            both_directions_at_full_load_do_not_block_each_other
            an_empty_source_is_polled_again
            a_stopped_reader_applies_backpressure
            datagrams_arrive_whole_or_not_at_all
            an_idle_transport_needs_no_calls
            the_budget_is_respected
            a_budget_of_one_byte_transfers_frames
            timers_may_be_read_and_handled_at_any_time
            moving_to_another_poll_under_load_loses_nothing
            moving_to_another_poll_while_blocked_loses_nothing
            close_delivers_accepted_frames
            close_of_an_idle_connection_ends_both_sides
            both_sides_may_close_at_once
            close_before_open_ends_the_transport
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
