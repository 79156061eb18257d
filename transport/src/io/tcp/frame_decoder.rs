//! Cuts a byte stream into frames.

use std::io::{self, IoSliceMut, Read};

use bytes::{Buf, BytesMut};

use super::PREFIX_LEN;
use crate::{End, FRAME_LEN_MAX, FrameSink, ReadBuffer};

/// The least space worth a read; with less left, the worker's buffer is renewed.
const READ_LEN_MIN: usize = 32 * 1024;

/// Reads a stream into the worker's buffer and cuts frames out of it, without a copy.
///
/// Only the beginning of a frame that has not arrived whole is kept here, in memory of exactly the
/// length of that frame; what follows is read straight behind it. So each byte is copied at most
/// once, however slowly a frame comes.
#[derive(Debug, Default)]
pub(crate) struct FrameDecoder {
    partial: PartialFrame,
}

/// The beginning of a frame.
#[derive(Debug, Default)]
enum PartialFrame {
    /// None: the stream is between two frames.
    #[default]
    Empty,
    /// A part of its length.
    Prefix { bytes: [u8; PREFIX_LEN], len: usize },
    /// `have` of its bytes; the length of `frame` is its own.
    Frame { frame: BytesMut, have: usize },
}

/// Why [`FrameDecoder::receive`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecodeProgress {
    /// Nothing more has arrived.
    Blocked,
    /// The budget is used up.
    Budget,
    /// The stream ended in order, between two frames.
    Finished,
    /// The stream ended within a frame, or was cut off.
    CutOff,
}

impl FrameDecoder {
    /// Reads at most `budget` bytes (at least one) and puts the frames that are whole into `sink`.
    ///
    /// # Errors
    /// [`End::Misbehaved`] for a length that is not allowed, [`End::Broken`] for an I/O error;
    /// an [`End`] within an I/O error is taken out of it.
    pub(crate) fn receive(
        &mut self,
        stream: &mut impl Read,
        buffer: &mut ReadBuffer,
        budget: usize,
        sink: &mut dyn FrameSink,
    ) -> Result<DecodeProgress, End> {
        let mut remaining = budget.max(1);
        // How many bytes of an unfinished frame lie at the front of the buffer.
        let mut filled = self.restore_partial(buffer);
        loop {
            if remaining == 0 {
                self.store_partial(buffer, filled);
                return Ok(DecodeProgress::Budget);
            }
            if buffer.space(0).len() < filled + READ_LEN_MIN {
                self.store_partial(buffer, std::mem::take(&mut filled));
                buffer.space(READ_LEN_MIN);
                // Cuts the prefix off again if that is all there was.
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

    /// One read of at most `max` bytes: first to the end of the frame that has begun, if there is
    /// one, then into the buffer behind `filled`.
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

    /// Takes note of `read` bytes more; returns how many at the front of the buffer are no whole
    /// frame yet.
    fn advance(
        &mut self,
        buffer: &mut ReadBuffer,
        filled: usize,
        read: usize,
        sink: &mut dyn FrameSink,
    ) -> Result<usize, End> {
        let mut behind = read;
        if let PartialFrame::Frame { frame, have } = &mut self.partial {
            let missing = frame.len() - *have;
            if read < missing {
                *have += read;
                return Ok(0);
            }
            sink.frame(std::mem::take(frame).freeze());
            self.partial = PartialFrame::Empty;
            behind = read - missing;
        }
        extract_frames(buffer, filled + behind, sink)
    }

    /// Keeps the beginning of a frame that lies in the first `filled` bytes of the buffer.
    fn store_partial(&mut self, buffer: &mut ReadBuffer, filled: usize) {
        if filled == 0 {
            return;
        }
        debug_assert!(matches!(self.partial, PartialFrame::Empty));
        let received = &buffer.space(0)[..filled];
        self.partial = match received.split_first_chunk::<PREFIX_LEN>() {
            Some((prefix, received)) => {
                // The length was checked when the prefix arrived, by `extract_frames`.
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

    /// Puts a part of a length back to the front of the buffer; returns how many bytes that are.
    fn restore_partial(&mut self, buffer: &mut ReadBuffer) -> usize {
        let PartialFrame::Prefix { bytes, len } = self.partial else {
            return 0;
        };
        self.partial = PartialFrame::Empty;
        buffer.space(READ_LEN_MIN)[..len].copy_from_slice(&bytes[..len]);
        len
    }
}

/// Cuts the whole frames out of the first `filled` bytes; returns how many bytes are left there.
fn extract_frames(
    buffer: &mut ReadBuffer,
    filled: usize,
    sink: &mut dyn FrameSink,
) -> Result<usize, End> {
    let mut filled = filled;
    while let Some(prefix) = buffer.space(0)[..filled].first_chunk::<PREFIX_LEN>() {
        let len = prefix_value(*prefix);
        if len == 0 {
            return Err(misbehaved("a frame has no bytes"));
        }
        if len > FRAME_LEN_MAX {
            return Err(misbehaved("a frame is too long"));
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

// A read behind the beginning of a frame may complete it without the buffer being renewed.
const _: () = assert!(ReadBuffer::LEN >= PREFIX_LEN + FRAME_LEN_MAX + READ_LEN_MIN);

#[cfg(test)]
mod tests;
