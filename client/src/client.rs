//! Sources and functions: whoever connects to a zipper.
//!
//! A [`Client`] dials every address it was given and keeps the zipper that answers first: the
//! nearest. It stays with that zipper through lost connections, and introduces itself again when
//! the zipper has restarted. Messages that a zipper may have lost by restarting are counted, not
//! sent again: [`Client::uncertain`].

mod connect;
mod keeper;
mod outgoing;
mod search;

use std::cell::LazyCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use selvedge_hub::{
    Address, Clock, Dialer, Driver, DriverConfig, Endpoint, FlushError, Hub, Identity, Instant,
    MailboxSender, NodeId, SendError, SessionConfig,
};

use crate::client::connect::Command;
use crate::client::keeper::{Inbound, STOPPED, Shared};
use crate::lanes::{DATA, HOPS_MAX};
use crate::tag::Tag;
use crate::wire::{
    self, Data, MessageHeader, NO_SOURCE, Origin, PlainMessage, Policy, Role, ShortHeader,
    WireError, WireMessage,
};

pub use connect::{ConnectError, Connecting, addresses};
pub use outgoing::Outgoing;

/// Who reads looks up so often whether it is to stop. The endpoint does not tell: while its zipper is
/// away it lingers for what was written.
const LOOK_UP: Duration = Duration::from_secs(1);

/// What a client is, and where it finds a zipper.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Where zippers are: all are dialed, the first to answer is kept.
    pub zippers: Vec<Address>,
    /// The key that the zipper must have; without one, any.
    pub node: Option<NodeId>,
    /// Who the client is; without one, a new key for this connection.
    pub identity: Option<Identity>,
    /// What it shows to be let in.
    pub token: Option<String>,
    /// What it is.
    pub role: Role,
    /// Its name. Functions of one name share the work.
    pub name: String,
    /// The tags that it observes.
    pub tags: Vec<Tag>,
    /// Of messages with a target it gets those with this one.
    pub target: Option<String>,
    /// How it shares with others of its name.
    pub policy: Policy,
    /// How long connecting may take.
    pub timeout: Duration,
    /// The longest message, in bytes: the same as that of the zipper, or neither lets the other in.
    pub message_max: usize,
    /// On whose workers it lives; without one, on a worker of its own. Many clients in one process
    /// should share one: 64 workers are woken one by one, and one worker reads what has come for all.
    pub driver: Option<Arc<Driver>>,
    /// Transports that are not built in.
    pub dialers: Vec<Arc<dyn Dialer>>,
    /// How long a worker of its own may poll before it sleeps, at most 50 us, while that pays; see
    /// [`DriverConfig::spin`].
    pub spin: Duration,
}

impl ClientOptions {
    /// A source: it writes and observes nothing.
    #[must_use]
    pub fn source(name: impl Into<String>, zippers: Vec<Address>) -> Self {
        Self {
            zippers,
            node: None,
            identity: None,
            token: None,
            role: Role::Source,
            name: name.into(),
            tags: Vec::new(),
            target: None,
            policy: Policy::Nearest,
            timeout: Duration::from_secs(10),
            message_max: SessionConfig::default().message_max,
            driver: None,
            dialers: Vec::new(),
            spin: DriverConfig::default().spin,
        }
    }

    /// A function that observes these tags.
    #[must_use]
    pub fn function(name: impl Into<String>, tags: Vec<Tag>, zippers: Vec<Address>) -> Self {
        Self {
            role: Role::StreamFunction,
            tags,
            ..Self::source(name, zippers)
        }
    }
}

