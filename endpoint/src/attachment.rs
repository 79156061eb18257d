//! One transport as a session sees it: the introduction, signs of life, control frames due.

use std::time::Duration;

use bytes::Bytes;
use selvedge_transport::{Frame, Instant, Role};

use crate::error::Misbehaved;
use crate::event::AttachmentId;
use crate::recovery::{Content, Outcome, Recovery};
use crate::scheduler::Scheduler;
use crate::send_lane::Cursor;
use crate::wire::{
    self, CloseCode, DATA_HEADER_LEN_MAX, PACKET_HEADER_LEN_MAX, PacketAck, Received,
};

/// How far the introduction on a transport has come.
///
/// ```text
///   dialer    Introducing ── Hello received ─────────────────────────────────▶ Ready
///                 └─ Hello of a peer without state ─▶ Confirming ── Ready received ──▲
///   acceptor  Introducing ── Hello received ─▶ Answered ── Ready received ─────▶ Ready
/// ```
/// A side sends data only once it knows that the peer has its `Hello`: streams of a transport keep
/// no order between them, and data that overtook a `Hello` could not be assigned to a session. A
/// dialer that restarts its streams states that in its `Ready`, after its `Hello`, and waits until
/// the peer has that, too. An acceptor sends nothing before: a peer that learned of the restart later
/// would take it for another one, and discard what was exchanged in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The peer's `Hello` is awaited.
    Introducing,
    /// Acceptor only: the own `Hello` is on its way.
    Answered,
    /// Dialer only: waits until the peer has confirmed that the streams of this side restart.
    Confirming,
    /// Data may be sent.
    Ready,
}

/// Which of two transports carries the data: the one dialed later; of two dialed at once, the one
/// dialed by the node with the smaller id. Both sides compute the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) epoch: u64,
    pub(crate) dialed_by_smaller: bool,
}

/// Control frames that wait for room. Flags and latest values: a full transport costs no memory.
#[derive(Debug, Default)]
pub(crate) struct PendingControl {
    pub(crate) hello: bool,
    pub(crate) ready: bool,
    pub(crate) ping: Option<u64>,
    pub(crate) pong: Option<u64>,
    /// An acknowledgement must be requested from the peer.
    pub(crate) ack_request: bool,
    /// The positions of all lanes, changed or not.
    pub(crate) all_positions: bool,
    pub(crate) close: Option<CloseCode>,
    /// A `Close` has arrived: acknowledge it, then release the transport.
    pub(crate) close_received: bool,
}

impl PendingControl {
    pub(crate) const fn any(&self) -> bool {
        self.hello
            || self.ready
            || self.ping.is_some()
            || self.pong.is_some()
            || self.ack_request
            || self.all_positions
            || self.close.is_some()
            || self.close_received
    }
}

/// The control frame that an attachment sends next.
#[derive(Debug)]
pub(crate) enum NextControl {
    PacketAck(PacketAck),
    Hello {
        epoch: u64,
    },
    Pong(u64),
    /// None: the transport must be released.
    Release,
    Ready,
    Positions,
    Ping(u64),
    Close(CloseCode),
}

/// A frame that has arrived.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// On a transport that loses frames.
    pub(crate) number: Option<u64>,
    pub(crate) received: Received,
    pub(crate) payload: Bytes,
}

#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) id: AttachmentId,
    pub(crate) role: Role,
    pub(crate) stage: Stage,
    pub(crate) rank: Rank,
    pub(crate) due: PendingControl,
    /// The code of the `Close` that was sent, for its retransmission on a transport that loses
    /// frames.
    pub(crate) closing: Option<CloseCode>,
    pub(crate) scheduler: Scheduler,
    /// How far it has brought each lane.
    pub(crate) cursors: Vec<Cursor>,
    /// On a transport that loses frames.
    pub(crate) recovery: Option<Box<Recovery>>,
    /// When the first `Hello` was sent, and how many were: the answer to the only one yields a
    /// round trip time.
    hello_sent: Option<(Instant, u32)>,
    last_received: Instant,
    last_ping: Option<Instant>,
    /// When an unreliable transport repeats its introduction.
    repeat_at: Option<Instant>,
}

/// How often an introduction is repeated where it may be lost: a few round trips of most paths.
const REPEAT_INTERVAL: Duration = Duration::from_millis(200);

impl Attachment {
    pub(crate) fn new(
        now: Instant,
        id: AttachmentId,
        role: Role,
        reliable: bool,
        rank: Rank,
        scheduler: Scheduler,
    ) -> Self {
        let is_dialer = role == Role::Dialer;
        Self {
            id,
            role,
            stage: Stage::Introducing,
            rank,
            due: PendingControl {
                hello: is_dialer,
                ..PendingControl::default()
            },
            closing: None,
            scheduler,
            cursors: Vec::new(),
            recovery: (!reliable).then(|| Box::new(Recovery::new(now))),
            hello_sent: None,
            last_received: now,
            last_ping: None,
            repeat_at: (is_dialer && !reliable).then_some(now + REPEAT_INTERVAL),
        }
    }

