//! Receives messages of an endpoint in bulk.

use std::sync::Arc;

use selvedge_endpoint::Message;

use super::consumed::Consumed;
use super::queue::MessageQueue;
use super::received::ReceivedData;
use super::shared::EndpointShared;
use crate::error::{RecvError, TryRecvError};
use crate::sync::lock;

/// Receives messages of an endpoint, with one lock for all that wait: [`Endpoint::reader`]. It holds them
/// until they are taken from here, and only then gives the peer credit for them.
///
/// Several readers of an endpoint share its messages. Messages that a reader holds when it is dropped are
/// put back to the front of the queue.
///
/// [`Endpoint::reader`]: crate::Endpoint::reader
#[derive(Debug)]
pub struct Reader {
    shared: Arc<EndpointShared>,
    held: MessageQueue,
    /// Taken from here, and not reported to the worker yet.
    consumed: Consumed,
}

impl Reader {
    pub(crate) fn new(shared: Arc<EndpointShared>) -> Self {
        Self {
            shared,
            held: MessageQueue::default(),
            consumed: Consumed::default(),
        }
    }

    /// Takes the next message, if there is one. Never blocks longer than for a lock.
    ///
    /// # Errors
    /// [`TryRecvError`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Message, TryRecvError> {
        let Some(message) = self.held.pop() else {
            return self.refill_and_take();
        };
        self.count(&message);
        Ok(message)
    }

    #[inline]
    fn count(&mut self, message: &Message) {
        self.consumed.add(message.lane, message.cost());
        if self.consumed.total() >= self.shared.credit_step {
            report(
                &self.shared,
                &mut self.consumed,
                &mut lock(&self.shared.received),
            );
        }
    }

    fn refill_and_take(&mut self) -> Result<Message, TryRecvError> {
        let mut received = lock(&self.shared.received);
        report(&self.shared, &mut self.consumed, &mut received);
        std::mem::swap(&mut self.held, &mut received.messages);
        let closed = received.closed;
        drop(received);
        match (self.held.pop(), closed) {
            (Some(message), _) => {
                self.count(&message);
                Ok(message)
            }
            (None, Some(reason)) => Err(RecvError(reason).into()),
            (None, None) => Err(TryRecvError::Empty),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let shared = &self.shared;
        let mut received = lock(&shared.received);
        report(shared, &mut self.consumed, &mut received);
        if self.held.is_empty() {
            return;
        }
        received.messages.put_back(std::mem::take(&mut self.held));
        drop(received);
        shared.receive_waiters.notify();
        shared.readable.signal();
    }
}

/// Reports consumed bytes to the worker, which grants the peer credit for them.
fn report(shared: &Arc<EndpointShared>, consumed: &mut Consumed, received: &mut ReceivedData) {
    received.consumed.merge(consumed);
    if received.consumed.total() >= shared.credit_step {
        shared.wake_worker();
    }
}
