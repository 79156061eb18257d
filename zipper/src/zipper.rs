//! A running zipper.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use selvedge_hub::{
    ActorHandle, Address, Admission, Dialer, Driver, DriverConfig, DriverError, Endpoint, Hub,
    HubError, Identity, Instant, Listener, NodeId, SessionConfig,
};

use selvedge_client::lanes::session_config;

use crate::broker::{Broker, Settings, Stop, Ticker};
use crate::stats::ZipperStats;
use selvedge_client::tag::Tag;

/// A zipper that this one keeps connected.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// Its key.
    pub node: NodeId,
    /// Where it is, the best address first; none if it dials.
    pub addresses: Vec<Address>,
}

/// Makes a listener for the nodes that may connect.
pub type ListenerFactory = Arc<dyn Fn(&Admission) -> Box<dyn Listener> + Send + Sync>;

/// What a zipper is made of.
#[derive(Clone)]
pub struct ZipperOptions {
    /// What people call it.
    pub name: String,
    /// Who it is.
    pub identity: Identity,
    /// Where it listens.
    pub listen: Vec<Address>,
    /// What clients must show to be let in; without one everybody is.
    pub token: Option<String>,
    /// Other zippers. They know each other by key and need no token.
    pub mesh: Vec<Neighbour>,
    /// How many clients are let in at once.
    pub clients_max: usize,
    /// Transports that are not built in: what dials by them.
    pub dialers: Vec<Arc<dyn Dialer>>,
    /// Transports that are not built in: what accepts by them.
    pub listeners: Vec<ListenerFactory>,
    /// The driver, from which the zipper has its clock and its randomness; without one, a driver of its
    /// own, with `workers` and `spin`.
    pub driver: Option<Arc<Driver>>,
    /// Threads that serve connections.
    pub workers: NonZeroUsize,
    /// How long a worker may poll before it sleeps, at most 50 us, while that pays; see
    /// [`DriverConfig::spin`].
    pub spin: Duration,
    /// Bytes that wait for one client or zipper, before whoever sends them is held back.
    pub send_buffer: u64,
    /// The longest message, in bytes.
    pub message_max: usize,
}

impl fmt::Debug for ZipperOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("name", &self.name)
            .field("node", &self.identity.node_id())
            .field("listen", &self.listen)
            .field("mesh", &self.mesh)
            .finish_non_exhaustive()
    }
}

impl ZipperOptions {
    /// Those of a zipper of that name that listens nowhere yet: 1,024 clients, one worker,
    /// 16 MiB for each peer, messages of up to 64 MiB.
    #[must_use]
    pub fn new(name: impl Into<String>, identity: Identity) -> Self {
        let session = SessionConfig::default();
        Self {
            name: name.into(),
            identity,
            listen: Vec::new(),
            token: None,
            mesh: Vec::new(),
            clients_max: 1024,
            dialers: Vec::new(),
            listeners: Vec::new(),
            driver: None,
            workers: NonZeroUsize::MIN,
            spin: DriverConfig::default().spin,
            send_buffer: session.send_buffer,
            message_max: session.message_max,
        }
    }
}

/// Why a zipper could not start. The message says whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZipperError {
    /// An address is in use, say.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The operating system refused.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// Routes data between the Sources and functions that connect to it, and to other zippers.
/// Dropped, it ends without waiting: see [`close`](Self::close).
#[derive(Debug)]
pub struct Zipper {
    hub: Hub,
    broker: Arc<Broker>,
    ticking: Ticking,
}

#[derive(Debug)]
struct Ticking(ActorHandle<Stop>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.sender().send(Stop);
        self.0.join();
    }
}

impl Zipper {
    /// Starts it.
    ///
    /// # Errors
    /// [`ZipperError`].
    pub fn start(options: ZipperOptions) -> Result<Self, ZipperError> {
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
        let broker = Broker::new(Settings {
            name: options.name,
            node: *node.as_bytes(),
            token: options.token,
            mesh,
            clock: driver.clock().clone(),
            seed: driver.random_u64()?,
        });
        let doors = Arc::clone(&broker);
        let mut builder = Hub::builder(options.identity)
            .driver(Arc::clone(&driver))
            .session(session_config(options.send_buffer, options.message_max))
            .guests(options.clients_max)
            // Doors hear of all that happens.
            .without_events()
            .inbox(move |endpoint: &Endpoint| Box::new(doors.open_door(endpoint)));
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
        let ticking = Ticking(driver.spawn_actor("zipper-ticker", |_| Ticker(ticked))?);
        Ok(Self {
            hub,
            broker,
            ticking,
        })
    }

