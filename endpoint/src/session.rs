//! The session: one machine from messages to frames and back.

mod acks;
mod best_effort;
mod introduce;
mod receive;
mod receiving;
mod sending;
mod transmit;

use std::collections::VecDeque;
use std::time::Duration;

use selvedge_transport::{Instant, LANES_MAX, NodeId, Role};

use crate::attachment::{Attachment, PendingControl, Rank};
use crate::config::{OfflinePolicy, SessionConfig};
use crate::error::{Misbehaved, SessionAttachError};
use crate::event::{AttachmentId, CloseReason, DetachReason, Event, SessionOutput};
use crate::lane::{Delivery, LaneConfig, LaneId, Message};
use crate::message_batch::MessageBatch;
use crate::scheduler::Scheduler;
use crate::send_buffer::SendBuffer;
use crate::stats::EndpointStats;
use crate::varint::VARINT_MAX;
use crate::version::SessionOffer;
use crate::wire::CloseCode;
use introduce::PeerView;
use receiving::ReceiveSide;
use sending::SendSide;
use transmit::Share;

/// How many transports a session holds at once: the live one, its successor, and those of a
/// simultaneous dial.
pub const ATTACHMENTS_MAX: usize = 4;

/// How many former incarnations of the peer are remembered, so that a late `Hello` of a process
/// that has ended is not mistaken for a restart.
const FORMER_MAX: usize = 4;

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
    local_is_smaller: bool,
    /// Never 0. Random, chosen by the creator of the session.
    incarnation: u64,
    /// How often this side restarted its streams for a peer that had lost its state.
    view: u64,
    offer: SessionOffer,
    peer: Option<PeerView>,
    former: VecDeque<u64>,
    epoch_max: u64,
    life: Life,
    attachments: Vec<Attachment>,
    current: Option<AttachmentId>,
    /// When the first frame arrived on the current transport after it became the current one.
    current_received: Option<Instant>,
    /// The transport that carries the redundant lanes beside the current one, as last reported.
    standby: Option<AttachmentId>,
    /// How many transports are used at a time: what this side or the peer wants.
    paths_wanted: usize,
    sending: SendSide,
    receiving: ReceiveSide,
    outputs: VecDeque<SessionOutput>,
    stats: EndpointStats,
}

