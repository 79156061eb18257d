//! Frames in.

use bytes::Bytes;
use selvedge_transport::{Instant, Role};

use super::introduction::Recognition;
use super::{Life, Session};
use crate::attachment::Stage;
use crate::error::Misbehaved;
use crate::event::{AttachmentId, CloseReason, DetachReason};
use crate::lane::LaneId;
use crate::recv_lane::PieceOrder;
use crate::version::{Incompatibility, SessionOffer};
use crate::wire::{self, AckRequest, CloseCode, Hello, Received};

impl Session {
    /// A frame has arrived on an attached transport. A peer that breaks the protocol loses that
    /// transport ([`DetachReason::Misbehaved`]); frames of unknown transports are ignored.
    pub fn handle_frame(&mut self, now: Instant, id: AttachmentId, frame: Bytes) {
        if let Err(Misbehaved(what)) = self.receive(now, id, frame) {
            self.release(id, DetachReason::Misbehaved { what });
        }
    }

    fn receive(
        &mut self,
        now: Instant,
        id: AttachmentId,
        mut frame: Bytes,
    ) -> Result<(), Misbehaved> {
        let Some(attachment) = self.attachments.get_mut(id) else {
            return Ok(());
        };
        attachment.record_received(now);
        let malformed = |_| Misbehaved("sent a malformed frame");
        let number = wire::take_number(&mut frame).map_err(malformed)?;
        let received = wire::decode(&mut frame).map_err(malformed)?;
        attachment.check_number(number, &received)?;
        let kept = self.receive_any(now, id, received, frame)?;
        if let Some(number) = number.filter(|_| kept)
            && let Some(attachment) = self.attachments.get_mut(id)
        {
            attachment.record_kept(now, number);
        }
        Ok(())
    }

    /// Returns whether it was taken in. If not, a lossy transport brings it again.
    fn receive_any(
        &mut self,
        now: Instant,
        id: AttachmentId,
        received: Received,
        payload: Bytes,
    ) -> Result<bool, Misbehaved> {
        let Some(attachment) = self.attachments.get(id) else {
            return Ok(false);
        };
        let (stage, is_reliable) = (attachment.stage, attachment.is_reliable());
        match received {
            Received::Hello(hello) => return self.handle_hello(now, id, &hello).map(|()| true),
            Received::OtherVersion(layout) => {
                self.refuse(Incompatibility::Layout(layout));
                return Ok(true);
            }
            Received::Close(code) => {
                self.handle_close(code);
                return Ok(true);
            }
            // It has overtaken the `Hello`.
            _ if stage == Stage::Introducing && !is_reliable => return Ok(false),
            _ if stage == Stage::Introducing => return Err(Misbehaved("spoke before it greeted")),
            _ => {}
        }
        if self.life == Life::Closed && !matches!(received, Received::PacketAck(_)) {
            return Ok(true);
        }
        if self.attachments.record_received(now, id) {
            self.release_superseded(Some(id));
            self.report_standby();
        }
        self.receive_ready(now, id, received, payload)
    }

