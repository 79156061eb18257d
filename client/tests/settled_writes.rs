//! What a source does with messages that are to be settled, in conversations with a scripted zipper.

mod support;

use std::time::Duration;

use selvedge_client::lanes::{CONTROL, DATA};
use selvedge_client::settlement::FlowLimits;
use selvedge_client::wire::settlement::{FEATURE_SETTLEMENT, SettlementMessage};
use selvedge_client::wire::{Data, is_data};
use selvedge_client::{ClientOptions, WriteError};
use support::{LEVEL, PATIENCE, ScriptedZipper, TAG};

#[test]
fn a_message_is_retained_until_it_is_settled() {
    let zipper = ScriptedZipper::new();
    let (source, mut link) = zipper.connect_source();
    source.write(TAG, "hello").expect("there is room");
    let opening = link.receive_opening();
    assert_eq!((opening.tag, opening.level), (TAG, LEVEL));
    link.announce(&opening);
    assert_eq!(link.receive_live(), (0, "hello".into()));
    assert!(!source.flush(Duration::ZERO));
    assert_eq!(source.outcomes().unsettled(), 1);
    link.settle(&opening, 1);
    assert!(source.flush(PATIENCE));
    let outcomes = source.outcomes();
    assert_eq!((outcomes.total().settled, outcomes.unsettled()), (1, 0));
    assert!(source.close(PATIENCE));
}

#[test]
fn a_full_log_blocks_the_writers_of_its_tag_until_messages_are_settled() {
    let zipper = ScriptedZipper::new();
    let (source, mut link) = zipper.connect(ClientOptions {
        level: Some(LEVEL),
        flow_limits: FlowLimits {
            log_max: 1000,
            window: 500,
        },
        ..ClientOptions::source("source", zipper.addresses())
    });
    let mut accepted = 0_u64;
    while source.try_write(TAG, [0; 36]).is_ok() {
        accepted += 1;
    }
    assert!(matches!(
        source.try_write(TAG, [0; 36]),
        Err(WriteError::Full)
    ));
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| source.write(TAG, [0; 36]));
        let opening = link.receive_opening();
        link.announce(&opening);
        for expected in 0..=accepted {
            assert_eq!(link.receive_live().0, expected);
            link.settle(&opening, expected + 1);
        }
        blocked.join().expect("no panic").expect("it is accepted");
    });
    assert!(source.flush(PATIENCE));
}

#[test]
fn after_a_restart_of_the_zipper_unsettled_messages_are_sent_again() {
    let zipper = ScriptedZipper::new();
    let (source, mut link) = zipper.connect_source();
    source.write(TAG, "a").expect("there is room");
    let opening = link.receive_opening();
    link.announce(&opening);
    link.receive_live();
    source.write(TAG, "b").expect("there is room");
    link.receive_live();
    link.settle(&opening, 1);
    while source.outcomes().unsettled() > 1 {
        std::thread::yield_now();
    }
    drop(link);
    let zipper = zipper.restart();
    let mut link = zipper.admit(FEATURE_SETTLEMENT);
    source.write(TAG, "c").expect("there is room");
    let again = link.receive_opening();
    assert!(again.label > opening.label);
    assert_eq!(again.offer.attachment, 2);
    assert_eq!((again.offer.live_from, again.offer.sent_max), (1, 2));
    link.announce(&again);
    assert_eq!(link.receive_live(), (1, "b".into()));
    assert_eq!(link.receive_live(), (2, "c".into()));
    link.settle(&again, 3);
    assert!(source.close(PATIENCE));
    assert_eq!(source.uncertain(), 0);
}

#[test]
fn a_client_that_moves_to_another_zipper_takes_its_messages_along() {
    let (first, second) = (ScriptedZipper::new(), ScriptedZipper::new());
    let (addresses, others) = (first.addresses(), second.addresses());
    let start_second = second.suspend();
    let (source, mut link) = first.connect(ClientOptions {
        level: Some(LEVEL),
        ..ClientOptions::source("source", [addresses, others].concat())
    });
    source.write(TAG, "a").expect("there is room");
    let opening = link.receive_opening();
    link.announce(&opening);
    link.receive_live();
    let second = start_second();
    drop((link, first));
    let mut link = second.admit(FEATURE_SETTLEMENT);
    let again = link.receive_opening();
    assert_eq!(again.offer.attachment, 2);
    link.announce(&again);
    assert_eq!(link.receive_live(), (0, "a".into()));
    link.settle(&again, 1);
    assert!(source.flush(PATIENCE));
    assert_eq!(source.uncertain(), 0);
}

