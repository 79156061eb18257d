//! Keeps a client connected and introduced: its zipper may restart, or leave and return.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use selvedge_hub::{Endpoint, Event, Hub, HubEvent, Message, NodeId, Reader, TryRecvError};

use crate::client::{ConnectError, OutgoingBatch, ReadError, WriteError};
use crate::lanes::{CONTROL, DATA};
use crate::wire::{Data, Negotiated, VersionOffer, WireMessage};

/// How long a worker may take to report undelivered messages of an aborted endpoint.
const GIVE_UP_MAX: Duration = Duration::from_secs(5);

/// The reason that is reported after this side has closed the client.
pub(super) const STOPPED: &str = "closed by this side";

/// The state that readers, writers and the keeper of a client share.
#[derive(Debug)]
pub(super) struct ClientShared {
    pub(super) node: NodeId,
    /// The messages with which the client introduces itself, in this order.
    introduction: [Bytes; 2],
    /// The version and features that the zipper has selected last.
    protocol: Mutex<Negotiated>,
    /// The last known address of the zipper, for logs.
    remote: Mutex<String>,
    uncertain: AtomicU64,
    /// Held while uncertain messages are counted.
    counting: Mutex<()>,
    current: Mutex<CurrentEndpoint>,
    changed: Condvar,
    reading: Mutex<ReadState>,
    is_stopped: AtomicBool,
}

#[derive(Debug)]
struct CurrentEndpoint {
    endpoint: Endpoint,
    /// Counts the endpoints of the client.
    number: u64,
    /// Whether data was written to it.
    has_data: bool,
    /// Why no other endpoint will follow.
    ended: Option<String>,
}

/// The endpoint that messages are read from.
#[derive(Debug)]
struct ReadState {
    /// Data that arrived before the acknowledgement of the introduction.
    early: VecDeque<Data>,
    /// Reads `endpoint` until everything that it has received is consumed; then its successor is read.
    reader: Reader,
    endpoint: Endpoint,
    number: u64,
}

/// The next message, or why there is none.
#[derive(Debug)]
pub(super) enum NextInbound {
    /// Data from before the acknowledgement. Boxed, since it is rare and four times as large as the
    /// others.
    Early(Box<Data>),
    Message(Message),
    /// No message yet; the caller may wait on this endpoint.
    Nothing(Endpoint),
    /// The endpoint with this number has ended, and all of its messages are consumed.
    Ended(u64),
}

/// The client is closed, with the reason.
#[derive(Debug)]
pub(super) struct ClientClosed(pub(super) String);

impl From<ClientClosed> for ReadError {
    fn from(closed: ClientClosed) -> Self {
        Self::Closed(closed.0)
    }
}

