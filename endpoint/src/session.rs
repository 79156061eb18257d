//! The session: one machine from messages to frames and back.
//!
//! [`Session`] sequences four parts, each of which owns its state and returns decisions:
//!
//! ```text
//!  SendBuffer ──▶ SendSide ────┐                      ┌──▶ frames out
//!                              ├── Attachments ───────┤
//!  messages ◀──── ReceiveSide ─┘    Introduction      └─── frames in
//! ```
//!
//! What concerns several parts has a type of its own that borrows them for one step: [`Receiver`] for
//! a frame that has arrived, [`Transmitter`] for the next one to send, [`Migrator`] for a change of
//! transports.

mod acks;
mod admission;
mod attachments;
mod best_effort;
mod introduction;
mod migrate;
mod output_queue;
mod receive;
mod receiving;
mod sending;
mod transmit;

use std::collections::vec_deque::Drain;
use std::time::Duration;

use bytes::Bytes;
use selvedge_transport::{Frame, Instant, LANES_MAX, NodeId, Role, SendCapacity};

use crate::config::{OfflinePolicy, SessionConfig};
use crate::error::{Misbehaved, SessionAttachError};
use crate::event::{AttachmentId, CloseReason, DetachReason, Event, SessionOutput};
use crate::lane::{LaneId, Message};
use crate::message_batch::MessageBatch;
use crate::scheduler::Scheduler;
use crate::send_buffer::SendBuffer;
use crate::stats::EndpointStats;
use crate::wire::{CloseCode, Received};
pub use attachments::ATTACHMENTS_MAX;
use attachments::{Attachments, Share};
use introduction::Introduction;
use migrate::Migrator;
use output_queue::OutputQueue;
use receive::{Consequence, Receiver};
use receiving::ReceiveSide;
use sending::SendSide;
use transmit::{DueControl, Transmitter};

/// How far apart the ticks of [`Session::poll_timeout_by_ticks`] are at the most.
const HEARTBEAT_TICK_MAX: Duration = Duration::from_millis(100);

/// Keeps messages exactly once and in order, over whatever transports come and go.
///
/// ```text
///            attach + introduction            close
///   Detached ─────────────────────▶ Attached ───────▶ Closing ──▶ Closed
///      ▲  ▲                            │ │               │          ▲
///      │  └──── last transport lost ───┘ └─ peer closed ─┴──────────┘
///      new
/// ```
///
/// Four kinds of methods:
/// - **inputs** `attach`, `detach`, `sync_send_buffer`, `consumed`, `close`, `abort`, `handle_frame`,
///   `handle_timeout`;
/// - **outputs** [`poll_frame`](Self::poll_frame) for a transport that has room,
///   [`poll_output`](Self::poll_output) and [`take_messages`](Self::take_messages);
/// - [`poll_timeout`](Self::poll_timeout): when to call `handle_timeout` at the latest;
/// - getters.
///
/// After any input, drain the outputs, offer frames to every attached transport, and poll the
/// timeout. `now` must not go backwards.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    introduction: Introduction,
    life: Life,
    attachments: Attachments,
    sending: SendSide,
    receiving: ReceiveSide,
    outputs: OutputQueue,
    stats: EndpointStats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    /// Drains; at `give_up_at` it stops waiting.
    Closing {
        give_up_at: Instant,
    },
    Closed,
}

impl Session {
    /// A session of `local` with `peer`. `incarnation` must be random: it distinguishes this
    /// session from those of an earlier process of the same node (0 is taken as 1).
    #[must_use]
    pub fn new(mut config: SessionConfig, local: NodeId, peer: NodeId, incarnation: u64) -> Self {
        config.lanes.truncate(LANES_MAX);
        Self {
            introduction: Introduction::new(incarnation),
            life: Life::Open,
            attachments: Attachments::new(local < peer, introduction::paths_wanted(&config)),
            sending: SendSide::new(&config.lanes),
            receiving: ReceiveSide::new(&config),
            outputs: OutputQueue::default(),
            stats: EndpointStats::default(),
            config,
        }
    }

    /// Attaches a transport whose handshake is complete. The session introduces itself on it, and
    /// resumes when the peer has done so, too.
    ///
    /// # Errors
    /// [`SessionAttachError`]; the session is unchanged.
    pub fn attach(
        &mut self,
        now: Instant,
        id: AttachmentId,
        role: Role,
        reliable: bool,
    ) -> Result<(), SessionAttachError> {
        if self.life == Life::Closed {
            return Err(SessionAttachError::Closed);
        }
        if let Some(evicted) = self.attachments.to_evict() {
            self.migrator().release(evicted, DetachReason::Superseded);
        }
        let priorities = self.config.lanes.iter().map(|lane| lane.priority);
        let scheduler = Scheduler::new(priorities.collect());
        self.attachments.add(now, id, role, reliable, scheduler);
        self.stats.attachments += 1;
        Ok(())
    }

