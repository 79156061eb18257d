//! Faults of the transfer of frames.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use selvedge_transport::{Frame, FrameSink, FrameSource, SendCapacity};

use super::Fault;

/// The length to which `Fault::TruncatesDatagrams` truncates, in bytes.
const TRUNCATED_LEN: usize = 1024;

/// The state of the faults of received frames.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    count: usize,
    kept: Option<Bytes>,
    pub(super) has_moved: bool,
}

/// Applies a fault to received frames.
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
        let is_affected = arrivals.count == 50;
        match self.fault {
            Fault::DropsFrame if is_affected => {}
            Fault::DropsArrivalsOnClose if self.is_closing => {}
            Fault::TruncatesDatagrams => {
                frame.truncate(TRUNCATED_LEN);
                self.inner.frame(frame);
            }
            Fault::DamagesFrames if frame.len() > 10_000 => {
                let mut frame = BytesMut::from(&frame[..]);
                frame[9_999] ^= 0x10;
                self.inner.frame(frame.freeze());
            }
            Fault::LosesStateInMove if std::mem::take(&mut arrivals.has_moved) => {}
            Fault::RepeatsFrame if is_affected => {
                self.inner.frame(frame.clone());
                self.inner.frame(frame);
            }
            // The frame is delivered after the next one of its order.
            Fault::SwapsFrames if is_affected => arrivals.kept = Some(frame),
            _ => {
                let kept = arrivals.kept.as_ref();
                let is_same_order = kept.is_some_and(|kept| kept[0] == frame[0]);
                self.inner.frame(frame);
                if is_same_order && let Some(kept) = arrivals.kept.take() {
                    self.inner.frame(kept);
                }
            }
        }
    }
}

/// A source of frames that were pulled too early.
pub(super) struct BufferedSource<'a>(pub(super) &'a mut VecDeque<Frame>);

impl FrameSource for BufferedSource<'_> {
    fn next_frame(&mut self, _: &SendCapacity) -> Option<Frame> {
        self.0.pop_front()
    }
}

/// A source that records whether it was empty.
pub(super) struct ObservedSource<'a> {
    pub(super) inner: &'a mut dyn FrameSource,
    /// While set, the inner source is not polled.
    pub(super) is_suspended: bool,
    /// The last poll returned no frame.
    pub(super) is_empty: bool,
}

impl FrameSource for ObservedSource<'_> {
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame> {
        let frame = if self.is_suspended {
            None
        } else {
            self.inner.next_frame(capacity)
        };
        self.is_empty = frame.is_none();
        frame
    }
}
