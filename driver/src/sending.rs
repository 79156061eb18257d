//! Sends many messages under one lock and with one bell.

use std::fmt;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use selvedge_endpoint::{EncodedBatch, LaneId, SendBuffer, SendError};

use crate::shared::Shared;

/// The send buffer of an endpoint, held for as long as this lives: [`Endpoint::sending`]. The worker
/// hears of what was sent when it is dropped. Be short: other threads that send to the same peer,
/// and the worker, wait meanwhile; and do not hold two at a time, or threads wait for each other.
///
/// [`Endpoint::sending`]: crate::Endpoint::sending
pub struct Sending<'a> {
    // Dropped in this order: who hears the bell finds the buffer free.
    outbox: MutexGuard<'a, SendBuffer>,
    bell: Bell<'a>,
}

struct Bell<'a> {
    shared: &'a Arc<Shared>,
    /// Whether anything was put in.
    is_due: bool,
}

impl Drop for Bell<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_due {
            self.shared.ring();
        }
    }
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sending(to {:#})", self.bell.shared.peer)
    }
}

impl<'a> Sending<'a> {
    #[inline]
    pub(crate) const fn new(outbox: MutexGuard<'a, SendBuffer>, shared: &'a Arc<Shared>) -> Self {
        let is_due = false;
        Self {
            outbox,
            bell: Bell { shared, is_due },
        }
    }

    /// Sends on `lane` if there is room now.
    ///
    /// # Errors
    /// [`SendError`], with the payload in it.
    pub fn try_send(&mut self, lane: LaneId, payload: Bytes) -> Result<(), SendError> {
        self.bell.is_due = true;
        self.outbox.push(lane, payload)
    }

    /// Sends a message that lies in pieces, if there is room now. They are copied one behind the
    /// other into the buffer, so nothing is allocated for a small one.
    ///
    /// # Errors
    /// [`SendError`], with the payload in it, put together.
    #[inline]
    pub fn try_send_parts(&mut self, lane: LaneId, parts: &[&[u8]]) -> Result<(), SendError> {
        self.bell.is_due = true;
        self.outbox.push_parts(lane, parts)
    }

    /// Sends all messages of a run, if there is room for all of them now and the lane is reliable;
    /// they are not copied. Says whether it did: if not, none was sent.
    #[must_use]
    pub fn try_send_run(&mut self, lane: LaneId, run: &EncodedBatch) -> bool {
        let is_sent = self.outbox.push_run(lane, run);
        self.bell.is_due |= is_sent;
        is_sent
    }

    /// Whether a message of that length would be refused as [full](SendError::Full) now.
    #[must_use]
    #[inline]
    pub fn is_full(&self, lane: LaneId, len: usize) -> bool {
        self.outbox.is_full(lane, len)
    }

    /// Ready unless a message of that length would be refused as [full](SendError::Full) now; else
    /// the task is woken when that may have changed.
    #[inline]
    pub fn poll_room(&self, cx: &Context<'_>, lane: LaneId, len: usize) -> Poll<()> {
        if !self.is_full(lane, len) {
            return Poll::Ready(());
        }
        // Room is made under the lock that is held here: none is made unnoticed.
        self.bell.shared.sending.register(cx.waker());
        self.bell.shared.ring_if_awaited(&self.outbox);
        Poll::Pending
    }
}
