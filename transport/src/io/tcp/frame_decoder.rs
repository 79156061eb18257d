//! Decodes length-prefixed frames from a byte stream.

use std::io::{self, IoSliceMut, Read};

use bytes::{Buf, BytesMut};

use super::PREFIX_LEN;
use crate::{End, FRAME_LEN_MAX, FrameSink, ReadBuffer};

/// The minimum space for a read; with less left in the worker's buffer, a new block is used.
const READ_LEN_MIN: usize = 32 * 1024;

/// Reads a stream into the worker's buffer and splits frames off it, without a copy.
///
/// The decoder keeps only the received part of an incomplete frame, in memory of exactly the length
/// of that frame; the next reads append to it directly. Each byte is therefore copied at most once,
/// however slowly a frame arrives.
#[derive(Debug, Default)]
pub(crate) struct FrameDecoder {
    partial: PartialFrame,
}

/// The received part of an incomplete frame.
#[derive(Debug, Default)]
enum PartialFrame {
    /// The stream is at a frame boundary.
    #[default]
    Empty,
    /// A part of the length prefix.
    Prefix { bytes: [u8; PREFIX_LEN], len: usize },
    /// The first `have` bytes of a frame; `frame` has the full length of the frame.
    Frame { frame: BytesMut, have: usize },
}

/// The condition at which [`FrameDecoder::receive`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecodeProgress {
    /// The stream has no more data at present.
    Blocked,
    /// The budget is used up.
    Budget,
    /// The stream ended at a frame boundary.
    Finished,
    /// The stream ended within a frame, or without the close of its security layer.
    CutOff,
}

impl FrameDecoder {
    /// Reads at most `budget` bytes (at least one) and passes complete frames to `sink`.
    ///
    /// # Errors
    /// [`End::Misbehaved`] for an invalid length, [`End::Broken`] for an I/O error. An [`End`]
    /// wrapped in an I/O error is returned as it is.
    pub(crate) fn receive(
        &mut self,
        stream: &mut impl Read,
        buffer: &mut ReadBuffer,
        budget: usize,
        sink: &mut dyn FrameSink,
    ) -> Result<DecodeProgress, End> {
        let mut remaining = budget.max(1);
        // The length of the incomplete frame at the front of the buffer.
        let mut filled = self.restore_partial(buffer);
        loop {
            if remaining == 0 {
                self.store_partial(buffer, filled);
                return Ok(DecodeProgress::Budget);
            }
            if buffer.space(0).len() < filled + READ_LEN_MIN {
                self.store_partial(buffer, std::mem::take(&mut filled));
                buffer.space(READ_LEN_MIN);
                // Restores a partial prefix that was just stored.
                filled = self.restore_partial(buffer);
            }
            let error = match self.read(stream, buffer, filled, remaining) {
                Ok(0) if filled == 0 && matches!(self.partial, PartialFrame::Empty) => {
                    return Ok(DecodeProgress::Finished);
                }
                Ok(0) => return Ok(DecodeProgress::CutOff),
                Ok(read) => {
                    remaining -= read;
                    filled = self.advance(buffer, filled, read, sink)?;
                    continue;
                }
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => {
                    self.store_partial(buffer, filled);
                    return Ok(DecodeProgress::Blocked);
                }
                io::ErrorKind::UnexpectedEof => return Ok(DecodeProgress::CutOff),
                _ => return Err(error.downcast().unwrap_or_else(End::broken)),
            }
        }
    }

    /// Reads at most `max` bytes with one call: first into the remainder of the incomplete frame,
    /// if there is one, then into the buffer after `filled`.
    fn read(
        &mut self,
        stream: &mut impl Read,
        buffer: &mut ReadBuffer,
        filled: usize,
        max: usize,
    ) -> io::Result<usize> {
        let space = &mut buffer.space(0)[filled..];
        match &mut self.partial {
            PartialFrame::Frame { frame, have } => {
                let missing = &mut frame[*have..];
                let first = missing.len().min(max);
                let second = space.len().min(max - first);
                let mut slices = [
                    IoSliceMut::new(&mut missing[..first]),
                    IoSliceMut::new(&mut space[..second]),
                ];
                stream.read_vectored(&mut slices)
            }
            PartialFrame::Empty | PartialFrame::Prefix { .. } => {
                let len = space.len().min(max);
                stream.read(&mut space[..len])
            }
        }
    }

