//! Faults of the frames on their way, in and out.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use selvedge_transport::{Frame, FrameSink, FrameSource, SendCapacity};

use super::Fault;

/// What `Fault::CutsDatagrams` has room for, in bytes.
const SCANTY: usize = 1024;

/// What the frames that arrive leave behind.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    count: usize,
    kept: Option<Bytes>,
    pub(super) has_moved: bool,
}

/// Does something to the frames that arrive.
pub(super) struct FaultySink<'a> {
    pub(super) inner: &'a mut dyn FrameSink,
    pub(super) fault: Fault,
    pub(super) is_closing: bool,
    pub(super) arrivals: &'a mut Arrivals,
}

impl FrameSink for FaultySink<'_> {
    fn frame(&mut self, mut frame: Bytes) {
        let arrivals = &mut *self.arrivals;
        arrivals.count += 1;
        let is_victim = arrivals.count == 50;
        match self.fault {
            Fault::DropsFrame if is_victim => {}
            Fault::DropsArrivalsOnClose if self.is_closing => {}
            Fault::CutsDatagrams => {
                frame.truncate(SCANTY);
                self.inner.frame(frame);
            }
            Fault::DamagesFrames if frame.len() > 10_000 => {
                let mut frame = BytesMut::from(&frame[..]);
                frame[9_999] ^= 0x10;
                self.inner.frame(frame.freeze());
            }
            Fault::ForgetsInMove if std::mem::take(&mut arrivals.has_moved) => {}
            Fault::RepeatsFrame if is_victim => {
                self.inner.frame(frame.clone());
                self.inner.frame(frame);
            }
            // The frame waits, and comes behind the next of its flow.
            Fault::SwapsFrames if is_victim => arrivals.kept = Some(frame),
            _ => {
                let kept = arrivals.kept.as_ref();
                let is_same_flow = kept.is_some_and(|kept| kept[0] == frame[0]);
                self.inner.frame(frame);
                if is_same_flow && let Some(kept) = arrivals.kept.take() {
                    self.inner.frame(kept);
                }
            }
        }
    }
}

/// Frames that were taken before there was room for them.
pub(super) struct Hoard<'a>(pub(super) &'a mut VecDeque<Frame>);

impl FrameSource for Hoard<'_> {
    fn next_frame(&mut self, _: &SendCapacity) -> Option<Frame> {
        self.0.pop_front()
    }
}

/// A source of which is known whether it had anything left.
pub(super) struct Watched<'a> {
    pub(super) inner: &'a mut dyn FrameSource,
    /// It is not asked at all.
    pub(super) is_shut: bool,
    /// It had nothing when it was last asked.
    pub(super) is_dry: bool,
}

impl FrameSource for Watched<'_> {
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame> {
        let frame = if self.is_shut {
            None
        } else {
            self.inner.next_frame(capacity)
        };
        self.is_dry = frame.is_none();
        frame
    }
}
