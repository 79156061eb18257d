//! Of two connections that two nodes dial at once, one stays.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use mio::{Registry, Token};
use selvedge_driver::{
    DialError, DialTarget, Dialer, End, FrameSink, FrameSource, Info, Instant, Phase, Progress,
    TcpDialer, Transport, Turn,
};
use selvedge_hub::{Endpoint, Hub, Identity, LaneId};

/// Far longer than anything here takes; only a bug makes a test wait that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections that were dialed by either node, counted on the dialer's side.
#[derive(Debug, Default)]
struct Connections {
    /// Not dropped yet.
    open: AtomicUsize,
    /// Of which the handshake was completed, at any time.
    opened: AtomicUsize,
}

/// A TCP transport that counts.
#[derive(Debug)]
struct CountedTransport {
    inner: Box<dyn Transport>,
    connections: Arc<Connections>,
    was_opened: bool,
}

impl CountedTransport {
    fn count(&mut self) {
        if !self.was_opened && self.inner.phase() == Phase::Open {
            self.was_opened = true;
            self.connections.opened.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for CountedTransport {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Transport for CountedTransport {
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
        let sent = self.inner.send(turn, source);
        self.count();
        sent
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        let received = self.inner.recv(turn, sink);
        self.count();
        received
    }

    fn on_event(&mut self, event: &mio::event::Event) {
        self.inner.on_event(event);
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

/// A TCP dialer whose first dial waits for the first dial of the other node.
#[derive(Debug)]
struct SimultaneousDialer {
    inner: TcpDialer,
    both_dial: Arc<Barrier>,
    has_dialed: AtomicBool,
    connections: Arc<Connections>,
}

impl Dialer for SimultaneousDialer {
    fn schemes(&self) -> &[&'static str] {
        self.inner.schemes()
    }

    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        if !self.has_dialed.swap(true, Ordering::SeqCst) {
            self.both_dial.wait();
        }
        let inner = self.inner.dial(now, target)?;
        self.connections.open.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(CountedTransport {
            inner,
            connections: Arc::clone(&self.connections),
            was_opened: false,
        }))
    }
}

/// A hub that listens at `own`'s address and dials `peer`'s.
fn start(own: (&Identity, &str), peer: (&Identity, &str), dialer: SimultaneousDialer) -> Hub {
    let builder = Hub::builder(own.0.clone()).dialer(Arc::new(dialer));
    let builder = builder.listen(own.1).expect("an address");
    let builder = builder.peer(peer.0.node_id(), &[peer.1]).expect("a peer");
    builder.start().expect("a hub")
}

/// Two addresses whose ports are free.
fn free_addresses() -> [String; 2] {
    let bind = |()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listeners = [(); 2].map(bind);
    listeners.map(|it| format!("tcp://{}", it.local_addr().expect("an address")))
}

fn exchange([to_b, to_a]: [&Endpoint; 2], numbers: std::ops::Range<u32>) {
    for n in numbers.clone() {
        for endpoint in [to_b, to_a] {
            let sent = endpoint.send(LaneId::FIRST, n.to_string().into());
            sent.expect("the endpoint is open");
        }
    }
    for n in numbers {
        for endpoint in [to_a, to_b] {
            let message = endpoint.recv_timeout(PATIENCE).expect("a message");
            assert_eq!(message.payload, n.to_string());
        }
    }
}

#[test]
fn n5_two_nodes_that_dial_at_once_keep_one_connection() {
    let [a, b] = [(); 2].map(|()| Identity::generate().expect("randomness"));
    let [at_a, at_b] = free_addresses();
    let connections = Arc::new(Connections::default());
    let both_dial = Arc::new(Barrier::new(2));
    let dialer = |own: &Identity| SimultaneousDialer {
        inner: TcpDialer::new(own.clone()),
        both_dial: Arc::clone(&both_dial),
        has_dialed: AtomicBool::new(false),
        connections: Arc::clone(&connections),
    };
    let hub_a = start((&a, &at_a), (&b, &at_b), dialer(&a));
    let hub_b = start((&b, &at_b), (&a, &at_a), dialer(&b));
    let to_b = hub_a.endpoint(b.node_id()).expect("a peer");
    let to_a = hub_b.endpoint(a.node_id()).expect("a peer");
    exchange([&to_b, &to_a], 0..500);
    let opened = || connections.opened.load(Ordering::SeqCst);
    let open = || connections.open.load(Ordering::SeqCst);
    let begin = Instant::now();
    while opened() < 2 || open() > 1 {
        let (opened, open) = (opened(), open());
        assert!(begin.elapsed() < PATIENCE, "{open} of {opened} are open");
        std::thread::yield_now();
    }
    assert_eq!((opened(), open()), (2, 1), "no third dial, and one stays");
    exchange([&to_b, &to_a], 500..1000);
    assert_eq!((opened(), open()), (2, 1), "no dial while one is in use");
}
