//! A client: a source or a function that is connected to a zipper.

mod admin;
mod closing;
mod connect;
mod connector;
mod depth;
mod error;
mod failover;
mod flows;
mod hub_slot;
mod introduction;
mod keeper;
mod options;
mod outgoing;
mod reading;
mod received;
mod search;
mod settling;
mod shared;

use std::cell::LazyCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use selvedge_hub::{Clock, Endpoint, Instant, MailboxSender, NodeId, SendError};

use crate::client::connector::ClientCommand;
use crate::client::flows::{DeliveryHandle, FlowWrite, RoutedDelivery};
use crate::client::hub_slot::HubSlot;
use crate::client::reading::NextInbound;
use crate::client::settling::{SettledWrite, WriteWait};
use crate::client::shared::ClientShared;
use crate::lanes::{DATA, HOPS_MAX};
use crate::settlement::LoggedPayload;
use crate::tag::Tag;
use crate::wire::settlement::is_settlement;
use crate::wire::{
    self, Data, MessageHeader, NO_SOURCE, Negotiated, Origin, ShortHeader, WireError, WireMessage,
};

pub use admin::{AdminClient, AdminError};
pub use connect::{ConnectError, Connecting, addresses};
pub use error::{ReadError, WriteError};
pub use flows::{AcknowledgeMode, FlowSummary, InstanceLossPolicy, OutcomeSummary};
pub use options::{ClientOptions, SlowConsumerPolicy};
pub use outgoing::OutgoingBatch;
pub use received::ReceivedMessage;

/// How often a blocked reader checks whether the client is closed: the endpoint does not wake it while
/// it lingers for unsent messages to an absent zipper.
const CLOSE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A source or function that is connected to a zipper. Any number of threads may write and read.
///
/// # Connecting
///
/// [`connect`](Self::connect) dials every address and keeps the zipper that answers first. Addresses that
/// fail are dialed again until the time limit, after pauses of 100 ms to 2 s.
///
/// # Reconnecting
///
/// The client reconnects without limit until it is closed. It dials every configured address, whether or
/// not it has ever answered, and resolves names each time. A lost connection loses no message: the session
/// resumes, and writes wait in the send buffer meanwhile (16 MiB; a longer backlog blocks the writer).
/// After a restart of the zipper the client introduces itself again. Messages that were in flight to the
/// old process are sent again as far as they are not settled; without a [level](ClientOptions::level) they
/// may or may not have been processed: the client counts them as [`uncertain`](Self::uncertain) and does not
/// send them again, since that could repeat them.
///
/// # Moving to another zipper
///
/// Without [`ClientOptions::node`] any zipper at the addresses is accepted. If the zipper in use closes the
/// connection, or has not returned 2 s after the connection was lost, the client moves to another zipper
/// that answers at one of the addresses: a neighbour, or the same one with a new key after a restart. The
/// client stays there, and logs the move. Messages without a level that the former zipper has not
/// acknowledged are counted as [`uncertain`](Self::uncertain), except for those written after it closed the
/// connection, which are sent to the new one.
///
/// # Settlement
///
/// Unless its [level](ClientOptions::level) is none, each message that a write accepts is retained until it is
/// settled, and is sent again if zippers may have lost it: after a restart of the zipper, and after a move to another
/// one, nothing of it is uncertain. [`outcomes`](Self::outcomes) has what became of the messages, and
/// [`flush`](Self::flush) waits for that. Messages with one tag and target are a flow and stay in order. A
/// flow retains up to [`ClientOptions::flow_limits`] (16 MiB), all flows 64 MiB; a write for which there is
/// no room blocks. At most 4,096 flows have unsettled messages at a time; beyond 1,024 flows, those without
/// any are forgotten, except for the sum of their outcomes.
///
/// A function discards what it has received before. It reports what it has processed after 256 messages,
/// when it finds no further one, and after 5 ms. It keeps state for up to 65,536 flows; beyond that, flows
/// that no zipper routes to it are forgotten. After 27 s without contact to the source of a flow, it keeps
/// messages of that flow back: another instance may receive them.
///
/// # Closing
///
/// | method | unsent and unsettled messages | reading |
/// |---|---|---|
/// | [`finish`](Self::finish) | writing remains possible | ends behind the last message from the zipper |
/// | [`close`](Self::close) | are delivered and settled within a timeout | ends |
/// | [`stop`](Self::stop) | are delivered in the background while the client exists, and settled within 60 s | ends |
/// | drop | are delivered and settled within a second if the client has a driver of its own; others may be lost | |
#[derive(Debug)]
pub struct Client {
    shared: Arc<ClientShared>,
    clock: Clock,
    sequence: AtomicU64,
    /// The longest payload, in bytes.
    payload_max: usize,
    /// Whether nothing else runs on its driver.
    has_own_driver: bool,
    /// The mailbox of the actor that keeps the client connected.
    mail: MailboxSender<ClientCommand>,
    /// The last field, since dropping it may drop the driver.
    hub: Arc<HubSlot>,
}

