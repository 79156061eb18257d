//! Frames out: the next frame of one attachment.

use bytes::Bytes;
use selvedge_transport::{Frame, FrameHeader, FrameOrder, Instant, SendCapacity};

use super::attachments::Share;
use super::introduction::Introduction;
use super::receiving::ReceiveSide;
use super::sending::SendSide;
use crate::attachment::{Attachment, NextControl};
use crate::config::SessionConfig;
use crate::lane::Delivery;
use crate::recovery::Content;
use crate::stats::EndpointStats;
use crate::wire::{self, AckRequest, PACKET_HEADER_LEN_MAX};

/// The parts of a session from which the frames of one attachment are made. It lives for one frame.
#[derive(Debug)]
pub(super) struct Transmitter<'a> {
    pub(super) config: &'a SessionConfig,
    pub(super) introduction: &'a Introduction,
    pub(super) attachment: &'a mut Attachment,
    /// What the attachment carries.
    pub(super) share: Option<Share>,
    pub(super) sending: &'a mut SendSide,
    pub(super) receiving: &'a mut ReceiveSide,
    pub(super) stats: &'a mut EndpointStats,
}

/// What [`Transmitter::poll_control`] found to be due.
#[derive(Debug)]
pub(super) enum DueControl {
    Frame(Frame),
    /// The attachment must be released after this frame, if there is one.
    Release(Option<Frame>),
}

const fn control(header: FrameHeader, body: Bytes) -> Frame {
    Frame {
        order: FrameOrder::Control,
        header,
        body,
    }
}

impl Transmitter<'_> {
    /// The next control frame.
    #[inline]
    pub(super) fn poll_control(&mut self, now: Instant) -> Option<DueControl> {
        let is_current = self.share == Some(Share::All);
        let is_urgent = is_current && self.receiving.ack_is_urgent();
        if is_current && self.attachment.due.ack_request {
            self.request_ack_by_ping();
        }
        let due = self.attachment.next_control(now, is_current, is_urgent)?;
        Some(self.build_control(now, due))
    }

    fn build_control(&mut self, now: Instant, due: NextControl) -> DueControl {
        DueControl::Frame(match due {
            NextControl::PacketAck(seen) => {
                control(FrameHeader::EMPTY, wire::encode_packet_ack(&seen))
            }
            NextControl::Hello { epoch } => {
                let positions = self.receiving.positions(self.config);
                let hello = self.introduction.hello(self.config, epoch, positions);
                control(FrameHeader::EMPTY, wire::encode_hello(&hello))
            }
            NextControl::Pong(nonce) => control(wire::pong(nonce), Bytes::new()),
            NextControl::Release => return DueControl::Release(None),
            NextControl::Ready => {
                let ready = control(wire::ready(self.introduction.view()), Bytes::new());
                self.attachment.number(now, ready, Content::Ready)
            }
            NextControl::Positions => self.ack(now),
            NextControl::Ping(nonce) => {
                let ping = control(wire::ping(nonce), Bytes::new());
                self.attachment.number(now, ping, Content::Once)
            }
            NextControl::Close(code) => {
                let close = control(wire::close(code), Bytes::new());
                let close = self.attachment.number(now, close, Content::Close);
                if self.attachment.is_reliable() {
                    return DueControl::Release(Some(close));
                }
                close
            }
        })
    }

    /// Requests, with the next ping, the acknowledgement of the first lane that waits for one.
    fn request_ack_by_ping(&mut self) {
        let due = &mut self.attachment.due;
        let waiting = due.ping.and_then(AckRequest::from_nonce);
        if waiting.is_some() {
            // One for another lane waits for room.
            return;
        }
        if let Some(request) = self.sending.take_ack_request() {
            due.ping = Some(request.nonce());
        }
        due.ack_request = self.sending.needs_ack_request();
    }

    /// Acknowledges every lane that has moved.
    fn ack(&mut self, now: Instant) -> Frame {
        self.receiving.acks.sent(now);
        self.stats.acks_sent += 1;
        let head_max = match self.attachment.is_reliable() {
            true => FrameHeader::CAPACITY,
            false => FrameHeader::CAPACITY - PACKET_HEADER_LEN_MAX,
        };
        let positions = self.receiving.report_positions(self.sending.lanes_len());
        let (header, body) = wire::ack(positions, head_max);
        let ack = control(header, body);
        self.attachment.number(now, ack, Content::Positions)
    }

    /// The next frame of a lane.
    #[inline]
    pub(super) fn poll_lane(&mut self, now: Instant, capacity: &SendCapacity) -> Option<Frame> {
        let share = self.share?;
        let lanes = &self.config.lanes;
        let attachment = &mut *self.attachment;
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
        // A delayed acknowledgement is sent with the data.
        let ack_delay = self.config.ack_delay;
        if share == Share::All && self.receiving.acks.may_travel(now, ack_delay) {
            attachment.due.all_positions = true;
        }
        Some(frame)
    }
}
