//! The send buffer: messages of producers, appended to the streams of their lanes.
//!
//! A [`SendBuffer`] is shared by the sending threads (behind a lock of the driver); the session
//! drains it in batches. A small message is copied next to its predecessor, so that a burst of them
//! is one piece of memory, one frame and one acknowledgement. A large one is not copied.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};

use crate::config::{OfflinePolicy, SessionConfig};
use crate::encoded_batch::EncodedBatch;
use crate::error::SendError;
use crate::lane::{BEST_EFFORT_LEN_MAX, Delivery, LaneId, cost};
use crate::segment::{HEAD_LEN_MAX, Segment};
use crate::spare_chunks::SpareChunks;
use crate::varint;

/// Payloads up to this many bytes are copied into a chunk; longer ones are retained without a
/// copy. Copying 4 KiB costs 40 ns (benches/README.md, "Reference measurements"), about as much as a
/// separate reference.
const COPY_LEN_MAX: usize = 4096;

/// Messages in parts up to this many bytes are copied into a chunk; longer ones are allocated
/// separately, so that no chunk remains more than a quarter unused.
const PARTS_LEN_MAX: usize = CHUNK_LEN_MAX / 4;

/// Chunks grow from the first to the second size while bursts fill them: an endpoint that sends
/// little occupies little memory, one that sends much fills whole frames.
const CHUNK_LEN_MIN: usize = 1024;
const CHUNK_LEN_MAX: usize = 64 * 1024;

/// Up to this many bytes of a lane may wait for the long acknowledgement delay, unless an
/// acknowledgement is requested.
pub(crate) const LONG_ACK_DELAY_LEN_MAX: u64 = 64 << 10;

/// Messages that producers have pushed and the session has not drained.
#[derive(Debug)]
pub struct SendBuffer {
    lanes: Vec<LaneSendBuffer>,
    limits: SendLimits,
    /// How many accepted messages were abandoned: they will not be acknowledged.
    abandoned: u64,
}

/// The limits and the state that all lanes share.
#[derive(Debug)]
struct SendLimits {
    send_buffer: u64,
    offline_policy: OfflinePolicy,
    /// Whether the peer could be reached at the last [`sync_send_buffer`](crate::Session::sync_send_buffer).
    is_reachable: bool,
    best_effort_buffer: usize,
    message_max: usize,
    closed: bool,
    /// Whether a caller waits until accepted messages are settled, and the session has not been
    /// notified.
    awaited: AtomicBool,
}

#[derive(Debug, Default)]
struct LaneSendBuffer {
    delivery: Delivery,
    /// Bytes accepted so far.
    accepted: u64,
    /// Bytes of them that were acknowledged or abandoned.
    settled: u64,
    /// The chunk into which small messages are copied.
    chunk: BytesMut,
    chunk_len: usize,
    spare: SpareChunks,
    segments: Vec<Segment>,
    best_effort: VecDeque<Bytes>,
    best_effort_bytes: usize,
    best_effort_dropped: u64,
}

impl SendBuffer {
    /// An empty send buffer with the lanes and limits of `config`.
    #[must_use]
    pub fn new(config: &SessionConfig) -> Self {
        let lane = |lane: &crate::lane::LaneConfig| LaneSendBuffer {
            delivery: lane.delivery,
            chunk_len: CHUNK_LEN_MIN,
            ..LaneSendBuffer::default()
        };
        Self {
            lanes: config.lanes.iter().map(lane).collect(),
            limits: SendLimits {
                send_buffer: config.send_buffer,
                offline_policy: config.offline_policy,
                is_reachable: false,
                best_effort_buffer: config.best_effort_buffer,
                message_max: config.message_max,
                closed: false,
                awaited: AtomicBool::new(false),
            },
            abandoned: 0,
        }
    }

    /// Accepts a message, or returns it.
    ///
    /// A best-effort message is always accepted; when the lane's buffer is full, its oldest message is
    /// dropped and counted.
    ///
    /// # Errors
    /// [`SendError`]; each variant holds the payload.
    pub fn push(&mut self, lane: LaneId, payload: Bytes) -> Result<(), SendError> {
        let Self { lanes, limits, .. } = self;
        let Some(buffer) = lanes.get_mut(lane.index()) else {
            return Err(self.unknown_lane().with(payload));
        };
        match buffer.admit(limits, payload.len()) {
            Ok(Delivery::Reliable) => buffer.push(payload),
            Ok(Delivery::BestEffort) => {
                buffer.push_best_effort(payload, limits.best_effort_buffer);
            }
            Err(refused) => return Err(refused.with(payload)),
        }
        Ok(())
    }