    fn receive_ready(
        &mut self,
        now: Instant,
        id: AttachmentId,
        received: Received,
        payload: Bytes,
    ) -> Result<bool, Misbehaved> {
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
                self.close_if_drained();
            }
            Received::Ready { view } => self.handle_ready(now, id, view),
            Received::Ping(nonce) => {
                if let Some(attachment) = self.attachments.get_mut(id) {
                    attachment.due.pong = Some(nonce);
                }
                if let Some(request) = AckRequest::from_nonce(nonce) {
                    let window = self.config.receive_window;
                    self.receiving.handle_ack_request(request, window);
                    self.schedule_ack(now, request.lane);
                }
            }
            Received::PacketAck(seen) => {
                if let Some(attachment) = self.attachments.get_mut(id)
                    && let Some(recovery) = &mut attachment.recovery
                {
                    let outcome = recovery.handle_packet_ack(now, &seen)?;
                    self.recover(id, &outcome);
                }
            }
            Received::Pong(_)
            | Received::Hello(_)
            | Received::OtherVersion(_)
            | Received::Close(_) => {}
        }
        Ok(true)
    }

    /// A `Hello` has arrived on `id`.
    fn handle_hello(
        &mut self,
        now: Instant,
        id: AttachmentId,
        hello: &Hello,
    ) -> Result<(), Misbehaved> {
        let Some(attachment) = self.attachments.get_mut(id) else {
            return Ok(());
        };
        if attachment.is_repeated_hello()? {
            return Ok(());
        }
        let role = attachment.role;
        let agreement = match self.introduction.negotiate(&self.config, hello) {
            Ok(agreement) => agreement,
            Err(incompatibility) => {
                self.refuse(incompatibility);
                if let Some(attachment) = self.attachments.get_mut(id) {
                    // A peer that knows of offers learns the range of this side before it is refused.
                    attachment.due.hello =
                        role == Role::Acceptor && hello.offer != SessionOffer::VERSION_1;
                }
                return Ok(());
            }
        };
        if self.introduction.is_former(hello) {
            self.release(id, DetachReason::Superseded);
            return Ok(());
        }
        let has_lost_state = match self.introduction.recognize(hello, agreement) {
            Recognition::Known => false,
            Recognition::RestartedStreams => self.has_moved(),
            Recognition::Restarted => true,
        };
        if has_lost_state {
            self.restart_streams(id);
        }
        self.attachments.want_paths(hello.paths_wanted);
        if self.introduction.is_addressed_by(hello) {
            for position in &hello.lanes {
                self.sending.acknowledge(*position)?;
            }
        }
        if role == Role::Acceptor {
            self.attachments.record_epoch(hello.epoch);
        }
        if let Some(attachment) = self.attachments.get_mut(id)
            && attachment.accept_hello(now, hello.epoch, has_lost_state)
        {
            self.become_ready(now, id);
        }
        Ok(())
    }

    /// A `Ready` has arrived: the dialer has the acceptor's `Hello`; or the acceptor confirms that it
    /// knows whether the dialer restarted its streams.
    fn handle_ready(&mut self, now: Instant, id: AttachmentId, view: u64) {
        let Some(attachment) = self.attachments.get_mut(id) else {
            return;
        };
        let is_introduced = attachment.handle_ready(now);
        if attachment.role == Role::Acceptor {
            self.introduction.record_view(view);
        }
        if is_introduced {
            self.become_ready(now, id);
        }
    }

    fn receive_data(
        &mut self,
        now: Instant,
        id: AttachmentId,
        lane: LaneId,
        offset: u64,
        bytes: Bytes,
    ) -> Result<bool, Misbehaved> {
        let attachment = self.attachments.get(id);
        let order = match attachment.is_some_and(|it| it.is_reliable()) {
            true => PieceOrder::InOrder,
            false => PieceOrder::Any,
        };
        self.stats.bytes_received += bytes.len() as u64;
        let received_before = self.receiving.messages_len();
        let received = self
            .receiving
            .receive_data(&self.config, lane, offset, bytes, order);
        self.count_messages_since(received_before);
        let received = received?;
        self.stats.bytes_repeated += received.repeated;
        self.schedule_ack(now, lane);
        Ok(received.kept)
    }

    fn receive_datagram(&mut self, lane: LaneId, sequence: u64, payload: Bytes) {
        let received_before = self.receiving.messages_len();
        let lost = self
            .receiving
            .receive_datagram(&self.config, lane, sequence, payload);
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

    fn handle_close(&mut self, code: CloseCode) {
        let reason = match code {
            CloseCode::Done => CloseReason::Peer,
            CloseCode::Aborted => CloseReason::PeerAborted,
            CloseCode::Incompatible => CloseReason::Incompatible(Incompatibility::Refused),
            CloseCode::Protocol => CloseReason::Protocol,
        };
        self.end(reason, None);
        // If this side had closed first, its own `Close` is no longer needed.
        self.finish_attachments();
    }
}
