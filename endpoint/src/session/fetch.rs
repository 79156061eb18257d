//! What a turn of a session needs, asked for at once.

use std::hint::black_box;

use super::Session;
use crate::attachment::Attachment;
use crate::recv_lane::RecvLane;
use crate::send_lane::SendLane;

impl Session {
    /// Reads a little of each part of itself: the first step of [`fetch`](Self::fetch), which many sessions
    /// may take together.
    pub fn fetch_own(&self) {
        let (acks, stats) = (&self.acks, &self.stats);
        black_box((
            self.config.lanes.len(),
            self.config.heartbeat,
            self.current,
            self.runs.len(),
            self.outputs.len(),
            self.given_up,
            acks.is_due(),
            (stats.bytes_sent, stats.messages_received),
        ));
    }

    /// Reads a little of everything that the calls of a turn need, so that it comes out of memory at the
    /// same time: of thousands of sessions the one that has its turn has left the caches.
    pub fn fetch(&self) {
        self.fetch_own();
        black_box(self.attachments.first().map(Attachment::fetch));
        black_box(self.send.first().map(SendLane::fetch));
        black_box(self.recv.first().map(RecvLane::fetch));
        black_box(self.config.lanes.first().map(|lane| lane.priority));
        black_box(self.released.first().copied());
        black_box(self.runs.front().map(|(lane, _)| *lane));
    }

    /// Reads a little of what was sent and is not acknowledged: the step behind [`fetch`](Self::fetch).
    pub fn fetch_retained(&self) {
        black_box(self.send.first().map(SendLane::fetch_retained));
    }
}
