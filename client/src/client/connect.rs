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

use crate::client::keeper::{ClientShared, Keeper};
use crate::client::search::{Found, Search};
use crate::client::{Client, ClientOptions};
use crate::lanes::session_config;
use crate::wire::{Handshake, VersionError, VersionOffer, WireError, WireMessage};

/// Longer than any caller waits, and short enough to be added to the current time.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why there is no connection to a zipper.
///
/// Each variant names the side that has to act, and whether a retry helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller has given no address. A retry does not help.
    #[error("no zipper to connect to: give the address of one, such as quic://127.0.0.1:9000")]
    NoAddress,
    /// No zipper has answered in time: the address or the key is wrong, the zipper is down, or the
    /// network is. A retry helps once the zipper can be reached.
    #[error("no zipper answers: {0}")]
    Unreachable(String),
    /// The zipper has refused the client. A retry helps only with other options, such as the token.
    #[error("the zipper refuses this client: {message} (code {code})")]
    Rejected {
        /// The reason for programs: see [`Rejection`](crate::wire::Rejection).
        code: u16,
        /// The reason for people.
        message: String,
    },
    /// The zipper is connected but has not acknowledged the introduction in time: it is overloaded, or
    /// is not a zipper. A retry may help.
    #[error("the node {0} has neither admitted nor refused this client in time")]
    Silent(NodeId),
    /// A text or list in the options is too long, or the zipper has sent a malformed message. A retry
    /// does not help.
    #[error("the introduction failed: {0}")]
    Wire(#[from] WireError),
    /// Client and zipper speak different versions of the protocol. A retry helps once the older side is
    /// upgraded.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The operating system has provided no randomness for a key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The operating system has refused a resource of the hub. A retry helps once it is available.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The operating system has refused a resource of the driver. A retry helps once it is available.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The caller has dropped the driver before the zipper answered. A retry needs another driver.
    #[error("the driver has stopped")]
    Stopped,
}

/// The addresses that a text stands for: an address with a scheme itself, `host:port` QUIC and TCP
/// there.
///
/// # Errors
/// [`ParseAddressError`] with the part of the text that is wrong.
pub fn addresses(text: &str) -> Result<Vec<Address>, ParseAddressError> {
    if text.contains("://") {
        return Ok(vec![text.parse()?]);
    }
    ["quic", "tcp"]
        .iter()
        .map(|scheme| format!("{scheme}://{text}").parse())
        .collect()
}

/// The messages with which a client introduces itself, to be sent in this order.
fn introduction(options: &ClientOptions) -> Result<[Bytes; 2], WireError> {
    let handshake = WireMessage::Handshake(Handshake {
        version: VersionOffer::OWN.min,
        role: options.role,
        name: options.name.clone(),
        token: options.token.clone(),
        tags: options.tags.clone(),
        target: options.target.clone(),
        policy: options.policy,
    });
    Ok([
        WireMessage::VersionOffer(VersionOffer::OWN).encode()?,
        handshake.encode()?,
    ])
}

/// A client that is being connected by [`Client::start`]. Dropping it ends the attempt.
#[derive(Debug)]
pub struct Connecting {
    mail: MailboxSender<ClientCommand>,
    result: Receiver<Result<Client, ConnectError>>,
    is_over: bool,
}

impl Connecting {
    pub(super) fn start(options: ClientOptions) -> Result<Self, ConnectError> {
        let introduction = introduction(&options)?;
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
            phase: ConnectPhase::Begun(Parts { driver, identity }),
            mail,
            options,
            introduction,
            deadline,
            result: sender,
        })?;
        Ok(Self {
            mail: hosted.sender().clone(),
            result,
            is_over: false,
        })
    }

    /// The client or the error, as soon as it is known and only once. Never blocks.
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
            self.mail.send(ClientCommand::Stop);
        }
    }
}

/// A command for the actor of a client.
#[derive(Debug)]
pub(super) enum ClientCommand {
    /// The dial of the address with that index has ended.
    Dialed(usize, Result<NodeId, DialError>),
    Hub(HubEvent),
    /// Messages may have arrived from the zipper.
    Readable,
    Stop,
}

/// The actor of a client: connects it, then keeps it connected.
struct Connector {
    phase: ConnectPhase,
    mail: MailboxSender<ClientCommand>,
    options: ClientOptions,
    introduction: [Bytes; 2],
    deadline: Instant,
    result: Sender<Result<Client, ConnectError>>,
}

enum ConnectPhase {
    Begun(Parts),
    Searching(Search, Parts),
    Introducing(Arc<Hub>, Keeper),
    Connected(Keeper),
    Over,
}

/// The parts of the hub, which is built once its peer is known.
struct Parts {
    driver: Arc<Driver>,
    identity: Identity,
}

impl Actor for Connector {
    type Command = ClientCommand;