impl From<ClientClosed> for WriteError {
    fn from(closed: ClientClosed) -> Self {
        Self::Closed(closed.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientShared {
    pub(super) fn new(endpoint: Endpoint, introduction: [Bytes; 2]) -> Self {
        let reading = ReadState {
            early: VecDeque::new(),
            reader: endpoint.reader(),
            endpoint: endpoint.clone(),
            number: 0,
        };
        Self {
            node: endpoint.peer(),
            introduction,
            protocol: Mutex::new(Negotiated::WITHOUT_NEGOTIATION),
            remote: Mutex::default(),
            uncertain: AtomicU64::new(0),
            counting: Mutex::new(()),
            current: Mutex::new(CurrentEndpoint {
                endpoint,
                number: 0,
                has_data: false,
                ended: None,
            }),
            changed: Condvar::new(),
            reading: Mutex::new(reading),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Reads up to the acknowledgement of the introduction, and yields the name of the zipper.
    fn poll_introduced(&self, cx: &mut Context<'_>) -> Poll<Result<String, ConnectError>> {
        let (_, endpoint) = self.current();
        loop {
            let message = match ready!(pin!(endpoint.recv_async()).poll(cx)) {
                Ok(message) => message,
                Err(closed) => {
                    return Poll::Ready(Err(ConnectError::Unreachable(closed.to_string())));
                }
            };
            let result = match WireMessage::decode(message.payload)? {
                WireMessage::HandshakeAck {
                    name, negotiated, ..
                } => {
                    *lock(&self.protocol) = VersionOffer::OWN.accept(negotiated)?;
                    Ok(name)
                }
                WireMessage::Rejected { code, message } => {
                    Err(ConnectError::Rejected { code, message })
                }
                WireMessage::Data(data) => {
                    lock(&self.reading).early.push_back(data);
                    continue;
                }
                other => {
                    let (peer, kind) = (self.node, other.kind());
                    tracing::debug!(%peer, kind, "unexpected message before the acknowledgement");
                    continue;
                }
            };
            return Poll::Ready(result);
        }
    }

    /// The error after the time for the acknowledgement of the introduction has passed.
    fn silence(&self) -> ConnectError {
        if self.current().1.transport().is_none() {
            let why = format!(
                "no node with the key {} could be reached in time",
                self.node
            );
            return ConnectError::Unreachable(why);
        }
        ConnectError::Silent(self.node)
    }

    pub(super) fn try_read(&self) -> NextInbound {
        let mut reading = lock(&self.reading);
        if let Some(data) = reading.early.pop_front() {
            return NextInbound::Early(Box::new(data));
        }
        match reading.reader.try_recv() {
            Ok(message) => NextInbound::Message(message),
            Err(TryRecvError::Empty) => NextInbound::Nothing(reading.endpoint.clone()),
            Err(TryRecvError::Closed(_)) => NextInbound::Ended(reading.number),
        }
    }

    /// Fails if no other endpoint will follow.
    pub(super) fn check_stopped(&self) -> Result<(), ClientClosed> {
        let current = lock(&self.current);
        let ended = current.ended.as_ref();
        ended.map_or(Ok(()), |why| Err(ClientClosed(why.clone())))
    }

    /// Waits for the successor of the endpoint with that number, and reads from the successor.
    pub(super) fn read_from_another(&self, than: u64) -> Result<(), ClientClosed> {
        self.wait_for_another(than)?;
        self.switch_reading(than);
        Ok(())
    }

    /// Reads from the successor of the endpoint with that number, if there is one.
    pub(super) fn try_read_from_another(&self, than: u64) -> Result<bool, ClientClosed> {
        self.check_stopped()?;
        let is_there = lock(&self.current).number != than;
        if is_there {
            self.switch_reading(than);
        }
        Ok(is_there)
    }

    fn switch_reading(&self, than: u64) {
        let mut reading = lock(&self.reading);
        if reading.number == than {
            let (number, endpoint) = self.current();
            reading.reader = endpoint.reader();
            (reading.number, reading.endpoint) = (number, endpoint);
        }
    }

    fn introduce(&self, endpoint: &Endpoint) {
        for message in &self.introduction {
            // The lane is never full: it carries introductions and goaways only.
            if let Err(error) = endpoint.try_send(CONTROL, message.clone()) {
                tracing::debug!(peer = %self.node, %error, "the connection ended before the introduction");
            }
        }
    }

    /// The version and features that the zipper has selected last.
    pub(super) fn protocol(&self) -> Negotiated {
        *lock(&self.protocol)
    }

    /// The endpoint in use, and its number.
    pub(super) fn current(&self) -> (u64, Endpoint) {
        let current = lock(&self.current);
        (current.number, current.endpoint.clone())
    }

    /// Writes a message in parts. If there is no room, or the write fails, it returns the endpoint to
    /// repeat the write on, and its number.
    pub(super) fn try_send(&self, parts: &[&[u8]]) -> Option<(u64, Endpoint)> {
        let mut current = lock(&self.current);
        // Set before the write: a concurrent close must wait for the message.
        current.has_data = true;
        // Under the lock: a clone of the endpoint for each message costs as much as the rest of this.
        let mut sending = current.endpoint.sending();
        let len = parts.iter().map(|part| part.len()).sum();
        if !sending.is_full(DATA, len) && sending.try_send_parts(DATA, parts).is_ok() {
            return None;
        }
        drop(sending);
        Some((current.number, current.endpoint.clone()))
    }

    /// Writes messages under one lock until one finds no room or fails. Then it returns the endpoint to
    /// repeat that write on, and its number.
    pub(super) fn try_send_all(&self, batch: &mut OutgoingBatch) -> Option<(u64, Endpoint)> {
        let mut current = lock(&self.current);
        current.has_data = true;
        let mut sending = current.endpoint.sending();
        while let Some(first) = batch.first() {
            let is_full = sending.is_full(DATA, first.len());
            if is_full || sending.try_send_parts(DATA, &[first]).is_err() {
                drop(sending);
                return Some((current.number, current.endpoint.clone()));
            }
            batch.pop();
        }
        None
    }

    /// Waits for the successor of the endpoint with that number, which has ended.
    pub(super) fn wait_for_another(&self, than: u64) -> Result<(), ClientClosed> {
        let mut current = lock(&self.current);
        loop {
            if let Some(why) = &current.ended {
                return Err(ClientClosed(why.clone()));
            }
            if current.number != than {
                return Ok(());
            }
            current = self
                .changed
                .wait(current)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Handles a control message of the zipper.
    pub(super) fn control(&self, message: WireMessage) -> Result<(), ClientClosed> {
        match message {
            WireMessage::Rejected { code, message } => {
                let why = format!("the zipper refuses this client: {message} (code {code})");
                self.stop(&why);
                return Err(ClientClosed(why));
            }
            WireMessage::Goaway { .. } if self.is_stopped() => {
                return Err(ClientClosed(STOPPED.into()));
            }
            WireMessage::Goaway { message } => {
                tracing::info!(peer = %self.node, remote = *lock(&self.remote), message, "goaway");
            }
            WireMessage::HandshakeAck { negotiated, .. } => {
                match VersionOffer::OWN.accept(negotiated) {
                    Ok(protocol) => *lock(&self.protocol) = protocol,
                    Err(error) => {
                        self.stop(&error.to_string());
                        return Err(ClientClosed(error.to_string()));
                    }
                }
                tracing::debug!(peer = %self.node, "the zipper has admitted this client again");
            }
            other => tracing::debug!(peer = %self.node, kind = other.kind(), "unexpected message"),
        }
        Ok(())
    }

    /// Requests the end of data from the zipper, which answers behind the last data. Returns whether the
    /// zipper is connected.
    pub(super) fn send_goaway(&self) -> bool {
        let (_, endpoint) = self.current();
        let goaway = WireMessage::Goaway {
            message: "finishing".into(),
        };
        let is_sent = goaway
            .encode()
            .is_ok_and(|bytes| endpoint.try_send(CONTROL, bytes).is_ok());
        is_sent && endpoint.transport().is_some()
    }

    /// Ends the endpoint in use in order; no other follows.
    pub(super) fn stop(&self, why: &str) {
        let mut current = lock(&self.current);
        current.ended.get_or_insert_with(|| why.to_owned());
        if current.has_data || current.endpoint.transport().is_some() {
            current.endpoint.close();
        } else {
            // Only the introduction is unsent: there is no reason to linger.
            current.endpoint.abort();
        }
        self.changed.notify_all();
    }

    /// Records that this side has closed the client.
    pub(super) fn note_stopped(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    pub(super) fn uncertain(&self) -> u64 {
        self.uncertain.load(Ordering::Relaxed)
    }

    fn note_uncertain(&self, undelivered: &[Message], why: &str) {
        let count = undelivered.iter().filter(|it| it.lane == DATA).count();
        if count > 0 {
            tracing::warn!(
                peer = %self.node,
                remote = *lock(&self.remote),
                count,
                why,
                "messages may be lost; they are not sent again"
            );
            self.uncertain.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Counts the messages that an endpoint has reported as undelivered. The events are consumed, since
    /// they hold the messages that were in flight to a restarted zipper.
    fn note_undelivered(&self, endpoint: &Endpoint) {
        // Of two concurrent callers one consumes the event, and the other finds it counted.
        let _counting = lock(&self.counting);
        while let Some(event) = endpoint.try_event() {
            match event {
                Event::Closed { undelivered, .. } => {
                    self.note_uncertain(&undelivered, "the connection was closed");
                }
                Event::PeerRestarted { undelivered } => {
                    self.note_uncertain(&undelivered, "the zipper has restarted");
                }
                _ => {}
            }
        }
    }

    /// Counts the undelivered messages of an endpoint that has ended or is about to.
    fn note_last(&self, endpoint: &Endpoint) {
        // The end is reported before the undelivered messages are available.
        let _ended = endpoint.wait_closed(GIVE_UP_MAX);
        self.note_undelivered(endpoint);
    }

    /// Aborts the endpoint after this side has closed it, so that messages in flight are counted.
    pub(super) fn note_end(&self) {
        let (_, endpoint) = self.current();
        if endpoint.wait_closed(Duration::ZERO).is_none() {
            endpoint.abort();
        }
        self.note_last(&endpoint);
    }

    fn replace(&self, old: &Endpoint, new: Endpoint) {
        self.note_last(old);
        let mut current = lock(&self.current);
        // A successor reports its own undelivered messages when it ends.
        if current.ended.is_none() && current.endpoint == *old {
            self.introduce(&new);
            current.endpoint = new;
            current.number += 1;
            current.has_data = false;
            self.changed.notify_all();
        }
    }
}

/// Handles the events of the hub of a client.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<ClientShared>,
    /// Weak: the client alone decides when the hub is dropped.
    hub: Weak<Hub>,
}

impl Keeper {
    /// Sends the introduction.
    pub(super) fn new(shared: Arc<ClientShared>, hub: Weak<Hub>) -> Self {
        shared.introduce(&shared.current().1);
        Self { shared, hub }
    }

    pub(super) fn shared(&self) -> Arc<ClientShared> {
        Arc::clone(&self.shared)
    }

    /// The name of the zipper, once it has acknowledged the introduction.
    pub(super) fn poll_introduced(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<String, ConnectError>> {
        self.shared.poll_introduced(cx)
    }

    pub(super) fn silence(&self) -> ConnectError {
        self.shared.silence()
    }

    pub(super) fn handle(&self, event: HubEvent) {
        let shared = &self.shared;
        let (peer, remote) = (shared.node, lock(&shared.remote).clone());
        match event {
            HubEvent::Up { .. } | HubEvent::Moved { .. } => {
                let endpoint = shared.current().1;
                // The hub reports a restart shortly before the endpoint reports the undelivered messages.
                shared.note_undelivered(&endpoint);
                let transport = endpoint.transport();
                let scheme = transport.as_ref().map(|it| it.scheme);
                if let Some(remote) = transport.and_then(|it| it.remote) {
                    *lock(&shared.remote) = remote.to_string();
                }
                tracing::info!(%peer, remote = *lock(&shared.remote), scheme, "connected");
            }
            HubEvent::Down { reason, .. } => {
                tracing::warn!(%peer, remote, reason, "connection lost; messages wait for the next one");
            }
            HubEvent::Refused { reason, .. } => {
                tracing::warn!(%peer, remote, reason, "the zipper refuses connections; dialing again");
            }
            HubEvent::Restarted { .. } => {
                tracing::warn!(%peer, remote, "the zipper has restarted");
                if shared.is_stopped() {
                    // The new process does not answer the goaway to the old one.
                    shared.stop(STOPPED);
                } else {
                    shared.introduce(&shared.current().1);
                }
            }
            HubEvent::Left {
                endpoint, reason, ..
            } => {
                if shared.is_stopped() {
                    return shared.stop(STOPPED);
                }
                tracing::warn!(%peer, remote, reason, "the zipper has closed the connection");
                let new = self.hub.upgrade().and_then(|hub| hub.endpoint(shared.node));
                if let Some(new) = new {
                    shared.replace(&endpoint, new);
                }
            }
            _ => {}
        }
    }

    /// Ends the client after its last handle has been dropped.
    pub(super) fn end(&self) {
        self.shared.stop("the client has been dropped");
    }
}
