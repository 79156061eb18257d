//! The state that the connections of a zipper share: the peers and the router.
//!
//! Each endpoint has a [`Connection`], which is called on the worker that reads it. A message is routed
//! and forwarded in that call. If a recipient has no room, the message of a client stays in the endpoint of
//! its sender, the connection registers a waker, and flow control blocks the sender; the copy of a
//! neighbour's message is dropped. A zipper queues no messages of its own.

mod access;
mod admin;
mod batch;
mod connection;
mod cycles;
mod flows;
mod liveness;
mod outlet;
mod peers;
mod plans;
mod quotas;
mod settling;
mod shards;
mod slow;
mod ticker;
mod token_throttle;
mod unmatched_tags;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use selvedge_hub::{Clock, Endpoint, Instant, LogThrottle, PeerNetwork, RecentSet};

use crate::broker::access::AdmittedClient;
use crate::broker::connection::Connection;
use crate::broker::cycles::ReportedCycles;
use crate::broker::flows::PeerRoutes;
use crate::broker::liveness::Liveness;
use crate::broker::outlet::Outlet;
use crate::broker::plans::{Plans, ResolvedPlan, resolve};
use crate::broker::quotas::{QuotaExceeded, TagQuotas};
use crate::broker::settling::Occasion;
use crate::broker::shards::{ShardSet, ShardVersions, WaitingEndpoints};
use crate::broker::slow::SlowConsumers;
use crate::broker::token_throttle::TokenThrottle;
use crate::broker::unmatched_tags::UnmatchedTags;
use crate::permissions::AccessRules;
use crate::reload::ReloadRequest;
use crate::router::{Presence, Router};
use crate::stats::ZipperCounters;
use selvedge_client::tag::Tag;
use selvedge_client::wire::{
    Handshake, INTEREST_DELTAS, Negotiated, NodeKey, Role, TRACE_MAX, VersionOffer,
};

pub(crate) use ticker::{BrokerTicker, StopTicker};

/// After being disconnected for this long, a neighbour is not sent anything any more. Hubs use the same
/// time for guests.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// After being disconnected for this long, a client is given up if another one needs its place. A client
/// whose connection broke dials again within a fraction of that.
const AWAY_WHEN_FULL_MAX: Duration = Duration::from_secs(3);

/// The time in which a client must introduce itself again after its process has restarted. Hubs use the same
/// time for the first introduction.
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How many keys of admitted clients are remembered: 128 KiB.
const KNOWN_CLIENTS_MAX: usize = 4096;

/// How often timeouts are checked.
const TICK: Duration = Duration::from_secs(1);

/// The settings of a broker.
#[derive(Debug)]
pub(crate) struct BrokerSettings {
    pub(crate) name: String,
    pub(crate) node: NodeKey,
    /// The token that clients must present.
    pub(crate) token: Option<String>,
    /// The keys of the zippers of the mesh, which need no token.
    pub(crate) mesh: BTreeSet<NodeKey>,
    /// The versions and features of the protocol that are offered.
    pub(crate) offer: VersionOffer,
    /// The largest number of clients at once.
    pub(crate) clients_max: usize,
    /// The clock of the driver.
    pub(crate) clock: Clock,
    /// The longest message, in bytes.
    pub(crate) message_max: usize,
    /// How long a function may hold a source back without proceeding.
    pub(crate) stalled_max: Duration,
    /// How many functions a message may pass.
    pub(crate) function_depth: u8,
    /// The seed of every random selection.
    pub(crate) seed: u64,
}