    /// Accepts a message in pieces, which are copied one after the other: no memory is needed to
    /// concatenate them first. Otherwise like [`push`](Self::push).
    ///
    /// # Errors
    /// [`SendError`]; each variant holds the concatenated payload.
    #[inline]
    pub fn push_parts(&mut self, lane: LaneId, parts: &[&[u8]]) -> Result<(), SendError> {
        let len = parts.iter().map(|part| part.len()).sum();
        let Self { lanes, limits, .. } = self;
        let Some(buffer) = lanes.get_mut(lane.index()) else {
            return Err(self.unknown_lane().with(parts.concat().into()));
        };
        match buffer.admit(limits, len) {
            Ok(Delivery::Reliable) if len <= PARTS_LEN_MAX => buffer.copy(len, parts),
            Ok(_) => return self.push(lane, parts.concat().into()),
            Err(refused) => return Err(refused.with(parts.concat().into())),
        }
        Ok(())
    }

    /// Accepts a message of a head and a body. A body of more than 4 KiB is not copied if the head has at most
    /// 14 bytes. Otherwise like [`push`](Self::push).
    ///
    /// # Errors
    /// [`SendError`]; each variant holds the body only.
    #[inline]
    pub fn push_message(
        &mut self,
        lane: LaneId,
        head: &[u8],
        body: &Bytes,
    ) -> Result<(), SendError> {
        let Self { lanes, limits, .. } = self;
        let Some(buffer) = lanes.get_mut(lane.index()) else {
            return Err(self.unknown_lane().with(body.clone()));
        };
        match buffer.admit(limits, head.len() + body.len()) {
            Ok(Delivery::Reliable) if head.len() <= HEAD_LEN_MAX => buffer.push_message(head, body),
            Ok(_) => return self.push_parts(lane, &[head, body]),
            Err(refused) => return Err(refused.with(body.clone())),
        }
        Ok(())
    }

    /// Accepts all messages of a batch without a copy, if the lane is reliable and there is room
    /// for all of them now. Returns whether it did. If not, none was accepted, and
    /// [`push`](Self::push) of each returns the reason.
    #[must_use]
    pub fn push_batch(&mut self, lane: LaneId, batch: &EncodedBatch) -> bool {
        self.push_batch_with(lane, batch, LaneSendBuffer::push_batch)
    }

    /// The same, but a batch of at most 16 KiB is copied: it shares frames with other messages, and no memory with
    /// other send buffers.
    #[must_use]
    pub fn copy_batch(&mut self, lane: LaneId, batch: &EncodedBatch) -> bool {
        let push = match batch.len() {
            ..=PARTS_LEN_MAX => LaneSendBuffer::copy_batch,
            _ => LaneSendBuffer::push_batch,
        };
        self.push_batch_with(lane, batch, push)
    }

    fn push_batch_with(
        &mut self,
        lane: LaneId,
        batch: &EncodedBatch,
        push: fn(&mut LaneSendBuffer, &EncodedBatch),
    ) -> bool {
        let Self { lanes, limits, .. } = self;
        let Some(buffer) = lanes.get_mut(lane.index()) else {
            return false;
        };
        let is_reliable = buffer.admit(limits, batch.longest()) == Ok(Delivery::Reliable);
        let needed = buffer.used() + batch.len() as u64;
        let fits = is_reliable && (needed <= limits.send_buffer || limits.refuse(needed).is_none());
        if fits && !batch.is_empty() {
            buffer.accepted += batch.len() as u64;
            push(buffer, batch);
        }
        fits
    }

    /// Whether a message of that length would be refused as [full](SendError::Full) now.
    #[must_use]
    #[inline]
    pub fn is_full(&self, lane: LaneId, len: usize) -> bool {
        let buffer = self.lanes.get(lane.index());
        let admitted = buffer.map(|buffer| buffer.admit(&self.limits, len));
        matches!(admitted, Some(Err(SendRefusal::Full)))
    }

