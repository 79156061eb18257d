//! One thread, one poll, and everything that lives on it.
//!
//! The tick: hear commands and bells, do what is due, carry on with busy transports, then poll.

mod balance;
mod connections;
mod endpoints;
mod mailbox;

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};
use selvedge_transport::{
    DialError, DialTarget, Dialer, Instant, Listener, Progress, ReadBuffer, Transport,
};
use slab::Slab;

use crate::accept_rate::AcceptRate;
use crate::config::DriverConfig;
use crate::driver::Connected;
use crate::seldom::Seldom;
use crate::shared::Shared;
use crate::spin::Spin;
use crate::timers::{Armed, Timers};
pub(crate) use balance::Balance;
use balance::Balancer;
pub(crate) use connections::Owner;
pub(crate) use endpoints::Entry;
pub(crate) use mailbox::Mailbox;

/// How many events one poll yields; more come with the next. The kernel looks at each socket to tell of it,
/// and of 256 that is still in the caches when they are read: with 10,000 busy endpoints 2 % less than 1,024.
const EVENTS_CAPACITY: usize = 256;

type Done = Box<dyn FnOnce(Result<Connected, DialError>) + Send>;
type Accepted = Arc<dyn Fn(Connected) + Send + Sync>;

/// How long a worker that polls lets bells gather after it has answered some: producers that send on
/// and on would otherwise be served a few messages at a time, each batch with a system call. 64 B over
/// `tcp+plain` between two processes: at once 9.8 M/s and 185 ns of CPU, 10 us 11.8 M/s and 143 ns,
/// 20 us 16.3 M/s and 105 ns. A worker that sleeps gives them as long by the time that it takes to
/// wake. The first bell after a pause is answered at once.
const GATHER: Duration = Duration::from_micros(20);

/// How long a worker that stops waits for its endpoints to deliver what they have accepted.
const STOP_MAX: Duration = Duration::from_secs(1);

/// What is asked of a worker.
pub(crate) enum Command {
    Dial {
        dialer: Arc<dyn Dialer>,
        target: DialTarget,
        done: Done,
    },
    Listen {
        listener: Box<dyn Listener>,
        accepted: Accepted,
        wanted: Weak<()>,
    },
    /// A listener is not wanted any more.
    Unlisten,
    Stop,
}

/// A transport on this worker.
struct Slot {
    transport: Box<dyn Transport>,
    owner: Owner,
    /// Tells this slot's events from those of an earlier transport in the same place.
    generation: u32,
    armed: Armed,
    is_busy: bool,
}

