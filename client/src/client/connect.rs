//! Connects a client: finds the nearest zipper, and introduces the client to it.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use selvedge_hub::{
    Actor, Address, DialError, Dialers, Driver, DriverConfig, DriverError, Hub, HubError, HubEvent,
    Identity, IdentityError, Instant, MailboxSender, Next, NodeId, ParseAddressError,
    SessionConfig, dialers,
};

use crate::client::keeper::{Keeper, Shared};
use crate::client::search::{Found, Search};
use crate::client::{Client, ClientOptions};
use crate::lanes::session_config;
use crate::wire::{Handshake, VERSION, WireError, WireMessage};

/// Longer than any caller waits, and short enough to be added to the time.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why there is no connection to a zipper. The message says whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller's fault.
    #[error("no zipper to connect to: give the address of one, such as quic://127.0.0.1:9000")]
    NoAddress,
    /// No zipper answered.
    #[error("no zipper answers: {0}")]
    Unreachable(String),
    /// The zipper does not want this client; the message says why.
    #[error("the zipper refuses: {message} (code {code})")]
    Rejected {
        /// Why, for programs: see [`Rejection`](crate::wire::Rejection).
        code: u16,
        /// Why, for people.
        message: String,
    },
    /// It answered, and said nothing in time.
    #[error("the zipper at {0} does not let this client in, and does not say why")]
    Silent(NodeId),
    /// The caller's fault: texts that are too long.
    #[error("the introduction cannot be written: {0}")]
    Wire(#[from] WireError),
    /// No randomness for a key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The operating system refused.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The operating system refused.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The driver was dropped before the zipper had answered.
    #[error("the driver has stopped")]
    Stopped,
}

/// The addresses that people mean: `host:port` is QUIC there, and TCP if that does not answer.
///
/// # Errors
/// What is wrong with the text.
pub fn addresses(text: &str) -> Result<Vec<Address>, ParseAddressError> {
    if text.contains("://") {
        return Ok(vec![text.parse()?]);
    }
    ["quic", "tcp"]
        .iter()
        .map(|scheme| format!("{scheme}://{text}").parse())
        .collect()
}

fn handshake(options: &ClientOptions) -> Result<Bytes, WireError> {
    WireMessage::Handshake(Handshake {
        version: VERSION,
        role: options.role,
        name: options.name.clone(),
        token: options.token.clone(),
        tags: options.tags.clone(),
        target: options.target.clone(),
        policy: options.policy,
    })
    .encode()
}

/// A client that is being connected: [`Client::start`]. Dropped, it gives up.
#[derive(Debug)]
pub struct Connecting {
    mail: MailboxSender<Command>,
    result: Receiver<Result<Client, ConnectError>>,
    is_over: bool,
}

impl Connecting {
    pub(super) fn start(options: ClientOptions) -> Result<Self, ConnectError> {
        let handshake = handshake(&options)?;
        let identity = match &options.identity {
            Some(identity) => identity.clone(),
            None => Identity::generate()?,
        };
        if options.node.is_none() && options.zippers.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        let driver = match &options.driver {
            Some(driver) => Arc::clone(driver),
            None => Arc::new(Driver::new(DriverConfig {
                spin: options.spin,
                ..DriverConfig::default()
            })?),
        };
        let deadline = driver.now() + options.timeout.min(TIMEOUT_MAX);
        let (sender, result) = bounded(1);
        let hosting = Arc::clone(&driver);
        let hosted = hosting.spawn_actor("zipper-client", |mail| Connector {
            phase: Phase::Begun(Parts { driver, identity }),
            mail,
            options,
            handshake,
            deadline,
            result: sender,
        })?;
        Ok(Self {
            mail: hosted.sender().clone(),
            result,
            is_over: false,
        })
    }

    /// The client or the error, once, as soon as there is one; never blocks.
    pub fn poll(&mut self) -> Option<Result<Client, ConnectError>> {
        let result = match self.result.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) if self.is_over => return None,
            Err(TryRecvError::Disconnected) => Err(ConnectError::Stopped),
        };
        self.is_over = true;
        Some(result)
    }

    pub(super) fn wait(mut self) -> Result<Client, ConnectError> {
        let result = self.result.recv();
        self.is_over = true;
        result.unwrap_or(Err(ConnectError::Stopped))
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if !self.is_over {
            self.mail.send(Command::Stop);
        }
    }
}

/// What the actor of a client handles.
#[derive(Debug)]
pub(super) enum Command {
    /// The dial of the address with that index has ended.
    Dialed(usize, Result<NodeId, DialError>),
    Hub(HubEvent),
    /// Messages may have arrived from the zipper.
    Readable,
    Stop,
}

/// The actor of a client: connects it, then keeps it connected.
struct Connector {
    phase: Phase,
    mail: MailboxSender<Command>,
    options: ClientOptions,
    handshake: Bytes,
    deadline: Instant,
    result: Sender<Result<Client, ConnectError>>,
}

enum Phase {
    Begun(Parts),
    Searching(Search, Parts),
    Introducing(Arc<Hub>, Keeper),
    Connected(Keeper),
    Over,
}