    /// The same for a lane that is to hold at most `limit` bytes, if its own limit is not lower. Any message
    /// fits into an empty lane.
    #[must_use]
    pub fn is_full_within(&self, lane: LaneId, len: usize, limit: u64) -> bool {
        let used = self.lanes.get(lane.index()).map_or(0, LaneSendBuffer::used);
        let is_above = used > 0 && used + cost(len) > limit && !self.limits.closed;
        is_above || self.is_full(lane, len)
    }

    const fn unknown_lane(&self) -> SendRefusal {
        if self.limits.closed {
            SendRefusal::Closed
        } else {
            SendRefusal::UnknownLane
        }
    }

    /// Bytes accepted on reliable lanes and not yet acknowledged.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lanes.iter().map(LaneSendBuffer::used).sum()
    }

    /// A mark after everything accepted so far, for [`is_settled`](Self::is_settled).
    #[must_use]
    pub fn mark(&self) -> FlushMark {
        FlushMark {
            accepted: self.lanes.iter().map(|lane| lane.accepted).collect(),
            abandoned: self.abandoned,
        }
    }

    /// Whether everything on reliable lanes that was accepted before `mark` has been acknowledged;
    /// `None` while a message is outstanding.
    ///
    /// # Errors
    /// [`AbandonedMessages`]: since `mark`, messages were reported as undelivered.
    pub fn is_settled(&self, mark: &FlushMark) -> Option<Result<(), AbandonedMessages>> {
        if self.abandoned > mark.abandoned {
            let messages = self.abandoned - mark.abandoned;
            return Some(Err(AbandonedMessages { messages }));
        }
        let mut lanes = self.lanes.iter().zip(&mark.accepted);
        lanes
            .all(|(lane, accepted)| lane.settled >= *accepted)
            .then_some(Ok(()))
    }

    /// Registers a waiter for the settlement of everything accepted so far: with the next
    /// [`sync_send_buffer`](crate::Session::sync_send_buffer) the session requests an acknowledgement.
    pub fn await_settled(&self) {
        self.limits.awaited.store(true, Ordering::Relaxed);
    }

    /// Whether a caller waits for settlement or for room, so that an
    /// [`sync_send_buffer`](crate::Session::sync_send_buffer) should follow.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.limits.awaited.load(Ordering::Relaxed)
    }

    /// Refuses every message from now on.
    pub fn close(&mut self) {
        self.limits.closed = true;
    }

    /// Whether every message is refused from now on.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.limits.closed
    }

    /// Frees unused memory of past traffic, up to 4 MiB per lane. The next burst begins with small
    /// chunks again, so call this after a period without traffic.
    pub fn shrink(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.chunk.is_empty()) {
            lane.chunk = BytesMut::new();
            lane.spare.clear();
            lane.chunk_len = CHUNK_LEN_MIN;
            if lane.segments.is_empty() {
                lane.segments.shrink_to_fit();
            }
        }
    }

    /// Whether a waiter registered since the last call.
    pub(crate) fn take_awaited(&mut self) -> bool {
        std::mem::take(self.limits.awaited.get_mut())
    }

    /// Records that bytes of a lane were acknowledged or abandoned.
    pub(crate) fn release(&mut self, lane: usize, bytes: u64) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.settled += bytes;
            debug_assert!(
                lane.settled <= lane.accepted,
                "more was released than accepted"
            );
        }
    }

    /// Records that accepted messages will not be acknowledged.
    pub(crate) const fn abandon(&mut self, messages: u64) {
        self.abandoned += messages;
    }

    /// Records whether the peer can be reached.
    pub(crate) const fn set_reachable(&mut self, is_reachable: bool) {
        self.limits.is_reachable = is_reachable;
    }

    /// By how many bytes a lane exceeds its limit.
    pub(crate) fn excess(&self, lane: usize) -> u64 {
        let used = self.lanes.get(lane).map_or(0, LaneSendBuffer::used);
        used.saturating_sub(self.limits.send_buffer)
    }

    /// Calls `take` with the segments of each reliable lane, in order.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(LaneId, Segment)) {
        for (number, lane) in (0..).zip(&mut self.lanes) {
            let Some(id) = LaneId::new(number) else { break };
            lane.end_burst();
            for segment in lane.segments.drain(..) {
                take(id, segment);
            }
        }
    }

    /// Takes the best-effort messages of a lane, and the number of dropped ones.
    pub(crate) fn drain_best_effort(&mut self, lane: LaneId) -> (VecDeque<Bytes>, u64) {
        let Some(lane) = self.lanes.get_mut(lane.index()) else {
            return Default::default();
        };
        lane.best_effort_bytes = 0;
        (
            std::mem::take(&mut lane.best_effort),
            std::mem::take(&mut lane.best_effort_dropped),
        )
    }
}

