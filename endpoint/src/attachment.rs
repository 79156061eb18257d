//! One transport as a session sees it: the introduction, signs of life, control frames due.

use std::time::{Duration, Instant};

use selvedge_transport::Role;

use crate::event::AttachmentId;
use crate::wire::CloseCode;

/// How far the introduction on a transport has come.
///
/// ```text
///   dialer    Introducing ── Hello received ────────────▶ Ready
///   acceptor  Introducing ── Hello received ─▶ Answered ── anything received ─▶ Ready
/// ```
/// A side sends data only once it knows that the peer has its `Hello`: streams of a transport keep
/// no order between them, and data that overtook a `Hello` would belong to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The peer's `Hello` is awaited.
    Introducing,
    /// Acceptor only: the own `Hello` is on its way.
    Answered,
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
pub(crate) struct Due {
    pub(crate) hello: bool,
    pub(crate) ready: bool,
    pub(crate) ping: Option<u64>,
    pub(crate) pong: Option<u64>,
    /// The positions of all lanes, changed or not.
    pub(crate) all_positions: bool,
    pub(crate) close: Option<CloseCode>,
}

impl Due {
    pub(crate) const fn any(&self) -> bool {
        self.hello
            || self.ready
            || self.ping.is_some()
            || self.pong.is_some()
            || self.all_positions
            || self.close.is_some()
    }
}

#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) id: AttachmentId,
    pub(crate) role: Role,
    pub(crate) reliable: bool,
    pub(crate) stage: Stage,
    pub(crate) rank: Rank,
    pub(crate) due: Due,
    last_heard: Instant,
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
    ) -> Self {
        let is_dialer = role == Role::Dialer;
        Self {
            id,
            role,
            reliable,
            stage: Stage::Introducing,
            rank,
            due: Due {
                hello: is_dialer,
                ..Due::default()
            },
            last_heard: now,
            last_ping: None,
            repeat_at: (is_dialer && !reliable).then_some(now + REPEAT_INTERVAL),
        }
    }

    pub(crate) const fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    pub(crate) const fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    pub(crate) const fn became_ready(&mut self) {
        self.stage = Stage::Ready;
        self.repeat_at = None;
    }

    /// When to look again: a ping is due, the silence is too long, the introduction repeats.
    pub(crate) fn timeout(&self, heartbeat: Duration, silence_max: Duration) -> Instant {
        let ping = self
            .last_ping
            .map_or(self.last_heard, |at| at.max(self.last_heard))
            + heartbeat;
        let due = ping.min(self.last_heard + silence_max);
        self.repeat_at.map_or(due, |at| at.min(due))
    }

    /// Time has passed. Returns whether the peer has been silent for too long.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        heartbeat: Duration,
        silence_max: Duration,
    ) -> bool {
        if now >= self.last_heard + silence_max {
            return true;
        }
        if self.repeat_at.is_some_and(|at| now >= at) {
            self.due.hello = true;
            self.repeat_at = Some(now + REPEAT_INTERVAL);
        }
        let quiet_since = self
            .last_ping
            .map_or(self.last_heard, |at| at.max(self.last_heard));
        if now >= quiet_since + heartbeat {
            self.last_ping = Some(now);
            if self.is_ready() {
                self.due.ping = Some(0);
            }
        }
        false
    }
}
