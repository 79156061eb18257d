//! Keeps a client introduced: its zipper may restart, or leave and come back.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use selvedge_hub::{Endpoint, Event, Hub, HubEvent, Message, NodeId, Reader, TryRecvError};

use crate::client::{ConnectError, Outgoing, ReadError, WriteError};
use crate::lanes::{CONTROL, DATA};
use crate::wire::{self, Data};

/// How long a worker may take to hand back what is given up. It has no more to do than that.
const GIVE_UP_MAX: Duration = Duration::from_secs(5);

/// Why there is no more, if this side wants no more.
pub(super) const STOPPED: &str = "closed by this side";

/// What those who read, write and keep a client share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: NodeId,
    handshake: Bytes,
    uncertain: AtomicU64,
    /// Held by who counts what is uncertain.
    counting: Mutex<()>,
    current: Mutex<Current>,
    changed: Condvar,
    reading: Mutex<Reading>,
    is_stopped: AtomicBool,
}

#[derive(Debug)]
struct Current {
    endpoint: Endpoint,
    /// Which one it is.
    number: u64,
    /// Whether anything was written to it, beside who this is.
    has_data: bool,
    /// Why there will be no other.
    ended: Option<String>,
}

/// What those who read take from.
#[derive(Debug)]
struct Reading {
    /// Data that came before the zipper had said yes.
    early: VecDeque<Data>,
    /// That of the endpoint of this number, until all that it received is taken: then another may
    /// have followed it.
    reader: Reader,
    endpoint: Endpoint,
    number: u64,
}

/// What there is to read.
#[derive(Debug)]
pub(super) enum Inbound {
    /// Boxed, since it is rare and four times as long as the others.
    Early(Box<Data>),
    Message(Message),
    /// Nothing yet; this endpoint is to be waited for.
    Nothing(Endpoint),
    /// Nothing more from the endpoint of this number.
    Over(u64),
}

/// The connection is over, and why.
#[derive(Debug)]
pub(super) struct Over(String);

impl From<Over> for ReadError {
    fn from(over: Over) -> Self {
        Self::Closed(over.0)
    }
}