    /// Who it is.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.hub.node_id()
    }

    /// Where it can be reached, with the ports that were really bound.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        self.hub.addresses()
    }

    /// The endpoint to another zipper of its mesh, to see how it is connected.
    #[must_use]
    pub fn neighbour(&self, node: NodeId) -> Option<Endpoint> {
        self.hub.endpoint(node)
    }

    /// The names of the functions that observe a tag, at this zipper or at others that it knows of.
    #[must_use]
    pub fn observers(&self, tag: Tag) -> Vec<String> {
        self.broker.observers(tag)
    }

    /// What it has counted.
    #[must_use]
    pub fn stats(&self) -> ZipperStats {
        self.broker.counters.stats()
    }

    /// To look at it while it ends, and after.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.broker))
    }

    /// Ends in order: delivers what it has accepted, at most for `timeout`. Returns whether all of
    /// it was delivered.
    #[must_use]
    pub fn close(self, timeout: Duration) -> bool {
        self.begin_close(timeout).wait()
    }

    /// Begins to end in order and does not wait: [`Closing::poll`] yields what [`close`](Self::close) does.
    #[must_use]
    pub fn begin_close(self, timeout: Duration) -> Closing {
        let Self {
            hub,
            broker,
            ticking,
        } = self;
        drop(ticking);
        let now = hub.clock().now();
        let before = broker.counters.stats().undelivered;
        broker.close_sources();
        Closing {
            // What was not handed on after half of the time leaves the other half to deliver the rest.
            sources_until: now + timeout / 2,
            until: now + timeout,
            is_handed_on: None,
            before,
            hub: Some(hub),
            broker,
        }
    }
}

/// A zipper that ends in order. Dropped, it ends without waiting.
#[derive(Debug)]
pub struct Closing {
    hub: Option<Hub>,
    broker: Arc<Broker>,
    /// Until when messages of sources are handed on.
    sources_until: Instant,
    until: Instant,
    /// Whether all messages of sources were handed on, once that is known.
    is_handed_on: Option<bool>,
    /// How many messages had not been delivered when it began to end.
    before: u64,
}

impl Closing {
    /// Whether all was delivered, once that is known or the time is over; never blocks.
    pub fn poll(&mut self) -> Option<bool> {
        let hub = self.hub.as_ref()?;
        let now = hub.clock().now();
        if self.is_handed_on.is_none() {
            let is_handed_on = self.broker.sources_gone(Duration::ZERO);
            if !is_handed_on && now < self.sources_until {
                return None;
            }
            self.is_handed_on = Some(is_handed_on);
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
        self.is_handed_on = Some(self.broker.sources_gone(left(self.sources_until)));
        let is_closed = hub.close(left(self.until));
        self.end(is_closed)
    }

    fn end(&mut self, is_closed: bool) -> bool {
        // With it end the doors, which count what they leave.
        self.hub = None;
        let undelivered = self.broker.counters.stats().undelivered;
        // One that was given up, or left, may be known to nobody any more.
        self.is_handed_on == Some(true) && is_closed && undelivered == self.before
    }
}

/// What is left of a [`Zipper`] that ends.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Broker>);

impl Watch {
    /// What it has counted.
    #[must_use]
    pub fn stats(&self) -> ZipperStats {
        self.0.counters.stats()
    }

    /// Names and keys of the clients and zippers that it is connected to, or waits for: those that
    /// are away first.
    #[must_use]
    pub fn connections(&self) -> Vec<String> {
        self.0.connections()
    }

    /// Gives up all that is not delivered, and counts it: who waits for the end waits no longer.
    pub fn abort(&self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_client::{Client, ClientOptions};

    #[test]
    fn clients_that_have_left_leave_nothing_behind() {
        let identity = || Identity::generate().expect("randomness");
        let zipper = Zipper::start(ZipperOptions {
            listen: vec!["tcp://127.0.0.1:0".parse().expect("an address")],
            clients_max: 1,
            ..ZipperOptions::new("z", identity())
        });
        let zipper = zipper.expect("a zipper");
        // The second is let in when the end of the first has been told.
        for _ in 0..2 {
            let options = ClientOptions::source("source", zipper.addresses().to_vec());
            let client = Client::connect(options).expect("the zipper lets it in");
            assert!(client.close(Duration::from_secs(30)));
        }
        assert!(zipper.hub.events().is_empty());
    }
}
