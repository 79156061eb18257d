//! Against a stream that takes as little as it likes.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::FrameOrder;

/// Takes at most so many bytes at each write, and blocks where it is told to.
struct Miser {
    taken: Vec<u8>,
    gives: Vec<usize>,
    at: usize,
}

impl Write for Miser {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(slices.iter().all(|slice| !slice.is_empty()));
        let mut left = self.gives[self.at % self.gives.len()];
        self.at += 1;
        if left == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = self.taken.len();
        for slice in slices {
            let take = slice.len().min(left);
            self.taken.extend_from_slice(&slice[..take]);
            left -= take;
        }
        Ok(self.taken.len() - before)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Given {
    frames: std::vec::IntoIter<Frame>,
    pulled: Cell<usize>,
}

impl FrameSource for Given {
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
    fn what_is_written_is_what_was_taken(
        lens in prop::collection::vec((1..24_usize, prop_oneof![
            0..64_usize, 4000..4200_usize, 0..65_000_usize, Just(FRAME_LEN_MAX - 23),
        ]), 1..80),
        gives in prop::collection::vec(prop_oneof![
            Just(0_usize), 1..9_usize, 1..70_000_usize, Just(usize::MAX),
        ], 1..12),
        budget in 1..300_000_usize,
    ) {
        let mut gives = gives;
        gives.push(10_000);
        let frames: Vec<Frame> = lens.iter().enumerate()
            .map(|(i, &(header, body))| frame(header.min(23), body, i as u8))
            .collect();
        let mut miser = Miser { taken: Vec::new(), gives, at: 0 };
        let pulled = Cell::new(0);
        let mut source = Given { frames: frames.clone().into_iter(), pulled };
        let (mut outbox, mut buffer) = (Outbox::default(), ReadBuffer::default());
        let mut calls = 0;
        while outbox.send(&mut miser, &mut buffer, budget, &mut source).unwrap() != Sent::All {
            prop_assert!(source.pulled.get() <= miser.taken.len() + 256 * 1024);
            prop_assert!(outbox.bodies.is_empty());
            calls += 1;
            prop_assert!(calls < 1_000_000);
        }
        prop_assert!(outbox.held.is_empty());
        prop_assert_eq!(miser.taken, expected(&frames));
    }
}

#[test]
fn a_frame_that_breaks_the_contract_is_an_error() {
    for (header, body) in [(0, 0), (1, FRAME_LEN_MAX), (23, FRAME_LEN_MAX)] {
        let mut source = Given {
            frames: vec![frame(1, 5000, 1), frame(header, body, 1)].into_iter(),
            pulled: Cell::new(0),
        };
        let mut miser = Miser {
            taken: Vec::new(),
            gives: vec![usize::MAX],
            at: 0,
        };
        let mut buffer = ReadBuffer::default();
        let result = Outbox::default().send(&mut miser, &mut buffer, 1 << 20, &mut source);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
