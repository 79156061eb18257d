//! Hello and Ready: who is there, where do we stand, which transport carries the messages.

use selvedge_transport::{Instant, Role};

use super::{FORMER_MAX, Life, Misbehaved, Session};
use crate::attachment::{Attachment, Stage};
use crate::event::{AttachmentId, CloseReason, DetachReason, Event};
use crate::lane::LaneId;
use crate::send_lane::SendLane;
use crate::version::{Incompatibility, MESSAGE_MAX, SessionAgreement, SessionOffer};
use crate::wire::{CloseCode, Hello, LanePosition};

/// What is known of the peer's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeerView {
    pub(super) incarnation: u64,
    pub(super) view: u64,
    pub(super) agreement: SessionAgreement,
}

impl Session {
    /// The greeting to send on an attachment now. What it says does not count as told: a greeting
    /// that is repeated on a lossy transport is not read again.
    pub(super) fn hello(&self, epoch: u64) -> Hello {
        let untouched = (0, self.config.receive_window);
        let position = |number| {
            let lane = LaneId::new(number)?;
            let (expected, limit) = self
                .recv
                .get(lane.index())
                .map_or(untouched, crate::recv_lane::RecvLane::position);
            Some(LanePosition {
                lane,
                expected,
                limit,
            })
        };
        Hello {
            incarnation: self.incarnation,
            view: self.view,
            knows: self.peer.map_or(0, |peer| peer.incarnation),
            epoch,
            message_max: self.message_max(),
            offer: self.offer,
            keeps: super::keeps(&self.config) as u8,
            lanes: (0..).map_while(position).collect(),
        }
    }