/// Why a client could not send. What it tried to send is lost only if it says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The caller's fault: reserved tags, texts that are too long.
    #[error("the message cannot be written: {0}")]
    Wire(#[from] WireError),
    /// The caller's fault.
    #[error("tag {0} is reserved: 0xf000 to 0xffff belong to the system")]
    Reserved(Tag),
    /// The caller's fault: shorter messages work.
    #[error("a message of {len} bytes is longer than the {max} that are allowed")]
    TooLarge {
        /// Its length with its head.
        len: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// The zipper holds the client back: there may be room later. Only where writing does not wait.
    #[error("the send buffer is full: the zipper holds this client back")]
    Full,
    /// The client is closed, or the zipper has let go of it.
    #[error("the connection is over: {0}")]
    Closed(String),
}

/// Why nothing was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nothing came in the time given.
    #[error("nothing came in the time given")]
    TimedOut,
    /// The client is closed, or the zipper has let go of it.
    #[error("the connection is over: {0}")]
    Closed(String),
}

/// A connection to a zipper. Any number of threads may write and read.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    clock: Clock,
    sequence: AtomicU64,
    zipper: String,
    /// To its actor.
    mail: MailboxSender<Command>,
    /// The last field: it may hold the driver, which is then dropped with it.
    hub: Arc<Hub>,
}

