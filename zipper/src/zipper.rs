//! A zipper: starts it, and shuts it down in order.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use selvedge_hub::{
    ActorHandle, Address, Admission, Dialer, Driver, DriverConfig, DriverError, Endpoint,
    GuestAdmission, Hub, HubError, Identity, Instant, Listener, NodeId, SessionConfig,
};

use selvedge_client::lanes::{PAYLOAD_MAX, session_config};

use crate::broker::{Broker, BrokerSettings, BrokerTicker, StopTicker};
use crate::permissions::AccessRules;
use crate::reload::ReloadRequest;
use crate::settlement::EntrySettings;
use crate::snapshot::PeerSnapshot;
use crate::stats::ZipperStats;
use selvedge_client::tag::Tag;
use selvedge_client::wire::{FEATURES, VersionOffer};

/// Another zipper of the mesh, to which a zipper stays connected.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// The key of that zipper.
    pub node: NodeId,
    /// Its addresses, the preferred one first; none if the other zipper dials.
    pub addresses: Vec<Address>,
}

/// How many nodes may be connected beyond the clients: those that have not introduced themselves, and those
/// that are being refused with the reason.
const GUESTS_SPARE: usize = 64;

/// Makes a listener, which admits nodes according to the argument.
pub type ListenerFactory = Arc<dyn Fn(&Admission) -> Box<dyn Listener> + Send + Sync>;

/// The options of a zipper. [`new`](Self::new) gives defaults for every field.
#[derive(Clone)]
pub struct ZipperOptions {
    /// The name, for logs and traces.
    pub name: String,
    /// The identity.
    pub identity: Identity,
    /// The addresses to listen on.
    pub listen: Vec<Address>,
    /// The token that clients must present; without one, every client is admitted.
    pub token: Option<String>,
    /// The tokens and keys of clients with their permissions. They replace `token` for clients.
    pub access: Option<AccessRules>,
    /// Whether every client of every host may be admitted: without a token, a zipper listens on loopback
    /// addresses only, unless this is set.
    pub is_open: bool,
    /// The other zippers of the mesh, authenticated by key. No other node is accepted as a zipper,
    /// whatever token it presents.
    pub mesh: Vec<Neighbour>,
    /// The largest number of clients at once. A further one is refused with the reason, unless it can take
    /// the place of a client that has been disconnected for 3 s.
    pub clients_max: usize,
    /// Dialers of additional transports.
    pub dialers: Vec<Arc<dyn Dialer>>,
    /// Listeners of additional transports.
    pub listeners: Vec<ListenerFactory>,
    /// The driver, which provides threads, clock and randomness; without one, a driver of its own with
    /// `workers` and `spin`.
    pub driver: Option<Arc<Driver>>,
    /// The number of threads of an own driver.
    pub workers: NonZeroUsize,
    /// How long a worker may poll before it sleeps, as long as polling pays; at most 50 us. See
    /// [`DriverConfig::spin`].
    pub spin: Duration,
    /// The send buffer for each client or zipper, in bytes. Senders to a full one are blocked.
    pub send_buffer: u64,
    /// The longest payload, in bytes; equal for all zippers and clients.
    pub message_max: usize,
    /// How long a function may hold sources back: one that has processed nothing new for so long, while a source
    /// waits for it as long, is disconnected.
    pub stalled_max: Duration,
    /// How many functions a message may pass, 1 to 127. What the last one writes is dropped and counted
    /// (`ZipperStats::too_deep`), and its outcome is `too_deep`: it ends cycles of functions.
    pub function_depth: u8,
    /// The features of the protocol that the zipper offers, as bits: all that this build implements, unless
    /// a test requires a zipper without some of them.
    pub features: u64,
}

/// How many functions a message may pass by default.
pub const FUNCTION_DEPTH: u8 = 8;

impl fmt::Debug for ZipperOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZipperOptions")
            .field("name", &self.name)
            .field("node", &self.identity.node_id())
            .field("listen", &self.listen)
            .field("mesh", &self.mesh)
            .finish_non_exhaustive()
    }
}

impl ZipperOptions {
    /// The options of a zipper that does not listen yet: no token, 1,024 clients, one worker, a send buffer of
    /// 16 MiB for each peer, payloads of up to 64 MiB less 64 KiB.
    #[must_use]
    pub fn new(name: impl Into<String>, identity: Identity) -> Self {
        Self {
            name: name.into(),
            identity,
            listen: Vec::new(),
            token: None,
            is_open: false,
            access: None,
            mesh: Vec::new(),
            clients_max: 1024,
            dialers: Vec::new(),
            listeners: Vec::new(),
            driver: None,
            workers: NonZeroUsize::MIN,
            spin: DriverConfig::default().spin,
            send_buffer: SessionConfig::default().send_buffer,
            message_max: PAYLOAD_MAX,
            stalled_max: EntrySettings::default().stalled_max,
            function_depth: FUNCTION_DEPTH,
            features: FEATURES,
        }
    }
}

