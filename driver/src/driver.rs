//! The pool of workers.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use selvedge_endpoint::{SendBuffer, Session};
use selvedge_transport::{
    Address, DialError, DialTarget, Dialer, End, Info, Instant, Listener, NodeId, Transport,
};

use crate::SessionConfig;
use crate::actor::{Actor, ActorHandle, MailboxSender};
use crate::bells::Bell;
use crate::clock::Clock;
use crate::config::DriverConfig;
use crate::endpoint::Endpoint;
use crate::error::DriverError;
use crate::inbox::{Inbox, Reception};
use crate::resolver::Resolver;
use crate::shared::{Readable, Received, Shared, Waiting, lock};
use crate::simulation::Machines;
use crate::worker::{Balance, Command, Entry, Mailbox, Worker};

/// The dialers to choose from by the scheme of an address.
pub type Dialers = Arc<[Arc<dyn Dialer>]>;

/// A connection whose handshake is done. Attach it to an endpoint; dropped, it breaks.
#[derive(Debug)]
pub struct Connected {
    pub(crate) transport: Box<dyn Transport>,
    /// Frames that arrived together with the end of the handshake.
    pub(crate) early: Vec<Bytes>,
    pub(crate) peer: NodeId,
}

impl Connected {
    /// Who proved to be at the other end.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.peer
    }

    /// What the connection is.
    #[must_use]
    pub fn info(&self) -> &Info {
        self.transport.info()
    }
}

/// A pool of workers. Dropped, it stops them: endpoints are closed without waiting, so close those
/// first whose messages still matter.
pub struct Driver {
    mailboxes: Arc<[Mailbox]>,
    threads: Vec<JoinHandle<()>>,
    resolver: Resolver,
    next: AtomicUsize,
    clock: Clock,
    simulated: Option<Simulated>,
}

/// What the driver of a simulation has in the place of threads and of the system's randomness.
struct Simulated {
    seed: u64,
    random: Mutex<fastrand::Rng>,
    machines: Arc<Machines>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driver({} workers)", self.mailboxes.len())
    }
}

