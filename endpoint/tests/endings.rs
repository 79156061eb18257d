//! How a session ends or restarts, and how it reports undelivered messages.

mod pair;

use std::time::Duration;

use bytes::Bytes;
use pair::{Pair, Side};
use selvedge_endpoint::{
    AttachmentId, CloseReason, DetachReason, Event, LaneId, SendError, SessionConfig, SessionOutput,
};
use selvedge_transport::Role;

fn closed(side: &Side) -> (CloseReason, usize) {
    let find = |event: &Event| match event {
        Event::Closed {
            reason,
            undelivered,
        } => Some((*reason, undelivered.len())),
        _ => None,
    };
    side.events
        .iter()
        .find_map(find)
        .expect("the session is closed")
}

#[test]
fn an_orderly_close_delivers_everything_first() {
    let mut pair = Pair::new(&SessionConfig::default(), 1);
    pair.connect(0);
    for byte in 0..100 {
        pair.sides[0].send(0, vec![byte; 1000]).unwrap();
    }
    let side = &mut pair.sides[0];
    // The session has not drained the send buffer yet.
    side.session.close(pair.now, &mut side.send_buffer);
    pair.settle(10_000);
    assert_eq!(pair.sides[1].payloads(0).len(), 100);
    assert_eq!(closed(&pair.sides[0]), (CloseReason::Local, 0));
    assert_eq!(closed(&pair.sides[1]), (CloseReason::Peer, 0));
    assert!(pair.sides.iter().all(|side| side.session.is_done()));
    assert!(matches!(
        pair.sides[0].send(0, "late"),
        Err(SendError::Closed(_))
    ));
}

#[test]
fn messages_accepted_while_a_session_ends_are_reported_by_its_closed_event() {
    let mut pair = Pair::new(&SessionConfig::default(), 1);
    let side = &mut pair.sides[0];
    side.send_buffer
        .push(LaneId::FIRST, "drained".into())
        .unwrap();
    side.session.sync_send_buffer(&mut side.send_buffer);
    side.send_buffer
        .push(LaneId::FIRST, "not yet".into())
        .unwrap();
    side.session.abort();
    side.session.sync_send_buffer(&mut side.send_buffer);
    let outputs = std::iter::from_fn(|| side.session.poll_output());
    let undelivered: Vec<Vec<_>> = outputs
        .filter_map(|output| match output {
            SessionOutput::Event(Event::Closed { undelivered, .. }) => Some(undelivered),
            _ => None,
        })
        .map(|messages| messages.into_iter().map(|it| it.payload).collect())
        .collect();
    assert_eq!(undelivered, [["drained", "not yet"]]);
    assert_eq!(side.send_buffer.used(), 0);
}

#[test]
fn a_close_first_acknowledges_what_has_arrived() {
    let mut pair = Pair::new(&SessionConfig::default(), 1);
    pair.connect(0);
    pair.sides[0].send(0, "received").unwrap();
    // Until the message has arrived, but no longer: its acknowledgement is still delayed.
    while pair.sides[1].payloads(0).is_empty() {
        pair.step();
    }
    let side = &mut pair.sides[1];
    side.session.close(pair.now, &mut side.send_buffer);
    pair.settle(10_000);
    assert_eq!(closed(&pair.sides[1]), (CloseReason::Local, 0));
    assert_eq!(closed(&pair.sides[0]), (CloseReason::Peer, 0));
}

#[test]
fn a_close_without_a_peer_is_aborted_after_the_linger_and_returns_the_messages() {
    let mut pair = Pair::new(&SessionConfig::default(), 1);
    pair.sides[0].send(0, "never sent").unwrap();
    let side = &mut pair.sides[0];
    side.session.close(pair.now, &mut side.send_buffer);
    pair.now += Duration::from_secs(4);
    pair.sides[0].session.handle_timeout(pair.now);
    assert!(!pair.sides[0].session.is_closed());
    pair.now += Duration::from_secs(1);
    pair.sides[0].session.handle_timeout(pair.now);
    pair.settle(100);
    assert_eq!(closed(&pair.sides[0]), (CloseReason::Aborted, 1));
}

#[test]
fn a_peer_that_restarted_is_reported_with_what_was_undelivered() {
    let mut pair = Pair::new(&SessionConfig::default(), 1);
    let first = pair.connect(0);
    pair.sides[0].send(0, "delivered").unwrap();
    pair.settle(1000);
    // In flight when the peer dies: handed to a transport, never delivered.
    pair.capacity = 100;
    pair.sides[0].send(0, vec![1; 100]).unwrap();
    let side = &mut pair.sides[0];
    side.session.sync_send_buffer(&mut side.send_buffer);
    let capacity = selvedge_transport::SendCapacity {
        frame_max: 50,
        datagram_max: 0,
        blocked: Default::default(),
        control_blocked: false,
    };
    side.session
        .poll_frame(pair.now, first, &capacity)
        .expect("the first piece");
    side.send(0, "kept").unwrap();
    pair.cut(first);
    pair.sides[1] = Side::new(1, &SessionConfig::default(), 999);
    pair.connect(0);
    pair.settle(1000);
    let reported = pair.sides[0].events.iter().find_map(|event| match event {
        Event::PeerRestarted { undelivered } => Some(undelivered.clone()),
        _ => None,
    });
    let reported = reported.expect("the restart is reported");
    assert_eq!(reported.len(), 1);
    assert_eq!(reported[0].payload, vec![1; 100]);
    assert_eq!(
        pair.sides[1].payloads(0),
        ["kept"],
        "messages that were never sent are delivered to the new process"
    );
    assert_eq!(pair.sides[0].send_buffer.used(), 0);
    pair.sides[1].send(0, "hello again").unwrap();
    pair.sides[0].send(0, "and you").unwrap();
    pair.settle(1000);
    assert_eq!(pair.sides[0].payloads(0).last().unwrap(), "hello again");
    assert_eq!(pair.sides[1].payloads(0).last().unwrap(), "and you");
}

