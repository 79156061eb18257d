//! What the connections of a zipper share: who is there, and the router.
//!
//! Each connection has a [`Connection`], called on the worker that reads it. A message is routed and
//! handed on in that call. If a recipient has no room, the message stays where it is, the door asks
//! to be woken, and the sender is held back by its window: nothing piles up here.

mod batch;
mod connection;
mod plans;
mod unmatched_tags;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use selvedge_client::lanes::CONTROL;
use selvedge_hub::{Actor, Clock, Endpoint, Instant, Next};

use crate::broker::connection::Connection;
use crate::broker::plans::{Plans, ResolvedHop, ResolvedPlan};
use crate::broker::unmatched_tags::UnmatchedTags;
use crate::router::{NextHop, Presence, Router};
use crate::stats::ZipperCounters;
use selvedge_client::tag::Tag;
use selvedge_client::wire::{InterestEntry, NodeKey as Node, Role, WireMessage};

/// How long a neighbour may be away before nothing is sent to it any more, as for guests of a hub.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// How long whoever connects may take to introduce itself.
const INTRODUCTION_MAX: Duration = Duration::from_secs(5);

const TICK: Duration = Duration::from_secs(1);

/// What a broker is told at its start.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) node: Node,
    /// What clients must show.
    pub(crate) token: Option<String>,
    /// Zippers that are known by their key.
    pub(crate) mesh: BTreeSet<Node>,
    /// That of the driver.
    pub(crate) clock: Clock,
    /// Where all random choices begin.
    pub(crate) seed: u64,
}

#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) settings: Settings,
    pub(crate) counters: ZipperCounters,
    state: Mutex<State>,
    /// Rises with each change of what plans are made of, before the lock of the change is free.
    version: AtomicU64,
    doors: AtomicU64,
    /// Sources with messages for which there is no room, to be looked at again when the version rises: who
    /// gets them then may have some. Their connections may have ended.
    waiting: Mutex<Vec<Endpoint>>,
    /// Whether nothing is handed on any more.
    is_aborted: AtomicBool,
    /// Disconnected when the doors of all sources, and of all who may become one, are gone.
    sources_gone: Receiver<Infallible>,
}

#[derive(Debug)]
struct State {
    router: Router,
    known: BTreeMap<Node, Known>,
    /// What was planned since the last change, for all doors.
    plans: Plans,
    unmatched_tags: UnmatchedTags,
    /// Held by the door of each source, and of all who have not said who they are; none at the end.
    source: Option<Sender<Infallible>>,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Known {
    /// The door behind which it is: an endpoint that ended may be followed by another one.
    door: u64,
    endpoint: Endpoint,
    role: Option<Role>,
    /// What it calls itself; empty until it has said so.
    name: String,
    since: Instant,
    away_since: Option<Instant>,
    is_gone: bool,
    /// What a neighbour was told last.
    told: Option<Vec<InterestEntry>>,
    generation: u64,
}

impl Broker {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let mut random = fastrand::Rng::with_seed(settings.seed);
        let router = Router::new(settings.node, random.u64(..));
        let (source, sources_gone) = bounded(0);
        Arc::new(Self {
            settings,
            counters: ZipperCounters::default(),
            state: Mutex::new(State {
                router,
                known: BTreeMap::new(),
                plans: Plans::default(),
                unmatched_tags: UnmatchedTags::default(),
                source: Some(source),
                random,
            }),
            version: AtomicU64::new(0),
            doors: AtomicU64::new(0),
            waiting: Mutex::default(),
            is_aborted: AtomicBool::new(false),
            sources_gone,
        })
    }

    /// The inbox of a new endpoint.
    pub(crate) fn open_door(self: &Arc<Self>, endpoint: &Endpoint) -> Connection {
        let number = self.doors.fetch_add(1, Ordering::Relaxed);
        let known = Known {
            door: number,
            endpoint: endpoint.clone(),
            role: None,
            name: String::new(),
            since: self.settings.clock.now(),
            away_since: None,
            is_gone: false,
            told: None,
            generation: 0,
        };
        let node = *endpoint.peer().as_bytes();
        let source = self.change(|state| {
            state.router.remove(node);
            state.known.insert(node, known);
            if state.source.is_none() {
                // At once, before it is attached: what it sent would be acknowledged, and functions be
                // closed before it is handed on.
                endpoint.abort();
            }
            state
                .source
                .clone()
                .filter(|_| !self.settings.mesh.contains(&node))
        });
        Connection::new(Arc::clone(self), endpoint.clone(), number, source)
    }