    /// The peer greets on `id`.
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
            // Over an unreliable transport a greeting may be repeated; the answer may be, too.
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
        let anew = self.meet(id, hello, agreement);
        self.keeps = self.keeps.max(usize::from(hello.keeps).min(KEEPS_MAX));
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
                    if anew {
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

    /// Decides whether the peer is who it was, and begins anew if it is not.
    ///
    /// A peer is the same as long as its incarnation is, unless it says that it began anew itself:
    /// then its `view` is higher than the one known. A lower view is a greeting that was sent
    /// before and arrived late. Returns whether this side began anew.
    fn meet(&mut self, id: AttachmentId, hello: &Hello, agreement: SessionAgreement) -> bool {
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
                self.begin_anew(id);
                return true;
            }
        }
        false
    }

    fn has_moved(&self) -> bool {
        self.send.iter().any(SendLane::has_moved)
            || self.recv.iter().any(crate::recv_lane::RecvLane::has_moved)
    }

    /// The peer has forgotten this session: both streams of every lane begin at 0 again.
    fn begin_anew(&mut self, keep: AttachmentId) {
        let had_moved = self.has_moved();
        self.view += 1;
        let mut undelivered = Vec::new();
        for (number, lane) in (0..).zip(&mut self.send) {
            let Some(lane_id) = LaneId::new(number) else {
                break;
            };
            let (messages, released) = lane.restart(lane_id);
            undelivered.extend(messages);
            self.released[lane_id.index()] += released;
        }
        self.given_up += undelivered.len() as u64;
        self.recv
            .iter_mut()
            .for_each(crate::recv_lane::RecvLane::restart);
        self.best_effort_out
            .iter_mut()
            .for_each(super::BestEffortOut::restart);
        self.best_effort_in
            .iter_mut()
            .for_each(super::BestEffortIn::restart);
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

    /// Takes over what the peer says it has. If it speaks of another session than this one, it has
    /// nothing of it yet, and its credit comes with its first acknowledgement.
    fn resume_positions(&mut self, hello: &Hello) -> Result<(), Misbehaved> {
        if hello.knows != self.incarnation && hello.knows != 0 {
            return Ok(());
        }
        for position in &hello.lanes {
            self.acknowledge(*position)?;
        }
        Ok(())
    }

    /// The peer is known to know us: data may flow.
    pub(super) fn become_ready(&mut self, now: Instant, id: AttachmentId) {
        let cursors = self.send.iter().map(SendLane::cursor).collect();
        let Some(attachment) = self.attachment(id) else {
            return;
        };
        attachment.became_ready();
        attachment.cursors = cursors;
        attachment.heard(now);
        let rank = attachment.rank;
        let better = |a: &&Attachment| a.is_ready() && a.rank > rank;
        if self.life == Life::Closed {
            return;
        }
        match self.attachments.iter().filter(better).count() {
            0 => self.switch_to(id),
            ahead if ahead < self.keeps => self.tell_spare(),
            _ => self.release(id, DetachReason::Superseded),
        }
    }

    /// From now on `id` carries the data, from what is not acknowledged on, or, if it has carried
    /// some before, from where it stands. The receiver drops what it has.
    pub(super) fn switch_to(&mut self, id: AttachmentId) {
        let before = self.current.replace(id);
        self.current_heard = None;
        let Some(attachment) = self.attachments.iter_mut().find(|a| a.id == id) else {
            return;
        };
        // What was told on another transport since the greeting may be lost with it.
        attachment.due.all_positions = true;
        // And what was asked there.
        self.send.iter_mut().for_each(SendLane::forget_ask);
        attachment.due.ask = self.send.iter().any(SendLane::must_ask);
        let is_acceptor = attachment.role == Role::Acceptor;
        let repeated = self.send.iter().zip(&attachment.cursors);
        let resent_bytes: u64 = repeated.map(|(lane, cursor)| lane.repeated(cursor)).sum();
        self.stats.bytes_resent += resent_bytes;
        self.push_event(match before {
            None => Event::Attached { attachment: id },
            Some(_) => Event::Moved { attachment: id },
        });
        self.tell_dropped();
        if resent_bytes > 0 {
            self.push_event(Event::Resumed { resent_bytes });
        }
        if is_acceptor {
            // The dialer switched before it said Ready: nobody sends on the others any more.
            self.release_superseded(None);
        }
        self.tell_spare();
    }

    /// The transport that carries the redundant lanes beside the current one: of those that are known
    /// to live the highest, or else the highest.
    pub(super) fn find_spare(&self) -> Option<AttachmentId> {
        if self.keeps < 2 || self.current.is_none() {
            return None;
        }
        let others = self.attachments.iter();
        let others = others.filter(|a| a.is_ready() && Some(a.id) != self.current);
        others
            .max_by_key(|a| (self.is_known_to_live(a), a.rank))
            .map(|attachment| attachment.id)
    }

    /// Whether a transport was heard for long enough after the current one was that nothing of it can
    /// have been under way before: its end may be known to the peer alone.
    fn is_known_to_live(&self, attachment: &Attachment) -> bool {
        let is_later = |at| attachment.was_heard_since(at + self.config.heartbeat / 2);
        self.current_heard.is_some_and(is_later)
    }

    pub(super) fn tell_spare(&mut self) {
        let spare = self.find_spare();
        if self.spare != spare && self.life != Life::Closed {
            self.spare = spare;
            self.push_event(Event::Redundant { attachment: spare });
        }
    }

    /// A frame has come on `id`.
    pub(super) fn hear_on(&mut self, now: Instant, id: AttachmentId) {
        let Some(current) = self.current else {
            return;
        };
        if id == current {
            self.current_heard.get_or_insert(now);
        }
        // The dialer's turn comes when the peer has answered on the new transport: it left the old.
        if self.current_heard.is_some() && self.attachments.len() > self.keeps {
            self.release_superseded(Some(id));
            self.tell_spare();
        }
    }

    /// Lets go of every ready transport that is not used, once both sides have left them; not of
    /// `hearing`, on which a frame has come just now.
    ///
    /// Where spares are kept, none goes for the sake of one that is not known to live: the peer may
    /// have lost that long ago, and count on the other. What lives is heard within a heartbeat, and
    /// what does not ends by its silence. Among those that live the rank decides, so both sides come to
    /// keep the same.
    fn release_superseded(&mut self, hearing: Option<AttachmentId>) {
        let others = self.attachments.iter();
        let others = others.filter(|a| a.is_ready() && Some(a.id) != self.current);
        let is_superseded = |it: &&Attachment| {
            let above = others.clone().filter(|a| a.rank > it.rank);
            above.filter(|a| self.is_known_to_live(a)).count() + 1 >= self.keeps
        };
        let left = others.clone().filter(is_superseded).map(|a| a.id);
        let left: Vec<_> = left.filter(|&id| Some(id) != hearing).collect();
        for id in left {
            self.release(id, DetachReason::Superseded);
        }
    }
}

/// How many transports a peer may want to be used at a time.
const KEEPS_MAX: usize = 2;
