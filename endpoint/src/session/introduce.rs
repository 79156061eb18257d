//! Hello and Ready: the introduction on a transport, recognition of the peer, and the choice of the
//! transport that carries the messages.

use selvedge_transport::{Instant, Role};

use super::{FORMER_MAX, Life, Misbehaved, Session};
use crate::attachment::{Attachment, Stage};
use crate::event::{AttachmentId, CloseReason, DetachReason, Event};
use crate::version::{Incompatibility, MESSAGE_MAX, SessionAgreement, SessionOffer};
use crate::wire::{CloseCode, Hello};

/// What is known of the peer's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeerView {
    pub(super) incarnation: u64,
    pub(super) view: u64,
    pub(super) agreement: SessionAgreement,
}

impl Session {
    /// The `Hello` to send on an attachment now.
    pub(super) fn hello(&self, epoch: u64) -> Hello {
        Hello {
            incarnation: self.incarnation,
            view: self.view,
            peer_incarnation: self.peer.map_or(0, |peer| peer.incarnation),
            epoch,
            message_max: self.message_max(),
            offer: self.offer,
            paths_wanted: super::paths_wanted(&self.config) as u8,
            lanes: self.receiving.positions(self.config.receive_window),
        }
    }

    /// A `Hello` has arrived on `id`.
    pub(super) fn handle_hello(
        &mut self,
        now: Instant,
        id: AttachmentId,
        hello: &Hello,
    ) -> Result<(), Misbehaved> {
        let Some(attachment) = self.attachment(id) else {
            return Ok(());
        };
        let role = attachment.role;
        match (role, attachment.stage) {
            (_, Stage::Introducing) => {}
            // Over an unreliable transport a `Hello` may be repeated; so may the answer.
            (Role::Acceptor, _) if !attachment.is_reliable() => {
                attachment.due.hello = true;
                return Ok(());
            }
            (Role::Dialer, _) if !attachment.is_reliable() => {
                attachment.due.ready = true;
                return Ok(());
            }
            (Role::Dialer | Role::Acceptor, _) => return Err(Misbehaved("greeted twice")),
        }
        let agreement = match self.negotiate(hello) {
            Ok(agreement) => agreement,
            Err(incompatibility) => {
                self.refuse(incompatibility);
                if let Some(attachment) = self.attachment(id) {
                    // A peer that knows of offers learns the range of this side before it is refused.
                    attachment.due.hello =
                        role == Role::Acceptor && hello.offer != SessionOffer::VERSION_1;
                }
                return Ok(());
            }
        };
        if self.former.contains(&hello.incarnation) {
            self.release(id, DetachReason::Superseded);
            return Ok(());
        }
        let restarted_streams = self.recognize_peer(id, hello, agreement);
        self.paths_wanted = self
            .paths_wanted
            .max(usize::from(hello.paths_wanted).min(PATHS_MAX));
        self.resume_positions(hello)?;
        match role {
            Role::Acceptor => {
                self.epoch_max = self.epoch_max.max(hello.epoch);
                if let Some(attachment) = self.attachment(id) {
                    attachment.rank.epoch = hello.epoch;
                    attachment.stage = Stage::Answered;
                    attachment.due.hello = true;
                }
            }
            Role::Dialer => {
                if let Some(attachment) = self.attachment(id) {
                    attachment.answered(now);
                    attachment.due.ready = true;
                    attachment.due.all_positions = true;
                    if restarted_streams {
                        attachment.stage = Stage::Confirming;
                        return Ok(());
                    }
                }
                self.become_ready(now, id);
            }
        }
        Ok(())
    }

    /// The version of the protocol that both sides use; `None` before the peer has introduced itself.
    #[must_use]
    pub fn version(&self) -> Option<u8> {
        self.peer.map(|peer| peer.agreement.version)
    }

    /// What a `Hello` states as the longest message.
    fn message_max(&self) -> u64 {
        (self.config.message_max as u64).min(MESSAGE_MAX)
    }

    /// What both sides use from now on.
    fn negotiate(&self, hello: &Hello) -> Result<SessionAgreement, Incompatibility> {
        let agreement = self.offer.agree(hello.offer)?;
        let (own, peer) = (self.message_max(), hello.message_max);
        match own == peer {
            true => Ok(agreement),
            false => Err(Incompatibility::MessageMax { own, peer }),
        }
    }

    /// Ends the session with a peer that it cannot exchange messages with.
    pub(super) fn refuse(&mut self, incompatibility: Incompatibility) {
        let reason = CloseReason::Incompatible(incompatibility);
        self.end(reason, Some(CloseCode::Incompatible));
    }

    /// Decides whether the peer still has its state, and restarts the streams of this side if it
    /// does not.
    ///
    /// A peer has its state as long as its incarnation is the same, unless it restarted its own
    /// streams: then its `view` is higher than the known one. A lower view belongs to a `Hello`
    /// that was sent before and arrived late. Returns whether this side restarted its streams.
    fn recognize_peer(
        &mut self,
        id: AttachmentId,
        hello: &Hello,
        agreement: SessionAgreement,
    ) -> bool {
        let met = PeerView {
            agreement,
            incarnation: hello.incarnation,
            view: hello.view,
        };
        let Some(known) = self.peer else {
            self.peer = Some(met);
            return false;
        };
        let restarted = known.incarnation != met.incarnation;
        if restarted {
            self.former.push_back(known.incarnation);
            if self.former.len() > FORMER_MAX {
                self.former.pop_front();
            }
        }
        if restarted || met.view > known.view {
            self.peer = Some(met);
            if restarted || self.has_moved() {
                self.restart_streams(id);
                return true;
            }
        }
        false
    }