    /// Accounts for `read` new bytes. Returns the length of the incomplete frame at the front of
    /// the buffer.
    fn advance(
        &mut self,
        buffer: &mut ReadBuffer,
        filled: usize,
        read: usize,
        sink: &mut dyn FrameSink,
    ) -> Result<usize, End> {
        let mut remainder = read;
        if let PartialFrame::Frame { frame, have } = &mut self.partial {
            let missing = frame.len() - *have;
            if read < missing {
                *have += read;
                return Ok(0);
            }
            sink.frame(std::mem::take(frame).freeze());
            self.partial = PartialFrame::Empty;
            remainder = read - missing;
        }
        extract_frames(buffer, filled + remainder, sink)
    }

    /// Stores the incomplete frame in the first `filled` bytes of the buffer.
    fn store_partial(&mut self, buffer: &mut ReadBuffer, filled: usize) {
        if filled == 0 {
            return;
        }
        debug_assert!(matches!(self.partial, PartialFrame::Empty));
        let received = &buffer.space(0)[..filled];
        self.partial = match received.split_first_chunk::<PREFIX_LEN>() {
            Some((prefix, received)) => {
                // `extract_frames` validated the length when the prefix was complete.
                let len = prefix_value(*prefix);
                debug_assert!(received.len() < len && len <= FRAME_LEN_MAX);
                let mut frame = BytesMut::with_capacity(len);
                frame.extend_from_slice(received);
                frame.resize(len, 0);
                let have = received.len();
                PartialFrame::Frame { frame, have }
            }
            None => {
                let mut bytes = [0; PREFIX_LEN];
                bytes[..filled].copy_from_slice(received);
                PartialFrame::Prefix { bytes, len: filled }
            }
        };
    }

    /// Copies a partial length prefix back to the front of the buffer. Returns its length.
    fn restore_partial(&mut self, buffer: &mut ReadBuffer) -> usize {
        let PartialFrame::Prefix { bytes, len } = self.partial else {
            return 0;
        };
        self.partial = PartialFrame::Empty;
        buffer.space(READ_LEN_MIN)[..len].copy_from_slice(&bytes[..len]);
        len
    }
}

/// Splits the complete frames off the first `filled` bytes. Returns the length of the remainder.
fn extract_frames(
    buffer: &mut ReadBuffer,
    filled: usize,
    sink: &mut dyn FrameSink,
) -> Result<usize, End> {
    let mut filled = filled;
    while let Some(prefix) = buffer.space(0)[..filled].first_chunk::<PREFIX_LEN>() {
        let len = prefix_value(*prefix);
        if len == 0 {
            return Err(misbehaved("an empty frame"));
        }
        if len > FRAME_LEN_MAX {
            return Err(misbehaved("a frame longer than 64 KiB"));
        }
        if filled < PREFIX_LEN + len {
            break;
        }
        let mut frame = buffer.take(PREFIX_LEN + len);
        frame.advance(PREFIX_LEN);
        sink.frame(frame.freeze());
        filled -= PREFIX_LEN + len;
    }
    Ok(filled)
}

fn prefix_value(prefix: [u8; PREFIX_LEN]) -> usize {
    usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX)
}

const fn misbehaved(what: &'static str) -> End {
    End::Misbehaved { what }
}

// One read can complete a frame of maximum length that follows a prefix, without a new block.
const _: () = assert!(ReadBuffer::LEN >= PREFIX_LEN + FRAME_LEN_MAX + READ_LEN_MIN);

#[cfg(test)]
mod tests;
