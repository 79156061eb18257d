//! Messages one way over a bare transport, one a frame: what a Session stands on.

use bytes::Bytes;
use selvedge_driver::{Frame, FrameHeader, FrameOrder, FrameSink, FrameSource, SendCapacity};

use crate::Load;
use crate::bare::{BareByTurns, BareOneWay, Carried, Count};

/// The same body again and again.
#[derive(Debug)]
struct Repeat {
    body: Bytes,
    left: u64,
}

impl FrameSource for Repeat {
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame> {
        let fits = capacity.frame_max >= self.body.len() && !capacity.blocked.contains(0);
        if self.left == 0 || !fits {
            return None;
        }
        self.left -= 1;
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

impl Carried for Repeat {
    fn order(&mut self, count: u64) {
        self.left += count;
    }
}

/// Counts frames, and has none to send.
#[derive(Debug)]
struct Counted(Count);

impl FrameSource for Counted {
    fn next_frame(&mut self, _room: &SendCapacity) -> Option<Frame> {
        None
    }
}

impl FrameSink for Counted {
    fn frame(&mut self, _frame: Bytes) {
        self.0.one();
    }
}

impl Carried for Counted {}

/// Messages one way, each a frame, counted at the far end: no session, no acknowledgement of ours.
#[derive(Debug)]
pub struct FramesOneWay(BareOneWay);

impl FramesOneWay {
    /// Messages of `len` bytes.
    #[must_use]
    pub fn new(scheme: &str, len: usize) -> Self {
        let body = vec![7; len].into();
        let near = Repeat { body, left: 0 };
        Self(BareOneWay::new(scheme, near, Counted))
    }

    /// The same, both ends on the thread that asks.
    #[must_use]
    pub fn by_turns(scheme: &str, len: usize) -> impl Load + use<> {
        let body = vec![7; len].into();
        BareByTurns::new(scheme, Repeat { body, left: 0 }, Counted)
    }
}

impl Load for FramesOneWay {
    fn run(&mut self, count: u64) {
        self.0.run(count);
    }
}
