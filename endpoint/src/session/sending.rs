//! The sending half of a session: its lanes, the messages that wait for a frame, and the room to
//! free in the send buffer.

use selvedge_transport::{Frame, FrameOrder, LaneSet, SendCapacity};

use super::attachments::Share;
use super::best_effort::BestEffortOut;
use crate::attachment::Attachment;
use crate::config::SessionConfig;
use crate::error::Misbehaved;
use crate::lane::{Delivery, LaneConfig, LaneId, Message};
use crate::recovery::Content;
use crate::send_buffer::SendBuffer;
use crate::send_lane::{Cursor, SendLane};
use crate::wire::{self, AckRequest, DATA_HEADER_LEN_MAX, LanePosition, PACKET_HEADER_LEN_MAX};

/// What is to be sent: the messages that the peer has not acknowledged, and the best-effort ones
/// that have not left.
#[derive(Debug)]
pub(super) struct SendSide {
    lanes: Vec<SendLane>,
    /// One for each lane, or none if all of them are reliable.
    best_effort: Vec<BestEffortOut>,
    /// Bytes of each lane that were acknowledged or abandoned, to be released in the send buffer.
    released: Vec<u64>,
    /// Messages abandoned, to be reported to the send buffer.
    abandoned: u64,
    /// Messages dropped on each lane and not reported yet.
    dropped: Vec<u64>,
}

impl SendSide {
    pub(super) fn new(lanes: &[LaneConfig]) -> Self {
        let is_best_effort = |lane: &LaneConfig| lane.delivery == Delivery::BestEffort;
        Self {
            lanes: lanes.iter().map(|_| SendLane::default()).collect(),
            best_effort: match lanes.iter().any(is_best_effort) {
                true => lanes.iter().map(|_| BestEffortOut::default()).collect(),
                false => Vec::new(),
            },
            released: vec![0; lanes.len()],
            abandoned: 0,
            dropped: vec![0; lanes.len()],
        }
    }

    pub(super) const fn lanes_len(&self) -> usize {
        self.lanes.len()
    }

    /// Frees the room in the send buffer of what was acknowledged or abandoned.
    pub(super) fn release_room(&mut self, buffer: &mut SendBuffer) {
        for (lane, released) in self.released.iter_mut().enumerate() {
            buffer.release(lane, std::mem::take(released));
        }
        buffer.abandon(std::mem::take(&mut self.abandoned));
    }

    /// Drains the reliable lanes of the send buffer. Returns whether anything was drained.
    pub(super) fn drain(&mut self, buffer: &mut SendBuffer) -> bool {
        let mut is_any = false;
        let lanes = &mut self.lanes;
        buffer.drain(|lane, segment| {
            is_any = true;
            lanes[lane.index()].push(segment);
        });
        is_any
    }

    /// Drains the best-effort lanes of the send buffer, of which each may keep `limit` bytes.
    /// Returns whether anything was drained, and how many messages were dropped to make room.
    pub(super) fn drain_best_effort(
        &mut self,
        buffer: &mut SendBuffer,
        limit: usize,
    ) -> (bool, u64) {
        let (mut is_any, mut dropped) = (false, 0);
        for (number, out) in (0..).zip(&mut self.best_effort) {
            let Some(lane) = LaneId::new(number) else {
                break;
            };
            let (queue, dropped_before) = buffer.drain_best_effort(lane);
            is_any |= !queue.is_empty();
            dropped += dropped_before + out.extend(queue, limit);
        }
        (is_any, dropped)
    }

