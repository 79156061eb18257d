//! Writes to a stream that accepts arbitrary lengths.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::FrameOrder;

/// Accepts at most the given number of bytes in each write; a limit of 0 blocks once.
struct LimitedWriter {
    written: Vec<u8>,
    limits: Vec<usize>,
    at: usize,
}

impl Write for LimitedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(slices.iter().all(|slice| !slice.is_empty()));
        let mut remaining = self.limits[self.at % self.limits.len()];
        self.at += 1;
        if remaining == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = self.written.len();
        for slice in slices {
            let take = slice.len().min(remaining);
            self.written.extend_from_slice(&slice[..take]);
            remaining -= take;
        }
        Ok(self.written.len() - before)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FrameList {
    frames: std::vec::IntoIter<Frame>,
    pulled: Cell<usize>,
}

impl FrameSource for FrameList {
    fn next_frame(&mut self, _: &SendCapacity) -> Option<Frame> {
        let frame = self.frames.next()?;
        self.pulled.set(self.pulled.get() + frame.len());
        Some(frame)
    }
}

fn frame(head_len: usize, body_len: usize, seed: u8) -> Frame {
    let mut header = FrameHeader::EMPTY;
    header.extend(&vec![seed; head_len]);
    let body = (0..body_len).map(|i| (i as u8).wrapping_mul(3) ^ seed);
    Frame {
        order: FrameOrder::Lane(0),
        header,
        body: body.collect::<Vec<u8>>().into(),
    }
}

fn expected(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = bytes::BytesMut::new();
    for frame in frames {
        bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        frame.write_to(&mut bytes);
    }
    bytes.to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_stream_receives_exactly_the_pulled_frames(
        lens in prop::collection::vec((1..24_usize, prop_oneof![
            0..64_usize, 4000..4200_usize, 0..65_000_usize, Just(FRAME_LEN_MAX - 23),
        ]), 1..80),
        limits in prop::collection::vec(prop_oneof![
            Just(0_usize), 1..9_usize, 1..70_000_usize, Just(usize::MAX),
        ], 1..12),
        budget in 1..300_000_usize,
    ) {
        let mut limits = limits;
        limits.push(10_000);
        let frames: Vec<Frame> = lens.iter().enumerate()
            .map(|(i, &(header, body))| frame(header.min(23), body, i as u8))
            .collect();
        let mut writer = LimitedWriter { written: Vec::new(), limits, at: 0 };
        let pulled = Cell::new(0);
        let mut source = FrameList { frames: frames.clone().into_iter(), pulled };
        let (mut write_buffer, mut buffer) = (WriteBuffer::default(), ReadBuffer::default());
        let mut calls = 0;
        while write_buffer.send(&mut writer, &mut buffer, budget, &mut source).unwrap() != WriteProgress::Done {
            prop_assert!(source.pulled.get() <= writer.written.len() + 256 * 1024);
            prop_assert!(write_buffer.bodies.is_empty());
            calls += 1;
            prop_assert!(calls < 1_000_000);
        }
        prop_assert!(write_buffer.pending.is_empty());
        prop_assert_eq!(writer.written, expected(&frames));
    }
}

#[test]
fn an_empty_or_too_long_frame_is_an_error() {
    for (header, body) in [(0, 0), (1, FRAME_LEN_MAX), (23, FRAME_LEN_MAX)] {
        let mut source = FrameList {
            frames: vec![frame(1, 5000, 1), frame(header, body, 1)].into_iter(),
            pulled: Cell::new(0),
        };
        let mut writer = LimitedWriter {
            written: Vec::new(),
            limits: vec![usize::MAX],
            at: 0,
        };
        let mut buffer = ReadBuffer::default();
        let result = WriteBuffer::default().send(&mut writer, &mut buffer, 1 << 20, &mut source);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