/// How many transports a side wants to use at a time.
fn paths_wanted(config: &SessionConfig) -> usize {
    let redundant = |lane: &LaneConfig| lane.redundant && lane.delivery == Delivery::Reliable;
    1 + usize::from(config.lanes.iter().any(redundant))
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
            local_is_smaller: local < peer,
            incarnation: incarnation.max(1),
            view: 0,
            offer: SessionOffer::SUPPORTED,
            peer: None,
            former: VecDeque::new(),
            epoch_max: 0,
            life: Life::Open,
            attachments: Vec::new(),
            current: None,
            current_received: None,
            standby: None,
            paths_wanted: paths_wanted(&config),
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
        if self.attachments.len() >= ATTACHMENTS_MAX {
            self.release_most_silent();
        }
        if role == Role::Dialer {
            // A peer may have used the highest number that there is.
            self.epoch_max = (self.epoch_max + 1).min(VARINT_MAX);
        }
        let dialed_by_smaller = (role == Role::Dialer) == self.local_is_smaller;
        let rank = Rank {
            epoch: self.epoch_max,
            dialed_by_smaller,
        };
        let priorities = self.config.lanes.iter().map(|lane| lane.priority);
        let scheduler = Scheduler::new(priorities.collect());
        let attachment = Attachment::new(now, id, role, reliable, rank, scheduler);
        // Most endpoints have one, and a list of its own choice would begin with four.
        self.attachments.reserve_exact(1);
        self.attachments.push(attachment);
        self.stats.attachments += 1;
        Ok(())
    }

    /// Makes room: a new connection is likelier to work than one that has long been silent, and nothing
    /// is lost with that.
    fn release_most_silent(&mut self) {
        let idle = self.attachments.iter();
        let idle = idle.filter(|attachment| Some(attachment.id) != self.current);
        let most_silent =
            idle.min_by_key(|attachment| (attachment.last_received(), attachment.id.0));
        if let Some(id) = most_silent.map(|attachment| attachment.id) {
            self.release(id, DetachReason::Superseded);
        }
    }

    /// A transport has ended, or is being taken away. Unknown ids are ignored: the session may
    /// have released the transport itself.
    pub fn detach(&mut self, id: AttachmentId, reason: DetachReason) {
        let Some(index) = self.attachments.iter().position(|a| a.id == id) else {
            return;
        };
        self.attachments.swap_remove(index);
        if self.current != Some(id) {
            self.report_standby();
            if self.attachments.is_empty() && self.life != Life::Closed {
                self.push_event(Event::AttachFailed { reason });
            }
            return;
        }
        let next = self
            .attachments
            .iter()
            .filter(|a| a.is_ready())
            .max_by_key(|a| a.rank);
        match next.map(|attachment| attachment.id) {
            Some(next) => self.switch_to(next),
            None => {
                self.current = None;
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
        buffer.set_reachable(self.current.is_some());
        if self.config.offline_policy == OfflinePolicy::DropOldest && self.current.is_none() {
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
        for attachment in &mut self.attachments {
            attachment.due = PendingControl::default();
            attachment.due.close = report;
            attachment.closing = report;
        }
        if report == Some(CloseCode::Done)
            && let Some(current) = self.current
            && let Some(attachment) = self.attachment(current)
        {
            // What has arrived counts: the peer must not take it for lost.
            attachment.due.all_positions = true;
        }
        if report.is_none() {
            self.leave();
        }
    }

    /// The peer has closed the session: only its `Close` remains to be acknowledged, on transports
    /// that lose frames.
    fn leave(&mut self) {
        let mut left = Vec::new();
        for attachment in &mut self.attachments {
            if attachment.is_reliable() {
                left.push(attachment.id);
            } else {
                attachment.due = PendingControl {
                    close_received: true,
                    ..PendingControl::default()
                };
            }
        }
        for id in left {
            self.release(id, DetachReason::Closed);
        }
    }

    /// Takes the messages that have arrived, in the order of their lanes.
    pub fn take_messages(&mut self) -> impl Iterator<Item = Message> {
        let batches = self.take_batches();
        batches.flat_map(|(lane, run)| run.into_messages(lane))
    }

    /// Takes the messages that have arrived, in batches that are not copied, in the order of their
    /// lanes.
    pub fn take_batches(
        &mut self,
    ) -> std::collections::vec_deque::Drain<'_, (LaneId, MessageBatch)> {
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
        let SessionConfig {
            heartbeat,
            silence_max,
            ..
        } = self.config;
        let give_up_at = match self.life {
            Life::Closing { give_up_at } => Some(give_up_at),
            Life::Open | Life::Closed => None,
        };
        self.attachments
            .iter()
            .map(|attachment| put_off(attachment.heartbeat_at(heartbeat, silence_max)))
            .chain(self.attachments.iter().filter_map(Attachment::timeout))
            .chain(self.receiving.acks.timeout(&put_off))
            .chain(give_up_at)
            .min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let SessionConfig {
            heartbeat,
            silence_max,
            ..
        } = self.config;
        let mut silent = Vec::new();
        let mut lost = Vec::new();
        for attachment in &mut self.attachments {
            if attachment.handle_timeout(now, heartbeat, silence_max) {
                silent.push(attachment.id);
            } else if let Some(recovery) = &mut attachment.recovery {
                lost.push((attachment.id, recovery.handle_timeout(now)));
            }
        }
        for (id, outcome) in lost {
            self.recover(id, &outcome);
        }
        for id in silent {
            self.release(id, DetachReason::Silent);
        }
        if let Life::Closing { give_up_at } = self.life
            && now >= give_up_at
        {
            self.end(CloseReason::Aborted, Some(CloseCode::Aborted));
        }
        if self.receiving.acks.handle_timeout(now)
            && let Some(id) = self.current
            && let Some(attachment) = self.attachment(id)
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

    fn attachment(&mut self, id: AttachmentId) -> Option<&mut Attachment> {
        self.attachments.iter_mut().find(|a| a.id == id)
    }

    /// The transport that carries the messages now.
    #[must_use]
    pub const fn current(&self) -> Option<AttachmentId> {
        self.current
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
