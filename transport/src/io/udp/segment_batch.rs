//! Batches of datagrams for one send with segmentation offload (GSO).

use crate::Frame;

use super::packet_protection::PacketProtection;

/// Datagrams of equal length, of which the last may be shorter: the form that the kernel can
/// segment.
#[derive(Debug, Default)]
pub(super) struct SegmentBatch {
    bytes: Vec<u8>,
    segment: usize,
    count: usize,
    is_ended: bool,
}

impl SegmentBatch {
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The segment length; `None` for a single datagram.
    pub(super) const fn segment(&self) -> Option<usize> {
        if self.count > 1 {
            Some(self.segment)
        } else {
            None
        }
    }

    /// Whether a frame fits into the batch. `segments_max` returns the limit for datagrams of a
    /// given length.
    pub(super) fn fits(
        &self,
        protection: &PacketProtection,
        frame: &Frame,
        segments_max: impl Fn(usize) -> usize,
    ) -> bool {
        self.count == 0
            || (!self.is_ended
                && protection.overhead() + frame.len() <= self.segment
                && self.count < segments_max(self.segment))
    }

    /// Appends a frame for which [`fits`](Self::fits) returned `true`.
    pub(super) fn push(&mut self, kind: u8, protection: &mut PacketProtection, frame: &Frame) {
        let len = protection.overhead() + frame.len();
        if self.count == 0 {
            self.segment = len;
        }
        debug_assert!(!self.is_ended && len <= self.segment, "the frame fits");
        self.is_ended = len < self.segment;
        self.count += 1;
        protection.protect(
            kind,
            [frame.header.as_slice(), &frame.body],
            &mut self.bytes,
        );
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        (self.segment, self.count, self.is_ended) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrameHeader, FrameOrder};

    fn frame(len: usize) -> Frame {
        Frame {
            order: FrameOrder::Control,
            header: FrameHeader::EMPTY,
            body: vec![0; len].into(),
        }
    }

    #[test]
    fn a_batch_has_equal_datagrams_and_at_most_one_shorter_at_its_end() {
        let mut protection = PacketProtection::Tagged([0; 8]);
        let mut batch = SegmentBatch::default();
        let three = |_| 3;
        batch.push(16, &mut protection, &frame(100));
        assert_eq!(batch.segment(), None);
        assert!(!batch.fits(&protection, &frame(101), three));
        assert!(batch.fits(&protection, &frame(100), three));
        batch.push(16, &mut protection, &frame(100));
        assert_eq!(batch.segment(), Some(109));
        assert!(batch.fits(&protection, &frame(1), three));
        batch.push(16, &mut protection, &frame(1));
        assert!(!batch.fits(&protection, &frame(1), |_| 44));
        assert_eq!(batch.bytes().len(), 109 + 109 + 10);
        batch.clear();
        assert!(batch.is_empty() && batch.fits(&protection, &frame(1191), three));
        for _ in 0..3 {
            batch.push(16, &mut protection, &frame(100));
        }
        assert!(!batch.fits(&protection, &frame(100), three));
    }
}
