//! Two endpoints, each on a driver with one worker.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use selvedge_driver::{
    Admission, Driver, DriverConfig, Endpoint, Event, Identity, Inbox, Incoming, LaneId, Listening,
    QuicDialer, SessionConfig, bind, dialers,
};

use crate::Workload;
use crate::watched::{Seen, WatchedDialer, look};

const LANE: LaneId = LaneId::FIRST;

/// Two connected endpoints and the owners of their connection.
#[derive(Debug)]
struct EndpointPair {
    near: Endpoint,
    seen: Option<Seen>,
    // Kept because dropping them closes them.
    _far: Endpoint,
    _listening: Listening,
    _drivers: [Driver; 2],
}

impl EndpointPair {
    /// `inbox` receives at the remote end.
    fn new(scheme: &str, inbox: impl FnOnce(&Endpoint) -> Box<dyn Inbox>) -> Self {
        let keys = [(); 2].map(|()| Identity::generate().expect("randomness"));
        let drivers = [(); 2].map(|()| Driver::new(DriverConfig::default()).expect("threads"));
        let config = SessionConfig::default();
        let (a, b) = (keys[0].node_id(), keys[1].node_id());
        let near = drivers[0].endpoint(config.clone(), a, b).expect("it runs");
        let far = drivers[1].endpoint_with(config, b, a, |endpoint| selvedge_driver::Reception {
            inbox: Some(inbox(endpoint)),
            ..selvedge_driver::Reception::default()
        });
        let far = far.expect("it runs");
        let address = format!("{scheme}://127.0.0.1:0")
            .parse()
            .expect("an address");
        let listener = bind(&address, &keys[1], &Admission::anyone()).expect("a port");
        let taking = far.clone();
        let listening = drivers[1].listen(listener, move |connected| {
            taking.attach(connected).expect("the peer is right");
        });
        let listening = listening.expect("it runs");
        let (watched, seen) = WatchedDialer::new(QuicDialer::new(keys[0].clone()));
        let dialers = match scheme {
            "quic" => [Arc::new(watched) as _].into(),
            _ => dialers(&keys[0]),
        };
        let dialed = drivers[0].dial_blocking(&dialers, listening.address(), Some(b));
        near.attach(dialed.expect("it listens"))
            .expect("the peer is right");
        Self {
            near,
            seen: (scheme == "quic").then_some(seen),
            _far: far,
            _listening: listening,
            _drivers: drivers,
        }
    }
}

/// Echoes each message.
pub(crate) struct EchoInbox(pub(crate) Endpoint);

impl Inbox for EchoInbox {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            self.0
                .try_send(LANE, message.payload)
                .expect("room for those under way");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// A request and its response from a blocking thread; the remote end responds on its worker.
#[derive(Debug)]
pub struct RoundTrip {
    pair: EndpointPair,
    payload: Bytes,
}

impl RoundTrip {
    /// Messages of `len` bytes in both directions.
    #[must_use]
    pub fn new(scheme: &str, len: usize) -> Self {
        Self {
            pair: EndpointPair::new(scheme, |endpoint| Box::new(EchoInbox(endpoint.clone()))),
            payload: vec![7; len].into(),
        }
    }
}

impl Workload for RoundTrip {
    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let sent = self.pair.near.send(LANE, self.payload.clone());
            sent.expect("it is open");
            self.pair.near.recv().expect("it is open");
        }
    }
}

/// Counts messages and signals when the requested number is reached.
struct CountInbox {
    remaining: u64,
    wanted: Receiver<u64>,
    reached: Sender<()>,
}

impl Inbox for CountInbox {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while incoming.take_bytes(LANE).is_some() {
            if self.remaining == 0 {
                self.remaining = self
                    .wanted
                    .try_recv()
                    .expect("the number precedes the messages");
            }
            self.remaining -= 1;
            if self.remaining == 0 {
                self.reached.send(()).expect("the receiver lives");
            }
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// How a message is passed to `send`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendMode {
    /// As `Bytes`: one reference count up and one down.
    Shared,
    /// As a slice of the sender's memory.
    Copied,
}

/// Messages in one direction from a thread that blocks when the buffer is full, counted on the remote
/// worker.
#[derive(Debug)]
pub struct OneWay {
    pair: EndpointPair,
    handed: SendMode,
    payload: Bytes,
    want: Sender<u64>,
    reached: Receiver<()>,
}

impl OneWay {
    /// Messages of `len` bytes.
    #[must_use]
    pub fn new(scheme: &str, len: usize) -> Self {
        let ((want, wanted), (reach, reached)) = (bounded(1), bounded(1));
        let count = CountInbox {
            remaining: 0,
            wanted,
            reached: reach,
        };
        Self {
            pair: EndpointPair::new(scheme, |_| Box::new(count)),
            handed: SendMode::Shared,
            payload: vec![7; len].into(),
            want,
            reached,
        }
    }

    /// Messages of `len` bytes, passed as slices.
    #[must_use]
    pub fn copied(scheme: &str, len: usize) -> Self {
        Self {
            handed: SendMode::Copied,
            ..Self::new(scheme, len)
        }
    }
}

impl Workload for OneWay {
    fn run(&mut self, count: u64) {
        self.want.send(count).expect("the far end lives");
        for _ in 0..count {
            let sent = match self.handed {
                SendMode::Shared => self.pair.near.send(LANE, self.payload.clone()),
                SendMode::Copied => self.pair.near.send_parts(LANE, &[&self.payload]),
            };
            sent.expect("it is open");
        }
        self.reached.recv().expect("the far end lives");
    }

    fn losses(&self) -> Option<String> {
        let stats = look(self.pair.seen.as_ref()?);
        let errors = stats.sends_oversized + stats.socket_errors;
        Some(format!(
            "{} packets of {} lost, {errors} errors of sends, datagrams of {} B",
            stats.packets_lost, stats.datagrams_sent, stats.mtu
        ))
    }
}
