//! When acknowledgements go: with what is sent anyway, when they are asked for, else after a while.

mod pair;

use std::time::Duration;

use pair::Pair;
use selvedge_endpoint::{LaneConfig, SessionConfig};
use selvedge_transport::Instant;

/// How long an acknowledgement waits that frees little and that nobody has asked for.
const QUIET: Duration = Duration::from_millis(200);

fn attached(config: &SessionConfig, seed: u64) -> Pair {
    let mut pair = Pair::new(config, seed);
    pair.connect(0);
    pair.settle(100_000);
    pair
}

/// Works without letting time pass.
fn work(pair: &mut Pair) {
    for _ in 0..200 {
        pair.step();
    }
}

fn unacknowledged(pair: &Pair) -> u64 {
    pair.sides[0].session.unacknowledged()
}

fn acks_sent(pair: &Pair) -> u64 {
    pair.sides[1].session.stats().acks_sent
}

#[test]
fn an_acknowledgement_that_waits_goes_with_the_answer() {
    let mut pair = attached(&SessionConfig::default(), 1);
    pair.now += Duration::from_millis(100);
    pair.sides[0].send(0, "question").unwrap();
    work(&mut pair);
    assert_eq!(pair.sides[1].payloads(0), ["question"]);
    assert_eq!(unacknowledged(&pair), 9, "it waits for company");
    pair.sides[1].send(0, "answer").unwrap();
    work(&mut pair);
    assert_eq!(unacknowledged(&pair), 0);
}

#[test]
fn of_many_answers_not_each_brings_an_acknowledgement() {
    let mut pair = attached(&SessionConfig::default(), 2);
    let before = acks_sent(&pair);
    for _ in 0..100 {
        pair.sides[0].send(0, "question").unwrap();
        work(&mut pair);
        pair.sides[1].send(0, "answer").unwrap();
        work(&mut pair);
        pair.now += Duration::from_millis(1);
    }
    assert_eq!(pair.sides[0].payloads(0).len(), 100);
    let sent = acks_sent(&pair) - before;
    assert!((4..=6).contains(&sent), "{sent} in five delays");
}

#[test]
fn what_frees_little_waits_for_a_while_and_what_frees_much_does_not() {
    let config = SessionConfig::default();
    for (len, delay) in [(100, QUIET), (60_000, QUIET), (70_000, config.ack_delay)] {
        let mut pair = attached(&config, 3);
        pair.now += Duration::from_millis(100);
        pair.sides[0].send(0, vec![7; len]).unwrap();
        work(&mut pair);
        while pair.sides[1].payloads(0).is_empty() {
            work(&mut pair);
        }
        let due = pair.sides[1].session.poll_timeout();
        assert_eq!(due, Some(pair.now + delay), "{len} bytes");
        pair.settle(100_000);
        assert_eq!(unacknowledged(&pair), 0);
    }
}

#[test]
fn one_that_frees_little_falls_on_a_tick() {
    let mut pair = attached(&SessionConfig::default(), 4);
    let start: Instant = pair.now - Duration::from_millis(30);
    pair.sides[0].send(0, "hello").unwrap();
    work(&mut pair);
    let at = pair.sides[1].session.poll_timeout_by_ticks(start).unwrap();
    assert_eq!(at - start, Duration::from_millis(300));
}

#[test]
fn what_is_waited_for_is_acknowledged_at_once_on_each_lane_whatever_overtakes_what() {
    let config = SessionConfig {
        lanes: vec![LaneConfig::default(); 3],
        ..SessionConfig::default()
    };
    for seed in 0..200 {
        let mut pair = attached(&config, seed);
        for lane in 0..3 {
            for len in [1, 300, 3000] {
                pair.sides[0].send(lane, vec![lane; len]).unwrap();
            }
        }
        pair.sides[0].outbox.await_settled();
        // One more behind what is waited for must not hold it back.
        work(&mut pair);
        pair.sides[0].send(1, "later").unwrap();
        work(&mut pair);
        work(&mut pair);
        assert!(unacknowledged(&pair) <= 6, "seed {seed}");
        assert!(!pair.sides[0].outbox.is_awaited());
    }
}

#[test]
fn who_waits_when_the_transport_is_cut_is_answered_on_the_next() {
    for seed in 0..200 {
        let config = SessionConfig::default();
        let mut pair = Pair::new(&config, seed);
        let first = pair.connect(0);
        pair.settle(100_000);
        pair.sides[0].send(0, vec![7; 2000]).unwrap();
        pair.sides[0].outbox.await_settled();
        for _ in 0..seed % 7 {
            pair.step();
        }
        pair.cut(first);
        pair.connect(1);
        work(&mut pair);
        assert_eq!(unacknowledged(&pair), 0, "seed {seed}");
    }
}

#[test]
fn a_refusal_of_a_small_buffer_asks_for_room() {
    let config = SessionConfig {
        send_buffer: 2000,
        ..SessionConfig::default()
    };
    let mut pair = attached(&config, 5);
    for _ in 0..100 {
        while pair.sides[0].send(0, vec![7; 900]).is_err() {
            assert!(pair.sides[0].outbox.is_awaited());
            work(&mut pair);
        }
    }
    work(&mut pair);
    assert_eq!(pair.sides[1].payloads(0).len(), 100);
}

#[test]
fn a_close_asks_for_the_acknowledgement_that_it_waits_for() {
    let mut pair = attached(&SessionConfig::default(), 6);
    pair.sides[0].send(0, "last words").unwrap();
    work(&mut pair);
    let now = pair.now;
    let side = &mut pair.sides[0];
    side.session.close(now, &mut side.outbox);
    work(&mut pair);
    assert!(pair.sides[0].session.is_done());
    assert_eq!(pair.sides[1].payloads(0), ["last words"]);
}
