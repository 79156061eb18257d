//! When acknowledgements are sent: together with other frames, on request, or after a delay.

mod pair;

use std::time::Duration;

use pair::Pair;
use selvedge_endpoint::{LaneConfig, SessionConfig};
use selvedge_transport::Instant;

/// The delay of an acknowledgement that frees little and was not requested.
const LONG_ACK_DELAY: Duration = Duration::from_millis(200);

fn attached(config: &SessionConfig, seed: u64) -> Pair {
    let mut pair = Pair::new(config, seed);
    pair.connect(0);
    pair.settle(100_000);
    pair
}

/// Exchanges frames while the clock stands still.
fn run_steps(pair: &mut Pair) {
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
fn a_delayed_acknowledgement_is_sent_together_with_the_reply() {
    let mut pair = attached(&SessionConfig::default(), 1);
    pair.now += Duration::from_millis(100);
    pair.sides[0].send(0, "request").unwrap();
    run_steps(&mut pair);
    assert_eq!(pair.sides[1].payloads(0), ["request"]);
    assert_eq!(unacknowledged(&pair), 8, "the acknowledgement is delayed");
    pair.sides[1].send(0, "reply").unwrap();
    run_steps(&mut pair);
    assert_eq!(unacknowledged(&pair), 0);
}

#[test]
fn not_every_reply_carries_an_acknowledgement() {
    let mut pair = attached(&SessionConfig::default(), 2);
    let before = acks_sent(&pair);
    for _ in 0..100 {
        pair.sides[0].send(0, "request").unwrap();
        run_steps(&mut pair);
        pair.sides[1].send(0, "reply").unwrap();
        run_steps(&mut pair);
        pair.now += Duration::from_millis(1);
    }
    assert_eq!(pair.sides[0].payloads(0).len(), 100);
    let sent = acks_sent(&pair) - before;
    assert!((4..=6).contains(&sent), "{sent} in five delays");
}

#[test]
fn an_acknowledgement_that_frees_little_is_delayed_longer_than_one_that_frees_much() {
    let config = SessionConfig::default();
    for (len, delay) in [
        (100, LONG_ACK_DELAY),
        (60_000, LONG_ACK_DELAY),
        (70_000, config.ack_delay),
    ] {
        let mut pair = attached(&config, 3);
        pair.now += Duration::from_millis(100);
        pair.sides[0].send(0, vec![7; len]).unwrap();
        run_steps(&mut pair);
        while pair.sides[1].payloads(0).is_empty() {
            run_steps(&mut pair);
        }
        let due = pair.sides[1].session.poll_timeout();
        assert_eq!(due, Some(pair.now + delay), "{len} bytes");
        pair.settle(100_000);
        assert_eq!(unacknowledged(&pair), 0);
    }
}

#[test]
fn an_acknowledgement_that_frees_little_is_due_on_a_tick() {
    let mut pair = attached(&SessionConfig::default(), 4);
    let start: Instant = pair.now - Duration::from_millis(30);
    pair.sides[0].send(0, "hello").unwrap();
    run_steps(&mut pair);
    let at = pair.sides[1].session.poll_timeout_by_ticks(start).unwrap();
    assert_eq!(at - start, Duration::from_millis(300));
}

#[test]
fn awaited_messages_are_acknowledged_at_once_on_each_lane_despite_reordering() {
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
        pair.sides[0].send_buffer.await_settled();
        // A later message must not delay the acknowledgement of the awaited ones.
        run_steps(&mut pair);
        pair.sides[0].send(1, "later").unwrap();
        run_steps(&mut pair);
        run_steps(&mut pair);
        assert!(unacknowledged(&pair) <= 6, "seed {seed}");
        assert!(!pair.sides[0].send_buffer.is_awaited());
    }
}

#[test]
fn an_acknowledgement_that_is_awaited_when_the_transport_is_cut_arrives_on_the_next() {
    for seed in 0..200 {
        let config = SessionConfig::default();
        let mut pair = Pair::new(&config, seed);
        let first = pair.connect(0);
        pair.settle(100_000);
        pair.sides[0].send(0, vec![7; 2000]).unwrap();
        pair.sides[0].send_buffer.await_settled();
        for _ in 0..seed % 7 {
            pair.step();
        }
        pair.cut(first);
        pair.connect(1);
        run_steps(&mut pair);
        assert_eq!(unacknowledged(&pair), 0, "seed {seed}");
    }
}

#[test]
fn a_full_small_buffer_requests_an_acknowledgement() {
    let config = SessionConfig {
        send_buffer: 2000,
        ..SessionConfig::default()
    };
    let mut pair = attached(&config, 5);
    for _ in 0..100 {
        while pair.sides[0].send(0, vec![7; 900]).is_err() {
            assert!(pair.sides[0].send_buffer.is_awaited());
            run_steps(&mut pair);
        }
    }
    run_steps(&mut pair);
    assert_eq!(pair.sides[1].payloads(0).len(), 100);
}

#[test]
fn a_close_requests_the_acknowledgement_that_it_awaits() {
    let mut pair = attached(&SessionConfig::default(), 6);
    pair.sides[0].send(0, "last words").unwrap();
    run_steps(&mut pair);
    let now = pair.now;
    let side = &mut pair.sides[0];
    side.session.close(now, &mut side.send_buffer);
    run_steps(&mut pair);
    assert!(pair.sides[0].session.is_done());
    assert_eq!(pair.sides[1].payloads(0), ["last words"]);
}
