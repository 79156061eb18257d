//! Frames out.

use bytes::Bytes;
use selvedge_transport::{Frame, FrameHeader, FrameOrder, Instant, SendCapacity};

use super::{Life, Session};
use crate::event::{AttachmentId, DetachReason};
use crate::recovery::Content;
use crate::wire::{self, CloseCode, DATA_HEADER_LEN_MAX, PACKET_HEADER_LEN_MAX};

impl Session {
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
        let index = self.attachments.iter().position(|a| a.id == id)?;
        if !capacity.control_blocked
            && let Some(frame) = self.poll_control(now, index)
        {
            return Some(frame);
        }
        if self.life == Life::Closed {
            return None;
        }
        let share = self.share_of(id)?;
        self.poll_lane(now, index, share, capacity)
    }

    /// Whether a transport has anything to send, given unlimited room and time.
    #[must_use]
    pub fn wants_to_send(&self, id: AttachmentId) -> bool {
        let Some(attachment) = self.attachments.iter().find(|a| a.id == id) else {
            return false;
        };
        if attachment.due.any() {
            return true;
        }
        let Some(share) = self.share_of(id).filter(|_| self.life != Life::Closed) else {
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

    /// What a transport carries.
    fn share_of(&self, id: AttachmentId) -> Option<Share> {
        if self.current == Some(id) {
            Some(Share::All)
        } else if self.standby == Some(id) {
            Some(Share::Redundant)
        } else {
            None
        }
    }

    fn poll_control(&mut self, now: Instant, index: usize) -> Option<Frame> {
        let id = self.attachments[index].id;
        let is_current = self.current == Some(id);
        let urgent = is_current && self.receiving.ack_is_urgent();
        let view = self.view;
        if is_current && self.attachments[index].due.ask {
            self.request_ack_by_ping(index);
        }
        let attachment = &mut self.attachments[index];
        if let Some(recovery) = &mut attachment.recovery
            && let Some(seen) = recovery.take_due_ack(now)
        {
            return Some(control(FrameHeader::EMPTY, wire::encode_packet_ack(&seen)));
        }
        if !attachment.due.any() && !urgent {
            return None;
        }
        let due = &mut attachment.due;
        if std::mem::take(&mut due.hello) {
            attachment.record_hello_sent(now);
            let epoch = attachment.rank.epoch;
            let hello = self.hello(epoch);
            return Some(control(FrameHeader::EMPTY, wire::encode_hello(&hello)));
        }
        if let Some(nonce) = due.pong.take() {
            return Some(control(wire::pong(nonce), Bytes::new()));
        }
        if due.close_received {
            self.release(id, DetachReason::Closed);
            return None;
        }
        // The rest is numbered.
        if attachment
            .recovery
            .as_ref()
            .is_some_and(|it| it.is_crowded())
        {
            return None;
        }
        if std::mem::take(&mut due.ready) {
            let ready = control(wire::ready(view), Bytes::new());
            return Some(attachment.number(now, ready, Content::Ready));
        }
        if due.close.is_some() && std::mem::take(&mut due.all_positions) {
            return Some(self.ack(now, index));
        }
        if let Some(nonce) = due.ping.take() {
            let ping = control(wire::ping(nonce), Bytes::new());
            return Some(attachment.number(now, ping, Content::Once));
        }
        if due.close == Some(CloseCode::Done)
            && attachment
                .recovery
                .as_ref()
                .is_some_and(|it| !it.is_quiet())
        {
            // The last word must not overtake what was acknowledged before it.
            return None;
        }
        if let Some(code) = due.close.take() {
            let close = control(wire::close(code), Bytes::new());
            let close = attachment.number(now, close, Content::Close);
            if attachment.is_reliable() {
                self.release(id, DetachReason::Closed);
            }
            return Some(close);
        }
        due.all_positions = false;
        // Acknowledgements are sent on the current attachment only: one lost elsewhere would count
        // as sent.
        is_current.then(|| self.ack(now, index))
    }

    /// Acknowledges every lane that has moved. A lane that never did costs nothing.
    fn ack(&mut self, now: Instant, index: usize) -> Frame {
        self.receiving.acks.sent(now);
        self.stats.acks_sent += 1;
        let attachment = &mut self.attachments[index];
        let head_max = match attachment.is_reliable() {
            true => FrameHeader::CAPACITY,
            false => FrameHeader::CAPACITY - PACKET_HEADER_LEN_MAX,
        };
        let sending = self.sending.lanes_len();
        let positions = self.receiving.report_positions(sending);
        let (header, body) = wire::ack(positions, head_max);
        attachment.number(now, control(header, body), Content::Positions)
    }

    fn poll_lane(
        &mut self,
        now: Instant,
        index: usize,
        share: Share,
        capacity: &SendCapacity,
    ) -> Option<Frame> {
        let lanes = &self.config.lanes;
        let attachment = &mut self.attachments[index];
        let lane = self
            .sending
            .choose_lane(lanes, attachment, share, capacity)?;
        let mut len_max = capacity.frame_max.checked_sub(DATA_HEADER_LEN_MAX)?;
        if let Some(recovery) = &mut attachment.recovery {
            if !recovery.may_send(now) {
                return None;
            }
            len_max = len_max
                .min(recovery.frame_max(now))
                .checked_sub(PACKET_HEADER_LEN_MAX)?;
        }
        let delivery = lanes[lane.index()].delivery;
        let cursors = &mut attachment.cursors;
        let (frame, content) = self.sending.next_frame(delivery, cursors, lane, len_max)?;
        match content {
            Content::Data { len, .. } => self.stats.bytes_sent += len as u64,
            _ => self.stats.best_effort_sent += 1,
        }
        let frame = attachment.number(now, frame, content);
        let len = frame.len() as u64;
        self.sending
            .record_served(lanes, attachment, share, lane, len);
        self.let_ack_travel(now, index);
        Some(frame)
    }
}

/// What part of the lanes a transport carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    All,
    Redundant,
}

const fn control(header: FrameHeader, body: Bytes) -> Frame {
    Frame {
        order: FrameOrder::Control,
        header,
        body,
    }
}