struct ListenerSlot {
    listener: Box<dyn Listener>,
    accepted: Accepted,
    wanted: Weak<()>,
    armed: Armed,
    rate: AcceptRate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKey {
    Endpoint(usize),
    Transport(usize, u32),
    Listener(usize),
}

pub(crate) struct Worker {
    number: usize,
    poll: Poll,
    commands: crossbeam_channel::Receiver<Command>,
    mailboxes: Arc<[Mailbox]>,
    config: DriverConfig,
    balancer: Option<Balancer>,
    spin: Spin,
    /// When bells were answered last.
    heard: Instant,
    now: Instant,
    /// When its first endpoint came, by the clock that is in use: the heartbeats of all keep to ticks
    /// from there.
    began: Option<Instant>,
    buffer: ReadBuffer,
    timers: Timers<TimerKey>,
    /// Kept for its memory.
    due: Vec<TimerKey>,
    /// Likewise.
    rung: Vec<Arc<Shared>>,
    /// Each in memory of its own: the table may be twice as long as it has entries.
    endpoints: Slab<Box<Entry>>,
    slots: Slab<Slot>,
    listeners: Slab<ListenerSlot>,
    generation: u32,
    handshakes: usize,
    /// Strangers for whom there was no room.
    refused: Seldom,
    /// Transports that had more to do than their budget allowed.
    busy: Vec<usize>,
    /// Once the driver is dropped: until when transports may still say goodbye.
    stop_at: Option<Instant>,
}

/// What a token names. The waker has `usize::MAX`.
enum Named {
    Transport(usize, u32),
    Listener(usize),
}

/// Slots and listeners share the tokens: the lowest bit tells them apart, the upper half is the
/// generation of a slot.
const fn transport_token(index: usize, generation: u32) -> Token {
    Token((generation as usize) << 32 | index << 1)
}

const fn named(token: Token) -> Named {
    let index = (token.0 & 0xffff_ffff) >> 1;
    if token.0 & 1 == 1 {
        Named::Listener(index)
    } else {
        Named::Transport(index, (token.0 >> 32) as u32)
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker({})", self.number)
    }
}

impl Worker {
    pub(crate) fn new(
        number: usize,
        poll: Poll,
        commands: crossbeam_channel::Receiver<Command>,
        mailboxes: Arc<[Mailbox]>,
        config: DriverConfig,
        balance: Option<Arc<Balance>>,
    ) -> Self {
        Self {
            number,
            poll,
            commands,
            mailboxes,
            spin: Spin::new(config.spin),
            config,
            balancer: balance.map(|common| Balancer::new(common, number)),
            heard: Instant::now(),
            now: Instant::now(),
            began: None,
            buffer: ReadBuffer::default(),
            timers: Timers::new(),
            due: Vec::new(),
            rung: Vec::new(),
            endpoints: Slab::new(),
            slots: Slab::new(),
            listeners: Slab::new(),
            generation: 0,
            handshakes: 0,
            refused: Seldom::default(),
            busy: Vec::new(),
            stop_at: None,
        }
    }

    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_CAPACITY);
        loop {
            self.now = Instant::now();
            if self.stop_at.is_none() {
                self.hear();
            } else {
                self.answer_bells();
            }
            if self
                .stop_at
                .is_some_and(|at| at <= self.now || self.is_quiet())
            {
                break;
            }
            self.do_what_is_due();
            self.carry_on();
            if self.stop_at.is_none() {
                self.balance();
            }
            if let Err(error) = self.wait(&mut events)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the poll failed; the worker stops");
                break;
            }
            events.iter().for_each(|event| self.answer_event(event));
        }
        for index in self.places() {
            self.abandon(index);
        }
    }

    fn answer_event(&mut self, event: &Event) {
        if event.token() == mailbox::WAKER {
            return;
        }
        match named(event.token()) {
            Named::Transport(index, generation) => {
                let slot = self.slots.get_mut(index);
                if let Some(slot) = slot.filter(|slot| slot.generation == generation) {
                    slot.transport.on_event(event);
                    self.drive(index);
                }
            }
            Named::Listener(index) => self.accept(index),
        }
    }

    /// One turn of a simulation, in which no event tells which transport has something: all are
    /// asked. Returns whether more is to be done at that time.
    pub(crate) fn step(&mut self, now: Instant) -> bool {
        self.now = now;
        self.hear();
        self.do_what_is_due();
        for index in self
            .slots
            .iter()
            .map(|(index, _)| index)
            .collect::<Vec<_>>()
        {
            self.drive(index);
        }
        for index in self
            .listeners
            .iter()
            .map(|(index, _)| index)
            .collect::<Vec<_>>()
        {
            self.accept(index);
        }
        self.carry_on();
        self.has_work(now)
    }

    /// Whether a step of a simulation at that time would do anything.
    pub(crate) fn has_work(&self, now: Instant) -> bool {
        !self.busy.is_empty()
            || !self.commands.is_empty()
            || self.mailboxes[self.number].has_any()
            || self.next_due().is_some_and(|at| at <= now)
    }

    /// When something is due in a simulation.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let transports = self.slots.iter();
        let transports = transports.filter_map(|(_, slot)| slot.transport.timeout());
        let listeners = self.listeners.iter();
        let listeners = listeners.filter_map(|(_, slot)| slot.listener.timeout());
        transports.chain(listeners).chain(self.timers.next()).min()
    }

    /// Commands first, then the endpoints whose bell was rung.
    fn hear(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Dial {
                    dialer,
                    target,
                    done,
                } => self.dial(dialer.as_ref(), &target, done),
                Command::Listen {
                    listener,
                    accepted,
                    wanted,
                } => self.listen(listener, accepted, wanted),
                Command::Unlisten => self.unlisten(),
                Command::Stop => return self.stop(),
            }
        }
        let mailboxes = Arc::clone(&self.mailboxes);
        for entry in mailboxes[self.number].take_arrivals() {
            self.adopt(entry);
        }
        self.answer_bells();
    }

    fn answer_bells(&mut self) {
        let mailboxes = Arc::clone(&self.mailboxes);
        let mut rung = std::mem::take(&mut self.rung);
        mailboxes[self.number].take_rung(&mut rung);
        if !rung.is_empty() {
            self.heard = self.now;
        }
        for shared in rung.drain(..) {
            self.answer_bell(&shared);
        }
        self.rung = rung;
    }

    /// Each timer once: one that is armed again for now (QUIC's pacing, when the window is so large
    /// that the pause rounds to nothing) has its turn after a look at the sockets and the clock.
    fn do_what_is_due(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        due.extend(std::iter::from_fn(|| self.timers.pop_due(self.now)));
        for key in due.drain(..) {
            match key {
                TimerKey::Endpoint(index) => self.endpoint_due(index),
                TimerKey::Transport(index, generation) => {
                    let slot = self.slots.get_mut(index);
                    if let Some(slot) = slot.filter(|slot| slot.generation == generation) {
                        slot.armed.fired(self.now);
                        if slot.transport.timeout().is_some_and(|at| at <= self.now) {
                            slot.transport.on_timeout(self.now);
                        }
                        self.drive(index);
                    }
                }
                TimerKey::Listener(index) => {
                    if let Some(slot) = self.listeners.get_mut(index) {
                        slot.armed.fired(self.now);
                        self.accept(index);
                    }
                }
            }
        }
        self.due = due;
    }

    fn carry_on(&mut self) {
        for index in std::mem::take(&mut self.busy) {
            if let Some(slot) = self.slots.get_mut(index)
                && std::mem::take(&mut slot.is_busy)
            {
                self.drive(index);
            }
        }
    }

    fn mark_busy(&mut self, index: usize, pace: Progress) {
        if pace == Progress::More
            && let Some(slot) = self.slots.get_mut(index)
            && !std::mem::replace(&mut slot.is_busy, true)
        {
            self.busy.push(index);
        }
    }

    /// Waits until something has come or is due; not at all if transports have more to do.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        if !self.busy.is_empty() {
            let polled = self.poll.poll(events, Some(Duration::ZERO));
            self.now = Instant::now();
            return polled;
        }
        let mailboxes = Arc::clone(&self.mailboxes);
        let next = self.timers.next().into_iter().chain(self.stop_at).min();
        let began = Instant::now();
        if let Some(balancer) = &self.balancer {
            // Polling counts as sleep: an endpoint that moves here has it at once, and a worker that
            // only polls must not pass for a busy one.
            balancer.sleeps(began);
        }
        let waited = self.spin(events, began, next).and_then(|found| {
            if found {
                return Ok(());
            }
            let began = self.now;
            let timeout = next.map(|at| at.saturating_duration_since(began));
            let polled = mailboxes[self.number].poll(timeout, &self.commands, |timeout| {
                self.poll.poll(events, timeout)
            });
            self.now = Instant::now();
            self.spin.slept(began, self.now);
            polled
        });
        if let Some(balancer) = &self.balancer {
            balancer.wakes(self.now);
        }
        waited
    }

    /// Polls without sleeping, as long as that pays; says whether something has come or is due.
    /// Meanwhile it does not count as asleep, so who rings needs no system call.
    fn spin(
        &mut self,
        events: &mut Events,
        began: Instant,
        next: Option<Instant>,
    ) -> io::Result<bool> {
        self.now = began;
        let Some(window) = self.spin.window() else {
            return Ok(false);
        };
        let mailbox = &self.mailboxes[self.number];
        let ends = began + window;
        while self.now < ends {
            let before = self.now;
            self.poll.poll(events, Some(Duration::ZERO))?;
            self.now = Instant::now();
            let is_heard = mailbox.has_any() && self.now >= self.heard + GATHER;
            if is_heard || !events.is_empty() || !self.commands.is_empty() {
                self.spin.hit();
                return Ok(true);
            }
            if next.is_some_and(|at| at <= self.now) {
                return Ok(true);
            }
            if !self.spin.step(before, self.now) {
                break;
            }
        }
        Ok(false)
    }

    /// Endpoints end in order if their peers answer in time, the others at once. Callbacks of dials
    /// under way are dropped with the worker.
    fn stop(&mut self) {
        self.stop_at = Some(self.now + STOP_MAX);
        self.listeners.clear();
        let mailboxes = Arc::clone(&self.mailboxes);
        for entry in mailboxes[self.number].shut() {
            self.adopt(entry);
        }
        for index in self.places() {
            self.wind_up(index);
        }
    }

    fn places(&self) -> Vec<usize> {
        self.endpoints.iter().map(|(index, _)| index).collect()
    }

    /// Whether nothing is left to say to anybody.
    fn is_quiet(&self) -> bool {
        let mut owners = self.slots.iter().map(|(_, slot)| &slot.owner);
        self.endpoints.is_empty() && !owners.any(|owner| matches!(owner, Owner::Closing { .. }))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.mailboxes[self.number].abandon();
    }
}
