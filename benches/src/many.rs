//! Many endpoints in one driver, which talk to each other on its workers alone.

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

use crate::Load;
use crate::endpoint::Echo;

const LANE: LaneId = LaneId::FIRST;

/// Endpoints in pairs, and what keeps them alive.
#[derive(Debug)]
pub struct Many {
    pairs: Vec<[Endpoint; 2]>,
    _listening: Listening,
    _driver: Driver,
}

impl Many {
    /// So many connected pairs on a driver of so many workers; both ends of a pair on one worker, the
    /// pairs on each in turn. `near` makes the inbox of the dialing end from its number.
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
            accept.send(connected).expect("somebody waits");
        });
        let listening = listening.expect("it runs");
        let dialers = dialers(&keys[0]);
        let pair = |number: usize| {
            let near = driver.endpoint_with(config.clone(), a, b, |endpoint| Reception {
                inbox: Some(near(number, endpoint)),
                watch: None,
            });
            let far = driver.endpoint_with(config.clone(), b, a, |endpoint| Reception {
                inbox: Some(Box::new(Echo(endpoint.clone()))),
                watch: None,
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

    /// Sends one message on each and waits for the echo, so that all have said hello.
    fn warm_up(&self, done: &Receiver<()>) {
        for [near, _] in &self.pairs {
            near.send(LANE, Bytes::from_static(&[0])).expect("open");
            done.recv().expect("it is told");
        }
    }
}

/// What a pair still has to do.
#[derive(Debug, Default)]
struct Left {
    /// Messages that were not begun.
    unsent: AtomicU64,
    under_way: AtomicU64,
}

/// What each pair does with its answers.
struct Stream {
    own: Endpoint,
    left: Arc<Left>,
    done: Sender<()>,
}

impl Inbox for Stream {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            if self.left.unsent.load(Ordering::Relaxed) > 0 {
                self.left.unsent.fetch_sub(1, Ordering::Relaxed);
                self.own.try_send(LANE, message.payload).expect("room");
            } else if self.left.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.done.send(()).expect("somebody waits");
            }
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// Pairs that throw messages to and fro, so many under way on each, on the workers alone.
#[derive(Debug)]
pub struct PingStreams {
    many: Many,
    left: Vec<Arc<Left>>,
    under_way: u64,
    payload: Bytes,
    done: Receiver<()>,
}

impl PingStreams {
    /// So many pairs on so many workers, `under_way` messages of `len` bytes on each.
    #[must_use]
    pub fn new(scheme: &str, workers: usize, pairs: usize, under_way: u64, len: usize) -> Self {
        let left: Vec<Arc<Left>> = (0..pairs).map(|_| Arc::default()).collect();
        let (tell, done) = bounded(pairs);
        let config = SessionConfig::default();
        let many = Many::new(scheme, workers, pairs, &config, |number, endpoint| {
            Box::new(Stream {
                own: endpoint.clone(),
                left: Arc::clone(&left[number]),
                done: tell.clone(),
            })
        });
        for left in &left {
            left.under_way.store(1, Ordering::Relaxed);
        }
        many.warm_up(&done);
        Self {
            many,
            left,
            under_way,
            payload: vec![7; len].into(),
            done,
        }
    }
}

impl Load for PingStreams {
    /// The pairs share the round trips; at the end there are fewer under way. Each begins with one
    /// bell and ends with one word, as the raw sockets do.
    fn run(&mut self, count: u64) {
        let pairs = self.left.len() as u64;
        let mut going = 0;
        for (number, ([near, _], left)) in (0..).zip(self.many.pairs.iter().zip(&self.left)) {
            let own = count / pairs + u64::from(number < count % pairs);
            let at_once = own.min(self.under_way);
            left.unsent.store(own - at_once, Ordering::Relaxed);
            left.under_way.store(at_once, Ordering::Relaxed);
            going += u64::from(at_once > 0);
            let mut sending = near.sending();
            for _ in 0..at_once {
                let sent = sending.try_send(LANE, self.payload.clone());
                sent.expect("room for those under way");
            }
        }
        for _ in 0..going {
            self.done.recv().expect("it is told");
        }
    }

    /// So many rounds that the first and the last hardly count.
    fn count_min(&self) -> u64 {
        4 * self.under_way * self.left.len() as u64
    }
}

/// What the end of one round trip begins: that of the next pair.
struct Baton {
    next: Arc<OnceLock<Vec<Endpoint>>>,
    number: usize,
    left: Arc<AtomicU64>,
    done: Sender<()>,
}

impl Inbox for Baton {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            if self.left.load(Ordering::Relaxed) == 0 {
                self.done.send(()).expect("somebody waits");
                continue;
            }
            self.left.fetch_sub(1, Ordering::Relaxed);
            let all = self.next.get().expect("it is set before the first turn");
            let next = &all[(self.number + 1) % all.len()];
            next.try_send(LANE, message.payload).expect("room for one");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// A few messages that go from pair to pair, by turns: the same traffic whatever the number of
/// endpoints.
#[derive(Debug)]
pub struct RoundRobin {
    many: Many,
    left: Arc<AtomicU64>,
    done: Receiver<()>,
}

impl RoundRobin {
    /// So many pairs on one worker, asked for signs of life as often as that.
    #[must_use]
    pub fn new(scheme: &str, pairs: usize, heartbeat: Duration) -> Self {
        let all: Arc<OnceLock<Vec<Endpoint>>> = Arc::default();
        let left = Arc::<AtomicU64>::default();
        let (tell, done) = bounded(1);
        let config = SessionConfig {
            heartbeat,
            silence_max: heartbeat * 3,
            ..SessionConfig::default()
        };
        let many = Many::new(scheme, 1, pairs, &config, |number, _| {
            Box::new(Baton {
                next: Arc::clone(&all),
                number,
                left: Arc::clone(&left),
                done: tell.clone(),
            })
        });
        many.warm_up(&done);
        let near = many.pairs.iter().map(|[near, _]| near.clone()).collect();
        all.set(near).expect("it is set once");
        Self { many, left, done }
    }
}

impl Load for RoundRobin {
    fn run(&mut self, count: u64) {
        self.left.store(count - 1, Ordering::Relaxed);
        let [near, _] = &self.many.pairs[0];
        near.send(LANE, vec![7; 64].into()).expect("it is open");
        self.done.recv().expect("it is told");
    }
}