/// Why a zipper could not start.
///
/// Each variant names the side that has to act, and whether a retry helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZipperError {
    /// The caller has asked for an address that other hosts can reach, without a token. A retry needs
    /// another address, a token, or [`ZipperOptions::is_open`].
    #[error(
        "{0} can be reached by other hosts, and every client would be admitted: set a token, listen on \
         a loopback address, or allow it explicitly"
    )]
    Exposed(Address),
    /// The addresses are invalid, or the operating system has refused one, such as an address in use. A
    /// retry helps once it is free.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The operating system has refused a resource of the driver. A retry helps once it is available.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// Whether other hosts can reach an address. Addresses without an IP address belong to transports of the
/// caller, which are local as far as is known here.
pub(crate) fn is_exposed(address: &Address) -> bool {
    let socket = address.as_socket();
    socket.is_some_and(|socket| !socket.ip().to_canonical().is_loopback())
}

/// Routes messages between the sources and functions that connect to it, and to other zippers.
///
/// Dropping a zipper ends it without waiting: see [`close`](Self::close).
#[derive(Debug)]
pub struct Zipper {
    hub: Hub,
    broker: Arc<Broker>,
    ticker: TickerGuard,
}

#[derive(Debug)]
struct TickerGuard(ActorHandle<StopTicker>);

impl Drop for TickerGuard {
    fn drop(&mut self) {
        self.0.sender().send(StopTicker);
        self.0.join();
    }
}

impl Zipper {
    /// Starts a zipper.
    ///
    /// # Errors
    /// [`ZipperError`].
    pub fn start(options: ZipperOptions) -> Result<Self, ZipperError> {
        if options.token.is_none()
            && options.access.is_none()
            && !options.is_open
            && let Some(exposed) = options.listen.iter().find(|it| is_exposed(it))
        {
            return Err(ZipperError::Exposed(exposed.clone()));
        }
        let driver = match options.driver {
            Some(driver) => driver,
            None => Arc::new(Driver::new(DriverConfig {
                workers: options.workers,
                spin: options.spin,
                ..DriverConfig::default()
            })?),
        };
        let node = options.identity.node_id();
        let mesh: BTreeSet<_> = options.mesh.iter().map(|it| *it.node.as_bytes()).collect();
        let broker = Broker::new(BrokerSettings {
            name: options.name,
            node: *node.as_bytes(),
            token: options.token,
            mesh,
            offer: VersionOffer {
                features: options.features,
                ..VersionOffer::OWN
            },
            clients_max: options.clients_max,
            clock: driver.clock().clone(),
            message_max: options.message_max,
            stalled_max: options.stalled_max,
            function_depth: options.function_depth,
            seed: driver.random_u64()?,
        });
        if let Some(rules) = options.access {
            broker.set_rules(rules);
        }
        let connections = Arc::clone(&broker);
        let mut builder = Hub::builder(options.identity)
            .driver(Arc::clone(&driver))
            .session(session_config(options.send_buffer, options.message_max))
            .guests(options.clients_max.saturating_add(GUESTS_SPARE))
            .guest_admission(GuestAdmission::default())
            // Connections receive the events of their endpoints.
            .without_events()
            .inbox(move |endpoint: &Endpoint| Box::new(connections.open_connection(endpoint)));
        for dialer in options.dialers {
            builder = builder.dialer(dialer);
        }
        for make in options.listeners {
            builder = builder.listener(move |admission| make(admission));
        }
        for address in options.listen {
            builder = builder.listen_on(address);
        }
        for neighbour in options.mesh {
            builder = builder.peer_at(neighbour.node, neighbour.addresses)?;
        }
        let hub = builder.start()?;
        let ticked = Arc::clone(&broker);
        let ticker = TickerGuard(driver.spawn_actor("zipper-ticker", |_| BrokerTicker(ticked))?);
        Ok(Self {
            hub,
            broker,
            ticker,
        })
    }

    /// The key of the zipper.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.hub.node_id()
    }

    /// The addresses of the zipper, with the ports that were bound.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        self.hub.addresses()
    }

    /// The endpoint to another zipper of the mesh, for inspection.
    #[must_use]
    pub fn neighbour(&self, node: NodeId) -> Option<Endpoint> {
        self.hub.endpoint(node)
    }

    /// The names of the functions that observe a tag, at this zipper or at reachable others.
    #[must_use]
    pub fn observers(&self, tag: Tag) -> Vec<String> {
        self.broker.observers(tag)
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> ZipperStats {
        self.broker.counters.stats()
    }

    /// Whether it listens on an address that other hosts can reach.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let sockets = self.addresses().iter().filter_map(Address::as_socket);
        sockets
            .map(|socket| socket.ip().to_canonical())
            .any(|ip| !ip.is_loopback())
    }

    /// Replaces the tokens and keys of clients. Connected clients get the permissions of the new rules;
    /// those without any are disconnected, with the reason.
    pub fn set_access(&self, rules: AccessRules) {
        self.broker.set_rules(rules);
    }

    /// Changes the largest number of clients at once. Clients above the new number stay.
    pub fn set_clients_max(&self, max: usize) {
        self.hub.set_guests(max);
    }

    /// The requests of operators to read the configuration again, one at a time. Until the first call they
    /// are refused; only the first caller receives requests.
    #[must_use]
    pub fn reload_requests(&self) -> Receiver<ReloadRequest> {
        self.broker.reload_requests()
    }

    /// A handle that remains usable while the zipper ends and afterwards.
    #[must_use]
    pub fn watch(&self) -> ZipperWatch {
        ZipperWatch(Arc::clone(&self.broker))
    }

    /// Ends the zipper in order. Blocks until every accepted message is delivered, at most for `timeout`:
    /// half of it for forwarding the messages of sources, the rest for delivery. Returns whether every
    /// message was delivered.
    #[must_use]
    pub fn close(self, timeout: Duration) -> bool {
        self.begin_close(timeout).wait()
    }

    /// Begins to end the zipper in order and does not block: [`Closing::poll`] yields the result of
    /// [`close`](Self::close).
    #[must_use]
    pub fn begin_close(self, timeout: Duration) -> Closing {
        let Self {
            hub,
            broker,
            ticker,
        } = self;
        drop(ticker);
        let now = hub.clock().now();
        let before = broker.counters.stats().undelivered;
        broker.close_sources();
        Closing {
            // The other half of the time is left for delivery.
            sources_until: now + timeout / 2,
            until: now + timeout,
            is_forwarded: None,
            before,
            hub: Some(hub),
            broker,
        }
    }
}

