//! The pool of workers, and the threads beside it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crossbeam_channel::bounded;
use ring::rand::{SecureRandom, SystemRandom};
use selvedge_endpoint::Session;
use selvedge_transport::{Address, DialError, Dialer, End, Instant, Listener, NodeId, PeerNetwork};

use crate::SessionConfig;
use crate::actors::{Actor, ActorHandle, ActorThread, MailboxSender, SteppedActors};
use crate::clock::Clock;
use crate::config::DriverConfig;
use crate::connected::{Connected, Dialers, dialer_for};
use crate::dial_in_turn::DialInTurn;
use crate::endpoint::{Endpoint, EndpointShared, Inbox, Reception, Workers};
use crate::error::DriverError;
use crate::guard::guarded;
use crate::resolver::Resolver;
use crate::sync::lock;
use crate::wake::{DialCallback, WorkerCommand};
use crate::worker::{HostedEndpoint, KnownNetworks, Mailboxes, SharedMeters, Worker};

/// A pool of workers. All methods may be called from any thread, and do not block unless stated otherwise.
///
/// Dropping it stops the workers. Endpoints that are still open are closed in order, for a second at most;
/// the drop blocks meanwhile. Close endpoints first whose messages must be delivered.
pub struct Driver {
    mailboxes: Mailboxes,
    threads: Vec<JoinHandle<()>>,
    resolver: Resolver,
    /// Started with the first actor.
    actors: Mutex<Option<Arc<ActorThread>>>,
    /// Counts assignments, for round robin.
    next: AtomicUsize,
    clock: Clock,
    known: KnownNetworks,
    simulated: Option<Simulated>,
}

/// Replaces threads and the system's randomness in the driver of a simulation.
struct Simulated {
    seed: u64,
    random: Mutex<fastrand::Rng>,
    actors: Arc<SteppedActors>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driver({} workers)", self.workers())
    }
}

impl Driver {
    /// Starts the workers.
    ///
    /// # Errors
    /// [`DriverError::System`] when the operating system provides no poll or thread.
    pub fn new(config: DriverConfig) -> Result<Self, DriverError> {
        let known = KnownNetworks::default();
        let (mailboxes, workers) = new_workers(&config, &known)?;
        let mut threads = Vec::with_capacity(workers.len());
        for (number, worker) in workers.into_iter().enumerate() {
            let thread = std::thread::Builder::new()
                .name(format!("selvedge-worker-{number}"))
                .spawn(move || worker.run());
            threads.push(thread.map_err(system("start a worker"))?);
        }
        Self::with_workers(mailboxes, threads, Clock::system(), known, None)
    }

    /// A driver with one worker, which is returned instead of running on a thread.
    pub(crate) fn simulated(
        seed: u64,
        clock: Clock,
        actors: Arc<SteppedActors>,
    ) -> Result<(Self, Worker), DriverError> {
        let known = KnownNetworks::default();
        let (mailboxes, mut workers) = new_workers(&DriverConfig::default(), &known)?;
        let simulated = Simulated {
            seed,
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            actors,
        };
        let driver = Self::with_workers(mailboxes, Vec::new(), clock, known, Some(simulated))?;
        Ok((driver, workers.remove(0)))
    }

    fn with_workers(
        mailboxes: Mailboxes,
        threads: Vec<JoinHandle<()>>,
        clock: Clock,
        known: KnownNetworks,
        simulated: Option<Simulated>,
    ) -> Result<Self, DriverError> {
        Ok(Self {
            mailboxes,
            threads,
            resolver: match simulated {
                Some(_) => Resolver::none(),
                None => Resolver::spawn().map_err(system("start the resolver"))?,
            },
            actors: Mutex::default(),
            next: AtomicUsize::new(0),
            clock,
            known,
            simulated,
        })
    }

    /// The seed of the [`Simulation`](crate::Simulation) to which this driver belongs, if any. Randomness of
    /// everything built on the driver must be derived from it.
    #[must_use]
    pub fn seed(&self) -> Option<u64> {
        self.simulated.as_ref().map(|simulated| simulated.seed)
    }

    /// The clock that everything built on this driver must read: virtual in a
    /// [`Simulation`](crate::Simulation), the system's otherwise. Clone it where a driver must not be
    /// kept alive.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The monotonic time by [`clock`](Self::clock).
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The wall-clock time by [`clock`](Self::clock), in microseconds since 1970-01-01 00:00:00 UTC.
    #[must_use]
    pub fn unix_micros(&self) -> u64 {
        self.clock.unix_micros()
    }