    pub(crate) const fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    pub(crate) const fn is_reliable(&self) -> bool {
        self.recovery.is_none()
    }

    /// Numbers a frame that may get lost, so that its fate becomes known.
    #[inline]
    pub(crate) fn number(&mut self, now: Instant, mut frame: Frame, content: Content) -> Frame {
        if let Some(recovery) = &mut self.recovery {
            frame.header = wire::packet(recovery.next_number(), &frame.header);
            recovery.sent(now, frame.len(), content);
        }
        frame
    }

    /// Takes back what was lost. Returns how many bytes of lanes are sent again.
    fn again(&mut self, contents: &[Content]) -> u64 {
        let mut repeated = 0;
        for content in contents {
            match *content {
                Content::Data { lane, offset, len } => {
                    if let Some(cursor) = self.cursors.get_mut(lane.index()) {
                        cursor.mark_lost(offset, len);
                        repeated += len as u64;
                    }
                }
                Content::Positions => self.due.all_positions = true,
                Content::Ready => self.due.ready = true,
                Content::Close => self.due.close = self.closing,
                Content::Once => {}
            }
        }
        repeated
    }

    /// Takes the next control frame out of those that are due. `is_current` is whether this
    /// attachment carries the data, `ack_is_urgent` whether an acknowledgement must be sent at once.
    #[inline]
    pub(crate) fn next_control(
        &mut self,
        now: Instant,
        is_current: bool,
        ack_is_urgent: bool,
    ) -> Option<NextControl> {
        if let Some(recovery) = &mut self.recovery
            && let Some(seen) = recovery.take_due_ack(now)
        {
            return Some(NextControl::PacketAck(seen));
        }
        if !self.due.any() && !ack_is_urgent {
            return None;
        }
        if std::mem::take(&mut self.due.hello) {
            self.record_hello_sent(now);
            let epoch = self.rank.epoch;
            return Some(NextControl::Hello { epoch });
        }
        if let Some(nonce) = self.due.pong.take() {
            return Some(NextControl::Pong(nonce));
        }
        if self.due.close_received {
            return Some(NextControl::Release);
        }
        let recovery = self.recovery.as_ref();
        // The rest is numbered.
        if recovery.is_some_and(|it| it.is_crowded()) {
            return None;
        }
        if std::mem::take(&mut self.due.ready) {
            return Some(NextControl::Ready);
        }
        if self.due.close.is_some() && std::mem::take(&mut self.due.all_positions) {
            return Some(NextControl::Positions);
        }
        if let Some(nonce) = self.due.ping.take() {
            return Some(NextControl::Ping(nonce));
        }
        if self.due.close == Some(CloseCode::Done) && recovery.is_some_and(|it| !it.is_quiet()) {
            // The `Close` must not overtake the acknowledgements before it.
            return None;
        }
        if let Some(code) = self.due.close.take() {
            return Some(NextControl::Close(code));
        }
        self.due.all_positions = false;
        // Acknowledgements are sent on the current attachment only: one lost elsewhere would count
        // as sent.
        is_current.then_some(NextControl::Positions)
    }

    /// How many bytes of a lane the next frame may hold; `None` if no frame may be sent.
    #[inline]
    pub(crate) fn data_len_max(&mut self, now: Instant, frame_max: usize) -> Option<usize> {
        let len_max = frame_max.checked_sub(DATA_HEADER_LEN_MAX)?;
        let Some(recovery) = &mut self.recovery else {
            return Some(len_max);
        };
        if !recovery.may_send(now) {
            return None;
        }
        let len_max = len_max.min(recovery.frame_max(now));
        len_max.checked_sub(PACKET_HEADER_LEN_MAX)
    }

