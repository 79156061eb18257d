//! Messages arrive exactly once and in order over real sockets, under any change of transports.

mod support;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use selvedge_driver::{DriverConfig, Endpoint, LaneId, SessionConfig};
use support::{
    PATIENCE, SCHEMES, Two, expect_numbered, number, number_of, send_numbered, send_numbered_while,
};

#[test]
fn messages_arrive_over_every_transport() {
    for protocol in 0..Two::new(1).schemes() {
        let two = Two::new(1);
        two.connect(protocol);
        let sender = send_numbered(&two.a, 20_000);
        expect_numbered(&two.b, 20_000);
        sender.join().unwrap();
        let sender = send_numbered(&two.b, 20_000);
        expect_numbered(&two.a, 20_000);
        sender.join().unwrap();
    }
}

/// One message is in transit at a time, so that the workers wait after each. A wake-up that a polling worker
/// misses would only be noticed with the next message, and there is none.
#[test]
fn messages_arrive_when_workers_poll_before_they_sleep() {
    for protocol in 0..Two::new(1).schemes() {
        let config = DriverConfig {
            workers: NonZeroUsize::new(2).unwrap(),
            spin: Duration::from_micros(50),
            ..DriverConfig::default()
        };
        let two = Two::on(config, SessionConfig::default());
        two.connect(protocol);
        for n in 0..5_000 {
            for (from, to) in [(&two.a, &two.b), (&two.b, &two.a)] {
                from.send(LaneId::FIRST, number(n, 64)).unwrap();
                let message = to.recv_timeout(PATIENCE).expect("the message");
                assert_eq!(number_of(&message.payload), n);
            }
        }
    }
}

#[test]
fn messages_arrive_when_transports_are_replaced_under_load() {
    let two = Two::new(2);
    two.connect(0);
    let done = AtomicBool::new(false);
    let sender = send_numbered(&two.a, 200_000);
    let swaps = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0;
            while !done.load(Ordering::Relaxed) {
                swaps += 1;
                two.connect(swaps);
            }
            swaps
        });
        expect_numbered(&two.b, 200_000);
        done.store(true, Ordering::Relaxed);
        swapper.join().unwrap()
    });
    sender.join().unwrap();
    assert!(swaps > 3, "{swaps} swaps");
}

#[test]
fn messages_arrive_when_endpoints_migrate_under_load() {
    for protocol in 0..Two::new(1).schemes() {
        let two = Two::new(2);
        two.connect(protocol);
        let done = AtomicBool::new(false);
        let sender = send_numbered(&two.a, 100_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for worker in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    two.a.migrate(worker);
                    two.b.migrate(worker / 3);
                    std::thread::yield_now();
                }
            });
            expect_numbered(&two.b, 100_000);
            done.store(true, Ordering::Relaxed);
        });
        sender.join().unwrap();
    }
}

/// How often each endpoint moves over each transport: 8000 times in total.
const MIGRATIONS: usize = 1000;

/// Aborts an endpoint if its test fails, so that no thread waits for it.
struct AbortOnPanic<'a>(&'a Endpoint);

impl Drop for AbortOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abort();
        }
    }
}

/// Receives all numbered messages, and moves the endpoint to the other worker whenever it has moved. Returns
/// the number of messages and of moves.
fn expect_numbered_and_migrate(at: &Endpoint, unmoved: &AtomicUsize) -> (u64, usize) {
    let _abort = AbortOnPanic(at);
    let (mut expected, mut migrations) = (0, 0);
    let mut target = 1 - at.worker();
    at.migrate(target);
    loop {
        let message = at.recv_timeout(PATIENCE).expect("the next message");
        if message.payload.is_empty() {
            return (expected, migrations);
        }
        assert_eq!(number_of(&message.payload), expected);
        expected += 1;
        if at.worker() == target {
            target = 1 - target;
            at.migrate(target);
            migrations += 1;
            if migrations == MIGRATIONS {
                unmoved.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn migration_under_full_load_loses_and_repeats_nothing_over_each_transport() {
    for (protocol, scheme) in SCHEMES.iter().enumerate() {
        // Short turns: an endpoint moves between two of them.
        let driver = DriverConfig {
            workers: NonZeroUsize::new(2).unwrap(),
            budget: 16 << 10,
            ..DriverConfig::default()
        };
        let two = Two::on(driver, SessionConfig::default());
        two.connect(protocol);
        let unmoved = AtomicUsize::new(2);
        let (ends, unmoved) = ([&two.a, &two.b], &unmoved);
        std::thread::scope(|scope| {
            let senders = ends.map(|from| scope.spawn(move || send_numbered_while(from, unmoved)));
            let receivers =
                ends.map(|at| scope.spawn(move || expect_numbered_and_migrate(at, unmoved)));
            let [sent_a, sent_b] = senders.map(|it| it.join().unwrap());
            let [at_a, at_b] = receivers.map(|it| it.join().unwrap());
            assert_eq!((at_a.0, at_b.0), (sent_b, sent_a), "{scheme}");
            assert!(at_a.1.min(at_b.1) >= MIGRATIONS, "{scheme}");
        });
    }
}
