//! When acknowledgements go: how long they may wait, what they travel with, and who cannot wait.
//!
//! An acknowledgement only frees the sender's memory, so one that frees little waits long, and goes with
//! whatever else is sent meanwhile. A sender that needs it, to end a flush or to have room, asks:
//!
//! ```text
//!  flush ──▶ Data (up to 900) ──────▶ waits, it is little
//!            Ping (asks for 900) ───▶ has come: at once
//!        ◀── Ack (900) ─────────────
//! ```
//! The ask may overtake the data: it names how far its sender waits.

use std::time::Duration;

use selvedge_transport::Instant;

use super::Session;
use crate::lane::LaneId;
use crate::send_buffer::QUIET_LEN;
use crate::send_lane::SendLane;
use crate::wire::Ask;

/// How many times as long as [`SessionConfig::ack_delay`](crate::Config::ack_delay) an acknowledgement waits
/// that frees little: 200 ms by default. In that time 5,000 pairs that speak by turns come round, so
/// that theirs go with the next message: 35.3 us of CPU a round trip became 21.0.
const QUIET_FACTOR: u32 = 10;

/// When the next acknowledgement goes at the latest, and when the last one did.
#[derive(Debug, Default)]
pub(super) struct Acks {
    due: Option<Due>,
    sent_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    /// It frees little: a while more does not matter.
    is_quiet: bool,
}

impl Acks {
    /// One is due after `delay`, if none is earlier.
    fn arm(&mut self, now: Instant, delay: Duration, is_quiet: bool) {
        let at = now + delay;
        if self.due.is_none_or(|due| at < due.at) {
            self.due = Some(Due { at, is_quiet });
        }
    }

    /// When one goes at the latest; `put_off` says when that is for one that frees little.
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
    fn may_ride(&self, now: Instant, delay: Duration) -> bool {
        self.due.is_some() && self.sent_at.is_none_or(|at| now >= at + delay)
    }
}

impl Session {
    /// Bytes of a lane have arrived: sees to their acknowledgement.
    pub(super) fn owe_ack(&mut self, now: Instant, lane: LaneId) {
        let Some(owed) = self
            .recv
            .get(lane.index())
            .map(|it| (it.untold(), it.is_asked()))
        else {
            return;
        };
        let (untold, is_asked) = owed;
        if untold == 0 {
            return;
        }
        // Where frames get lost an ask may, too.
        let current = self
            .attachments
            .iter()
            .find(|it| Some(it.id) == self.current);
        let is_reliable = current.is_some_and(|it| it.is_reliable());
        let is_quiet = is_reliable && untold < QUIET_LEN && !is_asked;
        let factor = if is_quiet { QUIET_FACTOR } else { 1 };
        self.acks.arm(now, self.config.ack_delay * factor, is_quiet);
    }

    /// The peer waits until it hears that a lane has come so far. If it has, that
    /// [is urgent](crate::recv_lane::RecvLane::ack_is_urgent).
    pub(super) fn hear_ask(&mut self, now: Instant, ask: Ask) {
        self.receiving(ask.lane).ask(ask.offset);
        self.owe_ack(now, ask.lane);
    }

    /// Something goes out on the transport at `index`: an acknowledgement that waits goes with it.
    pub(super) fn let_ack_ride(&mut self, now: Instant, index: usize) {
        let attachment = &mut self.attachments[index];
        if self.current == Some(attachment.id) && self.acks.may_ride(now, self.config.ack_delay) {
            attachment.due.all_positions = true;
        }
    }

    /// Somebody waits for the acknowledgement of all that was handed in so far.
    pub(super) fn want_acks(&mut self) {
        self.send.iter_mut().for_each(SendLane::want_ack);
        self.ask();
    }

    /// What is waited for and was not asked for on the current transport is asked for there.
    pub(super) fn ask(&mut self) {
        let wanted = self.send.iter().any(SendLane::must_ask);
        if let Some(id) = self.current
            && let Some(attachment) = self.attachment(id)
        {
            attachment.due.ask = wanted;
        }
    }

    /// Asks with the next ping for the first lane of which an acknowledgement is waited for.
    pub(super) fn ask_by_ping(&mut self, index: usize) {
        let ping = &mut self.attachments[index].due.ping;
        if ping.is_some_and(|nonce| Ask::from_nonce(nonce).is_some()) {
            // One for another lane waits for room.
            return;
        }
        let mut lanes = (0..).zip(&mut self.send);
        let first = lanes.find(|(_, lane)| lane.must_ask());
        if let Some((number, send)) = first
            && let Some(lane) = LaneId::new(number)
        {
            let offset = send.asks();
            *ping = Some(Ask { lane, offset }.nonce());
        }
        self.ask();
    }
}
