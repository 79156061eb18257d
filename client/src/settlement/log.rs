//! The log of a source: unsettled messages.
//!
//! Messages leave the log wherever they are: one group that is slow retains what it lacks, and not what the
//! others have meanwhile. Sequences are counted in segments:
//!
//! ```text
//!  base                                                            next
//!   │ segment │ released │ released │ segment │ ...       │ segment │
//!    ▲ 64 messages: copied payloads are released in runs of up to 48 KiB, long ones alone
//! ```
//!
//! While messages wait for the window, they are copied as they will be sent, with their heads. A whole run of them
//! is then sent without a copy: reading it again, from memory that has left the caches, costs as much as writing it.

use std::collections::VecDeque;
use std::ops::Range;

mod segment;

pub use segment::LoggedPayload;
use segment::{LogSegment, SEGMENT_LEN, SpareMemory, bits};
pub(super) use segment::{LoggedBatch, MessageHead};

/// What a message costs in a log beside its payload, so that empty messages fill it, too.
const MESSAGE_COST: u64 = 64;

/// What a segment costs in a log once its messages are released.
const RELEASED_COST: u64 = 8;

/// How many segments are kept for further messages, and when the log is empty: 1 KiB each, without the payloads.
const SPARE_MAX: usize = 1024;
const SPARE_IDLE_MAX: usize = 16;

/// Messages in the order in which they were written, without those that were released.
#[derive(Debug, Default)]
pub(super) struct MessageLog {
    /// `None` if every message of a segment is released. The last one may have room for further messages.
    segments: VecDeque<Option<Box<LogSegment>>>,
    /// The first message of the first segment.
    start: u64,
    /// The first message of the log.
    base: u64,
    /// Behind the last message.
    next: u64,
    /// Segments that are not in use.
    #[allow(
        clippy::vec_box,
        reason = "they come from `segments`, and return there"
    )]
    spare: Vec<Box<LogSegment>>,
    memory: SpareMemory,
    /// What the messages cost, in bytes.
    bytes: u64,
}

/// What a payload costs in a log, in bytes.
#[inline]
pub(super) const fn cost_of(payload_len: usize) -> u64 {
    (payload_len as u64).saturating_add(MESSAGE_COST)
}

impl MessageLog {
    /// Adds a message, with the head that it is likely to be sent with, if it is not sent at once.
    #[inline]
    pub(super) fn push(
        &mut self,
        payload: LoggedPayload<'_>,
        flags: u8,
        head: Option<MessageHead<'_>>,
    ) {
        if self.next == self.start + self.segments.len() as u64 * SEGMENT_LEN {
            let segment = self.spare.pop().unwrap_or_else(LogSegment::boxed);
            self.segments.push_back(Some(segment));
        }
        let last = self.segments.back_mut();
        // The last segment is never released as long as it has room.
        let segment = last.expect("a segment was added");
        let segment = segment.get_or_insert_with(Box::default);
        match payload.is_kept() {
            false => segment.copy(&payload, flags, head, &mut self.memory),
            true => segment.keep(payload, flags, &mut self.memory),
        }
        self.note_pushed(payload.len());
    }

    #[inline]
    fn note_pushed(&mut self, payload_len: usize) {
        self.next += 1;
        self.bytes += cost_of(payload_len);
    }

    #[inline]
    pub(super) const fn base(&self) -> u64 {
        self.base
    }

