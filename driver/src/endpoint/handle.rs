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

use super::backlog::SendBacklog;
use super::reader::Reader;
use super::received::ReceivedData;
use super::sending::Sending;
use super::shared::{EndpointCommand, EndpointShared};
use crate::connected::{Connected, Dialers, dialer_for};
use crate::error::{AttachError, FlushError, RecvError, TryRecvError};
use crate::guard::guarded;
use crate::sync::lock;
use crate::wake::WorkerCommand;

/// A message channel to one peer that outlives its transports. Cheap to clone; all methods may be called
/// from any number of threads. Dropping the last clone closes the endpoint in order.
///
/// Only the methods that document it block. The futures are cancel safe unless stated
/// otherwise and run on any executor.
#[derive(Clone)]
pub struct Endpoint(Arc<EndpointHandle>);

struct EndpointHandle {
    shared: Arc<EndpointShared>,
}

impl Drop for EndpointHandle {
    fn drop(&mut self) {
        self.shared.command(EndpointCommand::Close);
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

/// Two handles are equal if they belong to the same endpoint; another endpoint to the same peer differs.
impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.shared, &other.0.shared)
    }
}

impl Eq for Endpoint {}

impl Endpoint {
    pub(crate) fn new(shared: Arc<EndpointShared>) -> Self {
        Self(Arc::new(EndpointHandle { shared }))
    }

