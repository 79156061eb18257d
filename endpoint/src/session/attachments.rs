//! The transports of a session: which one carries the data, which one stands by, and which are
//! superseded.

use std::time::Duration;

use selvedge_transport::{Instant, Role};

use super::introduction::PATHS_MAX;
use crate::attachment::{Attachment, PendingControl, Rank};
use crate::event::AttachmentId;
use crate::recovery::Outcome;
use crate::scheduler::Scheduler;
use crate::varint::VARINT_MAX;
use crate::wire::CloseCode;

/// How many transports a session holds at once: the live one, its successor, and those of a
/// simultaneous dial.
pub const ATTACHMENTS_MAX: usize = 4;

/// The attached transports, and the choice among them.
#[derive(Debug)]
pub(super) struct Attachments {
    list: Vec<Attachment>,
    /// The transport that carries the data.
    current: Option<AttachmentId>,
    /// When the first frame arrived on the current transport after it became the current one.
    current_received: Option<Instant>,
    /// The transport that carries the redundant lanes beside the current one, as last reported.
    standby: Option<AttachmentId>,
    /// How many transports are used at a time: what this side or the peer wants.
    paths_wanted: usize,
    epoch_max: u64,
    local_is_smaller: bool,
}

/// What part of the lanes a transport carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    All,
    Redundant,
}

/// What a transport is for when its introduction is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttachmentUse {
    Current,
    Standby,
    Superseded,
}

/// Which transport was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// The current one; another one, if there is one, must become the current one.
    Current(Option<AttachmentId>),
    Other,
}

impl Attachments {
    pub(super) const fn new(local_is_smaller: bool, paths_wanted: usize) -> Self {
        Self {
            list: Vec::new(),
            current: None,
            current_received: None,
            standby: None,
            paths_wanted,
            epoch_max: 0,
            local_is_smaller,
        }
    }

    pub(super) fn add(
        &mut self,
        now: Instant,
        id: AttachmentId,
        role: Role,
        reliable: bool,
        scheduler: Scheduler,
    ) {
        if role == Role::Dialer {
            // A peer may have used the highest number that there is.
            self.epoch_max = (self.epoch_max + 1).min(VARINT_MAX);
        }
        let dialed_by_smaller = (role == Role::Dialer) == self.local_is_smaller;
        let rank = Rank {
            epoch: self.epoch_max,
            dialed_by_smaller,
        };
        let attachment = Attachment::new(now, id, role, reliable, rank, scheduler);
        // Most endpoints have one, and the list would otherwise begin with a capacity of four.
        self.list.reserve_exact(1);
        self.list.push(attachment);
    }

    /// The transport to release before another one is added, if there are too many: a new
    /// connection is likelier to work than one that has long been silent, and no data is lost with
    /// that.
    pub(super) fn to_evict(&self) -> Option<AttachmentId> {
        if self.list.len() < ATTACHMENTS_MAX {
            return None;
        }
        let idle = self.list.iter();
        let idle = idle.filter(|attachment| Some(attachment.id) != self.current);
        let most_silent =
            idle.min_by_key(|attachment| (attachment.last_received(), attachment.id.0));
        most_silent.map(|attachment| attachment.id)
    }

