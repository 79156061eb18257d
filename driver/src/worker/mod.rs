//! One thread, one poll, and everything that lives on it. The worker only sequences; each table has its own
//! state.

mod accept_rate;
mod balance;
mod connections;
mod delivery;
mod endpoint_table;
mod hosted_endpoint;
mod listeners;
mod mailboxes;
mod placement;
mod schedule;
mod spin;
mod token;
mod waiter;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll};
use selvedge_transport::Instant;

use crate::config::DriverConfig;
use crate::endpoint::EndpointShared;
use crate::wake::{Location, WAKER, WorkerCommand};
use balance::Balancer;
use connections::{Connections, HandshakeOrigin};
use endpoint_table::EndpointTable;
use listeners::Listeners;
use mailboxes::Intake;
use schedule::{Schedule, TimerKey};
use token::TokenTarget;
use waiter::Waiter;

pub(crate) use balance::SharedMeters;
pub(crate) use connections::KnownNetworks;
pub(crate) use hosted_endpoint::HostedEndpoint;
pub(crate) use mailboxes::Mailboxes;

/// How many events one poll returns at most; more are returned by the next. The kernel touches each socket
/// to report it, and 256 sockets are still in the caches when they are read: with 10,000 busy endpoints this
/// takes 2 % less than 1,024.
const EVENTS_CAPACITY: usize = 256;

/// How long a worker that stops waits for its endpoints to deliver the messages they have accepted.
const STOP_MAX: Duration = Duration::from_secs(1);

/// A worker: its loop receives commands and wake-ups, runs timers, continues busy transports, and polls.
pub(crate) struct Worker {
    intake: Intake,
    connections: Connections,
    listeners: Listeners,
    endpoints: EndpointTable,
    schedule: Schedule,
    waiter: Waiter,
    balancer: Option<Balancer>,
    /// Empty between turns; kept for its memory.
    pending: Vec<Arc<EndpointShared>>,
    /// Likewise.
    due: Vec<TimerKey>,
    /// Once the driver is dropped: until when connections may close in order.
    stop_at: Option<Instant>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker({})", self.intake.worker())
    }
}

impl Worker {
    pub(crate) fn new(
        poll: Poll,
        intake: Intake,
        config: &DriverConfig,
        meters: Option<Arc<SharedMeters>>,
        known: KnownNetworks,
    ) -> Self {
        let now = Instant::now();
        Self {
            connections: Connections::new(poll, config, known),
            listeners: Listeners::new(config.accepts_per_second),
            endpoints: EndpointTable::new(),
            schedule: Schedule::new(now),
            waiter: Waiter::new(config.spin, now),
            balancer: meters.map(|meters| Balancer::new(meters, intake.worker())),
            pending: Vec::new(),
            due: Vec::new(),
            stop_at: None,
            intake,
        }
    }