#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) settings: BrokerSettings,
    pub(crate) counters: ZipperCounters,
    state: Mutex<BrokerState>,
    /// Counts the changes of routes and peers. Increased before the lock of the change is released.
    version: AtomicU64,
    /// The changes by tag. Increased before `version`.
    versions: ShardVersions,
    /// The id of the next connection.
    next_connection: AtomicU64,
    /// Endpoints with messages for which there was no room. They are resumed when a change concerns them,
    /// since the new recipients may have room.
    waiting: Mutex<WaitingEndpoints>,
    /// The endpoints of sources with flows. They are resumed when a change concerns their flows, and at
    /// each tick.
    watching: Mutex<WaitingEndpoints>,
    /// The next label of a route.
    next_label: AtomicU32,
    /// Whether forwarding has stopped.
    is_aborted: AtomicBool,
    /// The program that reads the configuration again, if it can.
    reloads: OnceLock<Sender<ReloadRequest>>,
    liveness: Liveness,
    /// The consumers that hold sources back.
    slow: Arc<SlowConsumers>,
    /// Disconnected when the connections of every source, and of every peer that may become one, are
    /// dropped.
    sources_gone: Receiver<Infallible>,
}

#[derive(Debug)]
struct BrokerState {
    router: Router,
    quotas: TagQuotas,
    /// The longest message, in bytes.
    message_max: usize,
    token_throttle: TokenThrottle,
    /// Clients that were admitted. Wrong tokens from their network do not delay them.
    known_clients: RecentSet<NodeKey>,
    /// Refused peers, of which strangers can make as many as they like.
    refusals: LogThrottle,
    rules: AccessRules,
    known: BTreeMap<NodeKey, ConnectedPeer>,
    /// Peers that have changed since the last call of [`Broker::publish`].
    changed_peers: ShardSet,
    /// The current plans of all connections.
    plans: Plans,
    unmatched_tags: UnmatchedTags,
    self_observers: ReportedCycles,
    cut_cycles: ReportedCycles,
    /// Held by the connection of each source, and of each peer that has not introduced itself; `None`
    /// during the shutdown.
    source: Option<Sender<Infallible>>,
    random: fastrand::Rng,
}

/// A client or zipper with an endpoint.
#[derive(Debug)]
struct ConnectedPeer {
    /// The id of its connection: a successor may have replaced an endpoint that has ended.
    connection: u64,
    endpoint: Endpoint,
    role: Option<Role>,
    /// The name of the peer; empty until it has introduced itself.
    name: String,
    /// When it connected, or its role changed.
    since: Instant,
    away_since: Option<Instant>,
    is_gone: bool,
    /// Whether a neighbour implements deltas of interest tables.
    has_deltas: bool,
    /// A part of the interest table of a neighbour, for which the send buffer had no room.
    unsent: Option<Bytes>,
    /// Whether the interest table of a neighbour has no room for some functions.
    is_table_full: bool,
    /// Whether it is a function that is disconnected because it has stalled.
    is_stalled: bool,
    /// The permissions of a client, once it has been admitted.
    client: Option<AdmittedClient>,
    /// The routes on which this zipper sends to the peer.
    routes: Arc<PeerRoutes>,
    /// For a function with a drop policy.
    outlet: Option<Arc<Outlet>>,
    /// How many messages were dropped for want of room at the peer.
    dropped: Arc<AtomicU64>,
}

impl ConnectedPeer {
    /// Whether the peer has been admitted since its endpoint exists. A stranger has neither routes nor
    /// messages.
    fn was_admitted(&self) -> bool {
        !self.name.is_empty()
    }
}

impl Broker {
    pub(crate) fn new(settings: BrokerSettings) -> Arc<Self> {
        let mut random = fastrand::Rng::with_seed(settings.seed);
        let router = Router::new(settings.node, random.u64(..));
        let (source, sources_gone) = bounded(0);
        let message_max = settings.message_max;
        let liveness = Liveness::new(settings.clock.now());
        Arc::new(Self {
            counters: ZipperCounters::default(),
            state: Mutex::new(BrokerState {
                router,
                quotas: TagQuotas::default(),
                message_max,
                token_throttle: TokenThrottle::default(),
                known_clients: RecentSet::new(KNOWN_CLIENTS_MAX),
                refusals: LogThrottle::default(),
                rules: AccessRules::simple(settings.token.as_deref()),
                known: BTreeMap::new(),
                changed_peers: ShardSet::default(),
                plans: Plans::default(),
                unmatched_tags: UnmatchedTags::default(),
                self_observers: ReportedCycles::default(),
                cut_cycles: ReportedCycles::default(),
                source: Some(source),
                random,
            }),
            version: AtomicU64::new(0),
            versions: ShardVersions::default(),
            next_connection: AtomicU64::new(0),
            waiting: Mutex::default(),
            watching: Mutex::default(),
            next_label: AtomicU32::new(0),
            is_aborted: AtomicBool::new(false),
            reloads: OnceLock::new(),
            liveness,
            slow: Arc::default(),
            sources_gone,
            settings,
        })
    }

