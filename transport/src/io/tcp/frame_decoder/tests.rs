//! Streams that arrive in arbitrary chunks, and invalid lengths.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// Returns a stream in chunks of the given lengths; a length of 0 blocks once.
struct ChunkedStream<'a> {
    bytes: &'a [u8],
    lens: Vec<usize>,
    at: usize,
    /// Whether the stream ends after its bytes; otherwise it blocks.
    finishes: bool,
}

impl Read for ChunkedStream<'_> {
    fn read(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(memory)])
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let len = self.lens[self.at % self.lens.len()];
        self.at += 1;
        if self.bytes.is_empty() && self.finishes {
            return Ok(0);
        }
        let mut remaining = len.min(self.bytes.len());
        if remaining == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut read = 0;
        for slice in slices {
            let take = slice.len().min(remaining);
            let (now, later) = self.bytes.split_at(take);
            slice[..take].copy_from_slice(now);
            self.bytes = later;
            remaining -= take;
            read += take;
        }
        Ok(read)
    }
}

fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        bytes.extend_from_slice(frame);
    }
    bytes
}

/// Decodes `bytes`, which arrive in chunks of `lens`, with `budget` in each call.
fn split(bytes: &[u8], lens: &[usize], budget: usize) -> (Vec<Bytes>, Result<DecodeProgress, End>) {
    let mut pieces = ChunkedStream {
        bytes,
        lens: lens.to_vec(),
        at: 0,
        finishes: true,
    };
    let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
    let mut buffer = ReadBuffer::default();
    loop {
        // Another transport of the worker uses the buffer between two calls.
        buffer.space(1)[..1].fill(0xff);
        match decoder.receive(&mut pieces, &mut buffer, budget, &mut frames) {
            Ok(DecodeProgress::Blocked | DecodeProgress::Budget) => {}
            result => return (frames, result),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_are_decoded_from_arbitrary_chunks(
        frames in prop::collection::vec(prop_oneof![
            8 => prop::collection::vec(any::<u8>(), 1..64),
            1 => prop::collection::vec(any::<u8>(), 60_000..=FRAME_LEN_MAX),
        ], 0..60),
        lens in prop::collection::vec(prop_oneof![0..9_usize, 1..70_000_usize], 1..12),
        budget in prop_oneof![1..64_usize, 1..600_000_usize],
    ) {
        let mut lens = lens;
        lens.push(5_000);
        let (got, result) = split(&stream(&frames), &lens, budget);
        prop_assert!(matches!(result, Ok(DecodeProgress::Finished)));
        prop_assert_eq!(got, frames);
    }

    #[test]
    fn arbitrary_bytes_cause_no_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        lens in prop::collection::vec(1..600_usize, 1..5),
    ) {
        let (frames, _) = split(&bytes, &lens, 1 << 16);
        let total: usize = frames.iter().map(|frame| frame.len() + PREFIX_LEN).sum();
        prop_assert!(total <= bytes.len());
    }
}

#[test]
fn f7_each_byte_may_come_alone_and_all_may_come_together() {
    let frames = [vec![1], vec![2; 3], vec![3; 300], vec![4; 5]];
    let bytes = stream(&frames);
    for len in [1, 2, 3, 4, 5, 6, 7, bytes.len()] {
        assert_eq!(split(&bytes, &[len], 1 << 20).0, frames, "{len}");
        assert_eq!(split(&bytes, &[len, 0], 1 << 20).0, frames, "{len}");
        assert_eq!(split(&bytes, &[1 << 20], len).0, frames, "{len}");
    }
}

#[test]
fn only_an_end_at_a_frame_boundary_is_orderly() {
    let frames = [vec![1; 5], vec![2; 40]];
    let bytes = stream(&frames);
    for len in 0..=bytes.len() {
        let (got, result) = split(&bytes[..len], &[1 << 20], 1 << 20);
        let whole = [9, bytes.len()].iter().filter(|&&end| len >= end).count();
        assert_eq!(got, &frames[..whole], "{len}");
        let expected = if [0, 9, bytes.len()].contains(&len) {
            DecodeProgress::Finished
        } else {
            DecodeProgress::CutOff
        };
        assert_eq!(result.unwrap(), expected, "{len}");
    }
}

#[test]
fn f2_lengths_from_one_to_the_limit_are_allowed() {
    for (len, allowed) in [
        (0, false),
        (1, true),
        (FRAME_LEN_MAX as u32, true),
        (FRAME_LEN_MAX as u32 + 1, false),
        (1 << 24, false),
        (u32::MAX, false),
    ] {
        let mut bytes = len.to_le_bytes().to_vec();
        if allowed {
            bytes.resize(PREFIX_LEN + len as usize, 7);
        }
        for piece in [1, 3, 1 << 20] {
            let (frames, result) = split(&bytes, &[piece], 1 << 20);
            if allowed {
                assert_eq!(result.unwrap(), DecodeProgress::Finished);
                assert_eq!(frames, [vec![7; len as usize]]);
            } else {
                assert!(matches!(result, Err(End::Misbehaved { .. })), "{len}");
                assert!(frames.is_empty());
            }
        }
    }
}

#[test]
fn between_frames_nothing_is_kept_and_within_one_no_more_than_it() {
    let bytes = stream(&[vec![7; 50_000], vec![8; 20]]);
    let mut buffer = ReadBuffer::default();
    for len in [0, 3, 4, 100, 40_000, 50_004, 50_010, bytes.len()] {
        let mut pieces = ChunkedStream {
            bytes: &bytes[..len],
            lens: vec![1 << 20],
            at: 0,
            finishes: false,
        };
        let mut decoder = FrameDecoder::default();
        let mut frames = Vec::new();
        let received = decoder.receive(&mut pieces, &mut buffer, 1 << 20, &mut frames);
        assert_eq!(received.unwrap(), DecodeProgress::Blocked);
        match decoder.partial {
            PartialFrame::Empty => assert!([0, 50_004, bytes.len()].contains(&len), "{len}"),
            PartialFrame::Prefix { .. } => assert_eq!(len, 3),
            PartialFrame::Frame { frame, have } => {
                assert!(frame.capacity() <= 50_000 && have < frame.len(), "{len}");
            }
        }
    }
}

#[test]
fn an_end_wrapped_in_an_io_error_is_returned() {
    struct FailingStream;
    impl Read for FailingStream {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(End::TimedOut))
        }
    }
    let mut buffer = ReadBuffer::default();
    let result =
        FrameDecoder::default().receive(&mut FailingStream, &mut buffer, 1, &mut Vec::new());
    assert!(matches!(result, Err(End::TimedOut)));
}