/// A zipper that ends in order. Dropping it ends the zipper without waiting.
#[derive(Debug)]
pub struct Closing {
    hub: Option<Hub>,
    broker: Arc<Broker>,
    /// The deadline for forwarding the messages of sources.
    sources_until: Instant,
    until: Instant,
    /// Whether every message of sources was forwarded, once that is known.
    is_forwarded: Option<bool>,
    /// The number of undelivered messages when the shutdown began.
    before: u64,
}

impl Closing {
    /// Whether every message was delivered, once that is known or the time has passed. Never blocks.
    pub fn poll(&mut self) -> Option<bool> {
        let hub = self.hub.as_ref()?;
        let now = hub.clock().now();
        if self.is_forwarded.is_none() {
            let is_forwarded = self.broker.sources_gone(Duration::ZERO);
            if !is_forwarded && now < self.sources_until {
                return None;
            }
            self.is_forwarded = Some(is_forwarded);
            self.broker.flush_outlets();
            hub.wind_down();
        }
        let is_closed = match hub.closed() {
            None if now < self.until => return None,
            closed => closed == Some(true),
        };
        Some(self.end(is_closed))
    }

    fn wait(mut self) -> bool {
        let Some(hub) = &self.hub else { return false };
        let left = |until: Instant| until.saturating_duration_since(hub.clock().now());
        self.is_forwarded = Some(self.broker.sources_gone(left(self.sources_until)));
        self.broker.flush_outlets();
        let is_closed = hub.close(left(self.until));
        self.end(is_closed)
    }

    fn end(&mut self, is_closed: bool) -> bool {
        // Dropping the hub drops the connections, which count their unread messages.
        self.hub = None;
        let undelivered = self.broker.counters.stats().undelivered;
        // The counter also includes peers that were given up or have left.
        self.is_forwarded == Some(true) && is_closed && undelivered == self.before
    }
}

/// Observes a [`Zipper`] that ends.
#[derive(Debug, Clone)]
pub struct ZipperWatch(Arc<Broker>);

impl ZipperWatch {
    /// The name of the zipper.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.settings.name
    }

    /// The key of the zipper.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId::new(self.0.settings.node)
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> ZipperStats {
        self.0.counters.stats()
    }

    /// The names and keys of the clients and zippers that the zipper is connected to or waits for,
    /// disconnected ones first.
    #[must_use]
    pub fn connections(&self) -> Vec<String> {
        self.0.connections()
    }

    /// The clients and zippers that the zipper is connected to or waits for, with their backlog, in the
    /// order of their keys.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerSnapshot> {
        self.0.peers()
    }

    /// The number of flows of sources that slow functions hold back.
    #[must_use]
    pub fn held_flows(&self) -> usize {
        self.0.held_flows()
    }

    /// Whether the zipper makes progress: false if it has not checked its timeouts for 10 s, because it
    /// has ended, or a thread of it is stuck. Never blocks.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.0.is_live()
    }

    /// Gives up undelivered messages and counts them, which ends the wait in [`Zipper::close`].
    pub fn abort(&self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_client::{Client, ClientOptions};

    #[test]
    fn clients_that_have_left_leave_no_state() {
        let identity = || Identity::generate().expect("randomness");
        let zipper = Zipper::start(ZipperOptions {
            listen: vec!["tcp://127.0.0.1:0".parse().expect("an address")],
            clients_max: 1,
            ..ZipperOptions::new("z", identity())
        });
        let zipper = zipper.expect("a zipper");
        // The second client is admitted once the end of the first has been processed.
        for _ in 0..2 {
            let options = ClientOptions::source("source", zipper.addresses().to_vec());
            let client = Client::connect(options).expect("the zipper admits it");
            assert!(client.close(Duration::from_secs(30)));
        }
        assert!(zipper.hub.events().is_empty());
    }
}