#[test]
fn a_zipper_without_settlement_receives_plain_data() {
    let zipper = ScriptedZipper::new();
    let addresses = zipper.addresses();
    let connecting = std::thread::spawn(|| {
        selvedge_client::Client::connect(ClientOptions {
            level: Some(LEVEL),
            ..ClientOptions::source("source", addresses)
        })
    });
    let mut link = zipper.admit(0);
    let source = connecting.join().expect("no panic").expect("admitted");
    source.write(TAG, "a").expect("there is room");
    source.try_write(TAG, "b").expect("there is room");
    let target = Some("t".to_owned());
    source.write_with(TAG, target, None, "c").expect("room");
    for expected in ["a", "b", "c"] {
        let bytes = link.receive(DATA);
        assert!(is_data(&bytes));
        assert_eq!(Data::decode(bytes).expect("data").payload, expected);
    }
    assert!(source.flush(PATIENCE) && source.close(PATIENCE));
}

#[test]
fn an_answer_to_a_probe_needs_no_reader() {
    let zipper = ScriptedZipper::new();
    let (source, mut link) = zipper.connect_source();
    source.write(TAG, "a").expect("there is room");
    let opening = link.receive_opening();
    link.announce(&opening);
    let (label, attachment) = (opening.label, 1);
    for probe in 0..100 {
        link.send(SettlementMessage::Probe {
            label,
            attachment,
            probe,
        });
    }
    // Answers are merged: the last one is for the last probe.
    loop {
        match link.receive_settlement(CONTROL) {
            SettlementMessage::Alive { probe: 99, .. } => break,
            SettlementMessage::Alive { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn closing_waits_for_settlement_and_reports_what_is_unsettled() {
    let zipper = ScriptedZipper::new();
    let (source, mut link) = zipper.connect_source();
    source.write(TAG, "a").expect("there is room");
    let opening = link.receive_opening();
    link.announce(&opening);
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| source.close(PATIENCE));
        link.receive_live();
        link.settle(&opening, 1);
        assert!(closing.join().expect("no panic"));
    });
    assert!(matches!(source.write(TAG, "b"), Err(WriteError::Closed(_))));
    let (source, mut link) = zipper.connect_source();
    source.write(TAG, "a").expect("there is room");
    link.receive_opening();
    assert!(!source.close(Duration::from_millis(10)));
    assert_eq!(source.outcomes().unsettled(), 1);
}

#[test]
fn a_stopped_client_ends_once_its_messages_are_settled() {
    let zipper = ScriptedZipper::new();
    let (source, mut link) = zipper.connect_source();
    source.write(TAG, "a").expect("there is room");
    source.stop();
    assert!(source.write(TAG, "b").is_err());
    let opening = link.receive_opening();
    link.announce(&opening);
    link.receive_live();
    assert_eq!(source.try_close(), None);
    link.settle(&opening, 1);
    assert!(link.endpoint.wait_closed(PATIENCE).is_some());
    let closed = std::iter::from_fn(|| Some(source.try_close()));
    assert_eq!(closed.flatten().next(), Some(true));
}

#[test]
fn a_zipper_that_breaks_the_protocol_ends_the_client() {
    let zipper = ScriptedZipper::new();
    let (source, mut link) = zipper.connect_source();
    source.write(TAG, "a").expect("there is room");
    let opening = link.receive_opening();
    link.announce(&opening);
    link.receive_live();
    link.settle(&opening, 7);
    assert!(link.endpoint.wait_closed(PATIENCE).is_some());
    assert!(matches!(source.write(TAG, "b"), Err(WriteError::Closed(_))));
}
