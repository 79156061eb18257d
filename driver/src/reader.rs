//! Takes messages off an endpoint many at a time.

use std::sync::Arc;

use selvedge_endpoint::Message;

use crate::error::{RecvError, TryRecvError};
use crate::queue::Queue;
use crate::shared::{Received, Shared, Taken, lock};

/// Takes messages off an endpoint under one lock for as many as wait: [`Endpoint::reader`]. It holds
/// them until they are taken from here, and only then gives the peer credit for them.
///
/// Several readers of an endpoint share its messages. What one holds when it is dropped goes back, to
/// the front of the queue.
///
/// [`Endpoint::reader`]: crate::Endpoint::reader
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    held: Queue,
    /// What was taken from here and not told.
    taken: Taken,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            held: Queue::default(),
            taken: Taken::default(),
        }
    }

    /// Takes the next message if there is one.
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
        self.taken.add(message.lane, message.cost());
        if self.taken.total() >= self.shared.credit_step {
            tell(
                &self.shared,
                &mut self.taken,
                &mut lock(&self.shared.received),
            );
        }
    }

    fn refill_and_take(&mut self) -> Result<Message, TryRecvError> {
        let mut received = lock(&self.shared.received);
        tell(&self.shared, &mut self.taken, &mut received);
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
        tell(shared, &mut self.taken, &mut received);
        if self.held.is_empty() {
            return;
        }
        received.messages.put_back(std::mem::take(&mut self.held));
        drop(received);
        shared.receiving.notify();
        shared.readable.signal();
    }
}

/// Adds to what was taken, for which the peer gets credit.
fn tell(shared: &Arc<Shared>, taken: &mut Taken, received: &mut Received) {
    received.taken.merge(taken);
    if received.taken.total() >= shared.credit_step {
        shared.ring();
    }
}
