//! Frames out.

use bytes::Bytes;
use selvedge_transport::{Flow, Frame, Head, Room};

use super::{Life, Session};
use crate::event::{AttachmentId, DetachReason};
use crate::lane::{Delivery, LaneId};
use crate::wire::{self, DATA_HEAD_LEN_MAX};

impl Session {
    /// The next frame for a transport that has `room`: control first, then lanes by priority.
    ///
    /// Frames are decided when they are asked for, so ask only when they can be sent at once.
    pub fn poll_frame(&mut self, id: AttachmentId, room: &Room) -> Option<Frame> {
        if !room.control_blocked
            && let Some(frame) = self.poll_control(id)
        {
            return Some(frame);
        }
        if self.current != Some(id) || self.life == Life::Closed {
            return None;
        }
        self.poll_lane(room)
    }

    /// Whether a transport has anything to send, given unlimited room.
    #[must_use]
    pub fn wants_to_send(&self, id: AttachmentId) -> bool {
        let Some(attachment) = self.attachments.iter().find(|a| a.id == id) else {
            return false;
        };
        if attachment.due.any() {
            return true;
        }
        self.current == Some(id)
            && self.life != Life::Closed
            && (self.urgent_ack()
                || self
                    .send
                    .iter()
                    .any(crate::send_lane::SendLane::is_sendable)
                || self.best_effort_out.iter().any(|lane| !lane.is_empty()))
    }

    fn urgent_ack(&self) -> bool {
        self.recv
            .iter()
            .any(crate::recv_lane::RecvLane::ack_is_urgent)
    }

    fn poll_control(&mut self, id: AttachmentId) -> Option<Frame> {
        let is_current = self.current == Some(id);
        let (view, urgent) = (self.view, is_current && self.urgent_ack());
        let attachment = self.attachment(id)?;
        let due = &mut attachment.due;
        if std::mem::take(&mut due.hello) {
            let epoch = attachment.rank.epoch;
            let hello = self.hello(epoch);
            return Some(control(Head::EMPTY, wire::encode_hello(&hello)));
        }
        if std::mem::take(&mut due.ready) {
            return Some(control(wire::ready(view), Bytes::new()));
        }
        if due.close.is_some() && std::mem::take(&mut due.all_positions) {
            return Some(self.ack());
        }
        if let Some(code) = due.close.take() {
            self.release(id, DetachReason::Closed);
            return Some(control(wire::close(code), Bytes::new()));
        }
        if let Some(nonce) = due.pong.take() {
            return Some(control(wire::pong(nonce), Bytes::new()));
        }
        if let Some(nonce) = due.ping.take() {
            return Some(control(wire::ping(nonce), Bytes::new()));
        }
        if std::mem::take(&mut due.all_positions) || urgent {
            return Some(self.ack());
        }
        None
    }

    /// Says where every lane stands that has moved. A lane that never did costs nothing.
    fn ack(&mut self) -> Frame {
        self.ack_at = None;
        self.stats.acks_sent += 1;
        let mut positions = Vec::new();
        for (number, lane) in (0..).zip(&mut self.recv) {
            let Some(id) = LaneId::new(number) else { break };
            if lane.has_moved() || number < self.send.len() as u8 {
                let (expected, limit) = lane.tell();
                positions.push(wire::LanePosition {
                    lane: id,
                    expected,
                    limit,
                });
            }
        }
        control(Head::EMPTY, wire::encode_ack(&positions))
    }

    fn poll_lane(&mut self, room: &Room) -> Option<Frame> {
        let (lanes, send, best_effort) = (&self.config.lanes, &self.send, &self.best_effort_out);
        let is_waiting = |lane: usize| match lanes[lane].delivery {
            Delivery::Reliable => send[lane].is_sendable() && !room.blocked.contains(lane as u8),
            Delivery::BestEffort => {
                let len = best_effort[lane].front_len() + DATA_HEAD_LEN_MAX;
                !best_effort[lane].is_empty() && len <= room.datagram_max
            }
        };
        let chosen = self.scheduler.choose(is_waiting)?;
        let lane = LaneId::new(chosen as u8)?;
        let frame = match self.config.lanes[chosen].delivery {
            Delivery::Reliable => {
                let len_max = room.frame_max.checked_sub(DATA_HEAD_LEN_MAX)?;
                let (offset, body) = self.send[chosen].next_piece(len_max)?;
                self.stats.bytes_sent += body.len() as u64;
                Frame {
                    flow: Flow::Lane(lane.number()),
                    head: wire::data(lane, offset),
                    body,
                }
            }
            Delivery::BestEffort => {
                let (sequence, body) = self.best_effort_out[chosen].pop()?;
                self.stats.best_effort_sent += 1;
                Frame {
                    flow: Flow::Datagram,
                    head: wire::datagram(lane, sequence),
                    body,
                }
            }
        };
        let (send, best_effort) = (&self.send, &self.best_effort_out);
        let waits = |other: usize| send[other].is_sendable() || !best_effort[other].is_empty();
        self.scheduler.served(chosen, frame.len() as u64, waits);
        Some(frame)
    }
}

const fn control(head: Head, body: Bytes) -> Frame {
    Frame {
        flow: Flow::Control,
        head,
        body,
    }
}