    /// Eight random bytes: in a [`Simulation`](crate::Simulation) the next of the sequence that its seed
    /// determines, else from the operating system, unpredictable.
    ///
    /// # Errors
    /// [`DriverError::System`] when the operating system provides no randomness.
    pub fn random_u64(&self) -> Result<u64, DriverError> {
        if let Some(simulated) = &self.simulated {
            return Ok(lock(&simulated.random).u64(..));
        }
        let mut bytes = [0; 8];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| DriverError::System {
            what: "draw a random number",
            error: std::io::Error::other("no randomness"),
        })?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Runs the actor that `make` returns, which is called at once. All actors of a driver have one thread, which the
    /// first one starts: none may block for long. In a [`Simulation`](crate::Simulation) they are stepped without a
    /// thread. The name is for the log.
    ///
    /// # Errors
    /// [`DriverError::System`] when the operating system starts no thread.
    pub fn spawn_actor<A: Actor>(
        &self,
        name: &str,
        make: impl FnOnce(MailboxSender<A::Command>) -> A,
    ) -> Result<ActorHandle<A::Command>, DriverError> {
        if let Some(simulated) = &self.simulated {
            return Ok(ActorHandle::simulated(&simulated.actors, make));
        }
        let thread = {
            let mut started = lock(&self.actors);
            match &*started {
                Some(thread) => Arc::clone(thread),
                None => Arc::clone(started.insert(Arc::new(ActorThread::spawn()?))),
            }
        };
        Ok(ActorHandle::hosted(&thread, name, make))
    }

    /// Remembers the network of a peer that was admitted. While many handshakes are in progress, connections
    /// from there have slots of their own ([`FairSlots`](crate::FairSlots)). At most 4,096 networks are
    /// remembered, the most recent ones.
    pub fn remember_network(&self, network: PeerNetwork) {
        self.known.insert(network);
    }

    /// The number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.mailboxes.workers().len()
    }

    /// The next worker, round robin.
    fn next_worker(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.workers()
    }

    /// An endpoint of `local` to `peer`, whose messages are queued until they are received.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn endpoint(
        &self,
        config: SessionConfig,
        local: NodeId,
        peer: NodeId,
    ) -> Result<Endpoint, DriverError> {
        self.endpoint_with(config, local, peer, |_| Reception::default())
    }

    /// An endpoint of `local` to `peer`, whose messages are passed to `inbox` on its worker.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn endpoint_with_inbox(
        &self,
        config: SessionConfig,
        local: NodeId,
        peer: NodeId,
        inbox: Box<dyn Inbox>,
    ) -> Result<Endpoint, DriverError> {
        let reception = Reception {
            inbox: Some(inbox),
            ..Reception::default()
        };
        self.endpoint_with(config, local, peer, |_| reception)
    }

    /// An endpoint of `local` to `peer`, with the receivers that `reception` returns. It is called with the
    /// endpoint before anything can have arrived.
    ///
    /// # Errors
    /// [`DriverError`].
    pub fn endpoint_with(
        &self,
        config: SessionConfig,
        local: NodeId,
        peer: NodeId,
        reception: impl FnOnce(&Endpoint) -> Reception,
    ) -> Result<Endpoint, DriverError> {
        let incarnation = self.random_u64()?;
        let home = self.next_worker();
        let workers = Arc::clone(self.mailboxes.workers());
        let shared = Arc::new(EndpointShared::new(&config, local, peer, home, workers));
        let session = Session::new(config, local, peer, incarnation);
        let endpoint = Endpoint::new(Arc::clone(&shared));
        let hosted = HostedEndpoint::new(shared, session, reception(&endpoint));
        self.mailboxes.adopt(home, hosted).map_err(|mut refused| {
            refused.abandon();
            DriverError::Stopped
        })?;
        Ok(endpoint)
    }

    /// Dials `address`; the addresses of a name in turn, until one answers. A name is resolved each time.
    /// `done` is called on a worker (or on the resolver's thread) with an authenticated
    /// connection, or with the reason why there is none; it is dropped when the driver stops first. It must
    /// return soon and must not block. A panic of it is logged, and closes the connection.
    pub fn dial(
        &self,
        dialers: &Dialers,
        address: &Address,
        expected: Option<NodeId>,
        done: impl FnOnce(Result<Connected, DialError>) + Send + 'static,
    ) {
        let Some(dialer) = dialer_for(dialers, address) else {
            let known: Vec<_> = dialers
                .iter()
                .flat_map(|dialer| dialer.schemes())
                .copied()
                .collect();
            let scheme = address.scheme().to_owned();
            return done(Err(DialError::UnknownScheme {
                scheme,
                known: known.join(", "),
            }));
        };
        let done = |result| guarded("the callback of a dial", || done(result));
        let dial = self.dial_in_turn(dialer, expected, Box::new(done));
        let resolved = move |resolved: Result<Vec<Address>, DialError>| match resolved {
            Ok(addresses) => dial.start(addresses),
            Err(error) => (dial.done)(Err(error)),
        };
        self.resolver.resolve(address, Box::new(resolved));
    }

    /// A dial of addresses that are not known yet, on the next worker.
    fn dial_in_turn(
        &self,
        dialer: Arc<dyn Dialer>,
        peer: Option<NodeId>,
        done: DialCallback,
    ) -> DialInTurn {
        DialInTurn {
            workers: Arc::clone(self.mailboxes.workers()),
            worker: self.next_worker(),
            dialer,
            peer,
            left: Vec::new().into_iter(),
            failure: None,
            done,
        }
    }

    /// Dials `address`; blocks the thread until the connection is authenticated or has failed.
    ///
    /// # Errors
    /// [`DialError`].
    pub fn dial_blocking(
        &self,
        dialers: &Dialers,
        address: &Address,
        expected: Option<NodeId>,
    ) -> Result<Connected, DialError> {
        let (sender, receiver) = bounded(1);
        self.dial(dialers, address, expected, move |result| {
            // The receiver waits below, and this is called once.
            let _received = sender.send(result);
        });
        // An error means that the callback was dropped: the driver has stopped.
        receiver.recv().unwrap_or_else(|_| Err(End::Closed.into()))
    }

    /// Accepts connections until the returned handle is dropped. `accepted` is called on the worker with each
    /// authenticated connection. It must return soon and must not block.
    ///
    /// # Errors
    /// [`DriverError::Stopped`].
    pub fn listen(
        &self,
        listener: Box<dyn Listener>,
        accepted: impl Fn(Connected) + Send + Sync + 'static,
    ) -> Result<Listening, DriverError> {
        let address = listener.local_address();
        let worker = self.next_worker();
        let workers = Arc::clone(self.mailboxes.workers());
        let held = Arc::new(());
        workers[worker].send(WorkerCommand::Listen {
            listener,
            accepted: Arc::new(move |connected| {
                guarded("the callback of a listener", || accepted(connected));
            }),
            wanted: Arc::downgrade(&held),
        })?;
        Ok(Listening {
            address,
            held: Some(held),
            worker,
            workers,
        })
    }
}

