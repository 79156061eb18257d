//! The session: one machine from messages to frames and back.
//!
//! [`Session`] sequences four parts, each of which owns its state and returns decisions:
//!
//! ```text
//!  SendBuffer ──▶ SendSide ────┐                      ┌──▶ frames out
//!                              ├── Attachments ───────┤
//!  messages ◀──── ReceiveSide ─┘    Introduction      └─── frames in
//! ```

mod acks;
mod attachments;
mod best_effort;
mod introduction;
mod receive;
mod receiving;
mod sending;
mod transmit;

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;
use std::time::Duration;

use selvedge_transport::{Frame, Instant, LANES_MAX, NodeId, Role, SendCapacity};

use crate::config::{OfflinePolicy, SessionConfig};
use crate::error::SessionAttachError;
use crate::event::{AttachmentId, CloseReason, DetachReason, Event, SessionOutput};
use crate::lane::{LaneId, Message};
use crate::message_batch::MessageBatch;
use crate::recovery::Outcome;
use crate::scheduler::Scheduler;
use crate::send_buffer::SendBuffer;
use crate::stats::EndpointStats;
use crate::version::Incompatibility;
use crate::wire::CloseCode;
pub use attachments::ATTACHMENTS_MAX;
use attachments::{AttachmentUse, Attachments, Removal, Share};
use introduction::Introduction;
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
    outputs: VecDeque<SessionOutput>,
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
            outputs: VecDeque::new(),
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
            self.release(evicted, DetachReason::Superseded);
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
        match self.attachments.remove(id) {
            None => return,
            Some(Removal::Other) => {
                self.report_standby();
                if self.attachments.is_empty() && self.life != Life::Closed {
                    self.push_event(Event::AttachFailed { reason });
                }
                return;
            }
            Some(Removal::Current(Some(next))) => self.switch_to(next),
            Some(Removal::Current(None)) => {
                if self.life != Life::Closed {
                    self.push_event(Event::Detached { reason });
                }
            }
        }
        self.report_standby();
    }

    /// Releases a transport: the driver is requested to close it.
    fn release(&mut self, id: AttachmentId, reason: DetachReason) {
        self.outputs.push_back(SessionOutput::Release {
            attachment: id,
            reason: reason.clone(),
        });
        self.detach(id, reason);
    }

    fn release_all(&mut self, ids: Vec<AttachmentId>, reason: &DetachReason) {
        for id in ids {
            self.release(id, reason.clone());
        }
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
            self.report_undelivered(more);
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

    /// What was accepted while the session ended: it belongs to its end, if that was not polled yet.
    fn report_undelivered(&mut self, more: Vec<Message>) {
        let unreported = self.outputs.iter_mut().find_map(|output| match output {
            SessionOutput::Event(Event::Closed { undelivered, .. }) => Some(undelivered),
            _ => None,
        });
        match unreported {
            Some(undelivered) => undelivered.extend(more),
            None => self.push_event(Event::Closed {
                reason: CloseReason::Aborted,
                undelivered: more,
            }),
        }
    }

    /// Reports what was dropped while the peer could not be reached.
    fn report_dropped(&mut self) {
        for (lane, messages) in self.sending.take_dropped() {
            let event = Event::Dropped { lane, messages };
            self.outputs.push_back(SessionOutput::Event(event));
        }
    }

    /// Records that the user has consumed messages of a lane with this total [`Message::cost`]: the
    /// peer is granted as much credit.
    pub fn consumed(&mut self, lane: LaneId, bytes: u64) {
        self.receiving.consumed(lane, bytes);
    }

    /// Closes in order: closes the send buffer, sends what it has accepted, waits at most
    /// [`SessionConfig::linger`] for its acknowledgement, then sends `Close`.
    pub fn close(&mut self, now: Instant, buffer: &mut SendBuffer) {
        // In one call: what is accepted between two would come too late to be sent.
        buffer.close();
        self.sync_send_buffer(buffer);
        if self.life == Life::Open {
            self.life = Life::Closing {
                give_up_at: now + self.config.linger,
            };
            self.want_acks();
            self.close_if_drained();
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
        self.report_dropped();
        self.push_event(Event::Closed {
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
        self.release_all(finished, &DetachReason::Closed);
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
        self.outputs.pop_front()
    }

    fn push_event(&mut self, event: Event) {
        self.outputs.push_back(SessionOutput::Event(event));
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
            self.recover(id, &outcome);
        }
        self.release_all(silent, &DetachReason::Silent);
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
        if self.outputs.is_empty() {
            self.outputs.shrink_to_fit();
        }
        self.sending.shrink();
    }

    /// Ends the session with a peer that it cannot exchange messages with.
    fn refuse(&mut self, incompatibility: Incompatibility) {
        let reason = CloseReason::Incompatible(incompatibility);
        self.end(reason, Some(CloseCode::Incompatible));
    }

    fn has_moved(&self) -> bool {
        self.sending.has_moved() || self.receiving.has_moved()
    }

    /// The peer has lost the state of this session: both streams of every lane begin at 0 again.
    fn restart_streams(&mut self, keep: AttachmentId) {
        let had_moved = self.has_moved();
        self.introduction.begin_view();
        let undelivered = self.sending.restart();
        self.receiving.restart();
        let others = self.attachments.others(keep);
        self.release_all(others, &DetachReason::Superseded);
        if let Some(attachment) = self.attachments.get_mut(keep) {
            attachment.cursors.clear();
        }
        if had_moved {
            self.stats.peer_restarts += 1;
            self.push_event(Event::PeerRestarted { undelivered });
        }
    }

    /// The peer is known to have the `Hello` of this side: data may be sent.
    fn become_ready(&mut self, now: Instant, id: AttachmentId) {
        let Some(attachment) = self.attachments.get_mut(id) else {
            return;
        };
        attachment.became_ready();
        attachment.cursors = self.sending.cursors();
        attachment.record_received(now);
        let rank = attachment.rank;
        if self.life == Life::Closed {
            return;
        }
        match self.attachments.use_of(rank) {
            AttachmentUse::Current => self.switch_to(id),
            AttachmentUse::Standby => self.report_standby(),
            AttachmentUse::Superseded => self.release(id, DetachReason::Superseded),
        }
    }

    /// From now on `id` carries the data, from the first byte that is not acknowledged, or, if it has
    /// carried data before, from where it stands. The receiver drops duplicates.
    fn switch_to(&mut self, id: AttachmentId) {
        let before = self.attachments.set_current(id);
        let Some(attachment) = self.attachments.current_mut() else {
            return;
        };
        // Positions that were sent on another transport since the `Hello` may be lost with it, and
        // so may requests for acknowledgements.
        attachment.due.all_positions = true;
        self.sending.forget_ack_requests();
        attachment.due.ack_request = self.sending.needs_ack_request();
        let is_acceptor = attachment.role == Role::Acceptor;
        let resent_bytes = self.sending.repeated(&attachment.cursors);
        self.stats.bytes_resent += resent_bytes;
        self.push_event(match before {
            None => Event::Attached { attachment: id },
            Some(_) => Event::Moved { attachment: id },
        });
        self.report_dropped();
        if resent_bytes > 0 {
            self.push_event(Event::Resumed { resent_bytes });
        }
        if is_acceptor {
            // The dialer switched before it sent Ready: neither side sends on the others any more.
            self.release_superseded(None);
        }
        self.report_standby();
    }

    fn report_standby(&mut self) {
        if self.life != Life::Closed && self.attachments.update_standby(self.config.heartbeat) {
            self.push_event(Event::Redundant {
                attachment: self.attachments.standby(),
            });
        }
    }

    /// Releases the transports that are not used, once both sides have left them.
    fn release_superseded(&mut self, receiving: Option<AttachmentId>) {
        let heartbeat = self.config.heartbeat;
        let superseded = self.attachments.superseded(heartbeat, receiving);
        self.release_all(superseded, &DetachReason::Superseded);
    }

    /// Sends again what a lossy transport has lost.
    fn recover(&mut self, id: AttachmentId, outcome: &Outcome) {
        self.stats.packets_lost += outcome.lost;
        if outcome.close_acked {
            self.release(id, DetachReason::Closed);
        } else if let Some(attachment) = self.attachments.get_mut(id) {
            self.stats.bytes_resent += attachment.recover(outcome);
        }
    }

    /// A caller waits for the acknowledgement of everything accepted so far.
    fn want_acks(&mut self) {
        self.sending.want_acks();
        self.update_ack_request();
    }

    /// Acknowledgements that a caller waits for and that were not requested on the current
    /// transport are requested there.
    fn update_ack_request(&mut self) {
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
                    self.release(id, DetachReason::Closed);
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
        if share == Share::All && self.receiving.ack_is_urgent() {
            return true;
        }
        let recovery = attachment.recovery.as_ref();
        let is_open = recovery.is_none_or(|recovery| recovery.has_window());
        let lanes = &self.config.lanes;
        is_open
            && self
                .sending
                .is_any_waiting(lanes, &attachment.cursors, share)
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
}

#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod version_tests;
