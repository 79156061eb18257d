//! The handle of a running hub.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, never, unbounded};
use selvedge_driver::{
    ActorHandle, Address, Admission, Clock, CloseReason, Connected, Driver, DriverConfig, Endpoint,
    Identity, Instant, Listening, NodeId, bind, dialers,
};

use crate::admission_log::AdmissionLog;
use crate::builder::{HubBuilder, OnEvent};
use crate::dial_error_log::DialErrorLog;
use crate::error::HubError;
use crate::event::HubEvent;
use crate::fast_redial::FastRedials;
use crate::guests::Guests;
use crate::mesh::Mesh;
use crate::mesh_actor::{HubCommand, MeshActor};
use crate::peers::Peers;

/// How many events may wait to be read. A further event is dropped, with a warning in the log.
const EVENTS_MAX: usize = 4096;

/// A node that keeps endpoints to its peers connected.
///
/// Dropping it closes the endpoints and waits for the threads of a driver that nothing else uses, at
/// most a second. [`close`](Self::close) waits until everything is delivered.
#[derive(Debug)]
pub struct Hub {
    node_id: NodeId,
    addresses: Vec<Address>,
    events: Receiver<HubEvent>,
    listening: Vec<Listening>,
    mesh: ActorHandle<HubCommand>,
    peers: Arc<Peers>,
    // Dropped last: if this is the last handle of the driver, dropping it joins the workers.
    driver: Arc<Driver>,
}

impl Hub {
    /// Configures a hub for the node with that identity.
    #[must_use]
    pub fn builder(identity: Identity) -> HubBuilder {
        HubBuilder::new(identity)
    }

    pub(crate) fn start(mut builder: HubBuilder) -> Result<Self, HubError> {
        builder.check()?;
        let driver = match builder.driver.take() {
            Some(driver) => driver,
            None => Arc::new(Driver::new(DriverConfig::default())?),
        };
        let node_id = builder.identity.node_id();
        let admission = admission(&builder);
        // Bound before anything starts, so that an error leaves nothing running.
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
            addresses: builder.peers,
            first: builder.first,
            redials: FastRedials::default(),
            session: builder.session,
            guest_buffer: builder.guest_admission.map(|it| it.buffer),
            make_inbox: builder.make_inbox,
            make_filter: builder.make_filter,
            endpoints: Mutex::default(),
        });
        let shared = Arc::clone(&peers);
        let keeps_standby = peers.session.lanes.iter().any(|lane| lane.redundant);
        let wanted: Vec<NodeId> = peers.addresses.keys().copied().collect();
        let mesh = driver.spawn_actor("selvedge-hub", |mailbox| MeshActor {
            driver: Arc::clone(&driver),
            mailbox,
            mesh: Mesh::new(keeps_standby),
            guests: Guests::new(builder.guests_max, builder.guest_admission),
            peers: shared,
            on_event,
            random: randomness(&driver, node_id),
            reports_other_nodes: builder.reports_other_nodes,
            is_closing: false,
            dial_errors: DialErrorLog::default(),
            admission_log: AdmissionLog::default(),
        })?;
        let mut hub = Self {
            node_id,
            addresses: Vec::new(),
            events,
            listening: Vec::new(),
            mesh,
            peers,
            driver,
        };
        for peer in wanted {
            let mailbox = hub.mesh.sender().clone();
            hub.peers.make(&hub.driver, peer, mailbox)?;
        }
        for listener in listeners {
            let listening = hub.driver.listen(listener, hub.when_accepted())?;
            hub.addresses.push(listening.address().clone());
            hub.listening.push(listening);
        }
        hub.mesh.sender().send(HubCommand::Start);
        Ok(hub)
    }

    /// The callback for connections that a listener accepts, called on a worker.
    fn when_accepted(&self) -> impl Fn(Connected) + Send + Sync + use<> {
        let mailbox = self.mesh.sender().clone();
        // Weak: a worker holds the callback, and `Peers` holds endpoints on that worker.
        let peers = Arc::downgrade(&self.peers);
        move |connected| {
            // The connection of a peer that has an endpoint is attached without waking the mesh.
            let unattached = peers.upgrade().and_then(|peers| peers.attach(connected));
            if let Some(connected) = unattached {
                mailbox.send(HubCommand::Accepted(connected));
            }
        }
    }

    /// The id of this node.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The clock of the hub's driver.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        self.driver.clock()
    }

    /// The addresses at which this hub listens, with the ports that the system has assigned.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The endpoint to a wanted peer or a guest. It exists whether the peer is up or not: messages
    /// wait in it, up to [`SessionConfig::send_buffer`](crate::SessionConfig::send_buffer) bytes.
    #[must_use]
    pub fn endpoint(&self, peer: NodeId) -> Option<Endpoint> {
        self.peers.endpoint(peer)
    }

    /// Changes the largest number of guests of a hub that was built with [guests](HubBuilder::guests). Guests
    /// above the new number stay; further ones are accepted when enough have left. Does not block.
    pub fn set_guests(&self, max: usize) {
        self.mesh.sender().send(HubCommand::SetGuests(max));
    }

    /// Events of the peers, in order for each peer. At most 4,096 events wait to be read; further
    /// ones are dropped, with a warning in the log.
    #[must_use]
    pub const fn events(&self) -> &Receiver<HubEvent> {
        &self.events
    }
}

