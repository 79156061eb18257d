//! The state that readers, writers and the keeper of a client share: the endpoint in use, and what is
//! certain about the messages that were written to those before it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use selvedge_hub::{Endpoint, Event, FlushError, Instant, Message, NodeId};

use crate::client::depth::OutputDepth;
use crate::client::flows::{Inbound, settles};
use crate::client::introduction::{Introduced, IntroductionMessages};
use crate::client::reading::ReadState;
use crate::client::settling::SettledWrites;
use crate::client::{OutgoingBatch, ReadError, WriteError};
use crate::lanes::{CONTROL, DATA};
use crate::wire::{self, Data, Denial, Negotiated, Rejection, VersionOffer, WireMessage};

/// How long a worker may take to report undelivered messages of an aborted endpoint.
const GIVE_UP_MAX: Duration = Duration::from_secs(5);

/// The reason that is reported after this side has closed the client.
pub(super) const STOPPED: &str = "closed by this side";

/// The state that readers, writers and the keeper of a client share.
#[derive(Debug)]
pub(super) struct ClientShared {
    pub(super) introduction: IntroductionMessages,
    /// The version and features that the zipper has selected last.
    pub(super) protocol: Mutex<Negotiated>,
    /// The last known address of the zipper, for logs.
    pub(super) remote: Mutex<String>,
    pub(super) uncertain: AtomicU64,
    /// How often a zipper has lost the session of this client.
    pub(super) sessions_lost: AtomicU64,
    /// Held while uncertain messages are counted.
    pub(super) counting: Mutex<()>,
    pub(super) current: Mutex<CurrentEndpoint>,
    pub(super) changed: Condvar,
    /// With `current`: messages have left a log, or the connection has changed.
    pub(super) settled: Condvar,
    /// Whether the messages that are written are to be settled.
    pub(super) is_settled: bool,
    /// What the process receives with settlement, if it is a function.
    pub(super) inbound: Option<Arc<Inbound>>,
    pub(super) reading: Mutex<ReadState>,
    /// Whether the user reads, and so handles control messages.
    pub(super) is_read: AtomicBool,
    pub(super) output_depth: OutputDepth,
    pub(super) is_stopped: AtomicBool,
}

