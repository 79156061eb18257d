//! Pulls frames from a source and writes them to a byte stream.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::{Buf, Bytes};

use super::PREFIX_LEN;
use crate::{FRAME_LEN_MAX, Frame, FrameHeader, FrameSource, LaneSet, ReadBuffer, SendCapacity};

/// Frames up to this length are coalesced by copying; the body of a longer one is written from its
/// own memory. Copying 4 KiB costs about as much as one more slice in a vectored write.
const COPIED_FRAME_MAX: usize = 4 * 1024;

/// The memory for coalesced frames, a part of the worker's buffer.
const COPY_LEN: usize = 64 * 1024;

/// The maximum number of uncopied bodies in one write.
const BODIES_MAX: usize = 32;

/// A batch is complete at this length; with its last frame it has at most 256 KiB, so that the
/// session decides late which frame is next.
const BATCH_LEN: usize = 192 * 1024;

const CAPACITY: SendCapacity = SendCapacity {
    frame_max: FRAME_LEN_MAX,
    datagram_max: 0,
    blocked: LaneSet::EMPTY,
    control_blocked: false,
};

/// Accepted frames that the stream has not taken yet; usually empty.
#[derive(Debug, Default)]
pub(super) struct WriteBuffer {
    pending: VecDeque<Bytes>,
    /// The uncopied bodies of the current batch, each with the end offset of the copied bytes
    /// before it. Empty between calls; kept for its allocation.
    bodies: Vec<(usize, Bytes)>,
}

/// The condition at which [`WriteBuffer::send`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteProgress {
    /// All frames are written and the source has no more.
    Done,
    /// The stream accepts no more data at present.
    Blocked,
    /// The budget is used up.
    Budget,
}

/// The lengths of a batch, and whether the source has no more frames.
#[derive(Debug, Clone, Copy)]
struct WriteBatch {
    copied: usize,
    len: usize,
    is_last: bool,
}

impl WriteBuffer {
    /// Pulls frames from `source` and writes them, about `budget` bytes at most.
    ///
    /// # Errors
    /// The error of the stream, or `InvalidInput` if the source violated its contract.
    pub(super) fn send(
        &mut self,
        stream: &mut impl Write,
        buffer: &mut ReadBuffer,
        budget: usize,
        source: &mut dyn FrameSource,
    ) -> io::Result<WriteProgress> {
        let mut remaining = budget;
        if self.write_pending(stream, &mut remaining)? == WriteProgress::Blocked {
            return Ok(WriteProgress::Blocked);
        }
        while remaining > 0 {
            let memory = &mut buffer.space(COPY_LEN)[..COPY_LEN];
            let batch = self.collect(memory, remaining.min(BATCH_LEN), source)?;
            remaining = remaining.saturating_sub(batch.len);
            let written = self.write_batch(stream, memory, batch)?;
            if written < batch.len {
                return Ok(WriteProgress::Blocked);
            }
            if batch.is_last {
                return Ok(WriteProgress::Done);
            }
        }
        Ok(WriteProgress::Budget)
    }

