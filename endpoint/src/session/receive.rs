//! Frames in.

use bytes::Bytes;
use selvedge_transport::{Instant, Role};

use super::{Life, Misbehaved, Session};
use crate::attachment::Stage;
use crate::event::{AttachmentId, CloseReason, DetachReason};
use crate::lane::LaneId;
use crate::recovery::Outcome;
use crate::recv_lane::PieceOrder;
use crate::version::Incompatibility;
use crate::wire::{self, AckRequest, CloseCode, Received};

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
        let Some(attachment) = self.attachment(id) else {
            return Ok(());
        };
        attachment.record_received(now);
        let is_reliable = attachment.is_reliable();
        let malformed = |_| Misbehaved("sent a malformed frame");
        let number = wire::take_number(&mut frame).map_err(malformed)?;
        let received = wire::decode(&mut frame).map_err(malformed)?;
        if is_reliable && (number.is_some() || matches!(received, Received::PacketAck(_))) {
            return Err(Misbehaved("counted packets on a transport that loses none"));
        }
        if !is_reliable && number.is_none() && received.needs_number() {
            return Err(Misbehaved("sent what may get lost without a number"));
        }
        let kept = self.receive_any(now, id, received, frame)?;
        if let Some(number) = number.filter(|_| kept)
            && let Some(attachment) = self.attachment(id)
            && let Some(recovery) = &mut attachment.recovery
        {
            recovery.arrived(now, number);
            if attachment.due.close_received {
                recovery.ack_now(now);
            }
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
        let Some(attachment) = self.attachment(id) else {
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
        self.received_on(now, id);
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
            Received::Ready { view } => self.receive_confirmation(now, id, view),
            Received::Ping(nonce) => {
                if let Some(attachment) = self.attachment(id) {
                    attachment.due.pong = Some(nonce);
                }
                if let Some(ask) = AckRequest::from_nonce(nonce) {
                    let window = self.config.receive_window;
                    self.receiving.handle_ack_request(ask, window);
                    self.schedule_ack(now, ask.lane);
                }
            }
            Received::PacketAck(seen) => {
                if let Some(attachment) = self.attachment(id)
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

    /// A Ready has arrived: the dialer has the acceptor's `Hello`; or the acceptor confirms that it
    /// knows whether the dialer restarted its streams.
    fn receive_confirmation(&mut self, now: Instant, id: AttachmentId, view: u64) {
        let Some(attachment) = self.attachment(id) else {
            return;
        };
        match (attachment.role, attachment.stage) {
            (Role::Acceptor, stage) => {
                if stage == Stage::Answered {
                    attachment.answered(now);
                }
                attachment.due.ready = true;
                if let Some(peer) = &mut self.peer {
                    peer.view = peer.view.max(view);
                }
                if stage == Stage::Answered {
                    self.become_ready(now, id);
                }
            }
            (Role::Dialer, Stage::Confirming) => self.become_ready(now, id),
            (Role::Dialer, _) => {}
        }
    }

    /// Sends again what a lossy transport has lost.
    pub(super) fn recover(&mut self, id: AttachmentId, outcome: &Outcome) {
        self.stats.packets_lost += outcome.lost;
        if outcome.close_acked {
            self.release(id, DetachReason::Closed);
        } else if let Some(attachment) = self.attachment(id) {
            if outcome.is_probe && attachment.is_ready() {
                attachment.due.ping.get_or_insert(0);
            }
            let repeated = attachment.again(&outcome.retransmit);
            self.stats.bytes_resent += repeated;
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
        let order = match self.attachment(id).is_some_and(|it| it.is_reliable()) {
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

    fn handle_close(&mut self, code: CloseCode) {
        let reason = match code {
            CloseCode::Done => CloseReason::Peer,
            CloseCode::Aborted => CloseReason::PeerAborted,
            CloseCode::Incompatible => CloseReason::Incompatible(Incompatibility::Refused),
            CloseCode::Protocol => CloseReason::Protocol,
        };
        self.end(reason, None);
        // If this side had closed first, its own words are no longer needed.
        self.leave();
    }
}