/// A point in the streams of a [`SendBuffer`], for [`SendBuffer::is_settled`].
#[derive(Debug, Clone)]
pub struct FlushMark {
    accepted: Vec<u64>,
    abandoned: u64,
}

/// Messages that were accepted and may not have been delivered: [`Event::PeerRestarted`],
/// [`Event::Closed`] or [`Event::Dropped`] lists which.
///
/// [`Event::PeerRestarted`]: crate::Event::PeerRestarted
/// [`Event::Closed`]: crate::Event::Closed
/// [`Event::Dropped`]: crate::Event::Dropped
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{messages} messages were accepted and may not have been delivered")]
pub struct AbandonedMessages {
    /// The number of messages.
    pub messages: u64,
}

/// Why a message is not accepted; the payload is added when the error is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendRefusal {
    Unreachable,
    Closed,
    Full,
    TooLarge { message_max: usize },
    UnknownLane,
}

impl SendRefusal {
    fn with(self, payload: Bytes) -> SendError {
        match self {
            Self::Unreachable => SendError::Unreachable(payload),
            Self::Closed => SendError::Closed(payload),
            Self::Full => SendError::Full(payload),
            Self::TooLarge { message_max } => SendError::TooLarge {
                payload,
                message_max,
            },
            Self::UnknownLane => SendError::UnknownLane(payload),
        }
    }
}

impl SendLimits {
    /// Why a message is refused with which the lane would use `needed` bytes, more than its limit;
    /// `None` if it is accepted.
    const fn refuse(&self, needed: u64) -> Option<SendRefusal> {
        if self.is_reachable {
            return Some(SendRefusal::Full);
        }
        match self.offline_policy {
            OfflinePolicy::Wait => Some(SendRefusal::Full),
            OfflinePolicy::Refuse => Some(SendRefusal::Unreachable),
            // The next call of `sync_send_buffer` drops the oldest messages.
            OfflinePolicy::DropOldest if needed > 2 * self.send_buffer => Some(SendRefusal::Full),
            OfflinePolicy::DropOldest => None,
        }
    }
}

impl LaneSendBuffer {
    const fn used(&self) -> u64 {
        self.accepted - self.settled
    }

    /// The delivery guarantee of the lane, if a message of that length is accepted now.
    #[inline]
    fn admit(&self, limits: &SendLimits, len: usize) -> Result<Delivery, SendRefusal> {
        if limits.closed {
            return Err(SendRefusal::Closed);
        }
        let message_max = match self.delivery {
            Delivery::Reliable => limits.message_max,
            Delivery::BestEffort => BEST_EFFORT_LEN_MAX,
        };
        if len > message_max {
            return Err(SendRefusal::TooLarge { message_max });
        }
        let needed = self.used() + cost(len);
        if needed > limits.send_buffer && self.delivery == Delivery::Reliable {
            self.admit_beyond(limits, len, needed)?;
        }
        Ok(self.delivery)
    }

    /// Whether a message is accepted although the lane would use more than its limit.
    #[cold]
    fn admit_beyond(
        &self,
        limits: &SendLimits,
        len: usize,
        needed: u64,
    ) -> Result<(), SendRefusal> {
        // A message may be larger than the whole buffer: it is accepted while the buffer is at most half full. If
        // it had to be empty, small messages of others would keep the large one out for ever.
        let is_larger = cost(len) > limits.send_buffer;
        if is_larger && self.used() <= limits.send_buffer / 2 {
            return Ok(());
        }
        let Some(refused) = limits.refuse(needed) else {
            return Ok(());
        };
        if self.used() < 2 * LONG_ACK_DELAY_LEN_MAX {
            // A sender without room must not wait for a delayed acknowledgement.
            limits.awaited.store(true, Ordering::Relaxed);
        }
        Err(refused)
    }