#[test]
fn a_restarted_peer_is_recognised_whichever_side_dials() {
    for dialer in 0..2 {
        let mut pair = Pair::new(&SessionConfig::default(), 3);
        let first = pair.connect(0);
        for side in &mut pair.sides {
            side.send(0, "one").unwrap();
        }
        pair.settle(1000);
        pair.cut(first);
        pair.sides[1] = Side::new(1, &SessionConfig::default(), 999);
        pair.connect(dialer);
        pair.settle(1000);
        for side in &mut pair.sides {
            side.send(0, "two").unwrap();
        }
        pair.settle(1000);
        assert_eq!(
            pair.sides[0].payloads(0),
            ["one", "two"],
            "dialed by {dialer}"
        );
        assert_eq!(pair.sides[1].payloads(0), ["two"], "dialed by {dialer}");
    }
}

#[test]
fn a_silent_transport_is_given_up_after_three_seconds() {
    let mut pair = Pair::new(&SessionConfig::default(), 1);
    pair.connect(0);
    pair.settle(1000);
    pair.pipes.clear();
    let start = pair.now;
    while pair.sides[0].session.current().is_some() {
        pair.advance();
        pair.sides
            .iter_mut()
            .for_each(|side| drop(side.session.take_messages()));
    }
    let waited = pair.now - start;
    assert!(waited <= Duration::from_secs(3), "{waited:?}");
    pair.settle(100);
    let silent = |event: &Event| {
        matches!(
            event,
            Event::Detached {
                reason: DetachReason::Silent
            }
        )
    };
    assert!(
        pair.sides[0].events.iter().any(silent),
        "{:?}",
        pair.sides[0].events
    );
}

#[test]
fn of_two_transports_dialed_at_once_one_remains() {
    for seed in 0..200 {
        let mut pair = Pair::new(&SessionConfig::default(), seed);
        pair.connect(0);
        pair.connect(1);
        pair.sides[0].send(0, "a").unwrap();
        pair.sides[1].send(0, "b").unwrap();
        pair.settle(1000);
        assert_eq!(pair.pipes.len(), 1, "seed {seed}");
        let [a, b] = [0, 1].map(|side| pair.sides[side].session.current());
        assert_eq!(a, b, "seed {seed}: both use the same one");
        assert_eq!(pair.sides[1].payloads(0), ["a"], "seed {seed}");
        assert_eq!(pair.sides[0].payloads(0), ["b"], "seed {seed}");
    }
}

#[test]
fn a_malformed_frame_ends_the_transport_but_not_the_session() {
    let malformed: [&[u8]; 6] = [
        b"",
        b"\xff",
        b"\x03\x00\x05data before a hello",
        &[1; 64],
        &[4, 1, 0, 0xff, 0xff],
        &[0; 2000],
    ];
    for bytes in malformed {
        let mut pair = Pair::new(&SessionConfig::default(), 1);
        let id = AttachmentId(77);
        pair.sides[0]
            .session
            .attach(pair.now, id, Role::Acceptor, true)
            .unwrap();
        pair.sides[0]
            .session
            .handle_frame(pair.now, id, Bytes::from_static(b"\x06\x00"));
        pair.sides[0]
            .session
            .handle_frame(pair.now, id, Bytes::copy_from_slice(bytes));
        pair.settle(100);
        assert!(pair.sides[0].session.current().is_none());
        pair.connect(1);
        pair.sides[1].send(0, "well").unwrap();
        pair.settle(1000);
        assert_eq!(pair.sides[0].payloads(0), ["well"]);
    }
}

#[test]
fn a_peer_with_a_lower_message_limit_is_incompatible() {
    let mut pair = Pair::new(&SessionConfig::default(), 1);
    let config = SessionConfig {
        message_max: 1000,
        ..SessionConfig::default()
    };
    pair.sides[1] = Side::new(1, &config, 9);
    pair.connect(0);
    pair.settle(1000);
    for side in &pair.sides {
        let reason = closed(side).0;
        assert!(matches!(reason, CloseReason::Incompatible(_)), "{reason}");
    }
}

#[test]
fn a_close_within_a_shorter_time_shortens_one_that_waits_already() {
    let config = SessionConfig::default();
    let mut pair = Pair::new(&config, 1);
    let (now, side) = (pair.now, &mut pair.sides[0]);
    side.send(0, "nobody takes it").unwrap();
    side.session.close(now, &mut side.send_buffer);
    let short = Duration::from_millis(100);
    for linger in [short, config.linger * 2] {
        let buffer = &mut side.send_buffer;
        side.session.close_within(now, linger, buffer);
        assert_eq!(side.session.poll_timeout(), Some(now + short));
    }
    side.session.handle_timeout(now + short);
    assert!(side.session.is_closed());
}