impl Client {
    /// Connects, and waits until the zipper has let it in.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(options: ClientOptions) -> Result<Self, ConnectError> {
        Self::start(options)?.wait()
    }

    /// Begins to connect and does not wait: [`Connecting::poll`] yields the client.
    ///
    /// # Errors
    /// [`ConnectError`], as far as it is known before anything was sent.
    pub fn start(options: ClientOptions) -> Result<Connecting, ConnectError> {
        Connecting::start(options)
    }

    fn new(
        zipper: String,
        shared: Arc<Shared>,
        hub: Arc<Hub>,
        mail: MailboxSender<Command>,
    ) -> Self {
        Self {
            shared,
            clock: hub.clock().clone(),
            sequence: AtomicU64::new(0),
            zipper,
            mail,
            hub,
        }
    }

    /// The name of the zipper.
    #[must_use]
    pub fn zipper(&self) -> &str {
        &self.zipper
    }

    /// The key of the zipper.
    #[must_use]
    pub fn zipper_node(&self) -> NodeId {
        self.shared.node
    }

    /// By which protocol it is connected now.
    #[must_use]
    pub fn scheme(&self) -> Option<&'static str> {
        self.shared.current().1.transport().map(|info| info.scheme)
    }

    /// Writes a message; blocks the thread while the zipper holds it back. The payload is copied.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, tag: Tag, payload: impl AsRef<[u8]>) -> Result<(), WriteError> {
        let start = ShortHeader::plain(check(tag)?, HOPS_MAX, self.next_sequence());
        self.send(&[start.bytes(), payload.as_ref()])
    }

    /// Writes a message for those who want `target` only, if there is one, and with the route so
    /// far, if it is to be traced.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_with(
        &self,
        tag: Tag,
        target: Option<String>,
        trace: Option<Vec<(String, u64)>>,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), WriteError> {
        let mut head = Vec::new();
        self.put_head(tag, target.as_deref(), trace.as_deref(), &mut head)?;
        self.send(&[&head, payload.as_ref()])
    }

    /// Writes a message if there is room now; never blocks. The payload is copied.
    ///
    /// # Errors
    /// [`WriteError`]; [`WriteError::Full`] if there is no room.
    pub fn try_write(&self, tag: Tag, payload: impl AsRef<[u8]>) -> Result<(), WriteError> {
        let start = ShortHeader::plain(check(tag)?, HOPS_MAX, self.next_sequence());
        let parts = &[start.bytes(), payload.as_ref()];
        let Some((_, endpoint)) = self.shared.try_send(parts) else {
            return Ok(());
        };
        self.shared.check_stopped()?;
        match endpoint.sending().try_send_parts(DATA, parts) {
            Ok(()) => Ok(()),
            // Another endpoint follows one that has ended.
            Err(SendError::Full(_) | SendError::Closed(_)) => Err(WriteError::Full),
            Err(error) => Err(refused(error)),
        }
    }

    fn put_head(
        &self,
        tag: Tag,
        target: Option<&str>,
        trace: Option<&[(String, u64)]>,
        out: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        let head = MessageHeader {
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
        Ok(head.encode(out)?)
    }

    fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    fn send(&self, parts: &[&[u8]]) -> Result<(), WriteError> {
        while let Some(held_back) = self.shared.try_send(parts) {
            if self.send_when_free(held_back, parts)? {
                break;
            }
        }
        Ok(())
    }

    /// Puts a message behind those that go out together.
    ///
    /// # Errors
    /// [`WriteError`], never [`WriteError::Closed`]: the message is left out.
    pub fn put(
        &self,
        outgoing: &mut Outgoing,
        tag: Tag,
        target: Option<&str>,
        trace: Option<&[(String, u64)]>,
        payload: &[u8],
    ) -> Result<(), WriteError> {
        outgoing.push(payload, |head| self.put_head(tag, target, trace, head))
    }

    /// Writes messages in as few turns as there is room for; blocks the thread while the zipper holds
    /// them back.
    ///
    /// # Errors
    /// [`WriteError`], of the message that is the first now.
    pub fn write_all(&self, outgoing: &mut Outgoing) -> Result<(), WriteError> {
        while let Some(held_back) = self.shared.try_send_all(outgoing) {
            if let Some(first) = outgoing.first()
                && self.send_when_free(held_back, &[first])?
            {
                outgoing.pop();
            }
        }
        Ok(())
    }

    /// Sends to the endpoint of that number once it has room. Returns false if another endpoint has
    /// taken its place, to which it was not sent.
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

    /// The next message; blocks the thread until there is one.
    ///
    /// # Errors
    /// [`ReadError`]; never [`ReadError::TimedOut`].
    pub fn read(&self) -> Result<Data, ReadError> {
        self.read_until(|| Wait::Forever, Err)
    }

    /// The next message; blocks the thread at most `timeout`.
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
        self.read_until(wait, Err)
    }

    /// The next message as it came; blocks the thread until there is one.
    ///
    /// # Errors
    /// [`ReadError`]; never [`ReadError::TimedOut`].
    pub fn take(&self) -> Result<Arrived, ReadError> {
        self.read_until(|| Wait::Forever, Arrived::read)
    }

    /// The next message as it came, if there is one now.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::TimedOut`] if there is none.
    pub fn try_take(&self) -> Result<Arrived, ReadError> {
        self.read_until(|| Wait::Never, Arrived::read)
    }

    /// The next message, if there is one now.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::TimedOut`] if there is none.
    pub fn try_read(&self) -> Result<Data, ReadError> {
        self.read_until(|| Wait::Never, Err)
    }

    /// How long to wait is asked once, if there is any need to wait: a look at the clock costs as much
    /// as taking a message. What `look` hands back is decoded.
    fn read_until<T: From<Data>>(
        &self,
        wait: impl FnOnce() -> Wait,
        look: impl Fn(Bytes) -> Result<T, Bytes>,
    ) -> Result<T, ReadError> {
        let wait = LazyCell::new(wait);
        loop {
            match self.shared.try_read() {
                Inbound::Early(data) => return Ok((*data).into()),
                Inbound::Message(message) => match look(message.payload) {
                    Ok(seen) => return Ok(seen),
                    Err(bytes) if wire::is_data(&bytes) => {
                        return Data::decode(bytes).map(T::from).map_err(no_message);
                    }
                    Err(bytes) => {
                        let control = WireMessage::decode(bytes).map_err(no_message)?;
                        self.shared.control(control)?;
                    }
                },
                Inbound::Nothing(endpoint) => {
                    let left = wait.left(&self.clock);
                    if !endpoint.wait_readable(Some(left.min(LOOK_UP))) {
                        self.shared.check_stopped()?;
                        if left <= LOOK_UP {
                            return Err(ReadError::TimedOut);
                        }
                    }
                }
                Inbound::Over(number) if matches!(*wait, Wait::Never) => {
                    if !self.shared.try_read_from_another(number)? {
                        return Err(ReadError::TimedOut);
                    }
                }
                Inbound::Over(number) => self.shared.read_from_another(number)?,
            }
        }
    }

    /// How many messages were written to zippers that restarted or left before they had
    /// acknowledged them: they may or may not have been handled.
    #[must_use]
    pub fn uncertain(&self) -> u64 {
        self.shared.uncertain()
    }

    /// Asks the zipper for no more messages, and has reading end behind the last one. Writing goes on:
    /// a function can answer what it has got, and then [`close`](Self::close). It is
    /// [stopped](Self::stop) if there is no zipper to ask now. Of several threads that read, one
    /// learns of the end.
    pub fn finish(&self) {
        self.shared.note_stopped();
        if !self.shared.say_goaway() {
            self.stop();
        }
    }

    /// Waits until all that was written is settled, at most for `timeout`: the zipper has acknowledged
    /// it, or it is [`uncertain`](Self::uncertain). Returns whether it is.
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        let (_, endpoint) = self.shared.current();
        !matches!(endpoint.flush(timeout), Err(FlushError::TimedOut))
    }

    /// Wakes whoever reads or writes, for good.
    pub fn stop(&self) {
        self.shared.note_stopped();
        // First the hub, which would make a new endpoint in the place of the one that ends.
        self.hub.wind_down();
        self.shared.stop(STOPPED);
    }

    /// Whether this side has ended it, by [`stop`](Self::stop) or [`finish`](Self::finish).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopped()
    }

    /// Ends in order: what was written is delivered to the zipper first, at most for `timeout`.
    /// Returns whether all of it was; what was not is [`uncertain`](Self::uncertain) then.
    #[must_use]
    pub fn close(&self, timeout: Duration) -> bool {
        self.stop();
        let closed = self.hub.close(timeout);
        self.shared.note_end();
        closed && self.uncertain() == 0
    }

    /// Begins to end in order, or goes on with it, and does not wait: returns what
    /// [`close`](Self::close) does once all that was written is settled.
    #[must_use]
    pub fn try_close(&self) -> Option<bool> {
        self.stop();
        let closed = self.hub.closed()?;
        self.shared.note_end();
        Some(closed && self.uncertain() == 0)
    }

    /// A step of a traced route that is taken now.
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

