//! What a function does with messages that are to be settled, in conversations with a scripted zipper.

mod support;

use std::time::Duration;

use selvedge_client::settlement::SequenceSet;
use selvedge_client::wire::settlement::{FEATURE_SETTLEMENT, SettlementMessage};
use selvedge_client::{AcknowledgeMode, Client, ReadError};
use support::{PATIENCE, ScriptedZipper, TAG};

/// Reads the number of the next message.
fn read(function: &Client) -> u64 {
    let data = function.read_timeout(PATIENCE).expect("a message");
    assert_eq!((data.tag, data.origin.source), (TAG, [7; 32]));
    assert_eq!(data.payload, data.origin.sequence.to_be_bytes()[..]);
    data.origin.sequence
}

#[test]
fn messages_are_reported_when_they_are_read() {
    let zipper = ScriptedZipper::new();
    let (function, mut link) = zipper.connect_function(|_| {});
    let answer = link.bind_with_lease(1, 1);
    assert!(answer.report.processed.is_empty() && answer.report.held.is_empty());
    for sequence in 0..1000 {
        link.route(1, sequence);
    }
    for sequence in 0..1000 {
        assert_eq!(read(&function), sequence);
    }
    // The last ones while the reader does not return: after the delay.
    link.await_processed(1000);
}

#[test]
fn a_bind_is_answered_although_nobody_reads() {
    let zipper = ScriptedZipper::new();
    let (_function, mut link) = zipper.connect_function(|_| {});
    for label in 1..100 {
        link.bind(label, label);
    }
}

#[test]
fn duplicates_and_messages_of_former_routes_do_not_reach_the_user() {
    let zipper = ScriptedZipper::new();
    let (function, mut link) = zipper.connect_function(|_| {});
    link.bind_with_lease(1, 1);
    for sequence in [0, 1, 1, 0] {
        link.route(1, sequence);
    }
    assert_eq!((read(&function), read(&function)), (0, 1));
    link.route(1, 2);
    // It is superseded before it is read.
    let answer = link.bind_with_lease(2, 2);
    assert_eq!(answer.report.processed, SequenceSet::from(0..2));
    link.route(1, 3);
    link.route(9, 4);
    link.route(2, 2);
    assert_eq!(read(&function), 2);
}

#[test]
fn a_message_waits_for_the_lease_and_the_renewal_wakes_the_reader() {
    let zipper = ScriptedZipper::new();
    let (function, mut link) = zipper.connect_function(|_| {});
    let answer = link.bind(1, 1);
    link.route(1, 0);
    link.route(1, 1);
    assert!(matches!(function.try_read(), Err(ReadError::TimedOut)));
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| (read(&function), read(&function)));
        // It asks for the lease.
        let report = link.receive_report();
        assert!(report.report.processed.is_empty() && report.report.stamp >= answer.report.stamp);
        link.renew(&report);
        assert_eq!(reading.join().expect("no panic"), (0, 1));
    });
    link.await_processed(2);
}

#[test]
fn a_message_counts_as_processed_when_the_user_acknowledges_it() {
    let zipper = ScriptedZipper::new();
    let (function, mut link) =
        zipper.connect_function(|options| options.acknowledge = AcknowledgeMode::ByCall);
    link.bind_with_lease(1, 1);
    link.route(1, 0);
    link.route(1, 1);
    let first = function.receive().expect("a message");
    let second = function.receive().expect("a message");
    assert_eq!((first.sequence(), second.sequence()), (0, 1));
    assert!(!first.is_redelivery() && first.source() == [7; 32]);
    let answer = link.bind_with_lease(2, 2);
    assert_eq!(answer.report.held, SequenceSet::from(0..2));
    function.acknowledge(&first);
    link.await_processed(1);
    function.acknowledge(&second);
    function.acknowledge(&second);
    let report = link.receive_report();
    assert_eq!(report.report.processed, SequenceSet::from(0..2));
    // What is read as data is acknowledged at once.
    link.route(2, 2);
    assert_eq!(read(&function), 2);
    let report = link.receive_report();
    assert_eq!(report.report.processed, SequenceSet::from(0..3));
}

#[test]
fn a_function_that_closes_reports_everything_and_that_it_leaves() {
    let zipper = ScriptedZipper::new();
    let (function, mut link) = zipper.connect_function(|_| {});
    link.bind_with_lease(1, 1);
    for sequence in 0..3 {
        link.route(1, sequence);
    }
    assert_eq!((read(&function), read(&function)), (0, 1));
    assert!(function.close(PATIENCE));
    let last = loop {
        let report = link.receive_report();
        if report.is_leaving {
            break report;
        }
    };
    assert_eq!(last.report.processed, SequenceSet::from(0..2));
    assert!(matches!(function.try_read(), Err(ReadError::Closed(_))));
}

#[test]
fn data_of_a_former_process_of_the_zipper_is_not_taken_for_data_of_the_present_one() {
    let zipper = ScriptedZipper::new();
    let (function, mut link) = zipper.connect_function(|_| {});
    link.bind_with_lease(1, 1);
    link.route(1, 0);
    assert_eq!(read(&function), 0);
    // It waits for the reader while the zipper restarts, and the label means another route then.
    link.route(1, 5);
    link.endpoint.flush(PATIENCE).expect("it has arrived");
    drop(link);
    let zipper = zipper.restart();
    let mut link = zipper.admit(FEATURE_SETTLEMENT);
    link.receive_instance();
    let answer = link.bind_with_lease(1, 2);
    assert_eq!(answer.report.processed, SequenceSet::from(0..1));
    link.route(1, 1);
    assert_eq!(read(&function), 1);
}

#[test]
fn a_route_for_another_process_is_refused() {
    let zipper = ScriptedZipper::new();
    let (function, mut link) = zipper.connect_function(|_| {});
    drop(function);
    let (_function, mut other) = zipper.connect_function(|_| {});
    other.pretend(&mut link);
    let lost = other.bind_refused(1);
    assert!(matches!(
        lost,
        SettlementMessage::RouteLost { label: 1, .. }
    ));
}

#[test]
fn a_slow_reader_does_not_delay_reports_longer_than_the_limit() {
    let zipper = ScriptedZipper::new();
    let (function, mut link) = zipper.connect_function(|_| {});
    link.bind_with_lease(1, 1);
    link.route(1, 0);
    link.route(1, 1);
    assert_eq!(read(&function), 0);
    // Nothing else is read, and the queue is not empty.
    let began = std::time::Instant::now();
    link.await_processed(1);
    assert!(began.elapsed() < Duration::from_secs(5));
}