    fn handle(&mut self, now: Instant, command: Option<ClientCommand>) -> Next {
        let phase = std::mem::replace(&mut self.phase, ConnectPhase::Over);
        match self.step(now, phase, command) {
            Ok(phase) => self.phase = phase,
            // The hub has been dropped by now, and with it a driver of its own.
            Err(error) => self.finish(Err(error)),
        }
        match &self.phase {
            ConnectPhase::Begun(_) => Next::At(now),
            ConnectPhase::Searching(search, _) => Next::At(search.deadline()),
            ConnectPhase::Introducing(..) => Next::At(self.deadline),
            ConnectPhase::Connected(_) => Next::Command,
            ConnectPhase::Over => Next::End,
        }
    }
}

impl Connector {
    fn step(
        &self,
        now: Instant,
        phase: ConnectPhase,
        command: Option<ClientCommand>,
    ) -> Result<ConnectPhase, ConnectError> {
        match (phase, command) {
            (ConnectPhase::Connected(keeper), Some(ClientCommand::Stop)) => {
                keeper.end();
                Ok(ConnectPhase::Over)
            }
            (_, Some(ClientCommand::Stop)) => Ok(ConnectPhase::Over),
            (ConnectPhase::Begun(parts), _) => self.begin(now, parts),
            (ConnectPhase::Searching(mut search, parts), command) => {
                if let Some(ClientCommand::Dialed(at, result)) = command {
                    search.dialed(now, at, result.map_err(|error| error.to_string()));
                }
                self.search(now, search, parts)
            }
            (ConnectPhase::Introducing(hub, keeper), command) => {
                if let Some(ClientCommand::Hub(event)) = command {
                    keeper.handle(event);
                }
                self.await_introduction(now, hub, keeper)
            }
            (ConnectPhase::Connected(keeper), command) => {
                if let Some(ClientCommand::Hub(event)) = command {
                    keeper.handle(event);
                }
                Ok(ConnectPhase::Connected(keeper))
            }
            (ConnectPhase::Over, _) => Ok(ConnectPhase::Over),
        }
    }

    fn begin(&self, now: Instant, parts: Parts) -> Result<ConnectPhase, ConnectError> {
        let addresses = self.options.zippers.clone();
        if let Some(node) = self.options.node {
            // The hub determines which of the addresses answer.
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
                mail.send(ClientCommand::Dialed(at, result.map(|it| it.peer())));
            });
        }
        self.search(now, Search::new(addresses, self.deadline), parts)
    }

    fn search(
        &self,
        now: Instant,
        search: Search,
        parts: Parts,
    ) -> Result<ConnectPhase, ConnectError> {
        match search.result(now) {
            None => Ok(ConnectPhase::Searching(search, parts)),
            Some(Ok(found)) => self.introduce(now, found, parts),
            Some(Err(failures)) => Err(ConnectError::Unreachable(failures)),
        }
    }

    /// Makes a hub whose only peer is the zipper, and sends the introduction.
    fn introduce(
        &self,
        now: Instant,
        found: Found,
        parts: Parts,
    ) -> Result<ConnectPhase, ConnectError> {
        let send_buffer = SessionConfig::default().send_buffer;
        let mail = self.mail.clone();
        let mut builder = Hub::builder(parts.identity)
            .driver(parts.driver)
            .session(session_config(send_buffer, self.options.message_max))
            .on_event(move |event| mail.send(ClientCommand::Hub(event)));
        for dialer in &self.options.dialers {
            builder = builder.dialer(Arc::clone(dialer));
        }
        let hub = Arc::new(builder.peer_at(found.node, found.addresses)?.start()?);
        let endpoint = hub.endpoint(found.node).ok_or(ConnectError::NoAddress)?;
        let shared = Arc::new(ClientShared::new(endpoint, self.introduction.clone()));
        let keeper = Keeper::new(shared, Arc::downgrade(&hub));
        self.await_introduction(now, hub, keeper)
    }

    fn await_introduction(
        &self,
        now: Instant,
        hub: Arc<Hub>,
        keeper: Keeper,
    ) -> Result<ConnectPhase, ConnectError> {
        let waker = Waker::from(Arc::new(WakeActor(self.mail.clone())));
        let mut cx = Context::from_waker(&waker);
        match keeper.poll_introduced(&mut cx) {
            Poll::Ready(zipper) => {
                let client = Client::new(zipper?, keeper.shared(), hub, self.mail.clone());
                self.finish(Ok(client));
                Ok(ConnectPhase::Connected(keeper))
            }
            Poll::Pending if now >= self.deadline => Err(keeper.silence()),
            Poll::Pending => Ok(ConnectPhase::Introducing(hub, keeper)),
        }
    }

    fn finish(&self, result: Result<Client, ConnectError>) {
        if self.result.send(result).is_err() {
            tracing::debug!("the caller has dropped the attempt to connect");
        }
    }
}

/// Wakes the actor of a client when messages may have arrived.
struct WakeActor(MailboxSender<ClientCommand>);

impl Wake for WakeActor {
    fn wake(self: Arc<Self>) {
        self.0.send(ClientCommand::Readable);
    }
}
