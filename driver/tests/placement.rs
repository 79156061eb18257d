//! Busy endpoints are spread over the workers automatically, over real sockets.

mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use selvedge_driver::{
    Admission, Connected, Dialers, Driver, DriverConfig, Endpoint, Event, Identity, Inbox,
    Incoming, LaneId, NodeId, Placement, Reception, SessionConfig, TcpDialer, bind,
};
use support::{PATIENCE, number};

const PAIRS: usize = 4;
/// Messages in transit between the two endpoints of a pair, so that neither ever waits for the other.
const IN_FLIGHT: u64 = 64;

/// Returns each message.
struct Relay {
    to: Endpoint,
    count: u64,
    ticks: Sender<()>,
}

impl Inbox for Relay {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LaneId::FIRST) {
            // Refused only when the test is over.
            drop(self.to.try_send(LaneId::FIRST, message.payload));
            self.count += 1;
            if self.count.is_multiple_of(1000) {
                let _a_tick_waits = self.ticks.try_send(());
            }
        }
    }

    fn on_event(&mut self, _: Event) {}
}

/// A relay on worker 0. Endpoints are assigned round robin: those assigned to other workers are moved to
/// `quiet`.
fn relay(
    driver: &Driver,
    pair: [NodeId; 2],
    ticks: &Sender<()>,
    quiet: &mut Vec<Endpoint>,
) -> Endpoint {
    loop {
        let reception = |to: &Endpoint| Reception {
            inbox: Some(Box::new(Relay {
                to: to.clone(),
                count: 0,
                ticks: ticks.clone(),
            })),
            ..Reception::default()
        };
        let config = SessionConfig::default();
        let made = driver.endpoint_with(config, pair[0], pair[1], reception);
        let made = made.expect("an endpoint");
        if made.worker() == 0 {
            return made;
        }
        quiet.push(made);
    }
}

/// How many of the endpoints live on each of two workers.
fn homes(endpoints: &[Endpoint]) -> [usize; 2] {
    [0, 1].map(|worker| endpoints.iter().filter(|it| it.worker() == worker).count())
}

#[test]
fn busy_endpoints_that_begin_on_one_worker_are_spread_and_quiet_ones_stay() {
    let driver = Driver::new(DriverConfig {
        workers: NonZeroUsize::new(2).unwrap(),
        placement: Placement::Balanced {
            interval: Duration::from_millis(50),
        },
        ..DriverConfig::default()
    })
    .unwrap();
    let [a, b] = [0, 1].map(|_| Identity::generate().unwrap());
    let dialers: Dialers = Arc::new([Arc::new(TcpDialer::new(a.clone())) as _]);
    let address = "tcp+plain://127.0.0.1:0".parse().unwrap();
    let listener = bind(&address, &b, &Admission::anyone()).unwrap();
    let (accepted, arrivals) = bounded::<Connected>(1);
    let listening = driver.listen(listener, move |it| drop(accepted.try_send(it)));
    let listening = listening.unwrap();
    let ((ticks, ticked), mut quiet, mut busy) = (bounded(1), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (to_a, to_b) = ([b.node_id(), a.node_id()], [a.node_id(), b.node_id()]);
        let near = relay(&driver, to_b, &ticks, &mut quiet);
        let far = relay(&driver, to_a, &ticks, &mut quiet);
        let dialed = driver.dial_blocking(&dialers, listening.address(), Some(b.node_id()));
        near.attach(dialed.unwrap()).unwrap();
        far.attach(arrivals.recv_timeout(PATIENCE).unwrap())
            .unwrap();
        busy.extend([near, far]);
        let idle = relay(&driver, to_b, &ticks, &mut quiet);
        quiet.push(idle);
    }
    // Placed by the user, on the worker where it is: it stays.
    busy[0].migrate(0);
    assert_eq!(homes(&busy), [2 * PAIRS, 0]);
    let quiet_homes = homes(&quiet);
    for n in 0..IN_FLIGHT {
        for near in busy.iter().step_by(2) {
            near.send(LaneId::FIRST, number(n, 4096)).unwrap();
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while homes(&busy).iter().any(|&at| at < PAIRS - 1) {
        ticked.recv_timeout(PATIENCE).unwrap();
        assert!(Instant::now() < deadline, "{:?}", homes(&busy));
    }
    assert_eq!(homes(&quiet), quiet_homes);
    assert_eq!(busy[0].worker(), 0);
    busy.iter().for_each(Endpoint::abort);
}
