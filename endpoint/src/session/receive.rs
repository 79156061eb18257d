//! Frames in: what a frame changes in the parts of a session, and what it means for the whole.

use bytes::Bytes;
use selvedge_transport::{Instant, Role};

use super::attachments::Attachments;
use super::introduction::{Introduction, Recognition};
use super::receiving::ReceiveSide;
use super::sending::SendSide;
use crate::attachment::Attachment;
use crate::config::SessionConfig;
use crate::error::Misbehaved;
use crate::event::{AttachmentId, CloseReason};
use crate::lane::LaneId;
use crate::recovery::Outcome;
use crate::recv_lane::PieceOrder;
use crate::stats::EndpointStats;
use crate::version::{Incompatibility, SessionOffer};
use crate::wire::{AckRequest, Hello, Received};

/// The parts of a session that a frame of one attachment changes. It lives for one frame.
#[derive(Debug)]
pub(super) struct Receiver<'a> {
    pub(super) config: &'a SessionConfig,
    pub(super) introduction: &'a mut Introduction,
    pub(super) attachments: &'a mut Attachments,
    pub(super) sending: &'a mut SendSide,
    pub(super) receiving: &'a mut ReceiveSide,
    pub(super) stats: &'a mut EndpointStats,
}

/// What the session must do because of a frame.
#[derive(Debug)]
pub(super) enum Consequence {
    /// Nothing more.
    None,
    /// Nothing, as if the frame had been lost: a lossy transport brings it again.
    NotKept,
    /// The peer has acknowledged data, or grants more credit.
    Acknowledged,
    /// The peer has introduced itself, and may have lost the state of this session before.
    Introduced {
        hello: Box<Hello>,
        has_lost_state: bool,
    },
    /// The `Hello` is one of a former process of the peer.
    Former,
    /// The peer is known to have the `Hello` of this side.
    Ready,
    /// Packets were acknowledged or found to be lost.
    Recovered(Outcome),
    /// The two sides cannot exchange messages.
    Refused {
        incompatibility: Incompatibility,
        /// A peer that knows of offers learns the range of this side before it is refused.
        must_answer: bool,
    },
    /// The peer has closed the session.
    Closed(CloseReason),
}

impl Receiver<'_> {
    /// Handles a frame of an attachment that is introduced, or that introduces it.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        id: AttachmentId,
        received: Received,
        payload: Bytes,
    ) -> Result<Consequence, Misbehaved> {
        match received {
            Received::Data { lane, offset } => {
                return self.receive_data(now, id, lane, offset, payload);
            }
            Received::Datagram { lane, sequence } => {
                self.receive_datagram(lane, sequence, payload);
            }
            Received::Ack(positions) => {
                for position in positions.iter() {
                    self.sending.acknowledge(position)?;
                }
                return Ok(Consequence::Acknowledged);
            }
            Received::Ping(nonce) => self.receive_ping(now, id, nonce),
            Received::PacketAck(seen) => {
                if let Some(attachment) = self.attachments.get_mut(id)
                    && let Some(recovery) = &mut attachment.recovery
                {
                    let outcome = recovery.handle_packet_ack(now, &seen)?;
                    return Ok(Consequence::Recovered(outcome));
                }
            }
            Received::Hello(hello) => return self.receive_hello(id, hello),
            Received::Ready { view } => return Ok(self.receive_ready(now, id, view)),
            Received::OtherVersion(layout) => {
                return Ok(Consequence::Refused {
                    incompatibility: Incompatibility::Layout(layout),
                    must_answer: false,
                });
            }
            Received::Close(code) => return Ok(Consequence::Closed(code.into())),
            Received::Pong(_) => {}
        }
        Ok(Consequence::None)
    }

    fn receive_hello(
        &mut self,
        id: AttachmentId,
        hello: Box<Hello>,
    ) -> Result<Consequence, Misbehaved> {
        let Some(attachment) = self.attachments.get_mut(id) else {
            return Ok(Consequence::None);
        };
        if attachment.is_repeated_hello()? {
            return Ok(Consequence::None);
        }
        let agreement = match self.introduction.negotiate(self.config, &hello) {
            Ok(agreement) => agreement,
            Err(incompatibility) => {
                let knows_offers = hello.offer != SessionOffer::VERSION_1;
                return Ok(Consequence::Refused {
                    incompatibility,
                    must_answer: attachment.role == Role::Acceptor && knows_offers,
                });
            }
        };
        if self.introduction.is_former(&hello) {
            return Ok(Consequence::Former);
        }
        let has_lost_state = match self.introduction.recognize(&hello, agreement) {
            Recognition::Known => false,
            Recognition::RestartedStreams => self.sending.has_moved() || self.receiving.has_moved(),
            Recognition::Restarted => true,
        };
        Ok(Consequence::Introduced {
            hello,
            has_lost_state,
        })
    }

    /// A `Ready` has arrived: the dialer has the acceptor's `Hello`; or the acceptor confirms that it
    /// knows whether the dialer restarted its streams.
    fn receive_ready(&mut self, now: Instant, id: AttachmentId, view: u64) -> Consequence {
        let Some(attachment) = self.attachments.get_mut(id) else {
            return Consequence::None;
        };
        if attachment.role == Role::Acceptor {
            self.introduction.record_view(view);
        }
        match attachment.handle_ready(now) {
            true => Consequence::Ready,
            false => Consequence::None,
        }
    }

    fn receive_ping(&mut self, now: Instant, id: AttachmentId, nonce: u64) {
        if let Some(attachment) = self.attachments.get_mut(id) {
            attachment.due.pong = Some(nonce);
        }
        if let Some(request) = AckRequest::from_nonce(nonce) {
            self.receiving.handle_ack_request(self.config, request);
            self.schedule_ack(now, request.lane);
        }
    }

    fn receive_data(
        &mut self,
        now: Instant,
        id: AttachmentId,
        lane: LaneId,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Consequence, Misbehaved> {
        let attachment = self.attachments.get(id);
        let order = match attachment.is_some_and(Attachment::is_reliable) {
            true => PieceOrder::InOrder,
            false => PieceOrder::Any,
        };
        self.stats.bytes_received += bytes.len() as u64;
        let received_before = self.receiving.messages_len();
        let received = self
            .receiving
            .receive_data(self.config, lane, offset, bytes, order);
        self.count_messages_since(received_before);
        let received = received?;
        self.stats.bytes_repeated += received.repeated;
        self.schedule_ack(now, lane);
        Ok(match received.kept {
            true => Consequence::None,
            false => Consequence::NotKept,
        })
    }

    fn receive_datagram(&mut self, lane: LaneId, sequence: u64, payload: Bytes) {
        let received_before = self.receiving.messages_len();
        let lost = self
            .receiving
            .receive_datagram(self.config, lane, sequence, payload);
        self.stats.best_effort_lost += lost;
        self.count_messages_since(received_before);
    }

    const fn count_messages_since(&mut self, received_before: usize) {
        let received = self.receiving.messages_len() - received_before;
        self.stats.messages_received += received as u64;
    }

    /// Data of a lane has arrived, or the peer requests its acknowledgement.
    fn schedule_ack(&mut self, now: Instant, lane: LaneId) {
        let is_reliable = self.attachments.is_current_reliable();
        let delay = self.config.ack_delay;
        self.receiving.schedule_ack(now, lane, is_reliable, delay);
    }
}
