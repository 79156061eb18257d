//! Two endpoints on one driver, and connections between them over real sockets.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use selvedge_driver::{
    Admission, Connected, Dialers, Driver, DriverConfig, Endpoint, Event, Identity, LaneFilter,
    LaneId, Listening, QuicDialer, Reception, SessionConfig, TcpDialer, UdpDialer, bind,
};

/// Far longer than any step takes; it only expires in case of a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The protocols of the connections.
pub(crate) const SCHEMES: [&str; 4] = ["tcp+plain", "tcp", "quic", "udp"];

pub(crate) struct Two {
    pub(crate) driver: Driver,
    pub(crate) a: Endpoint,
    pub(crate) b: Endpoint,
    dialers: Dialers,
    listening: Vec<Listening>,
    arrivals: Receiver<Connected>,
}

impl Two {
    pub(crate) fn new(workers: usize) -> Self {
        Self::with(workers, SessionConfig::default())
    }

    pub(crate) fn with(workers: usize, config: SessionConfig) -> Self {
        let driver = DriverConfig {
            workers: NonZeroUsize::new(workers).expect("at least one"),
            ..DriverConfig::default()
        };
        Self::on(driver, config)
    }

    pub(crate) fn on(driver: DriverConfig, config: SessionConfig) -> Self {
        let driver = Driver::new(driver).expect("a driver");
        let [a, b] = [0, 1].map(|_| Identity::generate().expect("randomness"));
        let endpoint = |from: &Identity, to: &Identity| {
            let made = driver.endpoint(config.clone(), from.node_id(), to.node_id());
            made.expect("an endpoint")
        };
        let (to_b, to_a) = (endpoint(&a, &b), endpoint(&b, &a));
        let (accepted, arrivals) = crossbeam_channel::bounded(64);
        let mut listening = Vec::new();
        for scheme in SCHEMES {
            let address = format!("{scheme}://127.0.0.1:0")
                .parse()
                .expect("an address");
            let listener = bind(&address, &b, &Admission::anyone()).expect("a free port");
            let accepted = accepted.clone();
            let at = driver.listen(listener, move |connected| {
                drop(accepted.try_send(connected))
            });
            listening.push(at.expect("the driver runs"));
        }
        let dialers: Dialers = Arc::new([
            Arc::new(TcpDialer::new(a.clone())) as _,
            Arc::new(QuicDialer::new(a.clone())) as _,
            Arc::new(UdpDialer::new(a)) as _,
        ]);
        Self {
            driver,
            a: to_b,
            b: to_a,
            dialers,
            listening,
            arrivals,
        }
    }

    /// Connects the two by the protocol of that number, modulo their number.
    pub(crate) fn connect(&self, protocol: usize) {
        let address = self.listening[protocol % self.listening.len()].address();
        let dialed = self
            .driver
            .dial_blocking(&self.dialers, address, Some(self.a.peer()));
        self.a
            .attach(dialed.expect("a connection"))
            .expect("the peer is right");
        let accepted = self.arrivals.recv_timeout(PATIENCE).expect("an arrival");
        self.b.attach(accepted).expect("the peer is right");
    }

    /// Another two endpoints of the same nodes, on the same workers, connected.
    pub(crate) fn another(&self) -> (Endpoint, Endpoint) {
        let [to_b, to_a] = [self.a.peer(), self.b.peer()];
        let make = |own, peer| {
            let made = self.driver.endpoint(SessionConfig::default(), own, peer);
            made.expect("an endpoint")
        };
        let (a, b) = (make(to_a, to_b), make(to_b, to_a));
        a.attach(self.dial_to_b()).expect("the peer is right");
        let accepted = self.arrivals.recv_timeout(PATIENCE).expect("an arrival");
        b.attach(accepted).expect("the peer is right");
        (a, b)
    }

    /// A connection of this pair that is not attached.
    pub(crate) fn dial_to_b(&self) -> Connected {
        let dialed = self.driver.dial_blocking(
            &self.dialers,
            self.listening[0].address(),
            Some(self.a.peer()),
        );
        dialed.expect("a connection")
    }

    /// Another endpoint in the place of `b`, with an inbox.
    pub(crate) fn with_inbox(&self, inbox: Box<dyn selvedge_driver::Inbox>) -> Endpoint {
        let (b, a) = (self.a.peer(), self.b.peer());
        let made = self
            .driver
            .endpoint_with_inbox(SessionConfig::default(), b, a, inbox);
        made.expect("an endpoint")
    }

    /// Another endpoint in the place of `b`, with a filter.
    pub(crate) fn with_filter(&self, config: SessionConfig, filter: LaneFilter) -> Endpoint {
        let (b, a) = (self.a.peer(), self.b.peer());
        let reception = Reception {
            filter: Some(filter),
            ..Reception::default()
        };
        let made = self.driver.endpoint_with(config, b, a, |_| reception);
        made.expect("an endpoint")
    }

    pub(crate) fn schemes(&self) -> usize {
        self.listening.len()
    }
}

pub(crate) fn number(number: u64, len: usize) -> Bytes {
    let mut payload = vec![number as u8; len.max(8)];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload.into()
}

pub(crate) fn number_of(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().expect("eight bytes"))
}

/// Sends so many numbered messages from another thread.
pub(crate) fn send_numbered(from: &Endpoint, count: u64) -> std::thread::JoinHandle<()> {
    let from = from.clone();
    std::thread::spawn(move || {
        for n in 0..count {
            let len = if n % 1000 == 999 { 100_000 } else { 64 };
            from.send(LaneId::FIRST, number(n, len))
                .expect("the endpoint is open");
        }
    })
}

/// Receives so many messages and checks that each arrives once, in order.
pub(crate) fn expect_numbered(at: &Endpoint, count: u64) {
    for expected in 0..count {
        let message = at.recv_timeout(PATIENCE).expect("the next message");
        assert_eq!(number_of(&message.payload), expected);
    }
}

pub(crate) fn wait_for<T>(at: &Endpoint, mut pick: impl FnMut(Event) -> Option<T>) -> T {
    loop {
        let event = at.event_timeout(PATIENCE).expect("the event comes");
        if let Some(picked) = pick(event) {
            return picked;
        }
    }
}

/// Sends numbered messages of 64 bytes while an endpoint still has to move, then one without payload. Returns
/// the number of numbered messages.
pub(crate) fn send_numbered_while(from: &Endpoint, unmoved: &AtomicUsize) -> u64 {
    let mut sent = 0;
    while unmoved.load(Ordering::Relaxed) > 0 {
        from.send(LaneId::FIRST, number(sent, 64))
            .expect("the endpoint is open");
        sent += 1;
    }
    from.send(LaneId::FIRST, Bytes::new())
        .expect("the endpoint is open");
    sent
}
