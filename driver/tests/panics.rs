//! Callbacks that panic: they affect the one connection that they were called for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use selvedge_driver::{
    Address, Admission, Driver, DriverConfig, Identity, SessionConfig, bind, dialers,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn identity() -> Identity {
    Identity::generate().expect("randomness")
}

#[test]
fn a_decision_about_a_stranger_that_panics_refuses_it_and_the_worker_goes_on() {
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("threads"));
    let own = identity();
    for scheme in ["tcp", "quic", "udp"] {
        let stranger = identity();
        let stranger_id = stranger.node_id();
        let admission = Admission::new(move |node| {
            assert!(*node != stranger_id, "a test");
            true
        });
        let at: Address = format!("{scheme}://127.0.0.1:0").parse().expect("valid");
        let listener = bind(&at, &own, &admission).expect("a port");
        let (accepted, connections) = crossbeam_channel::unbounded();
        let listening = driver.listen(listener, move |connected| {
            let _is_read = accepted.send(connected.peer());
        });
        let listening = listening.expect("it runs");
        let dial = |from: &Identity| {
            driver.dial_blocking(&dialers(from), listening.address(), Some(own.node_id()))
        };
        let refused = dial(&stranger).map(|connected| {
            // With some protocols the peer learns of it later.
            let config = SessionConfig::default();
            let endpoint = driver.endpoint(config, stranger_id, own.node_id());
            let endpoint = endpoint.expect("it runs");
            endpoint.attach(connected).expect("it is open");
            endpoint.recv_timeout(Duration::from_millis(500)).is_err()
        });
        assert!(refused.unwrap_or(true), "{scheme}");
        let friend = identity();
        dial(&friend).expect("it is admitted");
        let peer = connections.recv_timeout(PATIENCE).expect("one is accepted");
        assert_eq!(peer, friend.node_id(), "{scheme}");
    }
}

#[test]
fn a_callback_of_a_dial_and_of_a_listener_that_panics_loses_only_its_connection() {
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("threads"));
    let own = identity();
    let at: Address = "tcp://127.0.0.1:0".parse().expect("valid");
    let listener = bind(&at, &own, &Admission::anyone()).expect("a port");
    let (accepted, connections) = crossbeam_channel::unbounded();
    let is_first = AtomicBool::new(true);
    let listening = driver.listen(listener, move |connected| {
        assert!(!is_first.swap(false, Ordering::Relaxed), "a test");
        let _is_read = accepted.send(connected.peer());
    });
    let listening = listening.expect("it runs");
    let (called, calls) = crossbeam_channel::unbounded();
    let dial = || {
        let called = called.clone();
        let done = move |result| {
            called.send(result).expect("it is read");
            panic!("a test");
        };
        let expected = Some(own.node_id());
        driver.dial(&dialers(&identity()), listening.address(), expected, done);
        let outcome = calls.recv_timeout(PATIENCE).expect("it is called");
        outcome.expect("it is connected")
    };
    let _connected = [dial(), dial()];
    connections
        .recv_timeout(PATIENCE)
        .expect("the second one is accepted");
}