    /// A generator for random choices, different from those before.
    fn fork_random(&self) -> fastrand::Rng {
        self.lock().random.fork()
    }

    /// Has sources close. [`sources_gone`](Self::sources_gone) tells when what they have sent is handed on,
    /// while those whom it goes to are open.
    pub(crate) fn close_sources(&self) {
        let mut state = self.lock();
        state.source = None;
        for (node, it) in &state.known {
            let may_be_one = it.role.is_none() && !self.settings.mesh.contains(node);
            if may_be_one || it.role == Some(Role::Source) {
                it.endpoint.close();
            }
        }
    }

    /// Whether all that sources have sent is handed on; waits for it at most that long.
    pub(crate) fn sources_gone(&self, timeout: Duration) -> bool {
        self.sources_gone.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
    }

    /// Who is there, or waited for; those first who are away.
    pub(crate) fn connections(&self) -> Vec<String> {
        let state = self.lock();
        let mut known: Vec<_> = state.known.values().collect();
        known.sort_by_key(|it| it.away_since.is_none());
        let shown = known.into_iter().map(|it| {
            let (name, peer) = (&it.name, it.endpoint.peer());
            let away = it.away_since.map_or("", |_| ", away");
            format!("{name} ({peer:#}{away})")
        });
        shown.collect()
    }

    /// Ends all connections without waiting. What waits is not for others then: it is counted.
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

    fn set_role(&self, node: Node, role: Option<Role>, name: &str) {
        if let Some(known) = self.lock().known.get_mut(&node) {
            known.role = role;
            name.clone_into(&mut known.name);
            known.told = None;
            known.since = self.settings.clock.now();
        }
    }