/// Describes an error of the operating system.
fn system(what: &'static str) -> impl Fn(std::io::Error) -> DriverError {
    move |error| DriverError::System { what, error }
}

/// The workers of a driver, which do not run yet, and their mailboxes.
fn new_workers(
    config: &DriverConfig,
    known: &KnownNetworks,
) -> Result<(Mailboxes, Vec<Worker>), DriverError> {
    let count = config.workers.get();
    let polls: Vec<_> = (0..count)
        .map(|_| mio::Poll::new().map_err(system("open a poll")))
        .collect::<Result<_, _>>()?;
    let (mailboxes, intakes) = Mailboxes::new(&polls).map_err(system("open a waker"))?;
    let meters = SharedMeters::new(config.placement, count);
    let workers = polls
        .into_iter()
        .zip(intakes)
        .map(|(poll, intake)| Worker::new(poll, intake, config, meters.clone(), known.clone()))
        .collect();
    Ok((mailboxes, workers))
}

/// A listener that is active. Dropping it stops listening; accepted connections continue.
#[derive(Debug)]
pub struct Listening {
    address: Address,
    held: Option<Arc<()>>,
    worker: usize,
    workers: Workers,
}

impl Listening {
    /// The address to dial, with the port that was bound.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.held = None;
        self.workers[self.worker].send_or_drop(WorkerCommand::Unlisten);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Before the workers: an actor may wait for one.
        drop(lock(&self.actors).take());
        for worker in self.mailboxes.workers().iter() {
            worker.send_or_drop(WorkerCommand::Stop);
        }
        let own = std::thread::current().id();
        for thread in self
            .threads
            .drain(..)
            .filter(|thread| thread.thread().id() != own)
        {
            if thread.join().is_err() {
                tracing::error!("a worker panicked: this is a bug");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use selvedge_transport::{Admission, Identity, bind, dialers};

    use super::*;
    use crate::connected::dialer_for;

    /// Dials addresses in turn, and returns the outcome.
    fn dial(driver: &Driver, addresses: &[Address], peer: NodeId) -> Result<NodeId, DialError> {
        let dialers: Dialers = dialers(&Identity::generate().unwrap());
        let dialer = dialer_for(&dialers, &addresses[0]).expect("tcp");
        let (sender, outcome) = bounded(1);
        let done = move |result: Result<Connected, DialError>| {
            sender.send(result.map(|it| it.peer())).unwrap();
        };
        let dial = driver.dial_in_turn(dialer, Some(peer), Box::new(done));
        dial.start(addresses.to_vec());
        outcome.recv().unwrap()
    }

    #[test]
    fn the_addresses_of_a_name_are_dialed_until_one_answers() {
        let driver = Driver::new(DriverConfig::default()).unwrap();
        let identity = Identity::generate().unwrap();
        let at = "tcp://127.0.0.1:0".parse().unwrap();
        let listener = bind(&at, &identity, &Admission::new(|_| true)).unwrap();
        let listening = driver.listen(listener, drop).unwrap();
        let refused: Address = "tcp://127.0.0.1:1".parse().unwrap();
        let answers = listening.address().clone();
        let all = [refused.clone(), answers.clone(), refused.clone()];
        let node = identity.node_id();
        assert_eq!(dial(&driver, &all, node).unwrap(), node);
        let none = dial(&driver, &[refused.clone(), refused.clone()], node).unwrap_err();
        assert!(
            matches!(none, DialError::Ended(End::Unreachable(_))),
            "{none}"
        );
        // That another node answers is worth more than that nothing does.
        let other = NodeId::new([7; 32]);
        let wrong = dial(&driver, &[answers, refused], other).unwrap_err();
        assert!(matches!(wrong, DialError::Ended(End::WrongPeer { found, .. }) if found == node));
    }
}