    /// The peer's id.
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
        let mut send_buffer = lock(&shared.send_buffer);
        let sent = send_buffer.push(lane, payload);
        if sent.is_err() {
            shared.wake_worker_if_awaited(&send_buffer);
            return sent;
        }
        drop(send_buffer);
        shared.wake_worker();
        Ok(())
    }

    /// Sends on `lane`; blocks the thread while the send buffer is full.
    ///
    /// # Errors
    /// [`SendError`], with the payload in it; never [`SendError::Full`].
    pub fn send(&self, lane: LaneId, payload: Bytes) -> Result<(), SendError> {
        let shared = &self.0.shared;
        let mut payload = payload;
        let mut send_buffer = lock(&shared.send_buffer);
        loop {
            match send_buffer.push(lane, payload) {
                Err(SendError::Full(refused)) => payload = refused,
                other => {
                    drop(send_buffer);
                    shared.wake_worker();
                    return other;
                }
            }
            shared.wake_worker_if_awaited(&send_buffer);
            send_buffer = shared.send_waiters.wait(send_buffer);
        }
    }

    /// Sends a message that is given in pieces on `lane`; blocks the thread while the send buffer is full.
    /// The pieces are copied into the buffer. For a small message in the caller's memory this is the
    /// cheapest method, also with a single piece, since no reference is counted.
    ///
    /// # Errors
    /// [`SendError`], with the joined payload in it; never [`SendError::Full`].
    pub fn send_parts(&self, lane: LaneId, parts: &[&[u8]]) -> Result<(), SendError> {
        let len = parts.iter().map(|part| part.len()).sum();
        let shared = &self.0.shared;
        let mut send_buffer = lock(&shared.send_buffer);
        while send_buffer.is_full(lane, len) {
            shared.wake_worker_if_awaited(&send_buffer);
            send_buffer = shared.send_waiters.wait(send_buffer);
        }
        Sending::new(send_buffer, shared).try_send_parts(lane, parts)
    }

    /// Locks the send buffer to send many messages under one lock and with one wake-up.
    #[must_use]
    #[inline]
    pub fn sending(&self) -> Sending<'_> {
        let shared = &self.0.shared;
        Sending::new(lock(&shared.send_buffer), shared)
    }

    /// Sends on `lane`; waits while the send buffer is full. If the future is dropped before it is ready,
    /// nothing was sent.
    ///
    /// # Errors
    /// [`SendError`], with the payload in it; never [`SendError::Full`].
    pub async fn send_async(&self, lane: LaneId, payload: Bytes) -> Result<(), SendError> {
        poll_fn(|cx| self.poll_send(cx, lane, &payload)).await
    }

    /// Sends on `lane` if there is room now; otherwise the task is woken when there may be.
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
        // Registered before the last attempt, so that no wake-up is lost between the two.
        self.0.shared.send_waiters.register(cx.waker());
        match self.try_send(lane, payload.clone()) {
            Err(SendError::Full(_)) => Poll::Pending,
            other => Poll::Ready(other),
        }
    }

    /// Waits until the peer has acknowledged everything accepted so far on reliable lanes; blocks the
    /// thread for `timeout` at most. Acknowledged messages have arrived in the peer's process and are
    /// delivered to its user in order.
    ///
    /// # Errors
    /// [`FlushError`].
    pub fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        let began = Instant::now();
        let shared = &self.0.shared;
        let mut send_buffer = lock(&shared.send_buffer);
        let mark = send_buffer.mark();
        if send_buffer.is_settled(&mark).is_none() {
            send_buffer.await_settled();
            shared.wake_worker();
        }
        loop {
            if let Some(settled) = send_buffer.is_settled(&mark) {
                return Ok(settled?);
            }
            let remaining = timeout.saturating_sub(began.elapsed());
            if remaining.is_zero() {
                return Err(FlushError::TimedOut);
            }
            send_buffer = shared.send_waiters.wait_timeout(send_buffer, remaining);
        }
    }

    /// Waits until the peer has acknowledged everything accepted so far on reliable lanes.
    ///
    /// # Errors
    /// [`FlushError::AbandonedMessages`].
    pub async fn flush_async(&self) -> Result<(), FlushError> {
        let shared = &self.0.shared;
        let mark = {
            let send_buffer = lock(&shared.send_buffer);
            send_buffer.await_settled();
            send_buffer.mark()
        };
        shared.wake_worker();
        poll_fn(|cx: &mut Context<'_>| {
            // Registered before the check, so that no acknowledgement is missed between the two.
            shared.send_waiters.register(cx.waker());
            match lock(&shared.send_buffer).is_settled(&mark) {
                Some(settled) => Poll::Ready(settled.map_err(FlushError::from)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Takes the next message, if there is one.
    ///
    /// # Errors
    /// [`TryRecvError`].
    pub fn try_recv(&self) -> Result<Message, TryRecvError> {
        self.take(&mut lock(&self.0.shared.received))
    }

    fn take(&self, received: &mut ReceivedData) -> Result<Message, TryRecvError> {
        let Some(message) = received.messages.pop() else {
            return Err(match received.closed {
                Some(reason) => RecvError(reason).into(),
                None => TryRecvError::Empty,
            });
        };
        received.consumed.add(message.lane, message.cost());
        if received.consumed.total() >= self.0.shared.credit_step {
            self.0.shared.wake_worker();
        }
        Ok(message)
    }

    /// Takes the next message; blocks the thread until there is one.
    ///
    /// # Errors
    /// [`RecvError`] when the endpoint is closed and all messages that had arrived were taken.
    pub fn recv(&self) -> Result<Message, RecvError> {
        let message = self.wait_received(None, |received| match self.take(received) {
            Ok(message) => Some(Ok(message)),
            Err(TryRecvError::Closed(closed)) => Some(Err(closed)),
            Err(TryRecvError::Empty) => None,
        });
        message.expect("without a timeout the wait ends with a message or an error")
    }

    /// Takes the next message; blocks the thread for `timeout` at most.
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

    /// Takes the next message; waits until there is one. If the future is dropped before it is ready, no
    /// message was taken.
    ///
    /// # Errors
    /// [`RecvError`] when the endpoint is closed and all messages that had arrived were taken.
    pub async fn recv_async(&self) -> Result<Message, RecvError> {
        poll_fn(|cx: &mut Context<'_>| {
            self.0.shared.receive_waiters.register(cx.waker());
            match self.try_recv() {
                Ok(message) => Poll::Ready(Ok(message)),
                Err(TryRecvError::Closed(closed)) => Poll::Ready(Err(closed)),
                Err(TryRecvError::Empty) => Poll::Pending,
            }
        })
        .await
    }

    /// A reader, which receives messages in bulk.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.0.shared))
    }

    /// Waits until there are messages or the endpoint is closed; blocks the thread, for `timeout` at most
    /// if there is one. Returns whether [`try_recv`](Self::try_recv) has something to return, unless
    /// another thread takes it first.
    #[must_use]
    pub fn wait_readable(&self, timeout: Option<Duration>) -> bool {
        let is_readable = |it: &mut ReceivedData| !it.messages.is_empty() || it.closed.is_some();
        self.wait_received(timeout, |it| is_readable(it).then_some(()))
            .is_some()
    }

    /// Waits until `find` returns something; blocks the thread, for `timeout` at most if there is one.
    fn wait_received<T>(
        &self,
        timeout: Option<Duration>,
        find: impl Fn(&mut ReceivedData) -> Option<T>,
    ) -> Option<T> {
        let began = timeout.map(|timeout| (Instant::now(), timeout));
        let waiters = &self.0.shared.receive_waiters;
        let mut received = lock(&self.0.shared.received);
        loop {
            let found = find(&mut received);
            if found.is_some() {
                return found;
            }
            received = if let Some((began, timeout)) = began {
                let remaining = timeout.saturating_sub(began.elapsed());
                if remaining.is_zero() {
                    return None;
                }
                waiters.wait_timeout(received, remaining)
            } else {
                waiters.wait(received)
            };
        }
    }

    /// Becomes readable when messages or events may have arrived: for `select!` over several endpoints.
    /// After each signal, take messages until there are none.
    #[must_use]
    pub fn readable(&self) -> &Receiver<()> {
        self.0.shared.readable.receiver()
    }

    /// Takes the oldest event. The events of an endpoint with an [`Inbox`](crate::Inbox) are passed to
    /// that; only events after a panic of the inbox are returned here.
    #[must_use]
    pub fn try_event(&self) -> Option<Event> {
        lock(&self.0.shared.received).events.pop_front()
    }

    /// Takes the oldest event; blocks the thread for `timeout` at most.
    #[must_use]
    pub fn event_timeout(&self, timeout: Duration) -> Option<Event> {
        self.wait_received(Some(timeout), |received| received.events.pop_front())
    }

    /// Attaches a connection, which carries the messages from now on. The previous one drains meanwhile:
    /// nothing is lost or repeated. Does not block: the worker attaches it.
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
        // An endpoint that is still closing may need it to deliver the messages it has accepted.
        if lock(&shared.received).closed.is_some() {
            return Err(Session::Closed.into());
        }
        shared.command(EndpointCommand::Attach(connected));
        Ok(())
    }

    /// Dials the peer again, on the worker where the endpoint lives: called there, in a
    /// [watch](crate::Reception::watch), it wakes no thread. Never blocks. Returns whether it dials: it
    /// does not where `address` contains a name, which takes time to resolve, or where the command queue
    /// of the worker is full.
    ///
    /// It needs no [`Driver`](crate::Driver): a worker that held one might drop the last reference to it.
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
        let command = WorkerCommand::Dial {
            dialer,
            target,
            done: Box::new(|result| guarded("the callback of a dial", || done(result))),
        };
        self.0.shared.workers[self.worker()].try_send(command)
    }

    /// Moves the endpoint with its transports to another worker (counted from 0, modulo their number).
    /// Nothing is lost, repeated or reordered, under any load. The endpoint stays there until the next
    /// call: [`Placement`](crate::Placement) does not move it any more. Does not block.
    pub fn migrate(&self, worker: usize) {
        let worker = worker % self.0.shared.workers.len();
        self.0.shared.command(EndpointCommand::Migrate(worker));
    }

    /// The worker on which the endpoint lives, or to which it is moving; counted from 0.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.0.shared.wake_flag.home()
    }

    /// Calls the [`Inbox`](crate::Inbox) again, which has left messages unread. Does not block.
    pub fn resume(&self) {
        self.0.shared.command(EndpointCommand::Resume);
    }

    /// Closes in order: new messages are refused, accepted messages are delivered, the peer is notified.
    /// Does not block. The end is reported by [`Event::Closed`] and [`RecvError`].
    pub fn close(&self) {
        self.0.shared.command(EndpointCommand::Close);
    }

    /// Like [`close`](Self::close), but delivers for at most `linger` instead of
    /// [`SessionConfig::linger`](crate::SessionConfig::linger), then gives up what is not acknowledged.
    pub fn close_within(&self, linger: Duration) {
        self.0.shared.command(EndpointCommand::CloseWithin(linger));
    }

    /// Grants the peer the full limits of `lane`, which
    /// [`SessionConfig::admission_buffer`](crate::SessionConfig::admission_buffer) has restricted. The first
    /// admission is reported by [`Event::Admitted`]. Does not block.
    pub fn admit(&self, lane: LaneId) {
        self.0.shared.command(EndpointCommand::Admit(lane));
    }

    /// Waits until the endpoint is closed, and returns the reason; blocks the thread for `timeout` at
    /// most, then returns `None`.
    #[must_use]
    pub fn wait_closed(&self, timeout: Duration) -> Option<CloseReason> {
        self.wait_received(Some(timeout), |received| received.closed)
    }

    /// Closes at once. Messages that the peer has not acknowledged are returned in [`Event::Closed`]. Does
    /// not block.
    pub fn abort(&self) {
        self.0.shared.command(EndpointCommand::Abort);
    }

    /// Protocol and addresses of the transport that carries the messages; `None` while the peer cannot
    /// be reached.
    #[must_use]
    pub fn transport(&self) -> Option<Info> {
        lock(&self.0.shared.received).transport.as_deref().cloned()
    }

    /// The counters of the session, as of its last turn on the worker.
    #[must_use]
    pub fn stats(&self) -> EndpointStats {
        lock(&self.0.shared.received).stats
    }

    /// What the peer has not acknowledged. Holds the lock of the send buffer for a moment.
    #[must_use]
    pub fn send_backlog(&self) -> SendBacklog {
        let in_flight = self.stats().bytes_in_flight;
        let accepted = lock(&self.0.shared.send_buffer).used();
        // Acknowledged since the last turn: not in flight any more.
        let in_flight = in_flight.min(accepted);
        SendBacklog {
            queued: accepted - in_flight,
            in_flight,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Driver, DriverConfig, SessionConfig};

    #[test]
    fn an_endpoint_that_outlives_its_driver_is_freed_completely() {
        let driver = Driver::new(DriverConfig::default()).unwrap();
        let [local, peer] = [1, 2].map(|byte| NodeId::new([byte; 32]));
        let made = driver.endpoint(SessionConfig::default(), local, peer);
        let endpoint = made.unwrap();
        drop(driver);
        let shared = Arc::downgrade(&endpoint.0.shared);
        drop(endpoint);
        assert!(shared.upgrade().is_none(), "a reference is left");
    }
}