impl Client {
    /// Connects to the zipper that answers first. Blocks until it has admitted the client, at most for
    /// [`ClientOptions::timeout`].
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(options: ClientOptions) -> Result<Self, ConnectError> {
        Self::start(options)?.wait()
    }

    /// Begins to connect and does not block: [`Connecting::poll`] yields the client.
    ///
    /// # Errors
    /// [`ConnectError`] for options that are invalid in themselves.
    pub fn start(options: ClientOptions) -> Result<Connecting, ConnectError> {
        Connecting::start(options)
    }

    fn new(
        shared: Arc<ClientShared>,
        hub: Arc<HubSlot>,
        mail: MailboxSender<ClientCommand>,
        options: &ClientOptions,
    ) -> Self {
        Self {
            shared,
            clock: hub.get().clock().clone(),
            sequence: AtomicU64::new(0),
            payload_max: options.message_max,
            has_own_driver: options.driver.is_none(),
            mail,
            hub,
        }
    }

    /// The name of the zipper in use.
    #[must_use]
    pub fn zipper(&self) -> String {
        self.shared.zipper()
    }

    /// The key of the zipper in use.
    #[must_use]
    pub fn zipper_node(&self) -> NodeId {
        self.shared.node()
    }

    /// The protocol version and the features that the zipper selected when it admitted the client last.
    #[must_use]
    pub fn protocol(&self) -> Negotiated {
        self.shared.protocol()
    }

