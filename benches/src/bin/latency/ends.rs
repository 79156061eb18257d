//! The two ends: endpoints in processes of their own.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use selvedge_driver::{
    Admission, Driver, DriverConfig, Endpoint, Event, Identity, Inbox, Incoming, LaneId, Listening,
    Message, NodeId, Reception, SessionConfig, bind, dialers,
};

use crate::mode::Mode;
use crate::{cost, raw, relay};

const LANE: LaneId = LaneId::FIRST;

/// What asks.
pub(crate) trait Near {
    /// So many round trips, and how long each took in nanoseconds.
    fn run(&mut self, count: usize) -> Vec<u64>;

    /// The other processes that take part.
    fn others(&self) -> Vec<u32>;

    /// How long all who take part have run.
    fn cpu(&self) -> u64 {
        let all = self.others().into_iter().chain([std::process::id()]);
        all.map(cost::cpu).sum()
    }
}

/// What answers, on threads of its own.
pub(crate) trait Far {
    /// Where it is, for the one that asks.
    fn address(&self) -> String;
}

/// The asking end of a mode.
pub(crate) fn near(mode: &Mode) -> Box<dyn Near> {
    match mode {
        mode if mode.carrier == "raw" => Box::new(raw::Asking::start(mode)),
        mode if mode.zipper => Box::new(relay::Asking::start(mode)),
        mode if mode.thread => Box::new(Blocking::start(mode)),
        mode => Box::new(Bouncing::start(mode)),
    }
}

/// This program, as another process. Dropped, it ends.
pub(crate) struct Child {
    child: std::process::Child,
    pub(crate) address: String,
}