    /// Runs until the driver is dropped.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_CAPACITY);
        loop {
            self.schedule.now = Instant::now();
            self.receive_commands();
            self.serve_wake_ups();
            if self.has_stopped() {
                break;
            }
            self.run_timers();
            self.continue_busy();
            self.balance();
            if let Err(error) = self.wait(&mut events)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the poll failed; the worker stops");
                break;
            }
            for event in &events {
                self.on_event(event);
            }
        }
        for index in self.endpoints.indices() {
            self.endpoints
                .abandon(index, &mut self.connections, &mut self.schedule);
        }
    }

    /// One turn of a simulation, in which no event shows what is ready: the deadlines do. Returns whether
    /// there is more to do at that time.
    pub(crate) fn step(&mut self, now: Instant) -> bool {
        self.schedule.now = now;
        self.receive_commands();
        self.serve_wake_ups();
        self.run_timers();
        for index in self.connections.due(now) {
            self.drive(index);
        }
        for index in self.listeners.due(now) {
            self.accept(index);
        }
        self.continue_busy();
        self.has_work(now)
    }

    /// Whether a step of a simulation at that time would do anything.
    pub(crate) fn has_work(&self, now: Instant) -> bool {
        self.connections.is_busy()
            || self.intake.has_commands()
            || self.intake.has_endpoints()
            || self.deadline().is_some_and(|at| at <= now)
    }

    /// The earliest deadline in a simulation.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let connections = self.connections.deadline().into_iter();
        let others = self.listeners.deadline().into_iter();
        let timers = self.schedule.timers.next().into_iter();
        connections.chain(others).chain(timers).min()
    }

    /// Executes commands, and adopts the endpoints that were moved here.
    fn receive_commands(&mut self) {
        if self.stop_at.is_some() {
            return;
        }
        while let Some(command) = self.intake.next_command() {
            match command {
                WorkerCommand::Dial {
                    dialer,
                    target,
                    done,
                } => match dialer.dial(self.schedule.now, &target) {
                    Ok(transport) => self.connections.begin_handshake(
                        transport,
                        HandshakeOrigin::Dialed(done),
                        &mut self.schedule,
                    ),
                    Err(error) => done(Err(error)),
                },
                WorkerCommand::Listen {
                    listener,
                    accepted,
                    wanted,
                } => self.listeners.add(
                    listener,
                    accepted,
                    wanted,
                    &mut self.connections,
                    &mut self.schedule,
                ),
                WorkerCommand::Unlisten => self.listeners.remove_unwanted(&self.connections),
                WorkerCommand::Stop => return self.stop(),
            }
        }
        for endpoint in self.intake.take_migrants() {
            self.adopt(Box::new(endpoint));
        }
    }

    /// Gives each endpoint that requested one a turn, or passes the request on if the endpoint has moved.
    fn serve_wake_ups(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        self.intake.take_pending(&mut pending);
        if !pending.is_empty() {
            self.waiter.served(self.schedule.now);
        }
        for shared in pending.drain(..) {
            match shared.wake_flag.locate(self.intake.worker()) {
                Location::Here { place } if self.endpoints.holds(place, &shared) => {
                    self.turn(place, None);
                }
                Location::Here { .. } => {}
                Location::Moved { home } => {
                    self.intake.mailboxes().workers()[home].wake(shared);
                }
            }
        }
        self.pending = pending;
    }

    /// Runs each expired timer once. A timer that is armed again for now (QUIC's pacer does so, when the
    /// window is so large that the interval rounds to zero) expires after the next look at sockets and clock.
    fn run_timers(&mut self) {
        let now = self.schedule.now;
        let mut due = std::mem::take(&mut self.due);
        due.extend(std::iter::from_fn(|| self.schedule.timers.pop_due(now)));
        for key in due.drain(..) {
            match key {
                TimerKey::Endpoint(index) => {
                    let (connections, schedule) = (&mut self.connections, &mut self.schedule);
                    let destination = self.endpoints.on_timer(index, connections, schedule);
                    self.migrate(index, destination);
                }
                TimerKey::Connection(index, generation) => {
                    if self.connections.on_timer(index, generation, now) {
                        self.drive(index);
                    }
                }
                TimerKey::Listener(index) => {
                    self.listeners
                        .on_timer(index, &mut self.connections, &mut self.schedule);
                }
            }
        }
        self.due = due;
    }

    /// Continues the transports that had more to do than their budget allowed.
    fn continue_busy(&mut self) {
        for index in self.connections.take_busy() {
            if self.connections.unmark_busy(index) {
                self.drive(index);
            }
        }
    }

    /// At the end of an interval, moves one endpoint to a less busy worker, if that is worth it.
    fn balance(&mut self) {
        if self.stop_at.is_some() {
            return;
        }
        if let Some(balancer) = &mut self.balancer
            && let Some(chosen) = balancer.choose(&mut self.endpoints, self.schedule.now)
        {
            self.migrate(chosen.key, Some(chosen.to));
        }
    }

    /// Waits for events or the next deadline; not at all if transports have more to do.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        if self.connections.is_busy() {
            let polled = self.connections.poll(events, Some(Duration::ZERO));
            self.schedule.now = Instant::now();
            return polled;
        }
        let timers = self.schedule.timers.next().into_iter();
        let deadline = timers.chain(self.stop_at).min();
        self.schedule.now = Instant::now();
        if let Some(balancer) = &self.balancer {
            // Polling counts as sleep: an endpoint that moves here has its turn at once, and a worker that
            // only polls must not be taken for a busy one.
            balancer.sleeps(self.schedule.now);
        }
        let waited = self.waiter.wait(
            events,
            &mut self.connections,
            &self.intake,
            deadline,
            &mut self.schedule.now,
        );
        if let Some(balancer) = &self.balancer {
            balancer.wakes(self.schedule.now);
        }
        waited
    }

    fn on_event(&mut self, event: &Event) {
        if event.token() == WAKER {
            return;
        }
        match token::target(event.token()) {
            TokenTarget::Connection(index, generation) => {
                if self.connections.on_event(index, generation, event) {
                    self.drive(index);
                }
            }
            TokenTarget::Listener(index) => self.accept(index),
        }
    }

    fn accept(&mut self, listener: usize) {
        self.listeners
            .accept(listener, &mut self.connections, &mut self.schedule);
    }

    /// Receives and sends on a transport: in a turn of its endpoint, if it serves one.
    fn drive(&mut self, connection: usize) {
        match self.connections.endpoint(connection) {
            Some((endpoint, _)) => self.turn(endpoint, Some(connection)),
            None => self.connections.drive(connection, &self.schedule),
        }
        self.connections.arm(connection, &mut self.schedule);
    }

    fn turn(&mut self, endpoint: usize, readable: Option<usize>) {
        let (connections, schedule) = (&mut self.connections, &mut self.schedule);
        let destination = self
            .endpoints
            .turn(endpoint, readable, connections, schedule);
        self.migrate(endpoint, destination);
    }

    /// Adds an endpoint that is new or comes from another worker.
    fn adopt(&mut self, endpoint: Box<HostedEndpoint>) {
        let index = self.endpoints.insert(endpoint, &mut self.connections);
        self.turn(index, None);
    }

    /// Moves an endpoint and its transports to another worker.
    fn migrate(&mut self, index: usize, destination: Option<usize>) {
        let own = self.intake.worker();
        let Some(worker) = destination.filter(|worker| *worker != own) else {
            return;
        };
        let leaving = self
            .endpoints
            .remove_for(worker, index, &mut self.connections);
        if let Some(endpoint) = leaving
            && let Err(mut endpoint) = self.intake.mailboxes().adopt(worker, *endpoint)
        {
            // That worker has stopped, and this one will soon: here the endpoint still ends in order.
            endpoint.leave_for(own, &mut self.connections);
            self.adopt(endpoint);
        }
    }

    /// Endpoints close in order if their peers answer in time, the others at once. Callbacks of dials in
    /// progress are dropped with the worker.
    fn stop(&mut self) {
        self.stop_at = Some(self.schedule.now + STOP_MAX);
        self.listeners.clear();
        for endpoint in self.intake.close() {
            self.adopt(Box::new(endpoint));
        }
        for index in self.endpoints.indices() {
            self.endpoints
                .wind_up(index, &mut self.connections, &mut self.schedule);
        }
    }

    /// Whether the worker stops, and either its time is up or all endpoints and connections have closed.
    fn has_stopped(&self) -> bool {
        let has_closed = || self.endpoints.is_empty() && !self.connections.has_closing();
        self.stop_at
            .is_some_and(|at| at <= self.schedule.now || has_closed())
    }
}
