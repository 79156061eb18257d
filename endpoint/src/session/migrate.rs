//! Changes of transports: one comes, ends or is superseded, or another one carries the data.

use selvedge_transport::{Instant, Role};

use super::attachments::{AttachmentUse, Attachments, Removal};
use super::introduction::Introduction;
use super::output_queue::OutputQueue;
use super::receiving::ReceiveSide;
use super::sending::SendSide;
use crate::config::SessionConfig;
use crate::error::Misbehaved;
use crate::event::{AttachmentId, DetachReason, Event};
use crate::recovery::Outcome;
use crate::stats::EndpointStats;
use crate::wire::Hello;

/// The parts of a session that a change of its transports concerns. It lives for one change.
#[derive(Debug)]
pub(super) struct Migrator<'a> {
    pub(super) config: &'a SessionConfig,
    pub(super) is_closed: bool,
    pub(super) introduction: &'a mut Introduction,
    pub(super) attachments: &'a mut Attachments,
    pub(super) sending: &'a mut SendSide,
    pub(super) receiving: &'a mut ReceiveSide,
    pub(super) outputs: &'a mut OutputQueue,
    pub(super) stats: &'a mut EndpointStats,
}

impl Migrator<'_> {
    /// A transport has ended, or is being taken away. Unknown ids are ignored.
    pub(super) fn detach(&mut self, id: AttachmentId, reason: DetachReason) {
        match self.attachments.remove(id) {
            None => return,
            Some(Removal::Other) => {
                self.report_standby();
                if self.attachments.is_empty() && !self.is_closed {
                    self.outputs.event(Event::AttachFailed { reason });
                }
                return;
            }
            Some(Removal::Current(Some(next))) => self.switch_to(next),
            Some(Removal::Current(None)) => {
                if !self.is_closed {
                    self.outputs.event(Event::Detached { reason });
                }
            }
        }
        self.report_standby();
    }

    /// Releases a transport: the driver is requested to close it.
    pub(super) fn release(&mut self, id: AttachmentId, reason: DetachReason) {
        self.outputs.release(id, reason.clone());
        self.detach(id, reason);
    }

    pub(super) fn release_all(&mut self, ids: Vec<AttachmentId>, reason: &DetachReason) {
        for id in ids {
            self.release(id, reason.clone());
        }
    }

    /// The peer has lost the state of this session: both streams of every lane begin at 0 again.
    fn restart_streams(&mut self, keep: AttachmentId) {
        let had_moved = self.sending.has_moved() || self.receiving.has_moved();
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
            self.outputs.event(Event::PeerRestarted { undelivered });
        }
    }

    /// The peer is known to have the `Hello` of this side: data may be sent.
    pub(super) fn become_ready(&mut self, now: Instant, id: AttachmentId) {
        let Some(attachment) = self.attachments.get_mut(id) else {
            return;
        };
        attachment.became_ready();
        attachment.cursors = self.sending.cursors();
        attachment.record_received(now);
        let rank = attachment.rank;
        if self.is_closed {
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
        let is_acceptor = attachment.role == Role::Acceptor;
        let resent_bytes = self.sending.resume_on(attachment);
        self.stats.bytes_resent += resent_bytes;
        self.outputs.event(match before {
            None => Event::Attached { attachment: id },
            Some(_) => Event::Moved { attachment: id },
        });
        self.outputs.dropped(self.sending.take_dropped());
        if resent_bytes > 0 {
            self.outputs.event(Event::Resumed { resent_bytes });
        }
        if is_acceptor {
            // The dialer switched before it sent Ready: neither side sends on the others any more.
            self.release_superseded(None);
        }
        self.report_standby();
    }

    fn report_standby(&mut self) {
        if !self.is_closed && self.attachments.update_standby(self.config.heartbeat) {
            self.outputs.event(Event::Redundant {
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
    pub(super) fn recover(&mut self, id: AttachmentId, outcome: &Outcome) {
        self.stats.packets_lost += outcome.lost;
        if outcome.close_acked {
            self.release(id, DetachReason::Closed);
        } else if let Some(attachment) = self.attachments.get_mut(id) {
            self.stats.bytes_resent += attachment.recover(outcome);
        }
    }

    /// A frame has arrived, and may show that others are superseded.
    pub(super) fn record_received(&mut self, now: Instant, id: AttachmentId) {
        if self.attachments.record_received(now, id) {
            self.release_superseded(Some(id));
            self.report_standby();
        }
    }

    /// The peer has introduced itself on a transport.
    pub(super) fn introduce(
        &mut self,
        now: Instant,
        id: AttachmentId,
        hello: &Hello,
        has_lost_state: bool,
    ) -> Result<(), Misbehaved> {
        if has_lost_state {
            self.restart_streams(id);
        }
        self.attachments.want_paths(hello.paths_wanted);
        if self.introduction.is_addressed_by(hello) {
            for position in &hello.lanes {
                self.sending.acknowledge(*position)?;
            }
        }
        if self
            .attachments
            .accept_hello(now, id, hello.epoch, has_lost_state)
        {
            self.become_ready(now, id);
        }
        Ok(())
    }
}