    /// A transport has ended, or is being taken away. Unknown ids are ignored: the session may
    /// have released the transport itself.
    pub fn detach(&mut self, id: AttachmentId, reason: DetachReason) {
        self.migrator().detach(id, reason);
    }

    const fn migrator(&mut self) -> Migrator<'_> {
        Migrator {
            config: &self.config,
            is_closed: matches!(self.life, Life::Closed),
            introduction: &mut self.introduction,
            attachments: &mut self.attachments,
            sending: &mut self.sending,
            receiving: &mut self.receiving,
            outputs: &mut self.outputs,
            stats: &mut self.stats,
        }
    }

    /// A frame has arrived on an attached transport. A peer that breaks the protocol loses that
    /// transport ([`DetachReason::Misbehaved`]); frames of unknown transports are ignored.
    pub fn handle_frame(&mut self, now: Instant, id: AttachmentId, frame: Bytes) {
        if let Err(Misbehaved(what)) = self.receive(now, id, frame) {
            self.migrator()
                .release(id, DetachReason::Misbehaved { what });
        }
    }

    fn receive(&mut self, now: Instant, id: AttachmentId, frame: Bytes) -> Result<(), Misbehaved> {
        let Some(attachment) = self.attachments.get_mut(id) else {
            return Ok(());
        };
        let Some(arrival) = attachment.open(now, frame)? else {
            return Ok(());
        };
        let received = arrival.received;
        let is_obsolete = self.life == Life::Closed && received.is_obsolete_after_close();
        if !is_obsolete && !received.introduces() {
            self.migrator().record_received(now, id);
        }
        let is_kept = is_obsolete || self.handle(now, id, received, arrival.payload)?;
        if let Some(number) = arrival.number.filter(|_| is_kept)
            && let Some(attachment) = self.attachments.get_mut(id)
        {
            attachment.record_kept(now, number);
        }
        Ok(())
    }

    /// Handles a frame and what follows from it. Returns whether the frame was kept.
    fn handle(
        &mut self,
        now: Instant,
        id: AttachmentId,
        received: Received,
        payload: Bytes,
    ) -> Result<bool, Misbehaved> {
        let mut receiver = Receiver {
            config: &self.config,
            introduction: &mut self.introduction,
            attachments: &mut self.attachments,
            sending: &mut self.sending,
            receiving: &mut self.receiving,
            stats: &mut self.stats,
        };
        match receiver.receive(now, id, received, payload)? {
            Consequence::None => {}
            Consequence::NotKept => return Ok(false),
            Consequence::Acknowledged => self.close_if_drained(),
            Consequence::Introduced {
                hello,
                has_lost_state,
            } => self.migrator().introduce(now, id, &hello, has_lost_state)?,
            Consequence::Former => self.migrator().release(id, DetachReason::Superseded),
            Consequence::Ready => self.migrator().become_ready(now, id),
            Consequence::Recovered(outcome) => self.migrator().recover(id, &outcome),
            Consequence::Refused {
                incompatibility,
                must_answer,
            } => {
                let reason = CloseReason::Incompatible(incompatibility);
                self.end(reason, Some(CloseCode::Incompatible));
                if let Some(attachment) = self.attachments.get_mut(id) {
                    attachment.due.hello = must_answer;
                }
            }
            Consequence::Closed(reason) => {
                self.end(reason, None);
                // If this side had closed first, its own `Close` is no longer needed.
                self.finish_attachments();
            }
        }
        Ok(true)
    }

    /// Drains the send buffer, and frees its room for what was acknowledged. Returns whether
    /// anything was drained.
    pub fn sync_send_buffer(&mut self, buffer: &mut SendBuffer) -> bool {
        self.sending.release_room(buffer);
        if self.life != Life::Open {
            buffer.close();
        }
        let mut taken = self.sending.drain(buffer);
        if buffer.take_awaited() {
            self.want_acks();
        }
        let limit = self.config.best_effort_buffer;
        let (is_any, dropped) = self.sending.drain_best_effort(buffer, limit);
        taken |= is_any;
        self.stats.best_effort_dropped += dropped;
        if taken && self.life == Life::Closed {
            let more = self.sending.take_undelivered();
            self.outputs.undelivered(more);
            self.sending.release_room(buffer);
        }
        let is_reachable = self.attachments.current().is_some();
        buffer.set_reachable(is_reachable);
        if self.config.offline_policy == OfflinePolicy::DropOldest && !is_reachable {
            let dropped = self.sending.drop_excess(buffer, &self.config);
            self.stats.dropped_while_offline += dropped;
        }
        taken
    }

    /// Records that the user has consumed messages of a lane with this total [`Message::cost`]: the
    /// peer is granted as much credit.
    pub fn consumed(&mut self, lane: LaneId, bytes: u64) {
        self.receiving.consumed(lane, bytes);
    }

    /// Whether the peer has its full limits on no lane yet: see
    /// [`SessionConfig::admission_buffer`].
    #[must_use]
    pub fn is_admission_pending(&self) -> bool {
        self.receiving.is_admission_pending()
    }

    /// Grants the peer the full limits of a lane, which [`SessionConfig::admission_buffer`] has restricted.
    /// Without that it has no effect. The peer keeps them, also if its process restarts.
    pub fn admit(&mut self, lane: LaneId) {
        if self.config.admission_buffer.is_none() {
            return;
        }
        let was_pending = self.is_admission_pending();
        self.receiving.admit(&self.config, lane);
        if was_pending {
            self.outputs.event(Event::Admitted);
        }
    }

    /// Closes in order: closes the send buffer, sends what it has accepted, waits at most
    /// [`SessionConfig::linger`] for its acknowledgement, then sends `Close`.
    pub fn close(&mut self, now: Instant, buffer: &mut SendBuffer) {
        self.close_within(now, self.config.linger, buffer);
    }

    /// Like [`close`](Self::close), but waits at most for `linger`, also if the session closes already.
    pub fn close_within(&mut self, now: Instant, linger: Duration, buffer: &mut SendBuffer) {
        // In one call: what is accepted between two would come too late to be sent.
        buffer.close();
        self.sync_send_buffer(buffer);
        let give_up_at = now + linger;
        match &mut self.life {
            Life::Open => {
                self.life = Life::Closing { give_up_at };
                self.want_acks();
                self.close_if_drained();
            }
            Life::Closing { give_up_at: before } => *before = give_up_at.min(*before),
            Life::Closed => {}
        }
    }

    /// Ends at once. What is not acknowledged is handed back in [`Event::Closed`].
    pub fn abort(&mut self) {
        self.end(CloseReason::Aborted, Some(CloseCode::Aborted));
    }

    fn close_if_drained(&mut self) {
        let drained = self.sending.is_drained();
        if drained && matches!(self.life, Life::Closing { .. }) {
            self.end(CloseReason::Local, Some(CloseCode::Done));
        }
    }

    /// The only place where a session becomes closed.
    fn end(&mut self, reason: CloseReason, report: Option<CloseCode>) {
        if self.life == Life::Closed {
            return;
        }
        self.life = Life::Closed;
        self.receiving.acks.end();
        let undelivered = self.sending.take_undelivered();
        self.outputs.dropped(self.sending.take_dropped());
        self.outputs.event(Event::Closed {
            reason,
            undelivered,
        });
        self.attachments.close(report);
        if report.is_none() {
            self.finish_attachments();
        }
    }

    /// The peer has closed the session: only its `Close` remains to be acknowledged.
    fn finish_attachments(&mut self) {
        let finished = self.attachments.finish();
        self.migrator().release_all(finished, &DetachReason::Closed);
    }

    /// Takes the messages that have arrived, in the order of their lanes.
    pub fn take_messages(&mut self) -> impl Iterator<Item = Message> {
        let batches = self.take_batches();
        batches.flat_map(|(lane, run)| run.into_messages(lane))
    }

    /// Takes the messages that have arrived, in batches that are not copied, in the order of their
    /// lanes.
    pub fn take_batches(&mut self) -> Drain<'_, (LaneId, MessageBatch)> {
        self.receiving.take_batches()
    }

    /// How many messages wait in [`take_messages`](Self::take_messages).
    #[must_use]
    pub const fn messages_len(&self) -> usize {
        self.receiving.messages_len()
    }

    /// Whether messages wait in [`take_messages`](Self::take_messages).
    #[must_use]
    pub const fn has_messages(&self) -> bool {
        self.receiving.messages_len() > 0
    }

    /// The next event or request.
    pub fn poll_output(&mut self) -> Option<SessionOutput> {
        self.outputs.poll()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.poll_timeout_with(|heartbeat_at| heartbeat_at)
    }

    /// Like [`poll_timeout`](Self::poll_timeout), with deferrable timers moved to the next of the
    /// ticks that begin at `start`: an eighth of [`SessionConfig::heartbeat`] apart, at most 100
    /// ms. The driver of thousands of idle sessions then wakes once per tick instead of once per
    /// session.
    #[must_use]
    pub fn poll_timeout_by_ticks(&self, start: Instant) -> Option<Instant> {
        let tick = (self.config.heartbeat / 8).min(HEARTBEAT_TICK_MAX);
        let tick = (tick.as_nanos() as u64).max(1);
        self.poll_timeout_with(|at| {
            let since = at.saturating_duration_since(start).as_nanos() as u64;
            at + Duration::from_nanos((tick - since % tick) % tick)
        })
    }

    fn poll_timeout_with(&self, put_off: impl Fn(Instant) -> Instant) -> Option<Instant> {
        let (heartbeat, silence_max) = (self.config.heartbeat, self.config.silence_max);
        let give_up_at = match self.life {
            Life::Closing { give_up_at } => Some(give_up_at),
            Life::Open | Life::Closed => None,
        };
        let attachments = self.attachments.timeout(heartbeat, silence_max, &put_off);
        let acks = self.receiving.acks.timeout(&put_off);
        attachments.into_iter().chain(acks).chain(give_up_at).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let (heartbeat, silence_max) = (self.config.heartbeat, self.config.silence_max);
        let (silent, lost) = self.attachments.handle_timeout(now, heartbeat, silence_max);
        for (id, outcome) in lost {
            self.migrator().recover(id, &outcome);
        }
        self.migrator().release_all(silent, &DetachReason::Silent);
        if let Life::Closing { give_up_at } = self.life
            && now >= give_up_at
        {
            self.end(CloseReason::Aborted, Some(CloseCode::Aborted));
        }
        if self.receiving.acks.handle_timeout(now)
            && let Some(attachment) = self.attachments.current_mut()
        {
            attachment.due.all_positions = true;
        }
    }

    /// Frees memory that past traffic has left in empty queues. Later traffic allocates it again,
    /// so call this when nothing has moved for a while.
    pub fn shrink(&mut self) {
        self.receiving.shrink();
        self.outputs.shrink();
        self.sending.shrink();
    }

    /// A caller waits for the acknowledgement of everything accepted so far.
    fn want_acks(&mut self) {
        self.sending.want_acks();
        let is_needed = self.sending.needs_ack_request();
        if let Some(attachment) = self.attachments.current_mut() {
            attachment.due.ack_request = is_needed;
        }
    }

    /// The next frame for a transport that has `capacity`: control first, then lanes by priority.
    ///
    /// The frame is chosen at the time of the call, so call this only when the frame can be sent at
    /// once.
    pub fn poll_frame(
        &mut self,
        now: Instant,
        id: AttachmentId,
        capacity: &SendCapacity,
    ) -> Option<Frame> {
        let index = self.attachments.index_of(id)?;
        let mut transmitter = Transmitter {
            config: &self.config,
            introduction: &self.introduction,
            share: self.attachments.share_of(id),
            attachment: self.attachments.at(index),
            sending: &mut self.sending,
            receiving: &mut self.receiving,
            stats: &mut self.stats,
        };
        if !capacity.control_blocked
            && let Some(due) = transmitter.poll_control(now)
        {
            return match due {
                DueControl::Frame(frame) => Some(frame),
                DueControl::Release(frame) => {
                    self.migrator().release(id, DetachReason::Closed);
                    frame
                }
            };
        }
        if self.life == Life::Closed {
            return None;
        }
        transmitter.poll_lane(now, capacity)
    }

    /// Whether a transport has anything to send, given unlimited room and time.
    #[must_use]
    pub fn wants_to_send(&self, id: AttachmentId) -> bool {
        let Some(attachment) = self.attachments.get(id) else {
            return false;
        };
        if attachment.due.any() {
            return true;
        }
        let share = self.attachments.share_of(id);
        let Some(share) = share.filter(|_| self.life != Life::Closed) else {
            return false;
        };
        let is_ack_due = share == Share::All && self.receiving.ack_is_urgent();
        is_ack_due
            || self
                .sending
                .is_any_waiting(&self.config.lanes, attachment, share)
    }

    /// The transport that carries the messages now.
    #[must_use]
    pub const fn current(&self) -> Option<AttachmentId> {
        self.attachments.current()
    }

    /// Whether the session is closed for good. Transports may still have to send `Close`.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.life == Life::Closed
    }

    /// Whether it is over and every transport released.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_closed() && self.attachments.is_empty()
    }

    /// Bytes of messages on reliable lanes that have arrived and were not [consumed](Self::consumed): what
    /// the peer's credit is short of.
    #[must_use]
    pub fn untaken(&self) -> u64 {
        self.receiving.unconsumed()
    }

    /// Bytes accepted on reliable lanes, taken from the outbox and not yet acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        self.sending.unacknowledged()
    }

    /// The version of the protocol that both sides use; `None` before the peer has introduced itself.
    #[must_use]
    pub fn version(&self) -> Option<u8> {
        self.introduction.version()
    }

    /// What was counted so far.
    #[must_use]
    pub const fn stats(&self) -> &EndpointStats {
        &self.stats
    }

    /// Bytes of reliable lanes that were sent and that the peer has not acknowledged.
    #[must_use]
    pub fn bytes_in_flight(&self) -> u64 {
        self.sending.in_flight()
    }
}

#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod version_tests;