impl From<Over> for WriteError {
    fn from(over: Over) -> Self {
        Self::Closed(over.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(endpoint: Endpoint, handshake: Bytes) -> Self {
        let reading = Reading {
            early: VecDeque::new(),
            reader: endpoint.reader(),
            endpoint: endpoint.clone(),
            number: 0,
        };
        Self {
            node: endpoint.peer(),
            handshake,
            uncertain: AtomicU64::new(0),
            counting: Mutex::new(()),
            current: Mutex::new(Current {
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

    /// Reads what comes before the acknowledgement of the introduction, whose sender is the zipper: its
    /// name.
    fn poll_introduced(&self, cx: &mut Context<'_>) -> Poll<Result<String, ConnectError>> {
        let (_, endpoint) = self.current();
        loop {
            let message = match ready!(pin!(endpoint.recv_async()).poll(cx)) {
                Ok(message) => message,
                Err(closed) => {
                    return Poll::Ready(Err(ConnectError::Unreachable(closed.to_string())));
                }
            };
            let result = match wire::WireMessage::decode(message.payload)? {
                wire::WireMessage::HandshakeAck { name, .. } => Ok(name),
                wire::WireMessage::Rejected { code, message } => {
                    Err(ConnectError::Rejected { code, message })
                }
                wire::WireMessage::Data(data) => {
                    lock(&self.reading).early.push_back(data);
                    continue;
                }
                other => {
                    tracing::debug!(?other, "not expected from a zipper");
                    continue;
                }
            };
            return Poll::Ready(result);
        }
    }

    /// Why the zipper has not acknowledged the introduction in time.
    fn silence(&self) -> ConnectError {
        if self.current().1.transport().is_none() {
            let why = format!("nobody with the key {} could be reached", self.node);
            return ConnectError::Unreachable(why);
        }
        ConnectError::Silent(self.node)
    }

    pub(super) fn try_read(&self) -> Inbound {
        let mut reading = lock(&self.reading);
        if let Some(data) = reading.early.pop_front() {
            return Inbound::Early(Box::new(data));
        }
        match reading.reader.try_recv() {
            Ok(message) => Inbound::Message(message),
            Err(TryRecvError::Empty) => Inbound::Nothing(reading.endpoint.clone()),
            Err(TryRecvError::Closed(_)) => Inbound::Over(reading.number),
        }
    }

    /// Whether there will be nothing more to read, if there is nothing now.
    pub(super) fn check_stopped(&self) -> Result<(), Over> {
        let current = lock(&self.current);
        let ended = current.ended.as_ref();
        ended.map_or(Ok(()), |why| Err(Over(why.clone())))
    }

    /// Waits until there is another endpoint than the one of that number, and reads from that.
    pub(super) fn read_from_another(&self, than: u64) -> Result<(), Over> {
        self.wait_for_another(than)?;
        self.switch_reading(than);
        Ok(())
    }

    /// Reads from another endpoint than the one of that number, if there is one.
    pub(super) fn try_read_from_another(&self, than: u64) -> Result<bool, Over> {
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

    fn say_who(&self, endpoint: &Endpoint) {
        // Never full: nothing but introductions and farewells goes there.
        if let Err(error) = endpoint.try_send(CONTROL, self.handshake.clone()) {
            tracing::debug!(%error, "the connection ended before the introduction");
        }
    }

    /// The endpoint in use, and which one it is.
    pub(super) fn current(&self) -> (u64, Endpoint) {
        let current = lock(&self.current);
        (current.number, current.endpoint.clone())
    }

    /// Writes a message in pieces. If that must wait, or fails, it returns the endpoint to try it
    /// with, and which one it is.
    pub(super) fn try_send(&self, parts: &[&[u8]]) -> Option<(u64, Endpoint)> {
        let mut current = lock(&self.current);
        // Before it is sent: whoever ends meanwhile must wait for it.
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

    /// Writes messages, under one lock, until one must wait or fails: then it returns the endpoint to try
    /// that with, and which one it is.
    pub(super) fn try_send_all(&self, outgoing: &mut Outgoing) -> Option<(u64, Endpoint)> {
        let mut current = lock(&self.current);
        current.has_data = true;
        let mut sending = current.endpoint.sending();
        while let Some(first) = outgoing.first() {
            let is_full = sending.is_full(DATA, first.len());
            if is_full || sending.try_send_parts(DATA, &[first]).is_err() {
                drop(sending);
                return Some((current.number, current.endpoint.clone()));
            }
            outgoing.pop();
        }
        None
    }

    /// Waits until there is another endpoint than the one of that number, which has ended.
    pub(super) fn wait_for_another(&self, than: u64) -> Result<(), Over> {
        let mut current = lock(&self.current);
        loop {
            if let Some(why) = &current.ended {
                return Err(Over(why.clone()));
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

    /// The zipper said something about the connection.
    pub(super) fn control(&self, message: wire::WireMessage) -> Result<(), Over> {
        match message {
            wire::WireMessage::Rejected { code, message } => {
                let why = format!("the zipper refuses: {message} (code {code})");
                self.stop(&why);
                return Err(Over(why));
            }
            wire::WireMessage::Goaway { .. } if self.is_stopped() => {
                return Err(Over(STOPPED.into()));
            }
            wire::WireMessage::Goaway { message } => {
                tracing::info!(message, "the zipper goes away")
            }
            other => tracing::debug!(?other, "introduced again"),
        }
        Ok(())
    }

    /// Asks the zipper for no more data: it says so too, behind the last. Returns whether it is there to
    /// be asked.
    pub(super) fn say_goaway(&self) -> bool {
        let (_, endpoint) = self.current();
        let goaway = wire::WireMessage::Goaway {
            message: "finishing".into(),
        };
        let said = goaway
            .encode()
            .is_ok_and(|bytes| endpoint.try_send(CONTROL, bytes).is_ok());
        said && endpoint.transport().is_some()
    }

    /// No other endpoint will come; the one in use ends in order.
    pub(super) fn stop(&self, why: &str) {
        let mut current = lock(&self.current);
        current.ended.get_or_insert_with(|| why.to_owned());
        if current.has_data || current.endpoint.transport().is_some() {
            current.endpoint.close();
        } else {
            // Nobody is there, and all that waits is who this is: no reason to linger.
            current.endpoint.abort();
        }
        self.changed.notify_all();
    }

    /// This side wants no more.
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
                count,
                why,
                "messages may not have been handled; they are not sent again"
            );
            self.uncertain.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Counts what an endpoint has said that it may not have delivered. Events are taken, or all that
    /// was on its way to a zipper that restarted would stay in memory.
    fn note_undelivered(&self, endpoint: &Endpoint) {
        // Of two that look at a time one takes the event; the other finds it counted.
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

    /// Counts what an endpoint that has ended, or is about to, did not deliver.
    fn note_last(&self, endpoint: &Endpoint) {
        // That it ends is told before what it leaves can be asked for.
        let _ended = endpoint.wait_closed(GIVE_UP_MAX);
        self.note_undelivered(endpoint);
    }

    /// This side has ended it. What is still on its way is given up, so that it is counted.
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
        // One that has followed it already says what it leaves when it ends itself.
        if current.ended.is_none() && current.endpoint == *old {
            self.say_who(&new);
            current.endpoint = new;
            current.number += 1;
            current.has_data = false;
            self.changed.notify_all();
        }
    }
}

/// Keeps a client connected: handles the events of its hub.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    /// Weak: the client alone decides when the hub is dropped.
    hub: Weak<Hub>,
}

impl Keeper {
    /// Sends the introduction.
    pub(super) fn new(shared: Arc<Shared>, hub: Weak<Hub>) -> Self {
        shared.say_who(&shared.current().1);
        Self { shared, hub }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
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
        match event {
            HubEvent::Up { .. } | HubEvent::Moved { .. } => {
                let endpoint = shared.current().1;
                // The hub hears of a restart a moment before the endpoint says what it cost.
                shared.note_undelivered(&endpoint);
                let over = endpoint.transport().map(|info| info.scheme);
                tracing::info!(over, "connected");
            }
            HubEvent::Down { reason, .. } => {
                tracing::warn!(reason, "connection lost; what is written waits");
            }
            HubEvent::Refused { reason, .. } => {
                tracing::warn!(reason, "the zipper lets nobody in; dialing again");
            }
            HubEvent::Restarted { .. } => {
                tracing::warn!("the zipper has restarted");
                if shared.is_stopped() {
                    // Nobody answers any more whoever finishes.
                    shared.stop(STOPPED);
                } else {
                    shared.say_who(&shared.current().1);
                }
            }
            HubEvent::Left {
                endpoint, reason, ..
            } => {
                if shared.is_stopped() {
                    return shared.stop(STOPPED);
                }
                tracing::warn!(reason, "the connection was closed");
                let new = self.hub.upgrade().and_then(|hub| hub.endpoint(shared.node));
                if let Some(new) = new {
                    shared.replace(&endpoint, new);
                }
            }
            _ => {}
        }
    }

    /// The client is gone.
    pub(super) fn end(&self) {
        self.shared.stop("the connection has ended");
    }
}