impl Driver {
    /// Starts the workers.
    ///
    /// # Errors
    /// [`DriverError::System`] when the operating system gives no poll or thread.
    pub fn new(config: DriverConfig) -> Result<Self, DriverError> {
        let system = |what| move |error| DriverError::System { what, error };
        let count = config.workers.get();
        let mut polls = Vec::with_capacity(count);
        let mut mailboxes = Vec::with_capacity(count);
        for _ in 0..count {
            let poll = mio::Poll::new().map_err(system("open a poll"))?;
            let (mailbox, commands) =
                Mailbox::new(poll.registry()).map_err(system("open a waker"))?;
            polls.push((poll, commands));
            mailboxes.push(mailbox);
        }
        let mailboxes: Arc<[Mailbox]> = mailboxes.into();
        let balance = Balance::new(config.placement, count);
        let mut threads = Vec::with_capacity(count);
        for (number, (poll, commands)) in polls.into_iter().enumerate() {
            let worker = Worker::new(
                number,
                poll,
                commands,
                Arc::clone(&mailboxes),
                config.clone(),
                balance.clone(),
            );
            let name = format!("selvedge-worker-{number}");
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || worker.run());
            threads.push(thread.map_err(system("start a worker"))?);
        }
        let resolver = Resolver::spawn().map_err(system("start the resolver"))?;
        Ok(Self {
            mailboxes,
            threads,
            resolver,
            next: AtomicUsize::new(0),
            clock: Clock::system(),
            simulated: None,
        })
    }

    /// A driver of one worker, which is handed out in the place of a thread.
    pub(crate) fn simulated(
        seed: u64,
        clock: Clock,
        machines: Arc<Machines>,
    ) -> Result<(Self, Worker), DriverError> {
        let system = |what| move |error| DriverError::System { what, error };
        let poll = mio::Poll::new().map_err(system("open a poll"))?;
        let (mailbox, commands) = Mailbox::new(poll.registry()).map_err(system("open a waker"))?;
        let mailboxes: Arc<[Mailbox]> = [mailbox].into();
        let shared = Arc::clone(&mailboxes);
        let worker = Worker::new(0, poll, commands, shared, DriverConfig::default(), None);
        let driver = Self {
            mailboxes,
            threads: Vec::new(),
            resolver: Resolver::spawn().map_err(system("start the resolver"))?,
            next: AtomicUsize::new(0),
            clock,
            simulated: Some(Simulated {
                seed,
                random: Mutex::new(fastrand::Rng::with_seed(seed)),
                machines,
            }),
        };
        Ok((driver, worker))
    }

    /// What randomness is to be drawn from if this is the driver of a
    /// [`Simulation`](crate::Simulation).
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

    /// Starts a thread of that name for the machine that `make` makes; it is called at once. In a
    /// [`Simulation`](crate::Simulation) there is no thread.
    ///
    /// # Errors
    /// [`DriverError::System`] when there is no thread to be had.
    pub fn host<M: Actor>(
        &self,
        name: &str,
        make: impl FnOnce(MailboxSender<M::Command>) -> M,
    ) -> Result<ActorHandle<M::Command>, DriverError> {
        match &self.simulated {
            None => ActorHandle::spawn(name, make),
            Some(simulated) => Ok(ActorHandle::simulated(&simulated.machines, make)),
        }
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    /// The next worker in turn.
    fn mailbox(&self) -> (usize, &Mailbox) {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.mailboxes.len();
        (number, &self.mailboxes[number])
    }

    /// An endpoint of `local` to `peer`, whose messages wait to be received.
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

    /// An endpoint of `local` to `peer`, whose messages are handed to `inbox` on its worker.
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
        let inbox = Some(inbox);
        self.endpoint_with(config, local, peer, |_| Reception { inbox, watch: None })
    }

    /// An endpoint of `local` to `peer`, received by what `reception` makes of it, before anything
    /// can have arrived.
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
        let (home, mailbox) = self.mailbox();
        let shared = Arc::new(Shared {
            local,
            peer,
            credit_step: config.receive_window / 8,
            outbox: Mutex::new(SendBuffer::new(&config)),
            sending: Waiting::default(),
            received: Mutex::new(Received::default()),
            receiving: Waiting::default(),
            control: Mutex::default(),
            readable: Readable::default(),
            bell: Bell::new(home),
            mailboxes: Arc::clone(&self.mailboxes),
        });
        let session = Session::new(config, local, peer, incarnation);
        let endpoint = Endpoint::new(Arc::clone(&shared));
        let reception = reception(&endpoint);
        let adopted = mailbox.adopt(Entry::new(shared, session, reception));
        adopted.map_err(|mut refused| {
            refused.abandon();
            DriverError::Stopped
        })?;
        Ok(endpoint)
    }

    /// Dials `address`; `done` is called on a worker (or the resolver's thread) with a connection
    /// that is open, or why there is none. Be short there.
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
        let (number, _) = self.mailbox();
        let mailboxes = Arc::clone(&self.mailboxes);
        let answer = move |resolved: Result<Address, DialError>| match resolved {
            Ok(address) => {
                let target = DialTarget {
                    address,
                    peer: expected,
                };
                let command = Command::Dial {
                    dialer,
                    target,
                    done: Box::new(done),
                };
                mailboxes[number].send_or_drop(command);
            }
            Err(error) => done(Err(error)),
        };
        self.resolver.resolve(address, Box::new(answer));
    }

    /// Dials `address` and blocks the thread until the connection is open or has failed.
    ///
    /// # Errors
    /// [`DialError`].
    pub fn dial_blocking(
        &self,
        dialers: &Dialers,
        address: &Address,
        expected: Option<NodeId>,
    ) -> Result<Connected, DialError> {
        let answer = Arc::new((Mutex::new(None), Condvar::new()));
        let answered = Arc::clone(&answer);
        self.dial(dialers, address, expected, move |result| {
            *lock(&answered.0) = Some(result);
            answered.1.notify_one();
        });
        let mut result = lock(&answer.0);
        loop {
            if let Some(result) = result.take() {
                return result;
            }
            // Only the callback owns the other half: when it was dropped, nobody will answer.
            if Arc::strong_count(&answer) == 1 {
                return Err(End::Closed.into());
            }
            let wait = std::time::Duration::from_millis(100);
            result = answer
                .1
                .wait_timeout(result, wait)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    }

    /// Takes connections in until the answer is dropped; `accepted` is called on the worker with
    /// each that has proved who it is. Be short there.
    ///
    /// # Errors
    /// [`DriverError::Stopped`].
    pub fn listen(
        &self,
        listener: Box<dyn Listener>,
        accepted: impl Fn(Connected) + Send + Sync + 'static,
    ) -> Result<Listening, DriverError> {
        let address = listener.local_address();
        let (worker, mailbox) = self.mailbox();
        let held = Arc::new(());
        mailbox.send(Command::Listen {
            listener,
            accepted: Arc::new(accepted),
            wanted: Arc::downgrade(&held),
        })?;
        Ok(Listening {
            address,
            held: Some(held),
            worker,
            mailboxes: Arc::clone(&self.mailboxes),
        })
    }
}

pub(crate) fn dialer_for(dialers: &Dialers, address: &Address) -> Option<Arc<dyn Dialer>> {
    let mut all = dialers.iter();
    let chosen = all.find(|dialer| dialer.schemes().contains(&address.scheme()));
    chosen.cloned()
}

/// A listener at work. Dropped, it stops listening; connections that it took in go on.
#[derive(Debug)]
pub struct Listening {
    address: Address,
    held: Option<Arc<()>>,
    worker: usize,
    mailboxes: Arc<[Mailbox]>,
}

impl Listening {
    /// Where peers dial, with the port that was really bound.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.held = None;
        self.mailboxes[self.worker].send_or_drop(Command::Unlisten);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for mailbox in self.mailboxes.iter() {
            mailbox.send_or_drop(Command::Stop);
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