impl Hub {
    /// Begins an orderly shutdown without waiting. Endpoints refuse new messages, and close when the
    /// accepted ones are delivered. The hub admits no new guest, and dials only for endpoints
    /// that still have messages to deliver.
    pub fn wind_down(&self) {
        self.mesh.sender().send(HubCommand::Close);
        self.peers.all().iter().for_each(Endpoint::close);
    }

    /// Shuts down in order: delivers all accepted messages, and blocks until that is done, at most
    /// for `timeout` and for [`SessionConfig::linger`](crate::SessionConfig::linger). Returns whether
    /// every endpoint was closed in order.
    #[must_use]
    pub fn close(&self, timeout: Duration) -> bool {
        let began = Instant::now();
        self.wind_down();
        let endpoints = self.peers.all();
        let mut is_delivered = true;
        // All of them, even if one was aborted: the others may still deliver.
        for endpoint in &endpoints {
            let left = timeout.saturating_sub(began.elapsed());
            // An endpoint that the peer closed has reported its undelivered messages.
            let closed = endpoint.wait_closed(left);
            is_delivered &= matches!(closed, Some(CloseReason::Local | CloseReason::Peer));
        }
        is_delivered
    }

    /// The outcome of [`wind_down`](Self::wind_down): none while an endpoint is open, then whether every
    /// endpoint was closed in order. Does not block.
    #[must_use]
    pub fn closed(&self) -> Option<bool> {
        let endpoints = self.peers.all();
        let reasons = endpoints.iter().map(|it| it.wait_closed(Duration::ZERO));
        let mut is_delivered = true;
        for reason in reasons {
            is_delivered &= matches!(reason?, CloseReason::Local | CloseReason::Peer);
        }
        Some(is_delivered)
    }
}

/// The nodes that listeners accept: the wanted peers, or every node if guests are accepted.
fn admission(builder: &HubBuilder) -> Admission {
    let wanted: Vec<NodeId> = builder.peers.keys().copied().collect();
    let guests_max = builder.guests_max;
    let admission =
        Admission::new(move |peer| guests_max > 0 || wanted.binary_search(peer).is_ok());
    match builder.guest_admission {
        Some(_) => admission.restricted(),
        None => admission,
    }
}

/// Queues events for [`Hub::events`].
fn queue_events() -> (OnEvent, Receiver<HubEvent>) {
    // Not a bounded channel: that occupies the memory of a full one.
    let (sender, events) = unbounded();
    let on_event = move |event| {
        if sender.len() >= EVENTS_MAX {
            tracing::warn!(%event, "the hub's events are not read: dropped one");
        } else {
            // Fails when nobody can read it.
            let _is_sent = sender.send(event);
        }
    };
    (Box::new(on_event), events)
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.mesh.sender().send(HubCommand::Stop);
        self.mesh.join();
        self.peers.all().iter().for_each(Endpoint::close);
    }
}

/// The randomness of the pauses. A simulation derives it from its seed, for each node another one.
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