/// A message as it came.
#[derive(Debug)]
pub enum Arrived {
    /// Its bytes, which say no more than who sent it. Decoding it cost as much as a call of a guest
    /// does beside what the guest itself does.
    Plain(PlainMessage, Bytes),
    /// Decoded, since its header has more than the shortest form holds.
    Data(Data),
}

impl From<Data> for Arrived {
    fn from(data: Data) -> Self {
        Self::Data(data)
    }
}

impl Arrived {
    /// Hands back what has to be decoded.
    fn read(bytes: Bytes) -> Result<Self, Bytes> {
        match PlainMessage::read_sourced(&bytes) {
            Some(plain) => Ok(Self::Plain(plain, bytes)),
            None => Err(bytes),
        }
    }

    /// The tag of the message.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        match self {
            Self::Plain(plain, _) => plain.tag,
            Self::Data(data) => data.tag,
        }
    }

    /// The payload, where it was received.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Plain(plain, bytes) => &bytes[plain.payload_at..],
            Self::Data(data) => &data.payload,
        }
    }

    /// The route so far, if the message is traced.
    #[must_use]
    pub fn trace(&self) -> Option<&[(String, u64)]> {
        match self {
            Self::Plain(..) => None,
            Self::Data(data) => data.trace.as_deref(),
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

fn no_message(error: WireError) -> ReadError {
    tracing::error!(%error, "the zipper sent what is no message");
    ReadError::Closed(error.to_string())
}

fn check(tag: Tag) -> Result<Tag, WriteError> {
    match tag.is_reserved() {
        true => Err(WriteError::Reserved(tag)),
        false => Ok(tag),
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop();
        self.mail.send(Command::Stop);
    }
}