/// What a hub is made of once its peer is known.
struct Parts {
    driver: Arc<Driver>,
    identity: Identity,
}

impl Actor for Connector {
    type Command = Command;

    fn handle(&mut self, now: Instant, command: Option<Command>) -> Next {
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        match self.step(now, phase, command) {
            Ok(phase) => self.phase = phase,
            // By now the hub has been dropped, and with it a driver of its own.
            Err(error) => self.finish(Err(error)),
        }
        match &self.phase {
            Phase::Begun(_) => Next::At(now),
            Phase::Searching(search, _) => Next::At(search.deadline()),
            Phase::Introducing(..) => Next::At(self.deadline),
            Phase::Connected(_) => Next::Command,
            Phase::Over => Next::End,
        }
    }
}

impl Connector {
    fn step(
        &self,
        now: Instant,
        phase: Phase,
        command: Option<Command>,
    ) -> Result<Phase, ConnectError> {
        match (phase, command) {
            (Phase::Connected(keeper), Some(Command::Stop)) => {
                keeper.end();
                Ok(Phase::Over)
            }
            (_, Some(Command::Stop)) => Ok(Phase::Over),
            (Phase::Begun(parts), _) => self.begin(now, parts),
            (Phase::Searching(mut search, parts), command) => {
                if let Some(Command::Dialed(at, result)) = command {
                    search.dialed(now, at, result.map_err(|error| error.to_string()));
                }
                self.search(now, search, parts)
            }
            (Phase::Introducing(hub, keeper), command) => {
                if let Some(Command::Hub(event)) = command {
                    keeper.handle(event);
                }
                self.await_introduction(now, hub, keeper)
            }
            (Phase::Connected(keeper), command) => {
                if let Some(Command::Hub(event)) = command {
                    keeper.handle(event);
                }
                Ok(Phase::Connected(keeper))
            }
            (Phase::Over, _) => Ok(Phase::Over),
        }
    }

    fn begin(&self, now: Instant, parts: Parts) -> Result<Phase, ConnectError> {
        let addresses = self.options.zippers.clone();
        if let Some(node) = self.options.node {
            // The hub finds out which of the addresses answer.
            return self.introduce(now, Found { node, addresses }, parts);
        }
        let own = self.options.dialers.iter();
        let dialers: Dialers = own
            .chain(dialers(&parts.identity).iter())
            .cloned()
            .collect();
        for (at, address) in addresses.iter().enumerate() {
            let mail = self.mail.clone();
            parts.driver.dial(&dialers, address, None, move |result| {
                mail.send(Command::Dialed(at, result.map(|it| it.peer())));
            });
        }
        self.search(now, Search::new(addresses, self.deadline), parts)
    }

    fn search(&self, now: Instant, search: Search, parts: Parts) -> Result<Phase, ConnectError> {
        match search.result(now) {
            None => Ok(Phase::Searching(search, parts)),
            Some(Ok(found)) => self.introduce(now, found, parts),
            Some(Err(failures)) => Err(ConnectError::Unreachable(failures)),
        }
    }

    /// Makes a hub whose only peer is the zipper, and sends the introduction.
    fn introduce(&self, now: Instant, found: Found, parts: Parts) -> Result<Phase, ConnectError> {
        let send_buffer = SessionConfig::default().send_buffer;
        let mail = self.mail.clone();
        let mut builder = Hub::builder(parts.identity)
            .driver(parts.driver)
            .session(session_config(send_buffer, self.options.message_max))
            .on_event(move |event| mail.send(Command::Hub(event)));
        for dialer in &self.options.dialers {
            builder = builder.dialer(Arc::clone(dialer));
        }
        let hub = Arc::new(builder.peer_at(found.node, found.addresses)?.start()?);
        let endpoint = hub.endpoint(found.node).ok_or(ConnectError::NoAddress)?;
        let shared = Arc::new(Shared::new(endpoint, self.handshake.clone()));
        let keeper = Keeper::new(shared, Arc::downgrade(&hub));
        self.await_introduction(now, hub, keeper)
    }

    fn await_introduction(
        &self,
        now: Instant,
        hub: Arc<Hub>,
        keeper: Keeper,
    ) -> Result<Phase, ConnectError> {
        let waker = Waker::from(Arc::new(WakeActor(self.mail.clone())));
        let mut cx = Context::from_waker(&waker);
        match keeper.poll_introduced(&mut cx) {
            Poll::Ready(zipper) => {
                let client = Client::new(zipper?, keeper.shared(), hub, self.mail.clone());
                self.finish(Ok(client));
                Ok(Phase::Connected(keeper))
            }
            Poll::Pending if now >= self.deadline => Err(keeper.silence()),
            Poll::Pending => Ok(Phase::Introducing(hub, keeper)),
        }
    }

    fn finish(&self, result: Result<Client, ConnectError>) {
        if self.result.send(result).is_err() {
            tracing::debug!("the caller has given up connecting");
        }
    }
}

/// Wakes the actor of a client when messages may have arrived.
struct WakeActor(MailboxSender<Command>);

impl Wake for WakeActor {
    fn wake(self: Arc<Self>) {
        self.0.send(Command::Readable);
    }
}
