//! Connections that can be cut, and how long messages wait for the next one.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use mio::{Registry, Token};
use selvedge_driver::{
    Address, Admission, Connected, DialError, DialTarget, Dialer, Dialers, Driver, DriverConfig,
    End, Endpoint, Event, FrameSink, FrameSource, Identity, Inbox, Incoming, Info, Instant,
    LaneConfig, LaneId, Listening, Phase, Progress, Reception, SessionConfig, Transport, Turn,
    bind, dialers,
};
use selvedge_hub::{Hub, HubEvent};

const LANE: LaneId = LaneId::FIRST;

fn any_port(scheme: &str) -> Address {
    let address = format!("{scheme}://127.0.0.1:0");
    address.parse().expect("an address")
}

/// Breaks dialed connections, the youngest first.
#[derive(Debug, Clone, Default)]
struct Knife(Arc<Mutex<Vec<Arc<AtomicBool>>>>);

impl Knife {
    fn add(&self) -> Arc<AtomicBool> {
        let is_cut = Arc::default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&is_cut));
        is_cut
    }

    fn cut(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let youngest = all.pop().expect("one was dialed");
        youngest.store(true, Ordering::Relaxed);
    }
}

/// A dialer whose connections can be cut.
#[derive(Debug)]
struct FragileDialer {
    inner: Arc<dyn Dialer>,
    knife: Knife,
}

impl Dialer for FragileDialer {
    fn schemes(&self) -> &[&'static str] {
        self.inner.schemes()
    }

    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        Ok(Box::new(Fragile {
            inner: self.inner.dial(now, target)?,
            is_cut: self.knife.add(),
        }))
    }
}

/// The dialer for a scheme, with the handle that cuts its connections.
fn fragile(identity: &Identity, scheme: &str) -> (Arc<dyn Dialer>, Knife) {
    let all = dialers(identity);
    let inner = all.iter().find(|it| it.schemes().contains(&scheme));
    let (inner, knife) = (inner.expect("it is built in"), Knife::default());
    let dialer = FragileDialer {
        inner: Arc::clone(inner),
        knife: knife.clone(),
    };
    (Arc::new(dialer), knife)
}

/// A cut transport fails at the next call, as a socket does after a reset.
#[derive(Debug)]
struct Fragile {
    inner: Box<dyn Transport>,
    is_cut: Arc<AtomicBool>,
}

impl Fragile {
    fn check(&self) -> Result<(), End> {
        if self.is_cut.load(Ordering::Relaxed) {
            let reset = io::Error::from(io::ErrorKind::ConnectionReset);
            return Err(End::Broken(Arc::new(reset)));
        }
        Ok(())
    }
}

impl Transport for Fragile {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn phase(&self) -> Phase {
        self.inner.phase()
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.inner.register(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.inner.deregister(registry)
    }

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        self.check()?;
        self.inner.send(turn, source)
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        self.check()?;
        self.inner.recv(turn, sink)
    }

    fn timeout(&self) -> Option<Instant> {
        self.inner.timeout()
    }

    fn on_timeout(&mut self, now: Instant) {
        self.inner.on_timeout(now);
    }

    fn close(&mut self, now: Instant) {
        self.inner.close(now);
    }
}

/// Reports each message and echoes it.
struct EchoReport {
    own: Endpoint,
    arrived: Sender<()>,
}

impl Inbox for EchoReport {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            self.arrived.send(()).expect("the receiver lives");
            self.own
                .try_send(LANE, message.payload)
                .expect("room for one");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

fn send_one(endpoint: &Endpoint) {
    let sent = endpoint.send(LANE, Bytes::from_static(b"first"));
    sent.expect("it is open");
}

/// Two hubs; the first one dials.
#[derive(Debug)]
pub struct HubCut {
    near: Hub,
    endpoint: Endpoint,
    knife: Knife,
    arrived: Receiver<()>,
    // Kept because dropping it closes it.
    _far: Hub,
}

impl HubCut {
    /// Two hubs connected over `scheme`.
    #[must_use]
    pub fn new(scheme: &str) -> Self {
        let keys = [(); 2].map(|()| Identity::generate().expect("randomness"));
        let [a, b] = keys.each_ref().map(Identity::node_id);
        let (report, arrived) = for_one();
        let far = Hub::builder(keys[1].clone())
            .inbox(move |endpoint| {
                Box::new(EchoReport {
                    own: endpoint.clone(),
                    arrived: report.clone(),
                })
            })
            .listen_on(any_port(scheme))
            .peer_at(a, Vec::new());
        let far = far.expect("another node").start().expect("a port");
        let (dialer, knife) = fragile(&keys[0], scheme);
        let near = Hub::builder(keys[0].clone()).dialer(dialer);
        let near = near.peer_at(b, far.addresses().to_vec());
        let near = near.expect("another node").start().expect("threads");
        Self {
            endpoint: near.endpoint(b).expect("it is wanted"),
            near,
            knife,
            arrived,
            _far: far,
        }
    }

