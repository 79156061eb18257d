//! Listeners in a process that has no file descriptor left (N16).

use std::fs::File;
use std::time::Duration;

use crate::own_process::in_own_process;
use crate::test_bed::TestBed;

/// Opens files until no descriptor is left.
fn open_all() -> Vec<File> {
    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!taken.is_empty(), "no descriptor was available");
    taken
}

/// Asserts that a peer that connects while no descriptor is left is accepted once there are some.
fn assert_recovers(scheme: &str) {
    let mut bed = TestBed::new(scheme);
    bed.turn();
    let honest = bed.dial();
    let taken = open_all();
    let (begin, accept_calls) = (bed.now(), bed.accept_calls);
    // Each of these iterations might call `accept`; it is called only for an event or at the end of
    // a pause.
    for _ in 0..200 {
        bed.turn();
    }
    let accept_calls = (bed.accept_calls - accept_calls) as u128;
    let pauses = (bed.now() - begin).as_millis() / 100;
    assert!(
        accept_calls <= pauses + 20,
        "{accept_calls} times in {pauses} pauses"
    );
    assert_eq!(bed.accepted().count(), 0);
    assert!(bed.sides[honest].end.is_none(), "{:?}", bed.sides);
    drop(taken);
    bed.until("the honest peer is open", |bed| {
        // The dialer retransmits a datagram that was not handled.
        bed.advance(Duration::from_millis(20));
        bed.sides[honest].is_open && bed.accepted().any(|side| side.is_open)
    });
}

#[test]
fn n16_tcp_without_descriptors_pauses_and_recovers() {
    let name = "descriptors::n16_tcp_without_descriptors_pauses_and_recovers";
    in_own_process(name, 64, || assert_recovers("tcp"));
}

#[test]
fn n16_quic_without_descriptors_waits_and_recovers() {
    let name = "descriptors::n16_quic_without_descriptors_waits_and_recovers";
    in_own_process(name, 64, || assert_recovers("quic"));
}

#[test]
fn n16_udp_without_descriptors_waits_and_recovers() {
    let name = "descriptors::n16_udp_without_descriptors_waits_and_recovers";
    in_own_process(name, 64, || assert_recovers("udp"));
}

#[test]
fn n16_new_connections_do_not_shorten_a_pause() {
    let name = "descriptors::n16_new_connections_do_not_shorten_a_pause";
    in_own_process(name, 64, || {
        let mut bed = TestBed::new("tcp");
        let address = bed.address();
        bed.turn();
        let first = bed.dial();
        let later: Vec<_> = (0..5).map(|_| bed.dial()).collect();
        let taken = open_all();
        bed.until("it pauses", |bed| bed.listener.timeout().is_some());
        let pause = bed.listener.timeout();
        drop(taken);
        let stream = std::net::TcpStream::connect(address).unwrap();
        bed.until_quiet();
        // No connection is accepted before the end of the pause of 100 ms, unless it is over
        // already.
        if pause.is_some_and(|at| bed.now() < at) {
            assert_eq!(bed.accepted().count(), 0);
        }
        bed.advance(Duration::from_millis(100));
        bed.until("all are in", |bed| bed.accepted().count() == 7);
        bed.until("the dialers are open", |bed| {
            bed.sides[first].is_open && later.iter().all(|&side| bed.sides[side].is_open)
        });
        drop(stream);
    });
}
