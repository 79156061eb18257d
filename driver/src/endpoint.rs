//! The user's handle to a session.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use selvedge_endpoint::{CloseReason, EndpointStats, Event, LaneId, Message, SendError};
use selvedge_transport::{Address, DialError, DialTarget, Info, Instant, NodeId, Place};

use crate::driver::{Connected, Dialers, dialer_for};
use crate::error::{AttachError, FlushError, RecvError, TryRecvError};
use crate::reader::Reader;
use crate::sending::Sending;
use crate::shared::{Control, Received, Shared, lock};
use crate::worker::Command;

/// A channel of messages to one peer, which outlives its transports. Cheap to clone; any number of
/// threads may send and receive. When the last clone is dropped, it closes in order.
#[derive(Clone)]
pub struct Endpoint(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.ask(Control::Close);
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Endpoint({:#} to {:#})",
            self.0.shared.local, self.0.shared.peer
        )
    }
}

/// Two handles are the same if they are of one endpoint: another one to the same peer is not.
impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.shared, &other.0.shared)
    }
}

impl Eq for Endpoint {}

impl Endpoint {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(Arc::new(Handle { shared }))
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.0.shared.peer
    }

    /// Sends on `lane` if there is room now.
    ///
    /// # Errors
    /// [`SendError`], with the payload in it.
    pub fn try_send(&self, lane: LaneId, payload: Bytes) -> Result<(), SendError> {
        let shared = &self.0.shared;
        let mut outbox = lock(&shared.outbox);
        let sent = outbox.push(lane, payload);
        if sent.is_err() {
            shared.ring_if_awaited(&outbox);
            return sent;
        }
        drop(outbox);
        shared.ring();
        Ok(())
    }

    /// Sends on `lane`; blocks the thread while the send buffer is full.
    ///
    /// # Errors
    /// [`SendError`], with the payload in it; never [`SendError::Full`].
    pub fn send(&self, lane: LaneId, payload: Bytes) -> Result<(), SendError> {
        let shared = &self.0.shared;
        let mut payload = payload;
        let mut outbox = lock(&shared.outbox);
        loop {
            match outbox.push(lane, payload) {
                Err(SendError::Full(refused)) => payload = refused,
                other => {
                    drop(outbox);
                    shared.ring();
                    return other;
                }
            }
            shared.ring_if_awaited(&outbox);
            outbox = shared.sending.wait(outbox);
        }
    }

    /// Sends a message that lies in pieces on `lane`; blocks the thread while the send buffer is
    /// full. The pieces are copied one behind the other into the buffer. For a small message that lies
    /// in memory of the caller's this is the cheapest way, also in one piece: no reference is counted.
    ///
    /// # Errors
    /// [`SendError`], with the payload in it, put together; never [`SendError::Full`].
    pub fn send_parts(&self, lane: LaneId, parts: &[&[u8]]) -> Result<(), SendError> {
        let len = parts.iter().map(|part| part.len()).sum();
        let shared = &self.0.shared;
        let mut outbox = lock(&shared.outbox);
        while outbox.is_full(lane, len) {
            shared.ring_if_awaited(&outbox);
            outbox = shared.sending.wait(outbox);
        }
        Sending::new(outbox, shared).try_send_parts(lane, parts)
    }

    /// Holds the send buffer to send many messages: under one lock, and the worker is told once.
    #[must_use]
    #[inline]
    pub fn sending(&self) -> Sending<'_> {
        let shared = &self.0.shared;
        Sending::new(lock(&shared.outbox), shared)
    }

    /// Sends on `lane`; waits while the send buffer is full. Any executor will do.
    ///
    /// # Errors
    /// [`SendError`], with the payload in it; never [`SendError::Full`].
    pub async fn send_async(&self, lane: LaneId, payload: Bytes) -> Result<(), SendError> {
        poll_fn(|cx| self.poll_send(cx, lane, &payload)).await
    }

    /// Sends on `lane` if there is room now; else the task is woken when there may be.
    ///
    /// # Errors
    /// [`SendError`], with the payload in it; never [`SendError::Full`].
    pub fn poll_send(
        &self,
        cx: &Context<'_>,
        lane: LaneId,
        payload: &Bytes,
    ) -> Poll<Result<(), SendError>> {
        match self.try_send(lane, payload.clone()) {
            Err(SendError::Full(_)) => {}
            other => return Poll::Ready(other),
        }
        // Registered before the last attempt, so that no release falls between the two.
        self.0.shared.sending.register(cx.waker());
        match self.try_send(lane, payload.clone()) {
            Err(SendError::Full(_)) => Poll::Pending,
            other => Poll::Ready(other),
        }
    }

    /// Waits until the peer has acknowledged everything accepted so far on reliable lanes; blocks
    /// the thread at most `timeout`. What is acknowledged has arrived in the peer's process and is
    /// handed to its user in order.
    ///
    /// # Errors
    /// [`FlushError`].
    pub fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        let began = Instant::now();
        let shared = &self.0.shared;
        let mut outbox = lock(&shared.outbox);
        let mark = outbox.mark();
        if outbox.is_settled(&mark).is_none() {
            outbox.await_settled();
            shared.ring();
        }
        loop {
            if let Some(settled) = outbox.is_settled(&mark) {
                return Ok(settled?);
            }
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(FlushError::TimedOut);
            }
            outbox = shared.sending.wait_timeout(outbox, left);
        }
    }

    /// Waits until the peer has acknowledged everything accepted so far on reliable lanes. Any
    /// executor will do.
    ///
    /// # Errors
    /// [`FlushError::GivenUp`].
    pub async fn flush_async(&self) -> Result<(), FlushError> {
        let shared = &self.0.shared;
        let mark = {
            let outbox = lock(&shared.outbox);
            outbox.await_settled();
            outbox.mark()
        };
        shared.ring();
        poll_fn(|cx: &mut Context<'_>| {
            // Registered before the look, so that no acknowledgement falls between the two.
            shared.sending.register(cx.waker());
            match lock(&shared.outbox).is_settled(&mark) {
                Some(settled) => Poll::Ready(settled.map_err(FlushError::from)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Takes the next message if there is one.
    ///
    /// # Errors
    /// [`TryRecvError`].
    pub fn try_recv(&self) -> Result<Message, TryRecvError> {
        self.take(&mut lock(&self.0.shared.received))
    }

    fn take(&self, received: &mut Received) -> Result<Message, TryRecvError> {
        let Some(message) = received.messages.pop() else {
            return Err(match received.closed {
                Some(reason) => RecvError(reason).into(),
                None => TryRecvError::Empty,
            });
        };
        received.taken.add(message.lane, message.cost());
        if received.taken.total() >= self.0.shared.credit_step {
            self.0.shared.ring();
        }
        Ok(message)
    }

    /// Takes the next message; blocks the thread until there is one.
    ///
    /// # Errors
    /// [`RecvError`] when the endpoint is closed and everything that had arrived was taken.
    pub fn recv(&self) -> Result<Message, RecvError> {
        let message = self.wait_received(None, |received| match self.take(received) {
            Ok(message) => Some(Ok(message)),
            Err(TryRecvError::Closed(closed)) => Some(Err(closed)),
            Err(TryRecvError::Empty) => None,
        });
        message.expect("without a limit it ends with a message or the end")
    }

    /// Takes the next message; blocks the thread at most `timeout`.
    ///
    /// # Errors
    /// [`TryRecvError`]; [`TryRecvError::Empty`] when the time is up.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Message, TryRecvError> {
        let message = self.wait_received(Some(timeout), |received| match self.take(received) {
            Err(TryRecvError::Empty) => None,
            other => Some(other),
        });
        message.unwrap_or(Err(TryRecvError::Empty))
    }

    /// Takes the next message; waits until there is one. Any executor will do.
    ///
    /// # Errors
    /// [`RecvError`] when the endpoint is closed and everything that had arrived was taken.
    pub async fn recv_async(&self) -> Result<Message, RecvError> {
        poll_fn(|cx: &mut Context<'_>| {
            self.0.shared.receiving.register(cx.waker());
            match self.try_recv() {
                Ok(message) => Poll::Ready(Ok(message)),
                Err(TryRecvError::Closed(closed)) => Poll::Ready(Err(closed)),
                Err(TryRecvError::Empty) => Poll::Pending,
            }
        })
        .await
    }

    /// A reader, which takes messages many at a time.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.0.shared))
    }

    /// Waits until messages wait or the endpoint is over; blocks the thread, at most for `timeout` if
    /// there is one. Returns whether there is anything to [`try_recv`](Self::try_recv): somebody else
    /// may have taken it meanwhile.
    #[must_use]
    pub fn wait_readable(&self, timeout: Option<Duration>) -> bool {
        let is_readable = |it: &mut Received| !it.messages.is_empty() || it.closed.is_some();
        self.wait_received(timeout, |it| is_readable(it).then_some(()))
            .is_some()
    }

    /// Waits until `look` finds something; blocks the thread, at most for `timeout` if there is one.
    fn wait_received<T>(
        &self,
        timeout: Option<Duration>,
        look: impl Fn(&mut Received) -> Option<T>,
    ) -> Option<T> {
        let began = timeout.map(|timeout| (Instant::now(), timeout));
        let waiting = &self.0.shared.receiving;
        let mut received = lock(&self.0.shared.received);
        loop {
            let found = look(&mut received);
            if found.is_some() {
                return found;
            }
            received = if let Some((began, timeout)) = began {
                let left = timeout.saturating_sub(began.elapsed());
                if left.is_zero() {
                    return None;
                }
                waiting.wait_timeout(received, left)
            } else {
                waiting.wait(received)
            };
        }
    }

    /// Becomes readable when messages or events may have arrived: for `select!` over several
    /// endpoints. After each signal take messages until there are none.
    #[must_use]
    pub fn readable(&self) -> &Receiver<()> {
        self.0.shared.readable.receiver()
    }

    /// Takes the oldest event that was not taken. Endpoints with an [`Inbox`](crate::Inbox) have
    /// none here, but those that come after a panic of it.
    #[must_use]
    pub fn try_event(&self) -> Option<Event> {
        lock(&self.0.shared.received).events.pop_front()
    }

    /// Takes the oldest event that was not taken; blocks the thread at most `timeout`.
    #[must_use]
    pub fn event_timeout(&self, timeout: Duration) -> Option<Event> {
        self.wait_received(Some(timeout), |received| received.events.pop_front())
    }

    /// Gives it a connection to use from now on. A live one drains meanwhile: nothing is lost or
    /// repeated.
    ///
    /// # Errors
    /// [`AttachError`]; the connection is closed.
    pub fn attach(&self, connected: Connected) -> Result<(), AttachError> {
        use selvedge_endpoint::SessionAttachError as Session;
        let shared = &self.0.shared;
        if connected.peer() != shared.peer {
            let (expected, found) = (shared.peer, connected.peer());
            return Err(AttachError::WrongPeer { expected, found });
        }
        // One that is closing may need it to deliver what it has accepted.
        if lock(&shared.received).closed.is_some() {
            return Err(Session::Closed.into());
        }
        shared.ask(Control::Attach(connected));
        Ok(())
    }

    /// Dials its peer again, on the worker where it lives: asked for there, in a
    /// [watch](crate::Reception::watch), it wakes no thread. Never blocks. Returns whether it dials; it
    /// does not where `address` is a name, which takes time to resolve, or the worker has too much to do.
    ///
    /// It needs no [`Driver`](crate::Driver): a worker that held one might be the last to let go of it.
    pub fn redial(
        &self,
        dialers: &Dialers,
        address: &Address,
        done: impl FnOnce(Result<Connected, DialError>) + Send + 'static,
    ) -> bool {
        let Some(dialer) = dialer_for(dialers, address) else {
            return false;
        };
        if matches!(address.place(), Place::Name { .. }) {
            return false;
        }
        let target = DialTarget {
            address: address.clone(),
            peer: Some(self.peer()),
        };
        let command = Command::Dial {
            dialer,
            target,
            done: Box::new(done),
        };
        self.0.shared.mailboxes[self.worker()].offer(command)
    }

    /// Moves the endpoint with its transports to another worker (counted from 0, modulo their
    /// number). Nothing is lost, repeated or reordered, under any load. It stays there until the
    /// next call: [`Placement`](crate::Placement) does not move it any more.
    pub fn migrate(&self, worker: usize) {
        let worker = worker % self.0.shared.mailboxes.len();
        self.0.shared.ask(Control::Migrate(worker));
    }

    /// The worker on which it lives, or to which it is on its way; counted from 0.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.0.shared.bell.home()
    }

    /// Has an [`Inbox`](crate::Inbox) called again that left messages.
    pub fn resume(&self) {
        self.0.shared.ask(Control::Resume);
    }

    /// Ends in order: refuses new messages, delivers what was accepted, tells the peer. The end is
    /// told by [`Event::Closed`] and [`RecvError`].
    pub fn close(&self) {
        self.0.shared.ask(Control::Close);
    }

    /// Waits until the endpoint is over, and says why; `None` when the time is up first.
    #[must_use]
    pub fn wait_closed(&self, timeout: Duration) -> Option<CloseReason> {
        self.wait_received(Some(timeout), |received| received.closed)
    }

    /// Ends at once. What the peer has not acknowledged is handed back in [`Event::Closed`].
    pub fn abort(&self) {
        self.0.shared.ask(Control::Abort);
    }

    /// What carries the messages now: protocol, addresses. None while the peer cannot be reached.
    #[must_use]
    pub fn transport(&self) -> Option<Info> {
        lock(&self.0.shared.received).transport.as_deref().cloned()
    }

    /// What its session counted, as of its last turn on the worker.
    #[must_use]
    pub fn stats(&self) -> EndpointStats {
        lock(&self.0.shared.received).stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Driver, DriverConfig, SessionConfig};

    #[test]
    fn an_endpoint_that_outlives_its_driver_leaves_nothing_behind() {
        let driver = Driver::new(DriverConfig::default()).unwrap();
        let [local, peer] = [1, 2].map(|byte| NodeId::new([byte; 32]));
        let made = driver.endpoint(SessionConfig::default(), local, peer);
        let endpoint = made.unwrap();
        drop(driver);
        let shared = Arc::downgrade(&endpoint.0.shared);
        drop(endpoint);
        assert!(shared.upgrade().is_none(), "somebody holds it still");
    }
}