    /// The scheme of the transport in use, such as `quic`; `None` while disconnected.
    #[must_use]
    pub fn scheme(&self) -> Option<&'static str> {
        self.shared.current().1.transport().map(|info| info.scheme)
    }

    /// Writes a message to all functions that observe the tag. The payload is copied.
    ///
    /// Blocks while the log of the flow is full, or without a level the send buffer: the zipper or a function
    /// behind it is slower than this client, or the zipper is not connected. Success means that this client
    /// has the message; see [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`WriteError`], never [`WriteError::Full`].
    pub fn write(&self, tag: Tag, payload: impl AsRef<[u8]>) -> Result<(), WriteError> {
        let body = LoggedPayload::Copied(payload.as_ref());
        self.write_body(tag, body, WriteWait::Forever)
    }

    /// Writes a message like [`write`](Self::write). A payload of more than 4 KiB is not copied if the client settles
    /// messages: its memory, and all that it is a part of, is free when the message is settled.
    ///
    /// # Errors
    /// [`WriteError`], never [`WriteError::Full`].
    pub fn write_bytes(&self, tag: Tag, payload: Bytes) -> Result<(), WriteError> {
        self.write_body(tag, LoggedPayload::Kept(&payload), WriteWait::Forever)
    }

    /// Writes a message like [`write`](Self::write). With a target, only functions with that target
    /// receive it. With a trace, zippers append their names and times to these steps.
    ///
    /// # Errors
    /// [`WriteError`], never [`WriteError::Full`].
    pub fn write_with(
        &self,
        tag: Tag,
        target: Option<String>,
        trace: Option<Vec<(String, u64)>>,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), WriteError> {
        let (payload, target, trace) = (payload.as_ref(), target.as_deref(), trace.as_deref());
        self.write_at_depth(self.output_depth(tag), tag, target, trace, payload)
    }

    /// Writes a message like [`write_with`](Self::write_with) if there is room; never blocks.
    ///
    /// # Errors
    /// [`WriteError`]; [`WriteError::Full`] if there is no room.
    pub fn try_write_with(
        &self,
        tag: Tag,
        target: Option<&str>,
        trace: Option<&[(String, u64)]>,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), WriteError> {
        let payload = payload.as_ref();
        let message = FlowWrite {
            target,
            ..self.output(tag, LoggedPayload::Copied(payload))
        };
        match self.settle_with(message, trace, WriteWait::Never)? {
            None => Ok(()),
            Some(header) => self.try_send(&[&header, payload]),
        }
    }

    /// Writes a message like [`write`](Self::write) if the send buffer has room; never blocks.
    ///
    /// # Errors
    /// [`WriteError`]; [`WriteError::Full`] if there is no room.
    pub fn try_write(&self, tag: Tag, payload: impl AsRef<[u8]>) -> Result<(), WriteError> {
        let body = LoggedPayload::Copied(payload.as_ref());
        self.write_body(tag, body, WriteWait::Never)
    }

    /// Writes a message like [`write_bytes`](Self::write_bytes) if the send buffer has room; never blocks.
    ///
    /// # Errors
    /// [`WriteError`]; [`WriteError::Full`] if there is no room.
    pub fn try_write_bytes(&self, tag: Tag, payload: Bytes) -> Result<(), WriteError> {
        self.write_body(tag, LoggedPayload::Kept(&payload), WriteWait::Never)
    }

    /// Inlined: the body would be stored and loaded again in other pieces, which takes 9 ns.
    #[inline(always)]
    fn write_body(
        &self,
        tag: Tag,
        body: LoggedPayload<'_>,
        wait: WriteWait,
    ) -> Result<(), WriteError> {
        self.check_len(&body)?;
        let tag = check(tag)?;
        if self.shared.is_settled() {
            let message = self.output(tag, body);
            if self.shared.write_settled(message, wait)? == SettledWrite::Accepted {
                return Ok(());
            }
        }
        let header = ShortHeader::plain(tag, HOPS_MAX, self.next_sequence());
        let parts = [header.bytes(), &body];
        match wait {
            WriteWait::Forever => self.send(&parts),
            WriteWait::Never => self.try_send(&parts),
        }
    }

    fn try_send(&self, parts: &[&[u8]]) -> Result<(), WriteError> {
        let Some((_, endpoint)) = self.shared.try_send(parts) else {
            return Ok(());
        };
        self.shared.check_stopped()?;
        match endpoint.sending().try_send_parts(DATA, parts) {
            Ok(()) => Ok(()),
            // A successor follows an endpoint that has ended.
            Err(SendError::Full(_) | SendError::Closed(_)) => Err(WriteError::Full),
            Err(error) => Err(refused(error)),
        }
    }

    fn encode_header(
        &self,
        tag: Tag,
        target: Option<&str>,
        trace: Option<&[(String, u64)]>,
        out: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        let header = MessageHeader {
            tag: check(tag)?,
            origin: Origin {
                source: NO_SOURCE,
                sequence: self.next_sequence(),
            },
            hops_left: HOPS_MAX,
            target,
            recipients: &[],
            trace,
        };
        Ok(header.encode(out)?)
    }

    /// The session would accept a longer payload if its header is short, but the next one might not.
    const fn check_len(&self, payload: &[u8]) -> Result<(), WriteError> {
        let (len, max) = (payload.len(), self.payload_max);
        match len <= max {
            true => Ok(()),
            false => Err(WriteError::TooLarge { len, max }),
        }
    }

    fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    fn send(&self, parts: &[&[u8]]) -> Result<(), WriteError> {
        while let Some(blocked) = self.shared.try_send(parts) {
            if self.send_when_free(blocked, parts)? {
                break;
            }
        }
        Ok(())
    }

    /// Appends a message to a batch, which [`write_batch`](Self::write_batch) sends. Never blocks.
    ///
    /// # Errors
    /// [`WriteError::Wire`], [`WriteError::Reserved`] and [`WriteError::TooLarge`]; the message is not part of the batch then.
    pub fn append(
        &self,
        batch: &mut OutgoingBatch,
        tag: Tag,
        target: Option<&str>,
        trace: Option<&[(String, u64)]>,
        payload: &[u8],
    ) -> Result<(), WriteError> {
        self.check_len(payload)?;
        let depth = self.output_depth(tag);
        batch.push(payload, depth, |out| {
            self.encode_header(tag, target, trace, out)
        })
    }

    /// Writes the messages of a batch under one lock per run that the send buffer has room for. Blocks
    /// like [`write`](Self::write). Sent messages are removed from the batch.
    ///
    /// # Errors
    /// [`WriteError`] for the message that is the first of the batch then.
    pub fn write_batch(&self, batch: &mut OutgoingBatch) -> Result<(), WriteError> {
        if self.shared.is_settled()
            && self.shared.write_settled_batch(batch)? == SettledWrite::Accepted
        {
            return Ok(());
        }
        while let Some(blocked) = self.shared.try_send_all(batch) {
            if let Some(first) = batch.first()
                && self.send_when_free(blocked, &[first])?
            {
                batch.pop();
            }
        }
        Ok(())
    }

    /// Sends to the endpoint with that number once it has room. Returns false if it has ended and a
    /// successor has replaced it, to which the message was not sent.
    fn send_when_free(
        &self,
        (number, endpoint): (u64, Endpoint),
        parts: &[&[u8]],
    ) -> Result<bool, WriteError> {
        match endpoint.send_parts(DATA, parts) {
            Ok(()) => Ok(true),
            Err(SendError::Closed(_)) => {
                self.shared.wait_for_another(number)?;
                Ok(false)
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Reads the next message. Blocks until there is one, also while the zipper is not connected.
    ///
    /// # Errors
    /// [`ReadError::Closed`].
    pub fn read(&self) -> Result<Data, ReadError> {
        self.read_until(|| Wait::Forever, Err, |routed| self.decoded(routed))
    }

    /// Reads the next message. Blocks for at most `timeout`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_timeout(&self, timeout: Duration) -> Result<Data, ReadError> {
        let wait = || {
            self.clock
                .now()
                .checked_add(timeout)
                .map_or(Wait::Forever, Wait::Until)
        };
        self.read_until(wait, Err, |routed| self.decoded(routed))
    }

    /// Reads the next message like [`read`](Self::read), without decoding more than necessary.
    ///
    /// # Errors
    /// [`ReadError::Closed`].
    pub fn receive(&self) -> Result<ReceivedMessage, ReadError> {
        self.read_until(
            || Wait::Forever,
            ReceivedMessage::read,
            ReceivedMessage::from,
        )
    }

    /// Reads the next message like [`receive`](Self::receive) if there is one; never blocks.
    ///
    /// # Errors
    /// [`ReadError::TimedOut`] if there is none, [`ReadError::Closed`].
    pub fn try_receive(&self) -> Result<ReceivedMessage, ReadError> {
        self.read_until(|| Wait::Never, ReceivedMessage::read, ReceivedMessage::from)
    }

    /// Reads the next message if there is one; never blocks.
    ///
    /// # Errors
    /// [`ReadError::TimedOut`] if there is none, [`ReadError::Closed`].
    pub fn try_read(&self) -> Result<Data, ReadError> {
        self.read_until(|| Wait::Never, Err, |routed| self.decoded(routed))
    }

    /// The message as [`Data`], which cannot be acknowledged later.
    #[inline]
    fn decoded(&self, routed: RoutedDelivery) -> Data {
        self.acknowledge_handle(routed.handle());
        routed.into()
    }

    /// Reports that a message was processed. It is to be called with each message that
    /// [`receive`](Self::receive) returns if the client was started with
    /// [`AcknowledgeMode::ByCall`]; otherwise, and for messages that need none, it does nothing. Never
    /// blocks.
    pub fn acknowledge(&self, message: &ReceivedMessage) {
        self.acknowledge_handle(message.handle());
    }

    /// Reports that every message was processed that this client has returned so far, to any thread. Costs less
    /// than [`acknowledge`](Self::acknowledge) with each of them: a program that writes to a file calls it
    /// when the file is flushed. Never blocks.
    pub fn acknowledge_all(&self) {
        if let Some(inbound) = self.shared.inbound()
            && inbound.acknowledge_all()
        {
            self.request_end();
        }
    }

    fn acknowledge_handle(&self, handle: Option<DeliveryHandle>) {
        if let (Some(inbound), Some(handle)) = (self.shared.inbound(), handle)
            && inbound.acknowledge(handle)
        {
            self.request_end();
        }
    }

    /// Reads the next message. `wait` is evaluated once and only if the caller has to wait: reading the
    /// clock costs as much as reading a message. `read` returns the bytes that have to be decoded.
    fn read_until<T: From<Data>>(
        &self,
        wait: impl FnOnce() -> Wait,
        read: impl Fn(Bytes) -> Result<T, Bytes>,
        of_route: impl Fn(RoutedDelivery) -> T,
    ) -> Result<T, ReadError> {
        let wait = LazyCell::new(wait);
        if !self.shared.is_read() {
            self.shared.note_read();
        }
        loop {
            match self.shared.try_read() {
                NextInbound::Early(data) => {
                    self.note_depth(0);
                    return Ok((*data).into());
                }
                NextInbound::Routed(routed) => {
                    let routed = routed.map_err(malformed)?;
                    self.note_depth(routed.depth);
                    return Ok(of_route(routed));
                }
                NextInbound::Message(message) => match read(message.payload) {
                    Ok(message) => {
                        self.note_depth(0);
                        return Ok(message);
                    }
                    Err(bytes) if wire::is_data(&bytes) => {
                        self.note_depth(0);
                        return Data::decode(bytes).map(T::from).map_err(malformed);
                    }
                    // Messages are ready that have waited for a lease.
                    Err(bytes) if is_settlement(&bytes) => {}
                    Err(bytes) => {
                        let control = WireMessage::decode(bytes).map_err(malformed)?;
                        self.shared.control(control)?;
                    }
                },
                NextInbound::Nothing(endpoint) => {
                    let left = wait.left(&self.clock);
                    if !endpoint.wait_readable(Some(left.min(CLOSE_CHECK_INTERVAL))) {
                        self.shared.check_stopped()?;
                        if left <= CLOSE_CHECK_INTERVAL {
                            return Err(ReadError::TimedOut);
                        }
                    }
                }
                NextInbound::Ended(number) if matches!(*wait, Wait::Never) => {
                    if !self.shared.try_read_from_another(number)? {
                        return Err(ReadError::TimedOut);
                    }
                }
                NextInbound::Ended(number) => self.shared.read_from_another(number)?,
            }
        }
    }

    /// The number of messages that were written to a zipper which restarted, or closed the connection,
    /// before it acknowledged them: they may or may not have been processed. Settled messages are not among
    /// them; see [`outcomes`](Self::outcomes).
    #[must_use]
    pub fn uncertain(&self) -> u64 {
        self.shared.uncertain()
    }

    /// How often a zipper has lost the session of this client: it was restarted or is gone, or has given up
    /// the client after 30 s without a connection, such as a suspended process. Each time, messages that
    /// waited there for this client may be lost, in an unknown number.
    #[must_use]
    pub fn sessions_lost(&self) -> u64 {
        self.shared.sessions_lost()
    }

    /// A step of a trace with the current time, for [`write_with`](Self::write_with).
    #[must_use]
    pub fn step(&self, name: impl Into<String>) -> (String, u64) {
        (name.into(), self.clock.unix_micros())
    }
}

/// How long a reader waits.
enum Wait {
    Never,
    Until(Instant),
    Forever,
}

impl Wait {
    fn left(&self, clock: &Clock) -> Duration {
        match self {
            Self::Never => Duration::ZERO,
            Self::Until(at) => at.saturating_duration_since(clock.now()),
            Self::Forever => Duration::MAX,
        }
    }
}

fn refused(error: SendError) -> WriteError {
    match error {
        SendError::TooLarge {
            payload,
            message_max,
        } => WriteError::TooLarge {
            len: payload.len(),
            max: message_max,
        },
        error => WriteError::Closed(error.to_string()),
    }
}

fn malformed(error: WireError) -> ReadError {
    tracing::error!(%error, "the zipper has sent a malformed message");
    ReadError::Closed(error.to_string())
}

fn check(tag: Tag) -> Result<Tag, WriteError> {
    match tag.is_reserved() {
        true => Err(WriteError::Reserved(tag)),
        false => Ok(tag),
    }
}
