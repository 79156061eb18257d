//! Selvedge, endpoint to endpoint: defaults except for the settings of a [`Link`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use selvedge_driver::{
    Address, Admission, Dialers, Driver, DriverConfig, Endpoint, Event, Identity, Inbox, Incoming,
    LaneId, Listening, NodeId, QuicDialer, Reception, SessionConfig, bind, dialers,
};

use crate::job::Job;
use crate::meter::{Losses, Meter};
use crate::watched::{WatchedDialer, look};

const LANE: LaneId = LaneId::FIRST;

/// Settings that differ from the defaults.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) scheme: &'static str,
    /// The largest datagram, in bytes.
    pub(crate) mtu_max: Option<u16>,
    /// Whether the worker sleeps at once instead of polling first, the default.
    pub(crate) blocks: bool,
}

impl Link {
    pub(crate) const fn new(scheme: &'static str) -> Self {
        Self {
            scheme,
            mtu_max: None,
            blocks: false,
        }
    }

    pub(crate) const fn mtu_max(self, bytes: u16) -> Self {
        Self {
            mtu_max: Some(bytes),
            ..self
        }
    }

    pub(crate) const fn blocking(self) -> Self {
        Self {
            blocks: true,
            ..self
        }
    }
}

fn config(link: Link) -> DriverConfig {
    let mut config = DriverConfig::default();
    if link.blocks {
        config.spin = Duration::ZERO;
    }
    config
}

/// The key of one side; each side knows the other's in advance.
fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32]).expect("any seed is a key")
}

/// One side and the owners of its connection.
pub(crate) struct Side {
    pub(crate) endpoint: Endpoint,
    driver: Driver,
    _listening: Option<Listening>,
}

/// How a side receives, given the endpoint on which it responds.
type Receive = fn(&Arc<Meter>, &Endpoint) -> Option<Box<dyn Inbox>>;

fn queue(_meter: &Arc<Meter>, _endpoint: &Endpoint) -> Option<Box<dyn Inbox>> {
    None
}

impl Side {
    fn new(job: &Job, link: Link, numbers: [u8; 2], receive: Receive) -> (Self, Identity, NodeId) {
        let [own, peer] = numbers.map(identity);
        let driver = Driver::new(config(link)).expect("threads");
        let reception = |endpoint: &Endpoint| Reception {
            inbox: receive(&job.meter, endpoint),
            ..Reception::default()
        };
        let (a, b) = (own.node_id(), peer.node_id());
        let endpoint = driver.endpoint_with(SessionConfig::default(), a, b, reception);
        let side = Self {
            endpoint: endpoint.expect("the driver runs"),
            driver,
            _listening: None,
        };
        (side, own, b)
    }

    /// The accepting side.
    fn far(job: &Job, link: Link, receive: Receive) -> Self {
        let (mut side, own, _) = Self::new(job, link, [2, 1], receive);
        let at: Address = format!("{}://127.0.0.1:0", link.scheme)
            .parse()
            .expect("an address");
        let listener = bind(&at, &own, &Admission::anyone()).expect("a port");
        let endpoint = side.endpoint.clone();
        let listening = side.driver.listen(listener, move |connected| {
            endpoint
                .attach(connected)
                .expect("the peer has the expected key");
        });
        let listening = listening.expect("the driver runs");
        job.ready(&listening.address().to_string());
        side._listening = Some(listening);
        side
    }

    /// The dialing side.
    fn near(job: &Job, link: Link, receive: Receive) -> Self {
        let (side, own, peer) = Self::new(job, link, [1, 2], receive);
        let dialers: Dialers = match link.scheme {
            "quic" => {
                let dialer = QuicDialer::new(own);
                let dialer = match link.mtu_max {
                    Some(bytes) => dialer.with_mtu_max(bytes),
                    None => dialer,
                };
                let (dialer, seen) = WatchedDialer::new(dialer);
                job.meter.watch(move || Losses::of(&look(&seen)));
                [Arc::new(dialer) as _].into()
            }
            _ => dialers(&own),
        };
        let address = job.address().parse().expect("the other side reported it");
        let connected = side.driver.dial_blocking(&dialers, &address, Some(peer));
        let attached = side.endpoint.attach(connected.expect("it listens"));
        attached.expect("the peer has the expected key");
        side
    }
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

/// Echoes each message on the worker.
struct Echo(Endpoint);

impl Inbox for Echo {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            let sent = self.0.try_send(LANE, message.payload);
            sent.expect("there is room for one");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// Sends the next request on the worker after each response.
struct Ask {
    endpoint: Endpoint,
    meter: Arc<Meter>,
    payload: Bytes,
    asked: Option<Instant>,
}

impl Inbox for Ask {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LANE) {
            let now = Instant::now();
            if let Some(asked) = self.asked.replace(now) {
                self.meter.trip(now - asked);
            } else {
                self.payload = message.payload;
            }
            let sent = self.endpoint.try_send(LANE, self.payload.clone());
            sent.expect("there is room for one");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// Counts messages on the worker.
struct Count(Arc<Meter>);

impl Inbox for Count {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        let (mut messages, mut bytes) = (0, 0);
        while let Some(payload) = incoming.take_bytes(LANE) {
            messages += 1;
            bytes += payload.len();
        }
        self.0.add(messages, bytes);
    }

    fn on_event(&mut self, _event: Event) {}
}

/// Responds on the worker.
pub(crate) fn echo_inbox(job: &Job, link: Link) {
    let _side = Side::far(job, link, |_, endpoint| {
        Some(Box::new(Echo(endpoint.clone())))
    });
    forever()
}

/// Sends requests on the worker, one at a time.
pub(crate) fn ask_inbox(job: &Job, link: Link) {
    let side = Side::near(job, link, |meter, endpoint| {
        Some(Box::new(Ask {
            endpoint: endpoint.clone(),
            meter: Arc::clone(meter),
            payload: Bytes::new(),
            asked: None,
        }))
    });
    // The inbox sends each response as the next request from here on.
    let first = side.endpoint.send(LANE, job.payload().into());
    first.expect("there is room for one");
    job.ready("");
    forever()
}

/// Responds from a blocking thread.
pub(crate) fn echo_thread(job: &Job, link: Link) {
    let Side { endpoint, .. } = &Side::far(job, link, queue);
    while let Ok(message) = endpoint.recv() {
        let sent = endpoint.send(LANE, message.payload);
        sent.expect("there is room for one");
    }
}

/// Sends requests from a blocking thread, one at a time.
pub(crate) fn ask_thread(job: &Job, link: Link) {
    let Side { endpoint, .. } = &Side::near(job, link, queue);
    let payload = Bytes::from(job.payload());
    job.ready("");
    loop {
        let asked = Instant::now();
        let sent = endpoint.send(LANE, payload.clone());
        sent.expect("there is room for one");
        if endpoint.recv().is_err() {
            return;
        }
        job.meter.trip(asked.elapsed());
    }
}

/// Counts received messages on the worker.
pub(crate) fn count(job: &Job, link: Link) {
    let _side = Side::far(job, link, |meter, _| {
        Some(Box::new(Count(Arc::clone(meter))))
    });
    forever()
}

/// Sends from a thread that blocks when the buffer is full.
pub(crate) fn flood(job: &Job, link: Link) {
    let Side { endpoint, .. } = &Side::near(job, link, queue);
    let payload = Bytes::from(job.payload());
    job.ready("");
    while endpoint.send(LANE, payload.clone()).is_ok() {}
}