    /// Makes the inbox of a new endpoint.
    pub(crate) fn open_connection(self: &Arc<Self>, endpoint: &Endpoint) -> Connection {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let routes = Arc::new(PeerRoutes::default());
        let known = ConnectedPeer {
            connection: id,
            endpoint: endpoint.clone(),
            role: None,
            name: String::new(),
            since: self.settings.clock.now(),
            away_since: None,
            is_gone: false,
            has_deltas: false,
            unsent: None,
            is_table_full: false,
            is_stalled: false,
            client: None,
            routes: Arc::clone(&routes),
            outlet: None,
            dropped: Arc::default(),
        };
        let node = *endpoint.peer().as_bytes();
        let source = self.change(|state| {
            let former = state.known.insert(node, known);
            if former.is_some_and(|former| former.was_admitted()) {
                state.changed_peers.insert_node(&node);
                state.withdraw(node);
            }
            if state.source.is_none() && !self.settings.mesh.contains(&node) {
                // Aborted before it is attached: otherwise its messages would be acknowledged, and functions
                // closed before the messages are forwarded. Not for a neighbour that has left: the hub would
                // make another endpoint at once, without end.
                endpoint.abort();
            }
            let source = state.source.clone();
            source.filter(|_| !self.settings.mesh.contains(&node))
        });
        self.settle(Occasion::Change);
        Connection::new(Arc::clone(self), endpoint.clone(), id, source, routes)
    }

    /// A random generator with a seed of its own.
    fn fork_random(&self) -> fastrand::Rng {
        self.lock().random.fork()
    }

    /// Closes the endpoints of sources. Their messages are still forwarded, while functions stay open:
    /// see [`sources_gone`](Self::sources_gone).
    pub(crate) fn close_sources(&self) {
        let mut state = self.lock();
        state.source = None;
        for (node, it) in &state.known {
            let may_become_source = it.role.is_none() && !self.settings.mesh.contains(node);
            if may_become_source && !it.was_admitted() {
                // Nothing of a stranger was acknowledged.
                it.endpoint.abort();
            } else if may_become_source || it.role == Some(Role::Source) {
                it.endpoint.close();
            }
        }
    }

    /// Whether every message of the closed sources has been forwarded. Blocks for at most `timeout`.
    pub(crate) fn sources_gone(&self, timeout: Duration) -> bool {
        self.sources_gone.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
    }

    /// Aborts every connection. Unread messages are counted as undelivered and do not fail over.
    pub(crate) fn abort(&self) {
        self.is_aborted.store(true, Ordering::Release);
        self.lock()
            .known
            .values()
            .for_each(|it| it.endpoint.abort());
    }

    fn is_aborted(&self) -> bool {
        self.is_aborted.load(Ordering::Acquire)
    }

    /// Whether there is room for the client `node`. If there are as many clients as allowed, the one that
    /// has been disconnected for longest is given up, unless it may just be about to return.
    fn make_room(&self, node: NodeKey) -> bool {
        let mut state = self.lock();
        let is_client = |it: &ConnectedPeer| {
            matches!(it.role, Some(Role::Source | Role::StreamFunction)) && !it.is_gone
        };
        let others = state.known.iter_mut().filter(|(key, _)| **key != node);
        let clients = others.map(|(_, it)| it).filter(|it| is_client(it));
        let (mut count, mut longest_away) = (0, None);
        for client in clients {
            count += 1;
            if let Some(since) = client.away_since
                && longest_away
                    .as_ref()
                    .is_none_or(|(longest, _)| since < *longest)
            {
                longest_away = Some((since, client));
            }
        }
        if count < self.settings.clients_max {
            return true;
        }
        let now = self.settings.clock.now();
        let is_expired = |(since, _): &(Instant, _)| now >= *since + AWAY_WHEN_FULL_MAX;
        let Some((_, given_up)) = longest_away.filter(is_expired) else {
            return false;
        };
        let (peer, name) = (given_up.endpoint.peer(), &given_up.name);
        tracing::warn!(%peer, name, "gave up a disconnected client: another one needs its place");
        given_up.is_gone = true;
        given_up.endpoint.abort();
        true
    }