    /// The number of the next message.
    #[inline]
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether no message is in front of the next one.
    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.base == self.next
    }

    #[inline]
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The segment of a message, and its place there.
    #[inline]
    fn find(&self, sequence: u64) -> Option<(&LogSegment, usize)> {
        let at = sequence.checked_sub(self.start)?;
        let segment = self.segments.get((at / SEGMENT_LEN) as usize)?.as_deref()?;
        Some((segment, (at % SEGMENT_LEN) as usize))
    }

    /// The length of the payload of a message.
    #[inline]
    pub(super) fn payload_len(&self, sequence: u64) -> Option<usize> {
        let (segment, at) = self.find(sequence)?;
        segment.payload_len(at)
    }

    /// What a message costs, in bytes.
    #[inline]
    pub(super) fn cost(&self, sequence: u64) -> Option<u64> {
        self.payload_len(sequence).map(cost_of)
    }

    /// A message, with its flags.
    #[inline]
    pub(super) fn get(&self, sequence: u64) -> Option<(LoggedPayload<'_>, u8)> {
        let (segment, at) = self.find(sequence)?;
        segment.get(at)
    }

    /// The messages from `sequence` on that are one batch with heads for an attachment, unless they are to be sent one by
    /// one.
    #[inline]
    pub(super) fn batch(&self, sequence: u64, attachment: u32) -> Option<LoggedBatch<'_>> {
        let (segment, at) = self.find(sequence)?;
        segment.batch(at, attachment)
    }

    /// The first message from `sequence` on that is not released, if there is one.
    pub(super) fn first_held(&self, sequence: u64) -> Option<u64> {
        let mut sequence = sequence.max(self.base);
        while sequence < self.next {
            let at = sequence - self.start;
            let (index, from) = ((at / SEGMENT_LEN) as usize, at % SEGMENT_LEN);
            let start = sequence - from;
            let held = self.segments.get(index)?.as_ref().map_or(0, |it| it.live());
            let held = held & bits(from, SEGMENT_LEN);
            if held != 0 {
                return Some(start + u64::from(held.trailing_zeros()));
            }
            sequence = start + SEGMENT_LEN;
        }
        None
    }

    /// What the messages below `end` cost, in bytes, without the segments that are released.
    pub(super) fn bytes_below(&self, end: u64) -> u64 {
        let mut bytes = 0;
        let mut start = self.start;
        for segment in &self.segments {
            if start >= end {
                break;
            }
            if let Some(segment) = segment {
                let behind = end.min(self.next) - start;
                // What lies behind is not released, since no recipient has had it.
                bytes += segment.bytes() - segment.cost_from(behind as usize);
            }
            start += SEGMENT_LEN;
        }
        bytes
    }

    /// Releases messages below `next`, which need not follow the base. Returns by how much the cost of the
    /// messages has decreased, in bytes.
    pub(super) fn release(&mut self, messages: Range<u64>) -> u64 {
        let mut freed = 0;
        let mut from = messages.start.max(self.base);
        let end = messages.end.min(self.next);
        while from < end {
            let at = from - self.start;
            let (index, first) = ((at / SEGMENT_LEN) as usize, at % SEGMENT_LEN);
            let start = from - first;
            let to = (end - start).min(SEGMENT_LEN);
            freed += self.release_in(index, bits(first, to));
            from = start + to;
        }
        self.bytes -= freed;
        freed
    }

    fn release_in(&mut self, index: usize, messages: u64) -> u64 {
        let Some(place) = self.segments.get_mut(index) else {
            return 0;
        };
        let Some(segment) = place else { return 0 };
        let freed = segment.release(messages, &mut self.memory);
        if segment.is_released() {
            debug_assert_eq!(segment.bytes(), 0, "nothing is left that costs anything");
            self.bytes += RELEASED_COST;
            let segment = place.take();
            self.recycle(segment);
        }
        freed
    }

    /// Removes the messages below `end`. Returns by how much the cost of the messages has decreased, in bytes.
    pub(super) fn remove_below(&mut self, end: u64) -> u64 {
        let end = end.min(self.next);
        let mut freed = 0;
        while self.start + SEGMENT_LEN <= end
            && let Some(segment) = self.segments.pop_front()
        {
            match &segment {
                Some(segment) => freed += segment.bytes(),
                None => self.bytes -= RELEASED_COST,
            }
            self.recycle(segment);
            self.start += SEGMENT_LEN;
        }
        if end > self.base
            && let Some(Some(segment)) = self.segments.front_mut()
        {
            let from = self.base.max(self.start) - self.start;
            freed += segment.remove(from, end.max(self.start) - self.start);
            // Perhaps the others are released.
            freed += self.release_in(0, 0);
        }
        self.base = self.base.max(end);
        self.bytes -= freed;
        if self.is_empty() {
            self.recycle_last();
        }
        freed
    }

    /// An idle flow keeps little memory.
    fn recycle_last(&mut self) {
        while let Some(segment) = self.segments.pop_front() {
            self.recycle(segment);
        }
        self.start = self.next;
        self.spare.truncate(SPARE_IDLE_MAX);
        self.memory.shrink();
    }

    fn recycle(&mut self, segment: Option<Box<LogSegment>>) {
        if let Some(mut segment) = segment {
            segment.clear(&mut self.memory);
            if self.spare.len() < SPARE_MAX {
                self.spare.push(segment);
            }
        }
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