impl Child {
    /// Starts it, and reads the line that it says.
    pub(crate) fn start(words: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a program"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut address = String::new();
        if words != ["hog"] {
            let output = child.stdout.take().expect("it is piped");
            let read = BufReader::new(output).read_line(&mut address);
            read.expect("it says where it is");
        }
        Self {
            child,
            address: address.trim().into(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It ends when nobody holds the other end of its input.
        drop(self.child.stdin.take());
        let _status = self.child.wait();
    }
}

/// How long a worker may poll.
pub(crate) fn spin(mode: &Mode) -> Duration {
    if mode.spin { raw::SPIN } else { Duration::ZERO }
}

fn driver(mode: &Mode) -> Driver {
    let config = DriverConfig {
        spin: spin(mode),
        ..DriverConfig::default()
    };
    Driver::new(config).expect("threads")
}

/// Answers on its worker, or from a thread that blocks.
pub(crate) struct Echo {
    address: String,
    // Held, not used: dropped, they end.
    _listening: Listening,
    _driver: Driver,
    _endpoint: Endpoint,
}

struct Answer(Endpoint);

impl Inbox for Answer {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            let sent = self.0.try_send(LANE, message.payload);
            sent.expect("room for one");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

impl Echo {
    pub(crate) fn start(mode: &Mode, peer: &str) -> Self {
        let (identity, driver) = (Identity::generate().expect("randomness"), driver(mode));
        let (local, peer) = (identity.node_id(), peer.parse().expect("an id"));
        let answers = |endpoint: &Endpoint| -> Option<Box<dyn Inbox>> {
            (!mode.thread).then(|| -> Box<dyn Inbox> { Box::new(Answer(endpoint.clone())) })
        };
        let endpoint = driver.endpoint_with(SessionConfig::default(), local, peer, |endpoint| {
            Reception {
                inbox: answers(endpoint),
                watch: None,
            }
        });
        let endpoint = endpoint.expect("it runs");
        if mode.thread {
            let endpoint = endpoint.clone();
            std::thread::spawn(move || {
                while let Ok(Message { payload, .. }) = endpoint.recv() {
                    endpoint.send(LANE, payload).expect("it is open");
                }
            });
        }
        let at = format!("{}://127.0.0.1:0", mode.carrier);
        let at = at.parse().expect("an address");
        let listener = bind(&at, &identity, &Admission::anyone()).expect("a port");
        let taking = endpoint.clone();
        let listening = driver.listen(listener, move |connected| {
            taking.attach(connected).expect("the peer is right");
        });
        let listening = listening.expect("it runs");
        Self {
            address: format!("{} {local}", listening.address()),
            _listening: listening,
            _driver: driver,
            _endpoint: endpoint,
        }
    }
}

impl Far for Echo {
    fn address(&self) -> String {
        self.address.clone()
    }
}

/// A driver and an endpoint to the other process.
struct Link {
    endpoint: Endpoint,
    far: Child,
    _driver: Driver,
}

impl Link {
    fn new(mode: &Mode, inbox: impl FnOnce(&Endpoint) -> Option<Box<dyn Inbox>>) -> Self {
        let (identity, driver) = (Identity::generate().expect("randomness"), driver(mode));
        let local = identity.node_id();
        let far = Child::start(&["far", &mode.to_string(), "", &local.to_string()]);
        let (address, peer) = far.address.split_once(' ').expect("an address and an id");
        let (address, peer): (_, NodeId) = (
            address.parse().expect("an address"),
            peer.parse().expect("an id"),
        );
        let endpoint = driver.endpoint_with(SessionConfig::default(), local, peer, |endpoint| {
            Reception {
                inbox: inbox(endpoint),
                watch: None,
            }
        });
        let endpoint = endpoint.expect("it runs");
        let dialed = driver.dial_blocking(&dialers(&identity), &address, Some(peer));
        let attached = endpoint.attach(dialed.expect("it listens"));
        attached.expect("the peer is right");
        Self {
            endpoint,
            far,
            _driver: driver,
        }
    }
}

/// An inbox that asks again as soon as it has the answer.
struct Bounce {
    endpoint: Endpoint,
    runs: Receiver<usize>,
    done: Sender<Vec<u64>>,
    times: Vec<u64>,
    left: usize,
    before: Instant,
}

impl Inbox for Bounce {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            let now = Instant::now();
            if self.left == 0 {
                self.left = self.runs.try_recv().expect("it is said before it is sent");
                self.times.reserve(self.left);
            } else {
                self.times.push((now - self.before).as_nanos() as u64);
                self.left -= 1;
            }
            self.before = now;
            if self.left == 0 {
                let times = std::mem::take(&mut self.times);
                self.done.send(times).expect("somebody waits");
            } else {
                let sent = self.endpoint.try_send(LANE, message.payload);
                sent.expect("room for one");
            }
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// Asks from its worker.
struct Bouncing {
    link: Link,
    run: Sender<usize>,
    done: Receiver<Vec<u64>>,
}

impl Bouncing {
    fn start(mode: &Mode) -> Self {
        let ((run, runs), (tell, done)) = (bounded(1), bounded(1));
        let link = Link::new(mode, |endpoint| {
            Some(Box::new(Bounce {
                endpoint: endpoint.clone(),
                runs,
                done: tell,
                times: Vec::new(),
                left: 0,
                before: Instant::now(),
            }))
        });
        Self { link, run, done }
    }
}

impl Near for Bouncing {
    fn run(&mut self, count: usize) -> Vec<u64> {
        self.run.send(count).expect("it lives");
        let first = self
            .link
            .endpoint
            .send(LANE, Bytes::from_static(&[7; raw::LEN]));
        first.expect("it is open");
        self.done.recv().expect("it lives")
    }

    fn others(&self) -> Vec<u32> {
        vec![self.link.far.pid()]
    }
}

/// Asks from a thread that blocks.
struct Blocking(Link);

impl Blocking {
    fn start(mode: &Mode) -> Self {
        Self(Link::new(mode, |_| None))
    }
}

impl Near for Blocking {
    fn run(&mut self, count: usize) -> Vec<u64> {
        let payload = Bytes::from_static(&[7; raw::LEN]);
        let trip = |_| {
            let before = Instant::now();
            let sent = self.0.endpoint.send(LANE, payload.clone());
            sent.expect("it is open");
            self.0.endpoint.recv().expect("it is open");
            before.elapsed().as_nanos() as u64
        };
        (0..count).map(trip).collect()
    }

    fn others(&self) -> Vec<u32> {
        vec![self.0.far.pid()]
    }
}
