//! Many endpoints of one driver that exchange messages on its workers, without user threads.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use selvedge_driver::{
    Admission, Driver, DriverConfig, Endpoint, Event, Identity, Inbox, Incoming, LaneId, Listening,
    Placement, Reception, SessionConfig, bind, dialers,
};

use crate::Workload;
use crate::endpoint::EchoInbox;

const LANE: LaneId = LaneId::FIRST;

/// Pairs of endpoints and the owners of their connections.
#[derive(Debug)]
pub struct Many {
    pairs: Vec<[Endpoint; 2]>,
    _listening: Listening,
    _driver: Driver,
}

impl Many {
    /// `pairs` connected pairs on a driver of `workers` workers; both ends of a pair are on one worker, the
    /// pairs are distributed in turn. `near` creates the inbox of the dialing end from its number.
    ///
    /// # Panics
    /// If they cannot be connected.
    #[must_use]
    pub fn new(
        scheme: &str,
        workers: usize,
        pairs: usize,
        config: &SessionConfig,
        near: impl Fn(usize, &Endpoint) -> Box<dyn Inbox>,
    ) -> Self {
        let driver = Driver::new(DriverConfig {
            workers: NonZeroUsize::new(workers).expect("at least one"),
            placement: Placement::Fixed,
            accepts_per_second: NonZeroU32::MAX,
            ..DriverConfig::default()
        });
        let driver = driver.expect("threads");
        let keys = [(); 2].map(|()| Identity::generate().expect("randomness"));
        let (a, b) = (keys[0].node_id(), keys[1].node_id());
        let address = format!("{scheme}://127.0.0.1:0").parse();
        let listener = bind(
            &address.expect("an address"),
            &keys[1],
            &Admission::anyone(),
        );
        let (accept, accepted) = bounded(1);
        let listening = driver.listen(listener.expect("a port"), move |connected| {
            accept.send(connected).expect("the receiver lives");
        });
        let listening = listening.expect("it runs");
        let dialers = dialers(&keys[0]);
        let pair = |number: usize| {
            let near = driver.endpoint_with(config.clone(), a, b, |endpoint| Reception {
                inbox: Some(near(number, endpoint)),
                ..Reception::default()
            });
            let far = driver.endpoint_with(config.clone(), b, a, |endpoint| Reception {
                inbox: Some(Box::new(EchoInbox(endpoint.clone()))),
                ..Reception::default()
            });
            let pair = [near.expect("it runs"), far.expect("it runs")];
            for end in &pair {
                end.migrate(number % workers);
            }
            let dialed = driver.dial_blocking(&dialers, listening.address(), Some(b));
            let attached = pair[0].attach(dialed.expect("it listens"));
            attached.expect("the peer is right");
            let connected = accepted.recv().expect("it listens");
            pair[1].attach(connected).expect("the peer is right");
            pair
        };
        Self {
            pairs: (0..pairs).map(pair).collect(),
            _listening: listening,
            _driver: driver,
        }
    }

    /// Sends one message on each pair and waits for the echo, so that all sessions are introduced.
    fn warm_up(&self, done: &Receiver<()>) {
        for [near, _] in &self.pairs {
            near.send(LANE, Bytes::from_static(&[0])).expect("open");
            done.recv().expect("the sender lives");
        }
    }
}

/// The remaining work of a pair.
#[derive(Debug, Default)]
struct Remaining {
    /// Messages not sent yet.
    unsent: AtomicU64,
    in_flight: AtomicU64,
}

/// Sends the next message of a pair for each echo.
struct PingInbox {
    own: Endpoint,
    remaining: Arc<Remaining>,
    done: Sender<()>,
}

impl Inbox for PingInbox {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            if self.remaining.unsent.load(Ordering::Relaxed) > 0 {
                self.remaining.unsent.fetch_sub(1, Ordering::Relaxed);
                self.own.try_send(LANE, message.payload).expect("room");
            } else if self.remaining.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.done.send(()).expect("the receiver lives");
            }
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// Pairs that send messages back and forth on the workers, with a fixed number in flight on each.
#[derive(Debug)]
pub struct PingStreams {
    many: Many,
    remaining: Vec<Arc<Remaining>>,
    in_flight: u64,
    payload: Bytes,
    done: Receiver<()>,
}