    #[inline]
    fn push(&mut self, payload: Bytes) {
        match payload.len() {
            len @ ..=COPY_LEN_MAX => self.copy(len, &[&payload]),
            _ => self.push_large(&[], payload),
        }
    }

    /// Appends a message that is not copied.
    #[inline(never)]
    fn push_large(&mut self, head: &[u8], body: Bytes) {
        self.accepted += cost(head.len() + body.len());
        self.finish_chunk();
        self.segments.push(Segment::message(head, body));
    }

    /// Appends a message in two parts, of which the first one has at most [`HEAD_LEN_MAX`] bytes.
    fn push_message(&mut self, head: &[u8], body: &Bytes) {
        match head.len() + body.len() {
            len @ ..=COPY_LEN_MAX => self.copy(len, &[head, body]),
            _ => self.push_large(head, body.clone()),
        }
    }

    fn push_batch(&mut self, batch: &EncodedBatch) {
        self.finish_chunk();
        self.segments.push(Segment::encoded(batch.bytes().clone()));
    }

    fn copy_batch(&mut self, batch: &EncodedBatch) {
        self.make_room(batch.len());
        self.chunk.extend_from_slice(batch.bytes());
    }

    /// Appends a message of `len` bytes in total to the chunk.
    #[inline]
    fn copy(&mut self, len: usize, parts: &[&[u8]]) {
        self.begin_message(len);
        parts
            .iter()
            .for_each(|part| self.chunk.extend_from_slice(part));
    }

    /// Accounts for a message of `len` bytes and appends its length to a chunk with room for both.
    #[inline]
    fn begin_message(&mut self, len: usize) {
        self.accepted += cost(len);
        self.make_room(varint::len(len as u64) + len);
        varint::append(len as u64, &mut self.chunk);
    }

    /// Provides a chunk with room for `needed` bytes.
    #[inline]
    fn make_room(&mut self, needed: usize) {
        if self.chunk.is_empty() {
            // If everything before is acknowledged, its memory is reused from the beginning, so
            // that an endpoint that sends rarely occupies few cache lines.
            let _may_be_shared = self.chunk.try_reclaim(self.chunk_len);
        }
        if self.chunk.capacity() - self.chunk.len() < needed {
            self.grow(needed);
        }
    }

    /// Begins a new chunk, twice as large as the last one if one burst filled that.
    fn grow(&mut self, needed: usize) {
        if !self.chunk.is_empty() {
            self.chunk_len = (self.chunk_len * 2).min(CHUNK_LEN_MAX);
        }
        self.finish_chunk();
        let next = self.spare.take(self.chunk_len.max(needed));
        let full = std::mem::replace(&mut self.chunk, next);
        if self.chunk_len == CHUNK_LEN_MAX {
            self.spare.keep(full);
        }
    }

    fn finish_chunk(&mut self) {
        if !self.chunk.is_empty() {
            let bytes = self.chunk.split().freeze();
            self.segments.push(Segment::encoded(bytes));
        }
    }

    /// Ends a burst: the content of the chunk becomes a segment, and the next chunk is smaller if this
    /// one was hardly used.
    fn end_burst(&mut self) {
        if self.segments.is_empty() && self.chunk.len() < self.chunk_len / 8 {
            self.chunk_len = (self.chunk_len / 2).max(CHUNK_LEN_MIN);
            if self.chunk_len == CHUNK_LEN_MIN {
                self.spare.clear();
            }
        }
        self.finish_chunk();
    }

    fn push_best_effort(&mut self, payload: Bytes, limit: usize) {
        self.best_effort_bytes += payload.len();
        self.best_effort.push_back(payload);
        while self.best_effort_bytes > limit && self.best_effort.len() > 1 {
            let Some(oldest) = self.best_effort.pop_front() else {
                break;
            };
            self.best_effort_bytes -= oldest.len();
            self.best_effort_dropped += 1;
        }
    }
}

#[cfg(test)]
#[path = "send_buffer_tests.rs"]
mod tests;
