//! Sends messages in bulk: under one lock and with one wake-up.

use std::fmt;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use selvedge_endpoint::{EncodedBatch, LaneId, SendBuffer, SendError};

use super::shared::EndpointShared;

/// The locked send buffer of an endpoint: [`Endpoint::sending`]. The worker is woken when this is dropped.
///
/// Drop it soon: other threads that send to the same peer, and the worker, block meanwhile. Do not hold
/// two at a time, or threads deadlock.
///
/// [`Endpoint::sending`]: crate::Endpoint::sending
pub struct Sending<'a> {
    // Dropped in this order: the worker that is woken finds the buffer unlocked.
    send_buffer: MutexGuard<'a, SendBuffer>,
    wake_up: DeferredWakeUp<'a>,
}

/// Wakes the worker when it is dropped, if anything was sent.
struct DeferredWakeUp<'a> {
    shared: &'a Arc<EndpointShared>,
    is_due: bool,
}

impl Drop for DeferredWakeUp<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_due {
            self.shared.wake_worker();
        }
    }
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sending(to {:#})", self.wake_up.shared.peer)
    }
}

impl<'a> Sending<'a> {
    #[inline]
    pub(crate) const fn new(
        send_buffer: MutexGuard<'a, SendBuffer>,
        shared: &'a Arc<EndpointShared>,
    ) -> Self {
        let is_due = false;
        Self {
            send_buffer,
            wake_up: DeferredWakeUp { shared, is_due },
        }
    }

    /// Sends on `lane` if there is room now.
    ///
    /// # Errors
    /// [`SendError`], with the payload in it.
    pub fn try_send(&mut self, lane: LaneId, payload: Bytes) -> Result<(), SendError> {
        self.wake_up.is_due = true;
        self.send_buffer.push(lane, payload)
    }

    /// Sends a message that is given in pieces, if there is room now. The pieces are copied into the
    /// buffer, so nothing is allocated for a small message.
    ///
    /// # Errors
    /// [`SendError`], with the joined payload in it.
    #[inline]
    pub fn try_send_parts(&mut self, lane: LaneId, parts: &[&[u8]]) -> Result<(), SendError> {
        self.wake_up.is_due = true;
        self.send_buffer.push_parts(lane, parts)
    }

    /// Sends a message of a head and a body, if there is room now. A body of more than 4 KiB is not copied if
    /// the head has at most 14 bytes.
    ///
    /// # Errors
    /// [`SendError`], with the body in it.
    #[inline]
    pub fn try_send_message(
        &mut self,
        lane: LaneId,
        head: &[u8],
        body: &Bytes,
    ) -> Result<(), SendError> {
        self.wake_up.is_due = true;
        self.send_buffer.push_message(lane, head, body)
    }

    /// Sends all messages of a batch without copying them, if there is room for all of them now and the
    /// lane is reliable. Returns whether it did; if not, none was sent.
    #[must_use]
    pub fn try_send_batch(&mut self, lane: LaneId, batch: &EncodedBatch) -> bool {
        let is_sent = self.send_buffer.push_batch(lane, batch);
        self.wake_up.is_due |= is_sent;
        is_sent
    }

    /// The same, but a batch of at most 16 KiB is copied: it shares frames with other messages, and no memory with
    /// other endpoints.
    #[must_use]
    pub fn try_copy_batch(&mut self, lane: LaneId, batch: &EncodedBatch) -> bool {
        let is_sent = self.send_buffer.copy_batch(lane, batch);
        self.wake_up.is_due |= is_sent;
        is_sent
    }

    /// Whether a message of that length would be refused as [full](SendError::Full) now.
    #[must_use]
    #[inline]
    pub fn is_full(&self, lane: LaneId, len: usize) -> bool {
        self.send_buffer.is_full(lane, len)
    }

    /// The same for a lane that is to hold at most `limit` bytes, if its own limit is not lower. Any message
    /// fits into an empty lane.
    #[must_use]
    pub fn is_full_within(&self, lane: LaneId, len: usize, limit: u64) -> bool {
        self.send_buffer.is_full_within(lane, len, limit)
    }

    /// Ready unless [`is_full_within`](Self::is_full_within); otherwise the task is woken when that may have
    /// changed, and the peer is requested to acknowledge what it has.
    pub fn poll_room_within(
        &self,
        cx: &Context<'_>,
        lane: LaneId,
        len: usize,
        limit: u64,
    ) -> Poll<()> {
        if !self.is_full_within(lane, len, limit) {
            return Poll::Ready(());
        }
        self.wake_up.shared.send_waiters.register(cx.waker());
        self.send_buffer.await_settled();
        self.wake_up
            .shared
            .wake_worker_if_awaited(&self.send_buffer);
        Poll::Pending
    }

    /// Ready unless a message of that length would be refused as [full](SendError::Full) now; otherwise
    /// the task is woken when that may have changed.
    #[inline]
    pub fn poll_room(&self, cx: &Context<'_>, lane: LaneId, len: usize) -> Poll<()> {
        if !self.is_full(lane, len) {
            return Poll::Ready(());
        }
        // Room is made under the lock that is held here, so no wake-up is lost.
        self.wake_up.shared.send_waiters.register(cx.waker());
        self.wake_up
            .shared
            .wake_worker_if_awaited(&self.send_buffer);
        Poll::Pending
    }
}