    /// Decodes a frame that has arrived. `None` if it overtook the `Hello` of the peer, as on a lossy
    /// transport, which brings it again.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        mut frame: Bytes,
    ) -> Result<Option<Arrival>, Misbehaved> {
        self.last_received = now;
        let malformed = |_| Misbehaved("sent a malformed frame");
        let number = wire::take_number(&mut frame).map_err(malformed)?;
        let received = wire::decode(&mut frame).map_err(malformed)?;
        self.check_number(number, &received)?;
        if self.stage == Stage::Introducing && !received.introduces() {
            return match self.is_reliable() {
                true => Err(Misbehaved("spoke before it greeted")),
                false => Ok(None),
            };
        }
        Ok(Some(Arrival {
            number,
            received,
            payload: frame,
        }))
    }

    /// Checks that a received frame has a packet number if, and only if, it must have one.
    #[inline]
    fn check_number(&self, number: Option<u64>, received: &Received) -> Result<(), Misbehaved> {
        let is_reliable = self.is_reliable();
        if is_reliable && (number.is_some() || matches!(received, Received::PacketAck(_))) {
            return Err(Misbehaved("counted packets on a transport that loses none"));
        }
        if !is_reliable && number.is_none() && received.needs_number() {
            return Err(Misbehaved("sent what may get lost without a number"));
        }
        Ok(())
    }

    /// The session has kept a numbered frame.
    pub(crate) fn record_kept(&mut self, now: Instant, number: u64) {
        if let Some(recovery) = &mut self.recovery {
            recovery.arrived(now, number);
            if self.due.close_received {
                recovery.ack_now(now);
            }
        }
    }

    /// A `Hello` has arrived. Returns whether it is a repeated one, which is answered again: it may
    /// be repeated over an unreliable transport, and so may the answer.
    pub(crate) fn is_repeated_hello(&mut self) -> Result<bool, Misbehaved> {
        match (self.role, self.stage) {
            (_, Stage::Introducing) => return Ok(false),
            (Role::Acceptor, _) if !self.is_reliable() => self.due.hello = true,
            (Role::Dialer, _) if !self.is_reliable() => self.due.ready = true,
            (Role::Dialer | Role::Acceptor, _) => return Err(Misbehaved("greeted twice")),
        }
        Ok(true)
    }

    /// The session has accepted the peer's `Hello`. Returns whether data may be sent now.
    pub(crate) fn accept_hello(
        &mut self,
        now: Instant,
        epoch: u64,
        has_restarted_streams: bool,
    ) -> bool {
        match self.role {
            Role::Acceptor => {
                self.rank.epoch = epoch;
                self.stage = Stage::Answered;
                self.due.hello = true;
                false
            }
            Role::Dialer => {
                self.answered(now);
                self.due.ready = true;
                self.due.all_positions = true;
                if has_restarted_streams {
                    self.stage = Stage::Confirming;
                }
                !has_restarted_streams
            }
        }
    }

    /// A `Ready` has arrived. Returns whether data may be sent now, and could not be before.
    pub(crate) fn handle_ready(&mut self, now: Instant) -> bool {
        match (self.role, self.stage) {
            (Role::Acceptor, Stage::Answered) => {
                self.answered(now);
                self.due.ready = true;
                true
            }
            (Role::Acceptor, _) => {
                self.due.ready = true;
                false
            }
            (Role::Dialer, stage) => stage == Stage::Confirming,
        }
    }

    /// Schedules what recovery found to be lost for retransmission. Returns how many bytes of lanes
    /// are sent again.
    pub(crate) fn recover(&mut self, outcome: &Outcome) -> u64 {
        if outcome.is_probe && self.is_ready() {
            self.due.ping.get_or_insert(0);
        }
        self.again(&outcome.retransmit)
    }

    pub(crate) const fn record_received(&mut self, now: Instant) {
        self.last_received = now;
    }

    pub(crate) const fn last_received(&self) -> Instant {
        self.last_received
    }

    /// Whether anything has come at that time or later.
    pub(crate) fn received_since(&self, at: Instant) -> bool {
        self.last_received >= at
    }

    /// A `Hello` is sent.
    fn record_hello_sent(&mut self, now: Instant) {
        self.hello_sent = Some(
            self.hello_sent
                .map_or((now, 1), |(at, count)| (at, count + 1)),
        );
    }

    /// The `Hello` has been answered.
    fn answered(&mut self, now: Instant) {
        if let Some((at, 1)) = self.hello_sent
            && let Some(recovery) = &mut self.recovery
        {
            recovery.set_initial_rtt(now.saturating_duration_since(at));
        }
    }

    pub(crate) const fn became_ready(&mut self) {
        self.stage = Stage::Ready;
        self.repeat_at = None;
    }

    /// When a ping is due.
    ///
    /// One ping and its pong show both sides that the other is alive, so one side of an idle pair
    /// is enough: the acceptor waits longer than the dialer, by as much as ticks and a round trip
    /// may take.
    fn ping_at(&self, heartbeat: Duration, silence_max: Duration) -> Instant {
        let quiet_since = self
            .last_ping
            .map_or(self.last_received, |at| at.max(self.last_received));
        let patience = match self.role {
            Role::Dialer => heartbeat,
            Role::Acceptor => heartbeat + silence_max.saturating_sub(heartbeat) / 8,
        };
        quiet_since + patience
    }

    /// When a ping is due, or the silence too long.
    pub(crate) fn heartbeat_at(&self, heartbeat: Duration, silence_max: Duration) -> Instant {
        let ping = self.ping_at(heartbeat, silence_max);
        ping.min(self.last_received + silence_max)
    }

    /// When else to look again: the introduction repeats, or what was sent may be lost.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        let recovery = self.recovery.as_ref().and_then(|it| it.timeout());
        self.repeat_at.into_iter().chain(recovery).min()
    }

    /// Time has passed. Returns whether the peer has been silent for too long.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        heartbeat: Duration,
        silence_max: Duration,
    ) -> bool {
        if now >= self.last_received + silence_max {
            return true;
        }
        if self.repeat_at.is_some_and(|at| now >= at) {
            self.due.hello = true;
            self.repeat_at = Some(now + REPEAT_INTERVAL);
        }
        if now >= self.ping_at(heartbeat, silence_max) {
            self.last_ping = Some(now);
            if self.is_ready() {
                self.due.ping.get_or_insert(0);
            }
        }
        false
    }
}