impl PingStreams {
    /// `pairs` pairs on `workers` workers, with `in_flight` messages of `len` bytes on each.
    #[must_use]
    pub fn new(scheme: &str, workers: usize, pairs: usize, in_flight: u64, len: usize) -> Self {
        let remaining: Vec<Arc<Remaining>> = (0..pairs).map(|_| Arc::default()).collect();
        let (done_sender, done) = bounded(pairs);
        let config = SessionConfig::default();
        let many = Many::new(scheme, workers, pairs, &config, |number, endpoint| {
            Box::new(PingInbox {
                own: endpoint.clone(),
                remaining: Arc::clone(&remaining[number]),
                done: done_sender.clone(),
            })
        });
        for remaining in &remaining {
            remaining.in_flight.store(1, Ordering::Relaxed);
        }
        many.warm_up(&done);
        Self {
            many,
            remaining,
            in_flight,
            payload: vec![7; len].into(),
            done,
        }
    }
}

impl Workload for PingStreams {
    /// The pairs share the round trips; near the end fewer are in flight. Each pair starts with one wake-up
    /// and ends with one signal, as the raw sockets do.
    fn run(&mut self, count: u64) {
        let pairs = self.remaining.len() as u64;
        let mut going = 0;
        for (number, ([near, _], remaining)) in
            (0..).zip(self.many.pairs.iter().zip(&self.remaining))
        {
            let own = count / pairs + u64::from(number < count % pairs);
            let at_once = own.min(self.in_flight);
            remaining.unsent.store(own - at_once, Ordering::Relaxed);
            remaining.in_flight.store(at_once, Ordering::Relaxed);
            going += u64::from(at_once > 0);
            let mut sending = near.sending();
            for _ in 0..at_once {
                let sent = sending.try_send(LANE, self.payload.clone());
                sent.expect("room for those under way");
            }
        }
        for _ in 0..going {
            self.done.recv().expect("the sender lives");
        }
    }

    /// Enough rounds that the first and the last hardly matter.
    fn count_min(&self) -> u64 {
        4 * self.in_flight * self.remaining.len() as u64
    }
}

/// Starts the round trip of the next pair at the end of one.
struct RoundRobinInbox {
    next: Arc<OnceLock<Vec<Endpoint>>>,
    number: usize,
    remaining: Arc<AtomicU64>,
    done: Sender<()>,
}

impl Inbox for RoundRobinInbox {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            if self.remaining.load(Ordering::Relaxed) == 0 {
                self.done.send(()).expect("the receiver lives");
                continue;
            }
            self.remaining.fetch_sub(1, Ordering::Relaxed);
            let all = self.next.get().expect("it is set before the first turn");
            let next = &all[(self.number + 1) % all.len()];
            next.try_send(LANE, message.payload).expect("room for one");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// A message that travels from pair to pair: the same traffic for any number of endpoints.
#[derive(Debug)]
pub struct RoundRobin {
    many: Many,
    remaining: Arc<AtomicU64>,
    done: Receiver<()>,
}

impl RoundRobin {
    /// `pairs` pairs on one worker, with that heartbeat.
    #[must_use]
    pub fn new(scheme: &str, pairs: usize, heartbeat: Duration) -> Self {
        let all: Arc<OnceLock<Vec<Endpoint>>> = Arc::default();
        let remaining = Arc::<AtomicU64>::default();
        let (done_sender, done) = bounded(1);
        let config = SessionConfig {
            heartbeat,
            silence_max: heartbeat * 3,
            ..SessionConfig::default()
        };
        let many = Many::new(scheme, 1, pairs, &config, |number, _| {
            Box::new(RoundRobinInbox {
                next: Arc::clone(&all),
                number,
                remaining: Arc::clone(&remaining),
                done: done_sender.clone(),
            })
        });
        many.warm_up(&done);
        let near = many.pairs.iter().map(|[near, _]| near.clone()).collect();
        all.set(near).expect("it is set once");
        Self {
            many,
            remaining,
            done,
        }
    }
}

impl Workload for RoundRobin {
    fn run(&mut self, count: u64) {
        self.remaining.store(count - 1, Ordering::Relaxed);
        let [near, _] = &self.many.pairs[0];
        near.send(LANE, vec![7; 64].into()).expect("it is open");
        self.done.recv().expect("the sender lives");
    }
}
