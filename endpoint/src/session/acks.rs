//! When acknowledgements are sent: how long they may be delayed, and which are sent at once.
//!
//! An acknowledgement only frees the sender's memory, so one that frees little is delayed, and is sent
//! with other frames. A sender that needs it, to end a flush or to have room, requests it:
//!
//! ```text
//!  flush ──▶ Data (up to 900) ──────▶ delayed, it is little
//!            Ping (requests 900) ───▶ has arrived: at once
//!        ◀── Ack (900) ─────────────
//! ```
//! The request may overtake the data, so it names an offset.

use std::time::Duration;

use selvedge_transport::Instant;

use crate::recv_lane::RecvLane;
use crate::send_buffer::LONG_ACK_DELAY_LEN_MAX;

/// How many times as long as [`SessionConfig::ack_delay`](crate::SessionConfig::ack_delay) an acknowledgement waits
/// that frees little: 200 ms by default. In that time 5,000 pairs that speak by turns come round, so
/// that theirs go with the next message: 35.3 us of CPU a round trip became 21.0.
const QUIET_FACTOR: u32 = 10;

/// When the next acknowledgement goes at the latest, and when the last one did.
#[derive(Debug, Default)]
pub(super) struct Acks {
    due: Option<AckDeadline>,
    sent_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct AckDeadline {
    at: Instant,
    /// It frees little: a while more does not matter.
    is_quiet: bool,
}

impl Acks {
    /// One is due after `delay`, if none is earlier.
    fn arm(&mut self, now: Instant, delay: Duration, is_quiet: bool) {
        let at = now + delay;
        if self.due.is_none_or(|due| at < due.at) {
            self.due = Some(AckDeadline { at, is_quiet });
        }
    }

    /// Schedules the acknowledgement of what arrived on a lane. It may be delayed for long if it
    /// frees little, and if the peer can request it over a reliable transport: one that loses frames
    /// may lose the request, too.
    pub(super) fn schedule(
        &mut self,
        now: Instant,
        lane: &RecvLane,
        is_reliable: bool,
        delay: Duration,
    ) {
        let unreported = lane.unreported();
        if unreported == 0 {
            return;
        }
        let is_quiet =
            is_reliable && unreported < LONG_ACK_DELAY_LEN_MAX && !lane.is_ack_requested();
        let factor = if is_quiet { QUIET_FACTOR } else { 1 };
        self.arm(now, delay * factor, is_quiet);
    }

    /// When an acknowledgement is sent at the latest; `put_off` returns that time for one that
    /// frees little.
    pub(super) fn timeout(&self, put_off: impl Fn(Instant) -> Instant) -> Option<Instant> {
        let due = self.due?;
        Some(if due.is_quiet {
            put_off(due.at)
        } else {
            due.at
        })
    }

    /// Time has passed: whether one goes now.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| now >= due.at).is_some()
    }

    /// One goes.
    pub(super) const fn sent(&mut self, now: Instant) {
        self.due = None;
        self.sent_at = Some(now);
    }

    /// No more go.
    pub(super) const fn end(&mut self) {
        self.due = None;
    }

    /// Whether one that waits goes with what is sent now: not with each of many messages.
    pub(super) fn may_travel(&self, now: Instant, delay: Duration) -> bool {
        self.due.is_some() && self.sent_at.is_none_or(|at| now >= at + delay)
    }
}
