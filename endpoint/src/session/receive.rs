//! Frames in.

use std::time::Instant;

use bytes::Bytes;
use selvedge_transport::Role;

use super::{Life, Misbehaved, Session};
use crate::attachment::Stage;
use crate::event::{AttachmentId, CloseReason, DetachReason};
use crate::lane::{LaneId, Message};
use crate::wire::{self, CloseCode, LanePosition, Received};

impl Session {
    /// A frame has arrived on an attached transport. A peer that breaks the protocol loses that
    /// transport ([`DetachReason::Misbehaved`]); frames of unknown transports are ignored.
    pub fn handle_frame(&mut self, now: Instant, id: AttachmentId, frame: Bytes) {
        if let Err(Misbehaved(what)) = self.receive(now, id, frame) {
            self.release(id, DetachReason::Misbehaved { what });
        }
    }

    fn receive(&mut self, now: Instant, id: AttachmentId, frame: Bytes) -> Result<(), Misbehaved> {
        let Some(attachment) = self.attachment(id) else {
            return Ok(());
        };
        attachment.heard(now);
        let stage = attachment.stage;
        let received = wire::decode(frame).map_err(|_| Misbehaved("sent a malformed frame"))?;
        match received {
            Received::Hello(hello) => return self.handle_hello(now, id, &hello),
            Received::OtherVersion(_) => {
                self.end(CloseReason::Incompatible, Some(CloseCode::Incompatible));
                return Ok(());
            }
            Received::Close(code) => {
                self.handle_close(code);
                return Ok(());
            }
            _ if stage == Stage::Introducing => return Err(Misbehaved("spoke before it greeted")),
            _ => {}
        }
        if self.life == Life::Closed {
            return Ok(());
        }
        if stage == Stage::Answered {
            self.become_ready(now, id);
        } else if self.current == Some(id) && self.attachments.len() > 1 {
            // The dialer's turn: the peer has answered on the new transport, so it left the old.
            self.release_superseded(id);
        }
        self.receive_ready(now, id, received)
    }

    fn receive_ready(
        &mut self,
        now: Instant,
        id: AttachmentId,
        received: Received,
    ) -> Result<(), Misbehaved> {
        match received {
            Received::Data {
                lane,
                offset,
                bytes,
            } => self.receive_data(now, id, lane, offset, bytes),
            Received::Datagram {
                lane,
                sequence,
                payload,
            } => {
                self.receive_datagram(lane, sequence, payload);
                Ok(())
            }
            Received::Ack(positions) => {
                for position in positions {
                    self.acknowledge(position)?;
                }
                self.close_if_drained();
                Ok(())
            }
            Received::Ready { view } => {
                let is_acceptor = self
                    .attachment(id)
                    .is_some_and(|a| a.role == Role::Acceptor);
                if !is_acceptor {
                    return Err(Misbehaved("confirmed what it did not ask for"));
                }
                if let Some(peer) = &mut self.peer {
                    peer.view = peer.view.max(view);
                }
                Ok(())
            }
            Received::Ping(nonce) => {
                if let Some(attachment) = self.attachment(id) {
                    attachment.due.pong = Some(nonce);
                }
                Ok(())
            }
            Received::Pong(_)
            | Received::Hello(_)
            | Received::OtherVersion(_)
            | Received::Close(_) => Ok(()),
        }
    }

    fn receive_data(
        &mut self,
        now: Instant,
        id: AttachmentId,
        lane: LaneId,
        offset: u64,
        bytes: Bytes,
    ) -> Result<(), Misbehaved> {
        if self
            .attachment(id)
            .is_some_and(|attachment| !attachment.reliable)
        {
            return Err(Misbehaved(
                "sent reliable data over an unreliable transport",
            ));
        }
        self.stats.bytes_received += bytes.len() as u64;
        let (messages, count) = (&mut self.messages, &mut self.stats.messages_received);
        let mut deliver = |payload| {
            *count += 1;
            messages.push_back(Message { lane, payload });
        };
        let receiving = &mut self.recv[lane.index()];
        let repeated = receiving.receive(offset, bytes, self.config.message_max, &mut deliver)?;
        self.stats.bytes_repeated += repeated;
        if self.ack_at.is_none() && receiving.ack_is_due() {
            self.ack_at = Some(now + self.config.ack_delay);
        }
        Ok(())
    }

    fn receive_datagram(&mut self, lane: LaneId, sequence: u64, payload: Bytes) {
        if let Some(lost) = self.best_effort_in[lane.index()].accept(sequence) {
            self.stats.best_effort_lost += lost;
            self.stats.messages_received += 1;
            // Nobody acknowledges these, so nothing but this bound keeps a flood from piling up
            // before a user who does not read.
            if self.messages.len() < BEST_EFFORT_WAITING_MAX {
                self.messages.push_back(Message { lane, payload });
            } else {
                self.stats.messages_received -= 1;
                self.stats.best_effort_lost += 1;
            }
        }
    }

    pub(super) fn acknowledge(&mut self, position: LanePosition) -> Result<(), Misbehaved> {
        let Some(lane) = self.send.get_mut(position.lane.index()) else {
            return Ok(());
        };
        self.released += lane.acknowledge(position.expected, position.limit)?;
        Ok(())
    }

    fn handle_close(&mut self, code: CloseCode) {
        let reason = match code {
            CloseCode::Done => CloseReason::Peer,
            CloseCode::Aborted => CloseReason::PeerAborted,
            CloseCode::Incompatible => CloseReason::Incompatible,
            CloseCode::Protocol => CloseReason::Protocol,
        };
        self.end(reason, None);
        // If this side had closed first, its own words are no longer needed.
        self.release_all(DetachReason::Closed);
    }
}

/// How many messages may wait in a session before best-effort ones are dropped.
const BEST_EFFORT_WAITING_MAX: usize = 4096;