    fn set_role(&self, node: NodeKey, role: Option<Role>, name: &str, protocol: Negotiated) {
        let mut state = self.lock();
        if role.is_some() {
            state.known_clients.insert(node);
        }
        if let Some(known) = state.known.get_mut(&node) {
            known.role = role;
            name.clone_into(&mut known.name);
            known.has_deltas = protocol.has(INTEREST_DELTAS);
            known.unsent = None;
            known.outlet = None;
            known.since = self.settings.clock.now();
        }
    }

    /// Changes routes or peers. Messages that are routed afterwards use new plans.
    fn change<T>(&self, change: impl FnOnce(&mut BrokerState) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        self.publish(&mut state);
        changed
    }

    /// Invalidates the plans that changes concern, and resumes the endpoints that wait for such.
    fn publish(&self, state: &mut BrokerState) {
        let mut concerned = std::mem::take(&mut state.changed_peers);
        for tag in state.router.take_changed() {
            state.plans.remove(tag);
            concerned.insert_tag(tag);
        }
        if concerned.is_empty() {
            return;
        }
        self.versions.increase(&concerned);
        self.version.fetch_add(1, Ordering::Release);
        lock(&self.waiting).resume(&concerned);
        lock(&self.watching).resume(&concerned);
    }

    /// Resumes an endpoint as soon as a change concerns its messages. `version` was read before their
    /// recipients were found without room.
    fn resume_when_changed(
        &self,
        version: u64,
        connection: u64,
        endpoint: &Endpoint,
        concerns: ShardSet,
    ) {
        let mut waiting = lock(&self.waiting);
        // Under the lock: either the change finds the endpoint in the list, or the new version is visible
        // here.
        if self.version() == version {
            waiting.insert(connection, endpoint, concerns);
        } else {
            endpoint.resume();
        }
    }

    /// Forgets the endpoint of a connection that has ended.
    fn stop_waiting(&self, connection: u64) {
        lock(&self.waiting).remove(connection);
    }

    /// The number of changes so far.
    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The version of the plans for a tag, to be read before the plan is requested.
    fn tag_version(&self, tag: Tag) -> u64 {
        self.versions.of(tag)
    }

    /// The version of the permissions of a client, to be read before they are looked up.
    fn node_version(&self, node: &NodeKey) -> u64 {
        self.versions.of_node(node)
    }

    /// Changes the routes, and sends the changes of their interest tables to the neighbours.
    fn reroute<T>(&self, change: impl FnOnce(&mut Router) -> T) -> T {
        let changed = self.change(|state| change(&mut state.router));
        self.settle(Occasion::Change);
        changed
    }

    /// Reserves the tags of a function that is about to be added.
    fn reserve_tags(&self, node: NodeKey, function: &Handshake) -> Result<(), QuotaExceeded> {
        let Handshake {
            name, target, tags, ..
        } = function;
        let mut state = self.lock();
        state.quotas.add(node, name, target.as_deref(), tags)
    }

    /// Removes the routes to a peer, which stays connected.
    fn withdraw(&self, node: NodeKey) {
        self.change(|state| state.withdraw(node));
        self.settle(Occasion::Change);
    }

    fn set_presence(&self, node: NodeKey, presence: Presence) {
        self.change(|state| {
            let Some(known) = state.known.get_mut(&node) else {
                return;
            };
            let (was_away, is_away) = (known.away_since.is_some(), presence != Presence::Up);
            known.away_since = is_away.then(|| self.settings.clock.now());
            known.is_gone = false;
            if !known.was_admitted() {
                return;
            }
            if was_away != is_away {
                state.changed_peers.insert_node(&node);
            }
            state.router.begin_presence(node, presence);
        });
        self.settle(Occasion::Change);
    }

