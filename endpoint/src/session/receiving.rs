//! The receiving half of a session: its lanes, and the messages that wait for the user.

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;

use bytes::Bytes;
use selvedge_transport::Instant;

use super::acks::Acks;
use super::admission::LaneAdmission;
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
    admission: LaneAdmission,
    pub(super) acks: Acks,
}

impl ReceiveSide {
    pub(super) fn new(config: &SessionConfig) -> Self {
        let mut receiving = Self {
            lanes: Vec::with_capacity(config.lanes.len()),
            best_effort: Vec::new(),
            batches: VecDeque::new(),
            messages_len: 0,
            admission: LaneAdmission::new(config),
            acks: Acks::default(),
        };
        receiving.create_lanes(config, config.lanes.len());
        receiving
    }

    fn create_lanes(&mut self, config: &SessionConfig, count: usize) {
        for number in self.lanes.len()..count {
            let Some(lane) = LaneId::new(number as u8) else {
                break;
            };
            let limits = self.admission.limits(config, lane);
            self.lanes.push(RecvLane::new(limits.window));
        }
    }

    /// The receiving half of a lane, created when the peer first uses it.
    fn lane(&mut self, config: &SessionConfig, lane: LaneId) -> &mut RecvLane {
        self.create_lanes(config, lane.index() + 1);
        &mut self.lanes[lane.index()]
    }

    /// Whether the user has admitted the peer on no lane.
    pub(super) fn is_admission_pending(&self) -> bool {
        self.admission.is_pending()
    }

    /// Grants the peer the full limits of a lane.
    pub(super) fn admit(&mut self, config: &SessionConfig, lane: LaneId) {
        // A lane that the peer has not used is created with the limits that it was promised, so that the
        // growth of its credit is reported.
        self.lane(config, lane);
        if self.admission.admit(lane) {
            self.lane(config, lane).widen(config.receive_window);
        }
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
        self.create_lanes(config, lane.index() + 1);
        let message_max = self.admission.limits(config, lane).message_max;
        let (batches, waiting) = (&mut self.batches, &mut self.messages_len);
        let mut deliver = |batch: MessageBatch| {
            *waiting += batch.len();
            batches.push_back((lane, batch));
        };
        let receiving = &mut self.lanes[lane.index()];
        receiving.receive(offset, bytes, order, message_max, &mut deliver)
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
        let buffer = self.admission.limits(config, lane).best_effort_buffer;
        if !receiving.has_room(cost(payload.len()), buffer) {
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
    pub(super) fn handle_ack_request(&mut self, config: &SessionConfig, request: AckRequest) {
        self.lane(config, request.lane).request_ack(request.offset);
    }

    pub(super) fn ack_is_urgent(&self) -> bool {
        self.lanes.iter().any(RecvLane::ack_is_urgent)
    }

    /// The positions of every lane for a `Hello`. They do not count as reported: a `Hello` that is
    /// repeated on a lossy transport is not read again.
    pub(super) fn positions(&self, config: &SessionConfig) -> Vec<LanePosition> {
        let position = |number| {
            let lane = LaneId::new(number)?;
            let (expected, limit) = match self.lanes.get(lane.index()) {
                Some(receiving) => receiving.position(),
                None => (0, self.admission.limits(config, lane).window),
            };
            Some(LanePosition {
                lane,
                expected,
                limit,
            })
        };
        (0..).map_while(position).collect()
    }

    /// The positions for an acknowledgement: of the first `sending` lanes, and of every other one
    /// that was used or widened. An unused lane costs nothing. They count as reported.
    pub(super) fn report_positions(
        &mut self,
        sending: usize,
    ) -> impl Iterator<Item = LanePosition> + '_ {
        let lanes = self.lanes.iter_mut().enumerate();
        lanes.filter_map(move |(number, receiving)| {
            let lane = LaneId::new(number as u8)?;
            (receiving.has_moved() || receiving.is_widened() || number < sending).then(|| {
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