    fn has_moved(&self) -> bool {
        self.sending.has_moved() || self.receiving.has_moved()
    }

    /// The peer has forgotten this session: both streams of every lane begin at 0 again.
    fn restart_streams(&mut self, keep: AttachmentId) {
        let had_moved = self.has_moved();
        self.view += 1;
        let undelivered = self.sending.restart();
        self.receiving.restart();
        let others: Vec<_> = self
            .attachments
            .iter()
            .map(|a| a.id)
            .filter(|&id| id != keep)
            .collect();
        for other in others {
            self.release(other, DetachReason::Superseded);
        }
        if let Some(attachment) = self.attachment(keep) {
            attachment.cursors.clear();
        }
        if had_moved {
            self.stats.peer_restarts += 1;
            self.push_event(Event::PeerRestarted { undelivered });
        }
    }

    /// Adopts the positions that the peer states. If they refer to another session than this one,
    /// the peer has nothing of this one yet, and its credit comes with its first acknowledgement.
    fn resume_positions(&mut self, hello: &Hello) -> Result<(), Misbehaved> {
        if hello.peer_incarnation != self.incarnation && hello.peer_incarnation != 0 {
            return Ok(());
        }
        for position in &hello.lanes {
            self.sending.acknowledge(*position)?;
        }
        Ok(())
    }

    /// The peer is known to know us: data may flow.
    pub(super) fn become_ready(&mut self, now: Instant, id: AttachmentId) {
        let cursors = self.sending.cursors();
        let Some(attachment) = self.attachment(id) else {
            return;
        };
        attachment.became_ready();
        attachment.cursors = cursors;
        attachment.record_received(now);
        let rank = attachment.rank;
        let better = |a: &&Attachment| a.is_ready() && a.rank > rank;
        if self.life == Life::Closed {
            return;
        }
        match self.attachments.iter().filter(better).count() {
            0 => self.switch_to(id),
            ahead if ahead < self.paths_wanted => self.report_standby(),
            _ => self.release(id, DetachReason::Superseded),
        }
    }

    /// From now on `id` carries the data, from what is not acknowledged on, or, if it has carried
    /// some before, from where it stands. The receiver drops what it has.
    pub(super) fn switch_to(&mut self, id: AttachmentId) {
        let before = self.current.replace(id);
        self.current_received = None;
        let Some(attachment) = self.attachments.iter_mut().find(|a| a.id == id) else {
            return;
        };
        // Positions that were sent on another transport since the `Hello` may be lost with it.
        attachment.due.all_positions = true;
        // And what was asked there.
        self.sending.forget_ack_requests();
        attachment.due.ask = self.sending.needs_ack_request();
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

    /// The transport that carries the redundant lanes beside the current one: of those that are known
    /// to live the highest, or else the highest.
    pub(super) fn find_standby(&self) -> Option<AttachmentId> {
        if self.paths_wanted < 2 || self.current.is_none() {
            return None;
        }
        let others = self.attachments.iter();
        let others = others.filter(|a| a.is_ready() && Some(a.id) != self.current);
        others
            .max_by_key(|a| (self.is_known_alive(a), a.rank))
            .map(|attachment| attachment.id)
    }

    /// Whether a frame arrived on a transport so long after the first one on the current transport
    /// that it cannot have been in flight before: the end of the transport may be known to the peer
    /// alone.
    fn is_known_alive(&self, attachment: &Attachment) -> bool {
        let is_later = |at| attachment.received_since(at + self.config.heartbeat / 2);
        self.current_received.is_some_and(is_later)
    }

    pub(super) fn report_standby(&mut self) {
        let standby = self.find_standby();
        if self.standby != standby && self.life != Life::Closed {
            self.standby = standby;
            self.push_event(Event::Redundant {
                attachment: standby,
            });
        }
    }

    /// A frame has come on `id`.
    pub(super) fn received_on(&mut self, now: Instant, id: AttachmentId) {
        let Some(current) = self.current else {
            return;
        };
        if id == current {
            self.current_received.get_or_insert(now);
        }
        // The dialer's turn comes when the peer has answered on the new transport: it left the old.
        if self.current_received.is_some() && self.attachments.len() > self.paths_wanted {
            self.release_superseded(Some(id));
            self.report_standby();
        }
    }

    /// Releases every ready transport that is not used, once both sides have left it; but not
    /// `hearing`, on which a frame has just arrived.
    ///
    /// Where standby paths are kept, none is released in favour of one that is not known to be
    /// alive: the peer may have lost that one long ago, and count on the other. A live transport
    /// receives something within a heartbeat, and a dead one ends by its silence. Among the live
    /// ones the rank decides, so both sides keep the same.
    fn release_superseded(&mut self, hearing: Option<AttachmentId>) {
        let others = self.attachments.iter();
        let others = others.filter(|a| a.is_ready() && Some(a.id) != self.current);
        let is_superseded = |it: &&Attachment| {
            let above = others.clone().filter(|a| a.rank > it.rank);
            above.filter(|a| self.is_known_alive(a)).count() + 1 >= self.paths_wanted
        };
        let left = others.clone().filter(is_superseded).map(|a| a.id);
        let left: Vec<_> = left.filter(|&id| Some(id) != hearing).collect();
        for id in left {
            self.release(id, DetachReason::Superseded);
        }
    }
}

/// How many transports a peer may want to be used at a time.
const PATHS_MAX: usize = 2;