    /// Changes what plans are made of. Whoever routes after it has returned makes new plans.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        self.forget_plans(&mut state);
        changed
    }

    fn forget_plans(&self, state: &mut State) {
        state.plans = Plans::default();
        self.version.fetch_add(1, Ordering::Release);
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        waiting.iter().for_each(Endpoint::resume);
    }

    /// Has a door looked at again when the version is another one than that.
    fn resume_when_changed(&self, version: u64, door: &Endpoint) {
        let mut waiting = lock(&self.waiting);
        // Under the lock: who raises it finds the door here, or it is seen.
        if self.version() == version {
            waiting.push(door.clone());
        } else {
            door.resume();
        }
    }

    /// Counts the changes.
    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Changes the routes, and tells the neighbours what changed for them.
    fn reroute(&self, change: impl FnOnce(&mut Router)) {
        self.change(|state| {
            change(&mut state.router);
            state.tell_neighbours();
        });
    }

    fn set_presence(&self, node: Node, presence: Presence) {
        self.change(|state| {
            let Some(known) = state.known.get_mut(&node) else {
                return;
            };
            known.away_since = (presence != Presence::Up).then(|| self.settings.clock.now());
            known.is_gone = false;
            state.router.set_presence(node, presence);
            state.tell_neighbours();
        });
    }

    /// An endpoint has ended.
    fn remove(&self, node: Node, door: u64) {
        self.change(|state| {
            if state.known.get(&node).is_some_and(|it| it.door == door) {
                state.known.remove(&node);
                state.router.remove(node);
                state.tell_neighbours();
            }
        });
    }

    /// Where messages of clients with that tag and target go, until the version rises.
    fn plan(&self, tag: Tag, target: Option<&str>) -> Arc<ResolvedPlan> {
        let State {
            router,
            known,
            plans,
            unmatched_tags,
            ..
        } = &mut *self.lock();
        plans.find_or_make(tag, target, || {
            let plan = router.plan(tag, target);
            unmatched_tags.note(tag, target, !plan.next_hops().is_empty());
            Arc::new(ResolvedPlan::new(plan, |next_hop| {
                recipient(known, next_hop)
            }))
        })
    }

    /// The names of those who observe a tag.
    pub(crate) fn observers(&self, tag: Tag) -> Vec<String> {
        self.lock().router.observers(tag)
    }

    fn recipient(&self, next_hop: NextHop) -> Option<ResolvedHop> {
        recipient(&self.lock().known, next_hop)
    }

    /// Who takes over what there is no room for with a function that is away: whoever sends it would
    /// wait until it is back, or given up.
    fn failover_for(&self, full: &ResolvedHop) -> Option<ResolvedHop> {
        let state = self.lock();
        let other = state.router.failover_for(full.node)?;
        recipient(&state.known, NextHop::Local(other))
    }

    fn is_gone(&self, node: &Node) -> bool {
        self.lock().known.get(node).is_none_or(|it| it.is_gone)
    }

    /// Gives up neighbours that stay away, and clients that do not say who they are.
    fn tick(&self, now: Instant) {
        let mut state = self.lock();
        let State { router, known, .. } = &mut *state;
        let mut is_any_gone = false;
        for (node, known) in known.iter_mut() {
            let away = known.away_since.is_some_and(|at| now >= at + AWAY_MAX);
            if away && !std::mem::replace(&mut known.is_gone, true) {
                tracing::warn!(peer = %known.endpoint.peer(), "it has been away for 30 s: its messages go elsewhere");
                router.set_presence(*node, Presence::Gone);
                is_any_gone = true;
            }
            let expected = self.settings.mesh.contains(node);
            if known.role.is_none() && !expected && now >= known.since + INTRODUCTION_MAX {
                tracing::warn!(peer = %known.endpoint.peer(), "it does not introduce itself: closed");
                known.endpoint.close();
            }
        }
        // At most once a second, and by then a function may have come.
        let take_unreported = state.unmatched_tags.take_unreported();
        if !take_unreported.is_empty() {
            tracing::warn!(tags = ?take_unreported, "nobody observes what sources write: it is dropped");
        }
        // Also for those whose last table found no room.
        state.tell_neighbours();
        if is_any_gone {
            // Whoever waits for room there need not any more.
            self.forget_plans(&mut state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a door closes its endpoint; each step leaves the tables whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn recipient(known: &BTreeMap<Node, Known>, next_hop: NextHop) -> Option<ResolvedHop> {
    let (node, is_local) = match next_hop {
        NextHop::Local(node) => (node, true),
        NextHop::Via(node) => (node, false),
    };
    let Known { door, endpoint, .. } = known.get(&node)?;
    Some(ResolvedHop {
        node,
        door: *door,
        endpoint: endpoint.clone(),
        is_local,
    })
}

impl State {
    fn tell_neighbours(&mut self) {
        for (&node, known) in &mut self.known {
            if known.role != Some(Role::Zipper) {
                continue;
            }
            let entries = self.router.advertise(node);
            if known.told.as_ref() == Some(&entries) {
                continue;
            }
            known.generation += 1;
            let table = WireMessage::Interest {
                generation: known.generation,
                entries: entries.clone(),
            };
            let sent = table
                .encode()
                .map(|bytes| known.endpoint.try_send(CONTROL, bytes));
            match sent {
                Ok(Ok(())) => known.told = Some(entries),
                // Tried again at the next tick.
                Ok(Err(error)) => tracing::debug!(%error, "a table of interest waits"),
                Err(error) => tracing::error!(%error, "too many functions to tell a neighbour"),
            }
        }
    }
}

/// Has a broker look at its clock.
pub(crate) struct Ticker(pub(crate) Arc<Broker>);

/// Ends a [`Ticker`].
#[derive(Debug)]
pub(crate) struct Stop;

impl Actor for Ticker {
    type Command = Stop;

    fn handle(&mut self, now: Instant, mail: Option<Stop>) -> Next {
        if mail.is_some() {
            return Next::End;
        }
        self.0.tick(now);
        Next::At(now + TICK)
    }
}