#[derive(Debug)]
pub(super) struct CurrentEndpoint {
    pub(super) endpoint: Endpoint,
    /// Counts the endpoints of the client.
    pub(super) number: u64,
    /// The name of the zipper.
    pub(super) zipper: String,
    /// Whether the zipper had admitted the client when the endpoint came into use.
    pub(super) is_admitted: bool,
    /// Data that arrived before the zipper acknowledged the introduction, to be read first.
    pub(super) early: VecDeque<Data>,
    /// Whether data was written to it.
    pub(super) has_data: bool,
    /// Why no other endpoint will follow.
    pub(super) ended: Option<String>,
    /// Of a client whose messages are to be settled.
    pub(super) settled: Option<Box<SettledWrites>>,
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientShared {
    pub(super) fn new(
        introduced: Introduced,
        introduction: IntroductionMessages,
        mut settled: Option<Box<SettledWrites>>,
        inbound: Option<Arc<Inbound>>,
        output_depth: OutputDepth,
    ) -> Self {
        let Introduced {
            endpoint,
            name,
            protocol,
            early,
            ..
        } = introduced;
        let reading = ReadState::new(&endpoint, early, inbound.as_deref());
        if let Some(settled) = &mut settled {
            let uncertain = settled.connect(&endpoint, settles(protocol));
            debug_assert_eq!(uncertain, 0, "nothing was written yet");
        }
        let is_settled = settled.is_some();
        Self {
            introduction,
            protocol: Mutex::new(protocol),
            remote: Mutex::default(),
            uncertain: AtomicU64::new(0),
            sessions_lost: AtomicU64::new(0),
            counting: Mutex::new(()),
            current: Mutex::new(CurrentEndpoint {
                endpoint,
                number: 0,
                zipper: name,
                is_admitted: true,
                early: VecDeque::new(),
                has_data: false,
                ended: None,
                settled,
            }),
            changed: Condvar::new(),
            settled: Condvar::new(),
            is_settled,
            inbound,
            reading: Mutex::new(reading),
            is_read: AtomicBool::new(false),
            output_depth,
            is_stopped: AtomicBool::new(false),
        }
    }

    /// The key of the zipper.
    pub(super) fn node(&self) -> NodeId {
        lock(&self.current).endpoint.peer()
    }

    /// The name of the zipper.
    pub(super) fn zipper(&self) -> String {
        lock(&self.current).zipper.clone()
    }

    /// The last known address of the zipper; empty if there is none.
    pub(super) fn remote(&self) -> String {
        lock(&self.remote).clone()
    }

    pub(super) fn set_remote(&self, remote: String) {
        *lock(&self.remote) = remote;
    }

    /// Leaves the control messages to a user that reads.
    pub(super) fn note_read(&self) {
        self.is_read.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_read(&self) -> bool {
        self.is_read.load(Ordering::Relaxed)
    }

    /// Fails if no other endpoint will follow.
    pub(super) fn check_stopped(&self) -> Result<(), ClientClosed> {
        let current = lock(&self.current);
        match &current.ended {
            Some(why) => Err(ClientClosed(why.clone())),
            None if current.is_closing() => Err(ClientClosed(STOPPED.into())),
            None => Ok(()),
        }
    }

    /// Sends the introduction to the zipper again.
    pub(super) fn introduce(&self) {
        self.introduction.send(&lock(&self.current).endpoint);
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
            // The zipper closes the connection, and the client dials again.
            WireMessage::Rejected { code, message } if Rejection::is_temporary(code) => {
                let (peer, remote) = (self.node(), self.remote());
                tracing::warn!(%peer, remote, code, message, "the zipper does not admit this client now; trying again");
            }
            // Logged by the worker, when the messages were dropped. The client dials again.
            WireMessage::Rejected { code, .. } if code == Rejection::Stalled as u16 => {}
            WireMessage::Rejected { code, message } => {
                let why = format!("the zipper refuses this client: {message} (code {code})");
                self.stop(&why);
                return Err(ClientClosed(why));
            }
            WireMessage::Goaway { .. } if self.is_stopped() => {
                return Err(ClientClosed(STOPPED.into()));
            }
            WireMessage::Goaway { message } => {
                tracing::info!(peer = %self.node(), remote = self.remote(), message, "goaway");
            }
            WireMessage::HandshakeAck { negotiated, .. } => {
                match VersionOffer::OWN.accept(negotiated) {
                    Ok(protocol) => *lock(&self.protocol) = protocol,
                    Err(error) => {
                        self.stop(&error.to_string());
                        return Err(ClientClosed(error.to_string()));
                    }
                }
                tracing::debug!(peer = %self.node(), "the zipper has admitted this client again");
            }
            WireMessage::Denial(Denial { permission, tags }) => {
                let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
                let (remote, tags) = (self.remote(), tags.join(", "));
                tracing::warn!(
                    peer = %self.node(), remote, %permission, tags,
                    "this client lacks a permission; the zipper drops its messages of these tags, or \
                     sends none to it"
                );
            }
            other => {
                tracing::debug!(peer = %self.node(), kind = other.kind(), "unexpected message")
            }
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
        current.close_flows();
        current.ended.get_or_insert_with(|| why.to_owned());
        if current.has_data || current.endpoint.transport().is_some() {
            current.endpoint.close();
        } else {
            // Only the introduction is unsent: there is no reason to linger.
            current.endpoint.abort();
        }
        self.changed.notify_all();
        self.settled.notify_all();
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

    pub(super) fn sessions_lost(&self) -> u64 {
        self.sessions_lost.load(Ordering::Relaxed)
    }

    pub(super) fn note_session_lost(&self) {
        self.sessions_lost.fetch_add(1, Ordering::Relaxed);
    }

    fn note_uncertain(&self, peer: NodeId, undelivered: &[Message], why: &str) {
        let count = undelivered.iter().filter(|it| is_plain(it)).count() as u64;
        self.count_uncertain(peer, count, why);
    }

    pub(super) fn count_uncertain(&self, peer: NodeId, count: u64, why: &str) {
        if count > 0 {
            let remote = self.remote();
            tracing::warn!(%peer, remote, count, why, "messages may be lost; they are not sent again");
            self.uncertain.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Counts the messages that an endpoint has reported as undelivered. The events are consumed, since
    /// they hold the messages that were in flight to a restarted zipper.
    pub(super) fn note_undelivered(&self, endpoint: &Endpoint) {
        // Of two concurrent callers one consumes the events, and the other finds them counted.
        let _counting = lock(&self.counting);
        let unsent = self.take_undelivered(endpoint);
        self.note_uncertain(endpoint.peer(), &unsent, "the connection was closed");
    }

    /// Counts the messages that an endpoint has reported as undelivered, except those of an endpoint that
    /// was never connected: it has sent nothing, and its messages are returned. The caller holds `counting`
    /// until they are counted or sent again.
    fn take_undelivered(&self, endpoint: &Endpoint) -> Vec<Message> {
        let (peer, mut unsent) = (endpoint.peer(), Vec::new());
        while let Some(event) = endpoint.try_event() {
            match event {
                Event::Closed { undelivered, .. } if endpoint.stats().attachments == 0 => {
                    unsent.extend(undelivered.into_iter().filter(is_plain));
                }
                Event::Closed { undelivered, .. } => {
                    self.note_uncertain(peer, &undelivered, "the connection was closed");
                }
                Event::PeerRestarted { undelivered } => {
                    self.note_uncertain(peer, &undelivered, "the zipper has restarted");
                }
                _ => {}
            }
        }
        unsent
    }

    /// Aborts the endpoint after this side has closed it, so that messages in flight are counted.
    pub(super) fn note_end(&self) {
        let (_, endpoint) = self.current();
        if endpoint.wait_closed(Duration::ZERO).is_none() {
            endpoint.abort();
        }
        // The end is reported before the undelivered messages are available.
        let _ended = endpoint.wait_closed(GIVE_UP_MAX);
        self.note_undelivered(&endpoint);
    }

    /// Replaces an endpoint that has ended by the next one to the same zipper, and introduces the client
    /// there.
    pub(super) fn replace(&self, old: &Endpoint, new: Endpoint) {
        let zipper = self.zipper();
        self.succeed(old, |current| {
            self.introduction.send(&new);
            current.endpoint = new;
            current.zipper = zipper;
            current.is_admitted = false;
            None
        });
    }

    /// Replaces an endpoint that has ended by that to another zipper, which has admitted the client.
    pub(super) fn move_to(&self, old: &Endpoint, introduced: Introduced) {
        *lock(&self.protocol) = introduced.protocol;
        self.succeed(old, |current| {
            current.endpoint = introduced.endpoint;
            current.zipper = introduced.name;
            current.is_admitted = true;
            current.early = introduced.early;
            Some(introduced.protocol)
        });
    }

    /// Replaces an endpoint that has ended. `install` returns the protocol of a zipper that has admitted the
    /// client already.
    fn succeed(
        &self,
        old: &Endpoint,
        install: impl FnOnce(&mut CurrentEndpoint) -> Option<Negotiated>,
    ) {
        // The end is reported before the undelivered messages are available.
        let _ended = old.wait_closed(GIVE_UP_MAX);
        let _counting = lock(&self.counting);
        let unsent = self.take_undelivered(old);
        let mut current = lock(&self.current);
        // A successor reports its own undelivered messages when it ends.
        if current.ended.is_some() || current.endpoint != *old {
            drop(current);
            return self.note_uncertain(old.peer(), &unsent, "the client was closed");
        }
        let protocol = install(&mut current);
        current.number += 1;
        current.has_data = !unsent.is_empty();
        // Before any writer sees the endpoint, so the order is kept; it has the room of the old one.
        let mut refused = Vec::new();
        for message in unsent {
            if current
                .endpoint
                .try_send(DATA, message.payload.clone())
                .is_err()
            {
                refused.push(message);
            }
        }
        let peer = current.endpoint.peer();
        let uncertain = current.resume_flows(protocol);
        self.notify_settled(&current);
        drop(current);
        self.count_uncertain(peer, uncertain, "the zipper does not settle messages");
        self.note_uncertain(peer, &refused, "the next connection has no room for them");
        self.changed.notify_all();
    }

    /// Blocks until every written message is acknowledged or counted as uncertain, for at most `timeout`.
    /// Returns whether that is so.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let began = Instant::now();
        let left = || timeout.saturating_sub(began.elapsed());
        if !self.flush_settled(timeout) {
            return false;
        }
        loop {
            let (number, endpoint) = self.current();
            let flushed = endpoint.flush(left());
            if matches!(flushed, Err(FlushError::TimedOut)) {
                return false;
            }
            if endpoint.wait_closed(Duration::ZERO).is_none() {
                match flushed {
                    Ok(()) => return true,
                    // The zipper has restarted: what was not sent before is sent to the new process.
                    Err(_) => continue,
                }
            }
            // The successor may have messages that the endpoint had not sent.
            let awaits =
                |current: &mut CurrentEndpoint| current.number == number && current.ended.is_none();
            let waited = self
                .changed
                .wait_timeout_while(lock(&self.current), left(), awaits);
            let (current, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            if current.ended.is_some() || waited.timed_out() {
                return current.ended.is_some();
            }
        }
    }
}

/// Whether a message is data that is not sent again. Messages of flows are.
fn is_plain(message: &Message) -> bool {
    message.lane == DATA && wire::is_data(&message.payload)
}
