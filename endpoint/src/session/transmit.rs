//! Frames out.

use bytes::Bytes;
use selvedge_transport::{Frame, FrameHeader, FrameOrder, Instant, SendCapacity};

use super::attachments::Share;
use super::{Life, Session};
use crate::attachment::NextControl;
use crate::event::{AttachmentId, DetachReason};
use crate::lane::Delivery;
use crate::recovery::Content;
use crate::wire::{self, AckRequest, PACKET_HEADER_LEN_MAX};

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
        let index = self.attachments.index_of(id)?;
        if !capacity.control_blocked
            && let Some(frame) = self.poll_control(now, id, index)
        {
            return Some(frame);
        }
        if self.life == Life::Closed {
            return None;
        }
        let share = self.attachments.share_of(id)?;
        self.poll_lane(now, index, share, capacity)
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

    fn poll_control(&mut self, now: Instant, id: AttachmentId, index: usize) -> Option<Frame> {
        let is_current = self.attachments.current() == Some(id);
        let is_urgent = is_current && self.receiving.ack_is_urgent();
        if is_current && self.attachments.at(index).due.ack_request {
            self.request_ack_by_ping(index);
        }
        let attachment = self.attachments.at(index);
        Some(match attachment.next_control(now, is_current, is_urgent)? {
            NextControl::PacketAck(seen) => {
                control(FrameHeader::EMPTY, wire::encode_packet_ack(&seen))
            }
            NextControl::Hello { epoch } => {
                let positions = self.receiving.positions(self.config.receive_window);
                let hello = self.introduction.hello(&self.config, epoch, positions);
                control(FrameHeader::EMPTY, wire::encode_hello(&hello))
            }
            NextControl::Pong(nonce) => control(wire::pong(nonce), Bytes::new()),
            NextControl::Release => {
                self.release(id, DetachReason::Closed);
                return None;
            }
            NextControl::Ready => {
                let ready = control(wire::ready(self.introduction.view()), Bytes::new());
                attachment.number(now, ready, Content::Ready)
            }
            NextControl::Positions => self.ack(now, index),
            NextControl::Ping(nonce) => {
                let ping = control(wire::ping(nonce), Bytes::new());
                attachment.number(now, ping, Content::Once)
            }
            NextControl::Close(code) => {
                let close = control(wire::close(code), Bytes::new());
                let close = attachment.number(now, close, Content::Close);
                if attachment.is_reliable() {
                    self.release(id, DetachReason::Closed);
                }
                close
            }
        })
    }

    /// Requests, with the next ping, the acknowledgement of the first lane that waits for one.
    fn request_ack_by_ping(&mut self, index: usize) {
        let ping = &mut self.attachments.at(index).due.ping;
        if ping.is_some_and(|nonce| AckRequest::from_nonce(nonce).is_some()) {
            // One for another lane waits for room.
            return;
        }
        if let Some(request) = self.sending.take_ack_request() {
            *ping = Some(request.nonce());
        }
        self.update_ack_request();
    }

    /// Acknowledges every lane that has moved.
    fn ack(&mut self, now: Instant, index: usize) -> Frame {
        self.receiving.acks.sent(now);
        self.stats.acks_sent += 1;
        let attachment = self.attachments.at(index);
        let head_max = match attachment.is_reliable() {
            true => FrameHeader::CAPACITY,
            false => FrameHeader::CAPACITY - PACKET_HEADER_LEN_MAX,
        };
        let positions = self.receiving.report_positions(self.sending.lanes_len());
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
        let is_current = share == Share::All;
        let attachment = self.attachments.at(index);
        let lane = self
            .sending
            .choose_lane(lanes, attachment, share, capacity)?;
        let len_max = attachment.data_len_max(now, capacity.frame_max)?;
        let delivery = lanes[lane.index()].delivery;
        let cursors = &mut attachment.cursors;
        let (frame, content) = self.sending.next_frame(delivery, cursors, lane, len_max)?;
        match delivery {
            Delivery::Reliable => self.stats.bytes_sent += content.data_len() as u64,
            Delivery::BestEffort => self.stats.best_effort_sent += 1,
        }
        let frame = attachment.number(now, frame, content);
        let len = frame.len() as u64;
        self.sending
            .record_served(lanes, attachment, share, lane, len);
        // An acknowledgement that waits is sent with the data.
        if is_current && self.receiving.acks.may_travel(now, self.config.ack_delay) {
            attachment.due.all_positions = true;
        }
        Some(frame)
    }
}

const fn control(header: FrameHeader, body: Bytes) -> Frame {
    Frame {
        order: FrameOrder::Control,
        header,
        body,
    }
}