    /// Writes the bytes that remained from an earlier call.
    ///
    /// # Errors
    /// The error of the stream.
    pub(super) fn write_pending(
        &mut self,
        stream: &mut impl Write,
        remaining: &mut usize,
    ) -> io::Result<WriteProgress> {
        while !self.pending.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2 * BODIES_MAX + 1];
            for (slice, bytes) in slices.iter_mut().zip(&self.pending) {
                *slice = IoSlice::new(bytes);
            }
            let count = self.pending.len().min(slices.len());
            let Some(written) = write_some(stream, &slices[..count])? else {
                return Ok(WriteProgress::Blocked);
            };
            *remaining = remaining.saturating_sub(written);
            self.drop_written(written);
        }
        Ok(WriteProgress::Done)
    }

    fn drop_written(&mut self, written: usize) {
        let mut skip = written;
        while let Some(first) = self.pending.front_mut() {
            if skip < first.len() {
                first.advance(skip);
                return;
            }
            skip -= first.len();
            self.pending.pop_front();
        }
        // Frees the capacity that a burst left, so that an idle connection holds no memory.
        self.pending.shrink_to(0);
    }

    /// Pulls frames until there are enough for one write.
    fn collect(
        &mut self,
        memory: &mut [u8],
        len_min: usize,
        source: &mut dyn FrameSource,
    ) -> io::Result<WriteBatch> {
        let mut batch = WriteBatch {
            copied: 0,
            len: 0,
            is_last: false,
        };
        while batch.len < len_min
            && self.bodies.len() < BODIES_MAX
            && memory.len() - batch.copied >= PREFIX_LEN + COPIED_FRAME_MAX
        {
            let Some(frame) = source.next_frame(&CAPACITY) else {
                batch.is_last = true;
                break;
            };
            let Some(prefix) = prefix_of(&frame) else {
                self.bodies.clear();
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the source supplied a frame that is empty or too long",
                ));
            };
            let space = &mut memory[batch.copied..];
            space[..PREFIX_LEN].copy_from_slice(&prefix);
            space[PREFIX_LEN..][..FrameHeader::CAPACITY].copy_from_slice(frame.header.padded());
            batch.copied += PREFIX_LEN + frame.header.as_slice().len();
            batch.len += PREFIX_LEN + frame.len();
            if frame.len() <= COPIED_FRAME_MAX {
                memory[batch.copied..][..frame.body.len()].copy_from_slice(&frame.body);
                batch.copied += frame.body.len();
            } else {
                self.bodies.push((batch.copied, frame.body));
            }
        }
        Ok(batch)
    }

    /// Writes a batch and keeps the part that the stream does not accept. Returns the length
    /// written.
    fn write_batch(
        &mut self,
        stream: &mut impl Write,
        memory: &[u8],
        batch: WriteBatch,
    ) -> io::Result<usize> {
        let mut written = 0;
        while written < batch.len {
            let mut slices = [IoSlice::new(&[]); 2 * BODIES_MAX + 1];
            let mut count = 0;
            let mut skip = written;
            for part in self.parts(&memory[..batch.copied]) {
                if skip < part.len() {
                    slices[count] = IoSlice::new(&part[skip..]);
                    count += 1;
                }
                skip = skip.saturating_sub(part.len());
            }
            let Some(some) = write_some(stream, &slices[..count])? else {
                self.keep_unwritten(memory, batch.copied, written);
                return Ok(written);
            };
            written += some;
        }
        self.bodies.clear();
        Ok(written)
    }

    /// The slices of a batch in the order of transmission; some may be empty.
    fn parts<'a>(&'a self, copied: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let starts = std::iter::once(0).chain(self.bodies.iter().map(|&(end, _)| end));
        let pairs = self.bodies.iter().zip(starts);
        let last = self.bodies.last().map_or(0, |&(end, _)| end);
        pairs
            .flat_map(move |((end, body), start)| [&copied[start..*end], &body[..]])
            .chain(std::iter::once(&copied[last..]))
    }

    /// Keeps the bytes of a batch after the first `written`. Coalesced bytes are copied, because
    /// the memory belongs to the worker and is far larger.
    fn keep_unwritten(&mut self, memory: &[u8], copied: usize, written: usize) {
        let mut skip = written;
        let mut start = 0;
        let pending = &mut self.pending;
        let mut keep = |mut bytes: Bytes| {
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            bytes.advance(skipped);
            if !bytes.is_empty() {
                pending.push_back(bytes);
            }
        };
        for (end, body) in self.bodies.drain(..) {
            keep(Bytes::copy_from_slice(&memory[start..end]));
            keep(body);
            start = end;
        }
        keep(Bytes::copy_from_slice(&memory[start..copied]));
    }
}

/// The length prefix of a frame; `None` if the length is invalid.
fn prefix_of(frame: &Frame) -> Option<[u8; PREFIX_LEN]> {
    let len = frame.len();
    if len == 0 || len > FRAME_LEN_MAX {
        return None;
    }
    u32::try_from(len).ok().map(u32::to_le_bytes)
}

/// Writes once; `None` if the stream accepts nothing at present.
///
/// A single slice, the result of small frames, is written by `send(2)`: `writev(2)` accesses the
/// `file` of the socket, which with 10,000 sockets is no longer in the caches.
fn write_some(stream: &mut impl Write, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
    loop {
        let written = match slices {
            [one] => stream.write(one),
            _ => stream.write_vectored(slices),
        };
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(Some(written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

// The header of a longer frame fits into the space reserved for a copied one.
const _: () = assert!(FrameHeader::CAPACITY <= COPIED_FRAME_MAX);
const _: () = assert!(BATCH_LEN + FRAME_LEN_MAX + PREFIX_LEN <= 256 * 1024 + PREFIX_LEN);

#[cfg(test)]
mod tests;