    /// Removes a transport; `None` if it is not attached. Without a successor, there is no current
    /// transport from now on.
    pub(super) fn remove(&mut self, id: AttachmentId) -> Option<Removal> {
        let index = self.index_of(id)?;
        self.list.swap_remove(index);
        if self.current != Some(id) {
            return Some(Removal::Other);
        }
        let ready = self.list.iter().filter(|a| a.is_ready());
        let next = ready.max_by_key(|a| a.rank).map(|a| a.id);
        if next.is_none() {
            self.current = None;
        }
        Some(Removal::Current(next))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn get(&self, id: AttachmentId) -> Option<&Attachment> {
        self.list.iter().find(|a| a.id == id)
    }

    pub(super) fn get_mut(&mut self, id: AttachmentId) -> Option<&mut Attachment> {
        self.list.iter_mut().find(|a| a.id == id)
    }

    #[cfg(test)]
    pub(super) fn first(&self) -> Option<&Attachment> {
        self.list.first()
    }

    /// The index of a transport, valid until one is removed.
    pub(super) fn index_of(&self, id: AttachmentId) -> Option<usize> {
        self.list.iter().position(|a| a.id == id)
    }

    pub(super) fn at(&mut self, index: usize) -> &mut Attachment {
        &mut self.list[index]
    }

    pub(super) const fn current(&self) -> Option<AttachmentId> {
        self.current
    }

    pub(super) fn current_mut(&mut self) -> Option<&mut Attachment> {
        let current = self.current?;
        self.get_mut(current)
    }

    pub(super) fn is_current_reliable(&self) -> bool {
        let current = self.current.and_then(|current| self.get(current));
        current.is_some_and(Attachment::is_reliable)
    }

    pub(super) const fn standby(&self) -> Option<AttachmentId> {
        self.standby
    }

    /// What a transport carries.
    pub(super) fn share_of(&self, id: AttachmentId) -> Option<Share> {
        if self.current == Some(id) {
            Some(Share::All)
        } else if self.standby == Some(id) {
            Some(Share::Redundant)
        } else {
            None
        }
    }

    /// Makes a transport the current one. Returns the one before.
    pub(super) const fn set_current(&mut self, id: AttachmentId) -> Option<AttachmentId> {
        self.current_received = None;
        self.current.replace(id)
    }

    /// The peer wants so many transports to be used at a time.
    pub(super) fn want_paths(&mut self, paths: u8) {
        self.paths_wanted = self.paths_wanted.max(usize::from(paths).min(PATHS_MAX));
    }

    /// The peer's `Hello` on a transport was accepted. Returns whether data may be sent there now.
    pub(super) fn accept_hello(
        &mut self,
        now: Instant,
        id: AttachmentId,
        epoch: u64,
        has_lost_state: bool,
    ) -> bool {
        let Some(attachment) = self.list.iter_mut().find(|a| a.id == id) else {
            return false;
        };
        if attachment.role == Role::Acceptor {
            self.epoch_max = self.epoch_max.max(epoch);
        }
        attachment.accept_hello(now, epoch, has_lost_state)
    }

    /// What a ready transport of that rank is for.
    pub(super) fn use_of(&self, rank: Rank) -> AttachmentUse {
        let better = |a: &&Attachment| a.is_ready() && a.rank > rank;
        match self.list.iter().filter(better).count() {
            0 => AttachmentUse::Current,
            ahead if ahead < self.paths_wanted => AttachmentUse::Standby,
            _ => AttachmentUse::Superseded,
        }
    }

    /// Chooses the transport that carries the redundant lanes beside the current one: of those that
    /// are known to be alive the highest, or else the highest. Returns whether it changed.
    pub(super) fn update_standby(&mut self, heartbeat: Duration) -> bool {
        let standby = self.find_standby(heartbeat);
        let changed = self.standby != standby;
        self.standby = standby;
        changed
    }

    fn find_standby(&self, heartbeat: Duration) -> Option<AttachmentId> {
        if self.paths_wanted < 2 || self.current.is_none() {
            return None;
        }
        self.ready_others()
            .max_by_key(|a| (self.is_known_alive(a, heartbeat), a.rank))
            .map(|attachment| attachment.id)
    }

    /// The ready transports beside the current one.
    fn ready_others(&self) -> impl Iterator<Item = &Attachment> + Clone {
        let others = self.list.iter();
        others.filter(|a| a.is_ready() && Some(a.id) != self.current)
    }

    /// Whether a frame arrived on a transport so long after the first one on the current transport
    /// that it cannot have been in flight before: the end of the transport may be known to the peer
    /// alone.
    fn is_known_alive(&self, attachment: &Attachment, heartbeat: Duration) -> bool {
        let is_later = |at| attachment.received_since(at + heartbeat / 2);
        self.current_received.is_some_and(is_later)
    }

    /// A frame has arrived on `id`. Returns whether there may be superseded transports to release.
    pub(super) fn record_received(&mut self, now: Instant, id: AttachmentId) -> bool {
        let Some(current) = self.current else {
            return false;
        };
        if id == current {
            self.current_received.get_or_insert(now);
        }
        // The dialer releases them when the peer has answered on the new transport: it left the old.
        self.current_received.is_some() && self.list.len() > self.paths_wanted
    }

    /// Every ready transport that is not used; but not `receiving`, on which a frame has just
    /// arrived.
    ///
    /// Where standby paths are kept, none is superseded by one that is not known to be alive: the
    /// peer may have lost that one long ago, and count on the other. A live transport receives
    /// a frame within a heartbeat, and a dead one ends by its silence. Among the live ones the rank
    /// decides, so both sides keep the same.
    pub(super) fn superseded(
        &self,
        heartbeat: Duration,
        receiving: Option<AttachmentId>,
    ) -> Vec<AttachmentId> {
        let is_superseded = |it: &&Attachment| {
            let above = self.ready_others().filter(|a| a.rank > it.rank);
            let alive = above.filter(|a| self.is_known_alive(a, heartbeat));
            alive.count() + 1 >= self.paths_wanted
        };
        let unused = self.ready_others().filter(is_superseded).map(|a| a.id);
        unused.filter(|&id| Some(id) != receiving).collect()
    }

    /// Every transport but one.
    pub(super) fn others(&self, keep: AttachmentId) -> Vec<AttachmentId> {
        let ids = self.list.iter().map(|a| a.id);
        ids.filter(|&id| id != keep).collect()
    }

    /// The session has ended: every transport sends a `Close` with that code, if any, and nothing
    /// else.
    pub(super) fn close(&mut self, code: Option<CloseCode>) {
        for attachment in &mut self.list {
            attachment.due = PendingControl::default();
            attachment.due.close = code;
            attachment.closing = code;
        }
        if code == Some(CloseCode::Done)
            && let Some(attachment) = self.current_mut()
        {
            // The peer must not report as undelivered what has arrived.
            attachment.due.all_positions = true;
        }
    }

    /// The peer has closed the session: only its `Close` remains to be acknowledged, on transports
    /// that lose frames. Returns the others, to be released.
    pub(super) fn finish(&mut self) -> Vec<AttachmentId> {
        let mut finished = Vec::new();
        for attachment in &mut self.list {
            if attachment.is_reliable() {
                finished.push(attachment.id);
            } else {
                attachment.due = PendingControl {
                    close_received: true,
                    ..PendingControl::default()
                };
            }
        }
        finished
    }

    /// The earliest timer; `put_off` defers those of heartbeats.
    pub(super) fn timeout(
        &self,
        heartbeat: Duration,
        silence_max: Duration,
        put_off: impl Fn(Instant) -> Instant,
    ) -> Option<Instant> {
        let heartbeats = self.list.iter();
        let heartbeats = heartbeats.map(|a| put_off(a.heartbeat_at(heartbeat, silence_max)));
        let timeouts = self.list.iter().filter_map(Attachment::timeout);
        heartbeats.chain(timeouts).min()
    }

    /// Time has passed. Returns the transports that have been silent for too long, and what others
    /// have lost.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        heartbeat: Duration,
        silence_max: Duration,
    ) -> (Vec<AttachmentId>, Vec<(AttachmentId, Outcome)>) {
        let mut silent = Vec::new();
        let mut lost = Vec::new();
        for attachment in &mut self.list {
            if attachment.handle_timeout(now, heartbeat, silence_max) {
                silent.push(attachment.id);
            } else if let Some(recovery) = &mut attachment.recovery {
                lost.push((attachment.id, recovery.handle_timeout(now)));
            }
        }
        (silent, lost)
    }
}
