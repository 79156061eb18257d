//! Messages in one direction over a bare transport, one per frame: the layer below a Session.

use bytes::Bytes;
use selvedge_driver::{Frame, FrameHeader, FrameOrder, FrameSink, FrameSource, SendCapacity};

use crate::Workload;
use crate::bare::{BareByTurns, BareOneWay, FrameCount, Traffic};

/// Sends the same body repeatedly.
#[derive(Debug)]
struct Repeat {
    body: Bytes,
    remaining: u64,
}

impl FrameSource for Repeat {
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame> {
        let fits = capacity.frame_max >= self.body.len() && !capacity.blocked.contains(0);
        if self.remaining == 0 || !fits {
            return None;
        }
        self.remaining -= 1;
        Some(Frame {
            order: FrameOrder::Lane(0),
            header: FrameHeader::EMPTY,
            body: self.body.clone(),
        })
    }
}

impl FrameSink for Repeat {
    fn frame(&mut self, _frame: Bytes) {}
}

impl Traffic for Repeat {
    fn order(&mut self, count: u64) {
        self.remaining += count;
    }
}

/// Counts received frames and sends none.
#[derive(Debug)]
struct CountedFrames(FrameCount);

impl FrameSource for CountedFrames {
    fn next_frame(&mut self, _room: &SendCapacity) -> Option<Frame> {
        None
    }
}

impl FrameSink for CountedFrames {
    fn frame(&mut self, _frame: Bytes) {
        self.0.one();
    }
}

impl Traffic for CountedFrames {}

/// Messages in one direction, one per frame, counted at the receiver: no session and no acknowledgement.
#[derive(Debug)]
pub struct FramesOneWay(BareOneWay);

impl FramesOneWay {
    /// Messages of `len` bytes.
    #[must_use]
    pub fn new(scheme: &str, len: usize) -> Self {
        let body = vec![7; len].into();
        let near = Repeat { body, remaining: 0 };
        Self(BareOneWay::new(scheme, near, CountedFrames))
    }

    /// The same with both ends on the calling thread.
    #[must_use]
    pub fn by_turns(scheme: &str, len: usize) -> impl Workload + use<> {
        let body = vec![7; len].into();
        BareByTurns::new(scheme, Repeat { body, remaining: 0 }, CountedFrames)
    }
}

impl Workload for FramesOneWay {
    fn run(&mut self, count: u64) {
        self.0.run(count);
    }
}
