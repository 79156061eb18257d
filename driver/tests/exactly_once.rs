//! Messages arrive once and in order over real sockets, whatever is done to the transports.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use support::{Two, expect_numbered, send_numbered};

#[test]
fn over_every_transport() {
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

#[test]
fn when_transports_are_swapped_under_load() {
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
fn when_endpoints_migrate_under_load() {
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
