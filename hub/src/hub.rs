//! The handle of a running mesh.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TrySendError, bounded, never};
use selvedge_driver::{
    ActorHandle, Address, Admission, Clock, CloseReason, Connected, Driver, DriverConfig, Endpoint,
    Identity, Listening, NodeId, bind, dialers,
};

use crate::builder::{HubBuilder, OnEvent};
use crate::error::HubError;
use crate::event::HubEvent;
use crate::guests::Guests;
use crate::mesh::Mesh;
use crate::peers::Peers;
use crate::redials::Redials;
use crate::service::{Complaints, Service, Told};

/// Events that wait for a user who does not take them, before the newest is dropped and logged.
const EVENTS_MAX: usize = 4096;

/// A node among its peers. Dropped, it closes its endpoints without waiting: see
/// [`close`](Self::close).
#[derive(Debug)]
pub struct Hub {
    node_id: NodeId,
    addresses: Vec<Address>,
    events: Receiver<HubEvent>,
    listening: Vec<Listening>,
    service: ActorHandle<Told>,
    peers: Arc<Peers>,
    // The last field: it may be the last of the driver, which then waits for its workers.
    driver: Arc<Driver>,
}

impl Hub {
    /// Begins to describe a hub.
    #[must_use]
    pub fn builder(identity: Identity) -> HubBuilder {
        HubBuilder::new(identity)
    }

    pub(crate) fn start(mut builder: HubBuilder) -> Result<Self, HubError> {
        builder.check()?;
        let driver = match builder.driver {
            Some(driver) => driver,
            None => Arc::new(Driver::new(DriverConfig::default())?),
        };
        let node_id = builder.identity.node_id();
        let wanted: Vec<NodeId> = builder.peers.keys().copied().collect();
        let guests_max = builder.guests_max;
        let admission =
            Admission::new(move |peer| guests_max > 0 || wanted.binary_search(peer).is_ok());
        // Bound before anything starts: a port in use leaves nothing behind.
        let made = builder.listeners.drain(..).map(|make| make(&admission));
        let mut listeners: Vec<_> = made.collect();
        for address in &builder.listen {
            listeners.push(bind(address, &builder.identity, &admission)?);
        }
        let own = builder.dialers.iter();
        let dialers = own
            .chain(dialers(&builder.identity).iter())
            .cloned()
            .collect();
        let (on_event, events) = match builder.on_event {
            Some(on_event) => (on_event, never()),
            None => queue_events(),
        };
        let peers = Arc::new(Peers {
            local: node_id,
            dialers,
            ways: builder.peers,
            redials: Redials::default(),
            session: builder.session,
            receive: builder.receive,
            endpoints: Mutex::default(),
        });
        let shared = Arc::clone(&peers);
        let wants_spare = peers.session.lanes.iter().any(|lane| lane.redundant);
        let wanted: Vec<NodeId> = peers.ways.keys().copied().collect();
        let service = driver.host("selvedge-hub", |mail| Service {
            driver: Arc::clone(&driver),
            mail,
            mesh: Mesh::new(wants_spare),
            guests: Guests::new(guests_max),
            peers: shared,
            on_event,
            random: randomness(&driver, node_id),
            closing: false,
            complaints: Complaints::default(),
        })?;
        let mut hub = Self {
            node_id,
            addresses: Vec::new(),
            events,
            listening: Vec::new(),
            service,
            peers,
            driver,
        };
        for peer in wanted {
            let mail = hub.service.mail().clone();
            hub.peers.make(&hub.driver, peer, mail)?;
        }
        for listener in listeners {
            let accepted = hub.acceptor();
            let listening = hub.driver.listen(listener, accepted)?;
            hub.addresses.push(listening.address().clone());
            hub.listening.push(listening);
        }
        hub.service.mail().send(Told::Start);
        Ok(hub)
    }

    /// What becomes of the connections that a listener accepts.
    fn acceptor(&self) -> impl Fn(Connected) + Send + Sync + use<> {
        let mail = self.service.mail().clone();
        // Weak: a worker holds it, and they hold endpoints on it.
        let peers = Arc::downgrade(&self.peers);
        move |connected| {
            // A peer that comes back to its endpoint wakes no other thread first.
            let strange = peers.upgrade().and_then(|peers| peers.attach(connected));
            if let Some(connected) = strange {
                mail.send(Told::Accepted(connected));
            }
        }
    }

    /// Who this node is.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The clock of its driver.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        self.driver.clock()
    }

    /// Where peers can dial, with the ports that were really bound.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The endpoint to a wanted peer, up or not: what is sent waits for it.
    #[must_use]
    pub fn endpoint(&self, peer: NodeId) -> Option<Endpoint> {
        self.peers.endpoint(peer)
    }

    /// What happens to the peers.
    #[must_use]
    pub const fn events(&self) -> &Receiver<HubEvent> {
        &self.events
    }
}

impl Hub {
    /// Begins to end in order, and does not wait: endpoints refuse new messages and close when
    /// theirs are delivered. Nobody is let in any more, and nobody dialed but for what waits.
    pub fn wind_down(&self) {
        self.service.mail().send(Told::Close);
        self.peers.all().iter().for_each(Endpoint::close);
    }

    /// Ends in order: delivers what was accepted, and waits for it, at most `timeout` and at most
    /// the linger time of the sessions. Returns whether all of them ended in order.
    #[must_use]
    pub fn close(&self, timeout: Duration) -> bool {
        let began = Instant::now();
        self.wind_down();
        let endpoints = self.peers.all();
        let mut is_delivered = true;
        // Each of them: that one has broken off is no reason to leave the others.
        for endpoint in &endpoints {
            let left = timeout.saturating_sub(began.elapsed());
            // One that the peer has closed has said what it left.
            let closed = endpoint.wait_closed(left);
            is_delivered &= matches!(closed, Some(CloseReason::Local | CloseReason::Peer));
        }
        is_delivered
    }

    /// Whether all endpoints have ended since [`wind_down`](Self::wind_down), and if so, whether all ended
    /// in order. Does not block.
    #[must_use]
    pub fn closed(&self) -> Option<bool> {
        let endpoints = self.peers.all();
        let mut reasons = endpoints.iter().map(|it| it.wait_closed(Duration::ZERO));
        let mut is_delivered = true;
        while let Some(reason) = reasons.next() {
            is_delivered &= matches!(reason?, CloseReason::Local | CloseReason::Peer);
        }
        Some(is_delivered)
    }
}

/// Queues events for [`Hub::events`].
fn queue_events() -> (OnEvent, Receiver<HubEvent>) {
    let (sender, events) = bounded(EVENTS_MAX);
    let on_event = move |event| match sender.try_send(event) {
        Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        Err(TrySendError::Full(event)) => {
            tracing::warn!(?event, "nobody takes the hub's events: one is dropped");
        }
    };
    (Box::new(on_event), events)
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.service.mail().send(Told::Stop);
        self.service.join();
        self.peers.all().iter().for_each(Endpoint::close);
    }
}

/// What pauses are drawn from: in a simulation from its seed, for each node other ones.
fn randomness(driver: &Driver, node: NodeId) -> fastrand::Rng {
    let own = |seed| {
        node.as_bytes()
            .iter()
            .fold(seed, |seed, byte| seed ^ u64::from(*byte))
    };
    driver.seed().map_or_else(fastrand::Rng::new, |seed| {
        fastrand::Rng::with_seed(own(seed))
    })
}
