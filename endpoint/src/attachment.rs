//! One transport as a session sees it: the introduction, signs of life, control frames due.

use std::time::Duration;

use selvedge_transport::{Frame, Instant, Role};

use crate::event::AttachmentId;
use crate::recovery::{Content, Recovery};
use crate::scheduler::Scheduler;
use crate::send_lane::Cursor;
use crate::wire::{self, CloseCode};

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
    pub(crate) ask: bool,
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
            || self.ask
            || self.all_positions
            || self.close.is_some()
            || self.close_received
    }
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
    pub(crate) fn again(&mut self, contents: &[Content]) -> u64 {
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
    pub(crate) fn record_hello_sent(&mut self, now: Instant) {
        self.hello_sent = Some(
            self.hello_sent
                .map_or((now, 1), |(at, count)| (at, count + 1)),
        );
    }

    /// The `Hello` has been answered.
    pub(crate) fn answered(&mut self, now: Instant) {
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
