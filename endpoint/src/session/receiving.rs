//! The receiving half of a session: its lanes, and the messages that wait for the user.

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;

use bytes::Bytes;
use selvedge_transport::Instant;

use super::acks::Acks;
use super::best_effort::BestEffortIn;
use crate::config::SessionConfig;
use crate::error::Misbehaved;
use crate::lane::{LaneId, cost};
use crate::message_batch::MessageBatch;
use crate::recv_lane::{PieceOrder, ReceivedRange, RecvLane};
use crate::wire::{AckRequest, LanePosition};

/// What has arrived: the state of each lane, and the messages that the user has not read.
#[derive(Debug)]
pub(super) struct ReceiveSide {
    /// One for each lane to send on, and up to the last one on which data arrived: most endpoints
    /// never use the other 30. A missing one is in its initial state.
    lanes: Vec<RecvLane>,
    /// Up to the last lane on which a best-effort message arrived.
    best_effort: Vec<BestEffortIn>,
    /// Messages that have arrived, in their order.
    batches: VecDeque<(LaneId, MessageBatch)>,
    /// The number of messages in `batches`.
    messages_len: usize,
    pub(super) acks: Acks,
}

impl ReceiveSide {
    pub(super) fn new(config: &SessionConfig) -> Self {
        let lanes = config.lanes.iter();
        Self {
            lanes: lanes
                .map(|_| RecvLane::new(config.receive_window))
                .collect(),
            best_effort: Vec::new(),
            batches: VecDeque::new(),
            messages_len: 0,
            acks: Acks::default(),
        }
    }

    /// The receiving half of a lane, created when the peer first uses it.
    fn lane(&mut self, lane: LaneId, window: u64) -> &mut RecvLane {
        if self.lanes.len() <= lane.index() {
            self.lanes
                .resize_with(lane.index() + 1, || RecvLane::new(window));
        }
        &mut self.lanes[lane.index()]
    }

    /// Data of a reliable lane has arrived.
    pub(super) fn receive_data(
        &mut self,
        config: &SessionConfig,
        lane: LaneId,
        offset: u64,
        bytes: Bytes,
        order: PieceOrder,
    ) -> Result<ReceivedRange, Misbehaved> {
        self.lane(lane, config.receive_window);
        let (batches, waiting) = (&mut self.batches, &mut self.messages_len);
        let mut deliver = |batch: MessageBatch| {
            *waiting += batch.len();
            batches.push_back((lane, batch));
        };
        let receiving = &mut self.lanes[lane.index()];
        receiving.receive(offset, bytes, order, config.message_max, &mut deliver)
    }

    /// A best-effort message has arrived. Returns how many messages of its lane are known to be
    /// lost because of it: those before it, and itself if there is no room.
    pub(super) fn receive_datagram(
        &mut self,
        config: &SessionConfig,
        lane: LaneId,
        sequence: u64,
        payload: Bytes,
    ) -> u64 {
        if self.best_effort.len() <= lane.index() {
            let default = BestEffortIn::default();
            self.best_effort.resize(lane.index() + 1, default);
        }
        let receiving = &mut self.best_effort[lane.index()];
        let Some(lost) = receiving.accept(sequence) else {
            return 0;
        };
        if !receiving.has_room(cost(payload.len()), config.best_effort_buffer) {
            return lost + 1;
        }
        self.messages_len += 1;
        self.batches
            .push_back((lane, MessageBatch::of_one(payload)));
        lost
    }

    /// The user has consumed messages of a lane with this total cost.
    pub(super) fn consumed(&mut self, lane: LaneId, bytes: u64) {
        let best_effort = self.best_effort.get_mut(lane.index());
        let rest = best_effort.map_or(bytes, |it| it.consumed(bytes));
        if let Some(receiving) = self.lanes.get_mut(lane.index()) {
            receiving.consumed(rest);
        }
    }

    pub(super) fn take_batches(&mut self) -> Drain<'_, (LaneId, MessageBatch)> {
        self.messages_len = 0;
        self.batches.drain(..)
    }

    pub(super) const fn messages_len(&self) -> usize {
        self.messages_len
    }

    /// Bytes of messages on reliable lanes that the user has not consumed.
    pub(super) fn unconsumed(&self) -> u64 {
        self.lanes.iter().map(RecvLane::backlog).sum()
    }

    /// Bytes of a lane have arrived: schedules their acknowledgement.
    pub(super) fn schedule_ack(
        &mut self,
        now: Instant,
        lane: LaneId,
        is_reliable: bool,
        delay: std::time::Duration,
    ) {
        if let Some(lane) = self.lanes.get(lane.index()) {
            self.acks.schedule(now, lane, is_reliable, delay);
        }
    }

    /// The peer requests an acknowledgement of a lane up to an offset. If that has arrived, the
    /// acknowledgement [is urgent](RecvLane::ack_is_urgent).
    pub(super) fn handle_ack_request(&mut self, request: AckRequest, window: u64) {
        self.lane(request.lane, window).request_ack(request.offset);
    }

    pub(super) fn ack_is_urgent(&self) -> bool {
        self.lanes.iter().any(RecvLane::ack_is_urgent)
    }

    /// The positions of every lane for a `Hello`. They do not count as reported: a `Hello` that is
    /// repeated on a lossy transport is not read again.
    pub(super) fn positions(&self, window: u64) -> Vec<LanePosition> {
        let initial = (0, window);
        let position = |number| {
            let lane = LaneId::new(number)?;
            let receiving = self.lanes.get(lane.index());
            let (expected, limit) = receiving.map_or(initial, RecvLane::position);
            Some(LanePosition {
                lane,
                expected,
                limit,
            })
        };
        (0..).map_while(position).collect()
    }

    /// The positions for an acknowledgement: of the first `sending` lanes, and of every other one
    /// that was used. An unused lane costs nothing. They count as reported.
    pub(super) fn report_positions(
        &mut self,
        sending: usize,
    ) -> impl Iterator<Item = LanePosition> + '_ {
        let lanes = self.lanes.iter_mut().enumerate();
        lanes.filter_map(move |(number, receiving)| {
            let lane = LaneId::new(number as u8)?;
            (receiving.has_moved() || number < sending).then(|| {
                let (expected, limit) = receiving.report();
                LanePosition {
                    lane,
                    expected,
                    limit,
                }
            })
        })
    }

    /// Whether any data has arrived since the streams began.
    pub(super) fn has_moved(&self) -> bool {
        self.lanes.iter().any(RecvLane::has_moved)
    }

    /// The stream of every lane begins at 0 again. Messages that have arrived stay.
    pub(super) fn restart(&mut self) {
        self.lanes.iter_mut().for_each(RecvLane::restart);
        self.best_effort.iter_mut().for_each(BestEffortIn::restart);
    }

    /// Frees the memory of an empty queue.
    pub(super) fn shrink(&mut self) {
        if self.batches.is_empty() {
            self.batches.shrink_to_fit();
        }
    }
}
