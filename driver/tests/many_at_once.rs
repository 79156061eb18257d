//! Endpoints that become ready while their worker is busy: each has its turn.

mod support;

use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use selvedge_driver::{
    Admission, Connected, Driver, Endpoint, Event, Identity, Inbox, Incoming, LaneId, Listening,
    SessionConfig, bind, dialers,
};
use support::{PATIENCE, number, number_of};

/// Far more than one event of the poll.
const PAIRS: u64 = 50;

/// Reports each message; after the first one, blocks until the gate opens.
struct Reporter {
    own: u64,
    gate: Option<Receiver<()>>,
    report: Sender<(u64, Bytes)>,
}

impl Inbox for Reporter {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LaneId::FIRST) {
            let reported = self.report.send((self.own, message.payload));
            reported.expect("the test receives");
            if let Some(gate) = self.gate.take() {
                gate.recv_timeout(PATIENCE)
                    .expect("the test opens the gate");
            }
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

/// A driver with one worker for each end, and the means to connect them.
struct Ends {
    near: Driver,
    far: Driver,
    keys: [Identity; 2],
    listening: Listening,
    accepted: Receiver<Connected>,
}

impl Ends {
    fn new() -> Self {
        let [near, far] = [0, 1].map(|_| {
            let config = selvedge_driver::DriverConfig {
                workers: std::num::NonZeroUsize::MIN,
                ..selvedge_driver::DriverConfig::default()
            };
            Driver::new(config).expect("a driver")
        });
        let keys = [0, 1].map(|_| Identity::generate().expect("randomness"));
        let address = "tcp+plain://127.0.0.1:0".parse().expect("an address");
        let listener = bind(&address, &keys[1], &Admission::anyone()).expect("a free port");
        let (accept, accepted) = bounded(1);
        let listening = far.listen(listener, move |connected| {
            accept.send(connected).expect("the test receives");
        });
        Self {
            near,
            far,
            keys,
            listening: listening.expect("the driver runs"),
            accepted,
        }
    }

    fn pair(&self, near: Reporter, far: Reporter) -> [Endpoint; 2] {
        let [a, b] = [0, 1].map(|end: usize| self.keys[end].node_id());
        let config = SessionConfig::default;
        let near = self
            .near
            .endpoint_with_inbox(config(), a, b, Box::new(near));
        let far = self.far.endpoint_with_inbox(config(), b, a, Box::new(far));
        let pair = [near.expect("it runs"), far.expect("it runs")];
        let to = self.listening.address();
        let dialed = self
            .near
            .dial_blocking(&dialers(&self.keys[0]), to, Some(b));
        let attached = pair[0].attach(dialed.expect("a connection"));
        attached.expect("the peer is right");
        let accepted = self.accepted.recv_timeout(PATIENCE).expect("an arrival");
        pair[1].attach(accepted).expect("the peer is right");
        pair
    }
}

#[test]
fn of_many_endpoints_ready_at_once_each_has_its_turn() {
    let ends = Ends::new();
    let (report, reported) = bounded(PAIRS as usize);
    let (open, gate) = bounded(1);
    let inbox = |own, gate| Reporter {
        own,
        gate,
        report: report.clone(),
    };
    let pair = |own: u64| {
        let gate = (own == 0).then(|| gate.clone());
        ends.pair(inbox(own, None), inbox(own, gate))
    };
    let pairs: Vec<_> = (0..PAIRS).map(pair).collect();
    let next_report = || {
        let (own, payload) = reported.recv_timeout(PATIENCE).expect("a message");
        (own, number_of(&payload))
    };
    for [_, far] in &pairs[1..] {
        far.send(LaneId::FIRST, number(7, 64)).expect("it is open");
        assert_eq!(next_report().1, 7);
    }
    pairs[0][0]
        .send(LaneId::FIRST, number(0, 64))
        .expect("open");
    assert_eq!(next_report(), (0, 0), "its worker is blocked from here on");
    let deadline = Instant::now() + PATIENCE;
    for (own, [near, _]) in (0..).zip(&pairs).skip(1) {
        near.send(LaneId::FIRST, number(own, 64)).expect("open");
        while near.stats().bytes_sent == 0 {
            assert!(Instant::now() < deadline, "it was not sent");
            std::thread::yield_now();
        }
    }
    assert!(reported.is_empty());
    open.send(()).expect("the inbox waits");
    let mut arrived: Vec<_> = (1..PAIRS).map(|_| next_report()).collect();
    arrived.sort_unstable();
    let expected: Vec<_> = (1..PAIRS).map(|own| (own, own)).collect();
    assert_eq!(arrived, expected);
}