    /// Drops the oldest messages that exceed the send buffer while the peer cannot be reached.
    /// Returns how many.
    pub(super) fn drop_excess(&mut self, buffer: &mut SendBuffer, config: &SessionConfig) -> u64 {
        let mut dropped = 0;
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let excess = buffer.excess(number);
            if excess == 0 {
                continue;
            }
            // An eighth more, so that not each message costs a walk over the lane.
            let (messages, bytes) = lane.drop_oldest(excess + config.send_buffer / 8);
            buffer.release(number, bytes);
            buffer.abandon(messages);
            self.dropped[number] += messages;
            dropped += messages;
        }
        dropped
    }

    /// The lanes on which messages were dropped since the last call, and how many.
    pub(super) fn take_dropped(&mut self) -> impl Iterator<Item = (LaneId, u64)> + '_ {
        let lanes = (0..).zip(&mut self.dropped);
        lanes.filter_map(|(number, dropped)| {
            let messages = std::mem::take(dropped);
            let lane = LaneId::new(number)?;
            (messages > 0).then_some((lane, messages))
        })
    }

    /// Empties every lane. Returns the messages that were not acknowledged.
    pub(super) fn take_undelivered(&mut self) -> Vec<Message> {
        let mut undelivered = Vec::new();
        for (number, lane) in (0..).zip(&mut self.lanes) {
            let Some(id) = LaneId::new(number) else { break };
            self.released[id.index()] += lane.unacknowledged();
            undelivered.extend(std::mem::take(lane).into_undelivered(id));
        }
        self.abandoned += undelivered.len() as u64;
        undelivered
    }

    /// The stream of every lane begins at 0 again, with the messages of which no byte was sent.
    /// Returns the others, which the peer may have received at least in part.
    pub(super) fn restart(&mut self) -> Vec<Message> {
        let mut undelivered = Vec::new();
        for (number, lane) in (0..).zip(&mut self.lanes) {
            let Some(id) = LaneId::new(number) else { break };
            let (messages, released) = lane.restart(id);
            undelivered.extend(messages);
            self.released[id.index()] += released;
        }
        self.abandoned += undelivered.len() as u64;
        self.best_effort.iter_mut().for_each(BestEffortOut::restart);
        undelivered
    }

    /// The peer has acknowledged a lane up to a position. A lane that does not exist is ignored.
    pub(super) fn acknowledge(&mut self, position: LanePosition) -> Result<(), Misbehaved> {
        let Some(lane) = self.lanes.get_mut(position.lane.index()) else {
            return Ok(());
        };
        let freed = lane.acknowledge(position.expected, position.limit)?;
        self.released[position.lane.index()] += freed;
        Ok(())
    }

    /// Whether everything drained from the send buffer has been acknowledged.
    pub(super) fn is_drained(&self) -> bool {
        self.lanes.iter().all(SendLane::is_drained)
    }

    /// Whether any data was sent since the streams began.
    pub(super) fn has_moved(&self) -> bool {
        self.lanes.iter().any(SendLane::has_moved)
    }

    /// Bytes that were sent and not acknowledged.
    pub(super) fn in_flight(&self) -> u64 {
        self.lanes.iter().map(SendLane::in_flight).sum()
    }

    pub(super) fn unacknowledged(&self) -> u64 {
        self.lanes.iter().map(SendLane::unacknowledged).sum()
    }

    /// A caller waits for the acknowledgement of everything drained so far.
    pub(super) fn want_acks(&mut self) {
        self.lanes.iter_mut().for_each(SendLane::want_ack);
    }

    /// Whether a caller waits for an acknowledgement that has not been requested.
    pub(super) fn needs_ack_request(&self) -> bool {
        self.lanes.iter().any(SendLane::needs_ack_request)
    }

    /// A request for the acknowledgement of the first lane that waits for one; it counts as sent
    /// from now on.
    pub(super) fn take_ack_request(&mut self) -> Option<AckRequest> {
        let mut lanes = (0..).zip(&mut self.lanes);
        let (number, sending) = lanes.find(|(_, lane)| lane.needs_ack_request())?;
        let lane = LaneId::new(number)?;
        let offset = sending.take_ack_request();
        Some(AckRequest { lane, offset })
    }

    /// An attachment carries the data from now on. Returns the bytes that it sends again.
    pub(super) fn resume_on(&mut self, attachment: &mut Attachment) -> u64 {
        // Positions that were sent on another transport since the `Hello` may be lost with it, and
        // so may requests for acknowledgements.
        attachment.due.all_positions = true;
        self.lanes.iter_mut().for_each(SendLane::forget_ack_request);
        attachment.due.ack_request = self.needs_ack_request();
        let lanes = self.lanes.iter().zip(&attachment.cursors);
        lanes.map(|(lane, cursor)| lane.repeated(cursor)).sum()
    }

    /// Where a transport begins on each lane: at the first byte that is not acknowledged.
    pub(super) fn cursors(&self) -> Vec<Cursor> {
        self.lanes.iter().map(SendLane::cursor).collect()
    }

    /// Whether any lane has something to send on an attachment, given unlimited room.
    pub(super) fn is_any_waiting(
        &self,
        configs: &[LaneConfig],
        attachment: &Attachment,
        share: Share,
    ) -> bool {
        let recovery = attachment.recovery.as_ref();
        let is_open = recovery.is_none_or(|recovery| recovery.has_window());
        let cursors = &attachment.cursors;
        is_open
            && (0..self.lanes.len())
                .any(|lane| self.is_waiting(configs, cursors, share, lane, usize::MAX))
    }

    fn is_waiting(
        &self,
        configs: &[LaneConfig],
        cursors: &[Cursor],
        share: Share,
        lane: usize,
        datagram_max: usize,
    ) -> bool {
        let config = &configs[lane];
        match config.delivery {
            Delivery::Reliable if share == Share::All || config.redundant => {
                let cursor = cursors.get(lane);
                cursor.is_some_and(|cursor| self.lanes[lane].is_sendable(cursor))
            }
            Delivery::BestEffort if share == Share::All => {
                let waiting = &self.best_effort[lane];
                let header = DATA_HEADER_LEN_MAX + PACKET_HEADER_LEN_MAX;
                !waiting.is_empty() && waiting.front_len() + header <= datagram_max
            }
            Delivery::Reliable | Delivery::BestEffort => false,
        }
    }

    /// The lane that sends next on an attachment.
    #[inline]
    pub(super) fn choose_lane(
        &self,
        configs: &[LaneConfig],
        attachment: &Attachment,
        share: Share,
        capacity: &SendCapacity,
    ) -> Option<LaneId> {
        let cursors = &attachment.cursors;
        let is_waiting = |lane: usize| {
            let is_blocked = configs[lane].delivery == Delivery::Reliable
                && capacity.blocked.contains(lane as u8);
            !is_blocked && self.is_waiting(configs, cursors, share, lane, capacity.datagram_max)
        };
        let chosen = attachment.scheduler.choose(is_waiting)?;
        LaneId::new(chosen as u8)
    }

    /// The next frame of a lane, with at most `len_max` bytes of a reliable one.
    #[inline]
    pub(super) fn next_frame(
        &mut self,
        delivery: Delivery,
        cursors: &mut [Cursor],
        lane: LaneId,
        len_max: usize,
    ) -> Option<(Frame, Content)> {
        match delivery {
            Delivery::Reliable => {
                let cursor = cursors.get_mut(lane.index())?;
                let piece = self.lanes[lane.index()].next_piece(cursor, len_max)?;
                let (offset, len) = (piece.offset, piece.len());
                let mut header = wire::data(lane, offset);
                piece.prefix.write_to(&mut header);
                let frame = Frame {
                    order: FrameOrder::Lane(lane.number()),
                    header,
                    body: piece.body,
                };
                Some((frame, Content::Data { lane, offset, len }))
            }
            Delivery::BestEffort => {
                let (sequence, body) = self.best_effort[lane.index()].pop()?;
                let frame = Frame {
                    order: FrameOrder::Datagram,
                    header: wire::datagram(lane, sequence),
                    body,
                };
                Some((frame, Content::Once))
            }
        }
    }

    /// Records in the scheduler of an attachment that a lane sent `len` bytes.
    pub(super) fn record_served(
        &self,
        configs: &[LaneConfig],
        attachment: &mut Attachment,
        share: Share,
        chosen: LaneId,
        len: u64,
    ) {
        if self.lanes.len() == 1 {
            return;
        }
        let mut waiting = LaneSet::EMPTY;
        for lane in 0..self.lanes.len() {
            if self.is_waiting(configs, &attachment.cursors, share, lane, usize::MAX) {
                waiting.insert(lane as u8);
            }
        }
        let scheduler = &mut attachment.scheduler;
        scheduler.served(chosen.index(), len, |lane| waiting.contains(lane as u8));
    }

    /// Frees the memory of empty queues.
    pub(super) fn shrink(&mut self) {
        self.lanes.iter_mut().for_each(SendLane::shrink);
    }
}
