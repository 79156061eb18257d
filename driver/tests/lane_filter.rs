//! A filter handles messages of one lane on the worker, whatever the readers of the endpoint do.

mod support;

use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use selvedge_driver::{
    CloseReason, Endpoint, FilterAction, FlushError, LaneConfig, LaneFilter, LaneId, SessionConfig,
};
use support::{PATIENCE, Two, number, number_of};

/// The filtered lane.
const CONTROL: LaneId = LaneId::FIRST;

const DATA: LaneId = match LaneId::new(1) {
    Some(lane) => lane,
    None => LaneId::FIRST,
};

/// A small window, and two lanes.
fn config() -> SessionConfig {
    SessionConfig {
        lanes: vec![LaneConfig::default(); 2],
        receive_window: 4096,
        send_buffer: 8192,
        ..SessionConfig::default()
    }
}

/// Two endpoints, where `b` has a filter that consumes even numbers and reports every number that it sees.
fn filtered() -> (Two, Receiver<u64>) {
    let mut two = Two::with(1, config());
    let (seen, numbers) = bounded(4096);
    let filter = LaneFilter::new(CONTROL, move |payload| {
        let number = number_of(payload);
        seen.send(number).expect("the test receives");
        match number.is_multiple_of(2) {
            true => FilterAction::Consume,
            false => FilterAction::Queue,
        }
    });
    two.b = two.with_filter(config(), filter);
    two.connect(0);
    (two, numbers)
}

fn send(at: &Endpoint, lane: LaneId, n: u64) {
    at.send(lane, number(n, 64)).expect("it is open");
}

/// Receives the next message and returns its lane and number.
fn recv(at: &Endpoint) -> (LaneId, u64) {
    let message = at.recv_timeout(PATIENCE).expect("a message");
    (message.lane, number_of(&message.payload))
}

#[test]
fn a_reader_that_does_not_read_delays_no_filtered_message() {
    let (two, numbers) = filtered();
    // More than a window of data, less than the send buffer: the data lane is blocked from now on.
    for n in 0..90 {
        send(&two.a, DATA, n);
    }
    // 19 times the window: every consumed message has been granted credit.
    for n in 0..1200 {
        send(&two.a, CONTROL, 2 * n);
    }
    for n in 0..1200 {
        assert_eq!(numbers.recv_timeout(PATIENCE), Ok(2 * n));
    }
    assert_eq!(two.a.flush(Duration::ZERO), Err(FlushError::TimedOut));
    for n in 0..90 {
        assert_eq!(recv(&two.b), (DATA, n));
    }
    assert!(two.b.try_recv().is_err(), "nothing else was queued");
}

#[test]
fn messages_that_the_filter_returns_are_queued_in_order() {
    let (two, numbers) = filtered();
    let sender = two.a.clone();
    let sending = std::thread::spawn(move || (0..2000).for_each(|n| send(&sender, CONTROL, n)));
    for n in 0..1000 {
        assert_eq!(recv(&two.b), (CONTROL, 2 * n + 1));
    }
    sending.join().expect("it has sent everything");
    assert!(numbers.iter().take(2000).eq(0..2000));
}

#[test]
fn messages_of_other_lanes_are_not_filtered() {
    let (two, numbers) = filtered();
    let sender = two.a.clone();
    let sending = std::thread::spawn(move || (0..2000).for_each(|n| send(&sender, DATA, n)));
    for n in 0..2000 {
        assert_eq!(recv(&two.b), (DATA, n));
    }
    sending.join().expect("it has sent everything");
    assert!(numbers.is_empty());
}

#[test]
fn a_filter_that_panics_closes_its_endpoint_only() {
    let mut two = Two::with(1, config());
    let filter = LaneFilter::new(CONTROL, |payload| {
        assert_ne!(number_of(payload), 0, "requested by the test");
        FilterAction::Queue
    });
    two.b = two.with_filter(config(), filter);
    let (near, far) = two.another();
    two.connect(0);
    send(&two.a, DATA, 5);
    send(&two.a, CONTROL, 1);
    two.a.flush(PATIENCE).expect("everything has arrived");
    send(&two.a, CONTROL, 0);
    assert_eq!(two.a.wait_closed(PATIENCE), Some(CloseReason::PeerAborted));
    let mut queued = [recv(&two.b), recv(&two.b)];
    queued.sort_by_key(|(_, n)| *n);
    assert_eq!(queued, [(CONTROL, 1), (DATA, 5)]);
    assert!(two.b.recv_timeout(PATIENCE).is_err());
    assert!(two.b.wait_closed(PATIENCE).is_some());
    // Another endpoint of the same worker is not affected.
    send(&near, CONTROL, 3);
    assert_eq!(recv(&far), (CONTROL, 3));
}