    /// Waits until the hub has the connection.
    pub fn rest(&self) {
        while !matches!(self.near.events().recv(), Ok(HubEvent::Up { .. })) {}
    }

    /// Cuts the connection and returns when the next message has arrived.
    pub fn cut_and_deliver(&self) {
        self.knife.cut();
        send_one(&self.endpoint);
        self.arrived.recv().expect("the far end lives");
    }
}

/// One message is in flight at a time, so no queue grows.
fn for_one() -> (Sender<()>, Receiver<()>) {
    bounded(4)
}

/// Two drivers, for handshakes and for an endpoint with two connections, one of which is cut once: the
/// remote end may consider it alive until it has been silent for long.
#[derive(Debug)]
pub struct SpareCut {
    near: Endpoint,
    far: Endpoint,
    dialers: Dialers,
    knife: Knife,
    accepted: Receiver<Connected>,
    arrived: Receiver<()>,
    listening: Listening,
    drivers: [Driver; 2],
}

impl SpareCut {
    /// Two endpoints connected twice over `scheme`.
    #[must_use]
    pub fn new(scheme: &str) -> Self {
        let keys = [(); 2].map(|()| Identity::generate().expect("randomness"));
        let [a, b] = keys.each_ref().map(Identity::node_id);
        let drivers = [(); 2].map(|()| Driver::new(DriverConfig::default()).expect("threads"));
        let redundant = LaneConfig {
            redundant: true,
            ..LaneConfig::default()
        };
        let config = SessionConfig {
            lanes: vec![redundant],
            ..SessionConfig::default()
        };
        let (report, arrived) = for_one();
        let near = drivers[0].endpoint(config.clone(), a, b);
        let far = drivers[1].endpoint_with(config, b, a, |endpoint| Reception {
            inbox: Some(Box::new(EchoReport {
                own: endpoint.clone(),
                arrived: report,
            })),
            ..Reception::default()
        });
        let listener = bind(&any_port(scheme), &keys[1], &Admission::anyone());
        let (accept, accepted) = bounded(4);
        let listening = drivers[1].listen(listener.expect("a port"), move |connected| {
            accept.send(connected).expect("the receiver lives");
        });
        let (dialer, knife) = fragile(&keys[0], scheme);
        let cut = Self {
            near: near.expect("it runs"),
            far: far.expect("it runs"),
            dialers: [dialer].into(),
            knife,
            accepted,
            arrived,
            listening: listening.expect("it runs"),
            drivers,
        };
        cut.attach_another();
        cut.attach_another();
        cut
    }

    /// Connects once and closes the connection.
    pub fn handshake(&self) {
        drop(self.connect());
        self.knife.cut();
    }

    fn connect(&self) -> [Connected; 2] {
        let (at, peer) = (self.listening.address(), Some(self.near.peer()));
        let dialed = self.drivers[0].dial_blocking(&self.dialers, at, peer);
        let accepted = self.accepted.recv().expect("it listens");
        [dialed.expect("it listens"), accepted]
    }

    fn attach_another(&self) {
        let [dialed, accepted] = self.connect();
        self.near.attach(dialed).expect("the peer is right");
        self.far.attach(accepted).expect("the peer is right");
        // Both connections are attached once an echo and one further message have arrived.
        self.round_trip();
        self.round_trip();
    }

    /// A message and its echo.
    pub fn round_trip(&self) {
        send_one(&self.near);
        self.arrived.recv().expect("the far end lives");
        self.near.recv().expect("the far end lives");
    }

    /// Cuts the younger connection and returns when the next message has arrived.
    pub fn cut_and_deliver(&self) {
        self.knife.cut();
        send_one(&self.near);
        self.arrived.recv().expect("the far end lives");
    }
}

impl Drop for SpareCut {
    fn drop(&mut self) {
        // An orderly close would wait a second for the connection that was cut.
        self.near.abort();
        self.far.abort();
    }
}
