//! The two ends: endpoints in their own processes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use selvedge_driver::{
    Admission, Driver, DriverConfig, Endpoint, Event, Identity, Inbox, Incoming, LaneId, Listening,
    Message, NodeId, Reception, SessionConfig, bind, dialers,
};

use crate::mode::RoundTripMode;
use crate::{cost, raw, relay};

const LANE: LaneId = LaneId::FIRST;

/// The end that sends requests.
pub(crate) trait Requester {
    /// Makes `count` round trips and returns the duration of each in nanoseconds.
    fn run(&mut self, count: usize) -> Vec<u64>;

    /// The other processes involved.
    fn others(&self) -> Vec<u32>;

    /// The CPU time of all processes involved.
    fn cpu(&self) -> u64 {
        let all = self.others().into_iter().chain([std::process::id()]);
        all.map(cost::cpu).sum()
    }
}

/// The end that responds, on its own threads.
pub(crate) trait Responder {
    /// The address for the requesting end.
    fn address(&self) -> String;
}

/// The requesting end of a mode.
pub(crate) fn near(mode: &RoundTripMode) -> Box<dyn Requester> {
    match mode {
        mode if mode.carrier == "raw" => Box::new(raw::RawRequester::start(mode)),
        mode if mode.zipper => Box::new(relay::ZipperRequester::start(mode)),
        mode if mode.thread => Box::new(ThreadRequester::start(mode)),
        mode => Box::new(InboxRequester::start(mode)),
    }
}

/// This program as another process, which ends when this is dropped.
pub(crate) struct Child {
    child: std::process::Child,
    pub(crate) address: String,
}

impl Child {
    /// Starts the process and reads the line that it prints.
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
            read.expect("the process prints its address");
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
        // The process ends when its input is closed.
        drop(self.child.stdin.take());
        let _status = self.child.wait();
    }
}

/// How long a worker may poll.
pub(crate) fn spin(mode: &RoundTripMode) -> Duration {
    if mode.spin { raw::SPIN } else { Duration::ZERO }
}

fn driver(mode: &RoundTripMode) -> Driver {
    let config = DriverConfig {
        spin: spin(mode),
        ..DriverConfig::default()
    };
    Driver::new(config).expect("threads")
}

/// Responds on its worker, or from a blocking thread.
pub(crate) struct EndpointResponder {
    address: String,
    // Kept because dropping them stops them.
    _listening: Listening,
    _driver: Driver,
    _endpoint: Endpoint,
}

struct ResponderInbox(Endpoint);

impl Inbox for ResponderInbox {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            let sent = self.0.try_send(LANE, message.payload);
            sent.expect("room for one");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

impl EndpointResponder {
    pub(crate) fn start(mode: &RoundTripMode, peer: &str) -> Self {
        let (identity, driver) = (Identity::generate().expect("randomness"), driver(mode));
        let (local, peer) = (identity.node_id(), peer.parse().expect("an id"));
        let answers = |endpoint: &Endpoint| -> Option<Box<dyn Inbox>> {
            (!mode.thread).then(|| -> Box<dyn Inbox> { Box::new(ResponderInbox(endpoint.clone())) })
        };
        let endpoint = driver.endpoint_with(SessionConfig::default(), local, peer, |endpoint| {
            Reception {
                inbox: answers(endpoint),
                ..Reception::default()
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

impl Responder for EndpointResponder {
    fn address(&self) -> String {
        self.address.clone()
    }
}

/// A driver and an endpoint to the other process.
struct RequestLink {
    endpoint: Endpoint,
    far: Child,
    _driver: Driver,
}

impl RequestLink {
    fn new(mode: &RoundTripMode, inbox: impl FnOnce(&Endpoint) -> Option<Box<dyn Inbox>>) -> Self {
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
                ..Reception::default()
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

/// An inbox that sends the next request as soon as it has the response.
struct BounceInbox {
    endpoint: Endpoint,
    runs: Receiver<usize>,
    done: Sender<Vec<u64>>,
    times: Vec<u64>,
    remaining: usize,
    before: Instant,
}

impl Inbox for BounceInbox {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            let now = Instant::now();
            if self.remaining == 0 {
                self.remaining = self
                    .runs
                    .try_recv()
                    .expect("the number precedes the messages");
                self.times.reserve(self.remaining);
            } else {
                self.times.push((now - self.before).as_nanos() as u64);
                self.remaining -= 1;
            }
            self.before = now;
            if self.remaining == 0 {
                let times = std::mem::take(&mut self.times);
                self.done.send(times).expect("the receiver lives");
            } else {
                let sent = self.endpoint.try_send(LANE, message.payload);
                sent.expect("room for one");
            }
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// Sends requests from its worker.
struct InboxRequester {
    link: RequestLink,
    run: Sender<usize>,
    done: Receiver<Vec<u64>>,
}

impl InboxRequester {
    fn start(mode: &RoundTripMode) -> Self {
        let ((run, runs), (done_sender, done)) = (bounded(1), bounded(1));
        let link = RequestLink::new(mode, |endpoint| {
            Some(Box::new(BounceInbox {
                endpoint: endpoint.clone(),
                runs,
                done: done_sender,
                times: Vec::new(),
                remaining: 0,
                before: Instant::now(),
            }))
        });
        Self { link, run, done }
    }
}

impl Requester for InboxRequester {
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

/// Sends requests from a blocking thread.
struct ThreadRequester(RequestLink);

impl ThreadRequester {
    fn start(mode: &RoundTripMode) -> Self {
        Self(RequestLink::new(mode, |_| None))
    }
}

impl Requester for ThreadRequester {
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