    /// Removes a peer whose endpoint has ended, unless a successor has replaced the connection.
    fn remove(&self, node: NodeKey, connection: u64) {
        self.change(|state| {
            let known = state.known.get(&node);
            if known.is_none_or(|it| it.connection != connection) {
                return;
            }
            let removed = state.known.remove(&node);
            if removed.is_some_and(|it| it.was_admitted()) {
                state.changed_peers.insert_node(&node);
                state.withdraw(node);
            }
        });
        self.settle(Occasion::Change);
    }

    /// How long the token of that node is not looked at, because of wrong tokens from its network.
    fn token_delay(&self, node: &NodeKey, network: Option<PeerNetwork>) -> Option<Duration> {
        let (state, now) = (self.lock(), self.settings.clock.now());
        let delay = state.token_throttle.delay(now, network?)?;
        (!state.known_clients.contains(node)).then_some(delay)
    }

    fn note_wrong_token(&self, network: Option<PeerNetwork>) {
        let Some(network) = network else { return };
        let now = self.settings.clock.now();
        self.lock().token_throttle.failed(now, network);
    }

    /// Counts a refused peer. Returns the number of refused peers if it is to be logged.
    fn record_refusal(&self) -> Option<u64> {
        let now = self.settings.clock.now();
        self.lock().refusals.record(now)
    }

    /// The plan for messages of clients with that tag and target, valid until the version of the tag
    /// increases.
    fn plan(&self, from: NodeKey, tag: Tag, target: Option<&str>) -> Arc<ResolvedPlan> {
        let mut state = self.lock();
        let BrokerState {
            router,
            known,
            plans,
            unmatched_tags,
            ..
        } = &mut *state;
        let resolved = plans.find_or_make(tag, target, || {
            let plan = router.plan(tag, target);
            Arc::new(ResolvedPlan::new(plan, |next_hop| resolve(known, next_hop)))
        });
        unmatched_tags.note(tag, target, !resolved.plan.next_hops().is_empty());
        state.note_writer(from, tag, resolved.plan.names());
        resolved
    }

    /// The names of the functions that observe a tag.
    pub(crate) fn observers(&self, tag: Tag) -> Vec<String> {
        self.lock().router.observers(tag)
    }

    /// Adds this zipper to the trace of a message, unless that has its largest length.
    fn append_trace_step(&self, trace: &mut Option<Vec<(String, u64)>>) {
        if let Some(trace) = trace.as_mut().filter(|it| it.len() < TRACE_MAX) {
            let micros = self.settings.clock.unix_micros();
            trace.push((self.settings.name.clone(), micros));
        }
    }

    fn is_gone(&self, node: &NodeKey) -> bool {
        self.lock().known.get(node).is_none_or(|it| it.is_gone)
    }

    fn lock(&self) -> MutexGuard<'_, BrokerState> {
        lock(&self.state)
    }
}

/// The address of a peer, for logs; empty while it is disconnected.
fn remote(endpoint: &Endpoint) -> String {
    let remote = endpoint.transport().and_then(|it| it.remote);
    remote.map_or_else(String::new, |it| it.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a connection closes its endpoint; each step leaves the state consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BrokerState {
    /// Removes the routes to a peer, and its tags.
    fn withdraw(&mut self, node: NodeKey) {
        self.router.begin_removal(node);
        self.quotas.remove(node);
        self.self_observers.remove(node);
        self.cut_cycles.remove(node);
    }
}

#[cfg(test)]
impl Broker {
    /// A broker without a mesh, which admits every client.
    fn for_tests() -> Arc<Self> {
        Self::new(BrokerSettings {
            name: "z".into(),
            node: [1; 32],
            token: None,
            mesh: BTreeSet::new(),
            offer: VersionOffer::OWN,
            clients_max: 1024,
            stalled_max: Duration::from_secs(10),
            function_depth: 8,
            clock: Clock::default(),
            message_max: 1 << 20,
            seed: 1,
        })
    }
}
