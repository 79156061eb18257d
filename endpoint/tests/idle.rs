//! What an idle session avoids: cost of unused lanes, and timers off the driver's ticks.

mod pair;

use std::time::Duration;

use pair::{Pair, Side};
use selvedge_endpoint::{LaneConfig, SessionConfig};

#[test]
fn a_peer_may_use_lanes_that_this_side_does_not_send_on() {
    let with_lanes = |count| SessionConfig {
        lanes: vec![LaneConfig::default(); count],
        receive_window: 4096,
        ..SessionConfig::default()
    };
    let mut pair = Pair::new(&with_lanes(1), 1);
    pair.sides[0] = Side::new(0, &with_lanes(32), 7);
    pair.connect(0);
    // More than the credit that the `Hello` grants, on the last lane first.
    for lane in [31, 0, 12] {
        for byte in 0..100 {
            pair.sides[0].send(lane, vec![byte; 100]).unwrap();
        }
    }
    pair.settle(100_000);
    for lane in [31, 0, 12] {
        let first: Vec<u8> = pair.sides[1]
            .payloads(lane)
            .iter()
            .map(|it| it[0])
            .collect();
        assert_eq!(first, (0..100).collect::<Vec<u8>>(), "lane {lane}");
    }
}

#[test]
fn heartbeats_are_due_on_ticks_and_urgent_deadlines_are_exact() {
    let config = SessionConfig::default();
    let mut pair = Pair::new(&config, 1);
    let start = pair.now - Duration::from_millis(30);
    pair.connect(0);
    pair.settle(10_000);
    for (session, delay) in [&pair.sides[0].session, &pair.sides[1].session].map(|it| {
        let at = it.poll_timeout_by_ticks(start).unwrap();
        (it, at - start)
    }) {
        let exact = session.poll_timeout().unwrap() - start;
        assert!(delay >= exact && delay < exact + Duration::from_millis(100));
        assert_eq!(delay.as_nanos() % 100_000_000, 0, "{delay:?}");
    }
    // The deadline of an acknowledgement that frees much is not rounded.
    pair.sides[0].send(0, vec![7; 100_000]).unwrap();
    while pair.sides[1].payloads(0).is_empty() {
        pair.step();
    }
    let receiver = &pair.sides[1].session;
    let exact = receiver.poll_timeout().unwrap();
    assert!(exact <= pair.now + config.ack_delay);
    assert_eq!(receiver.poll_timeout_by_ticks(start), Some(exact));
}

#[test]
fn in_an_idle_pair_the_dialer_sends_the_pings_and_the_acceptor_only_if_the_dialer_does_not() {
    let config = SessionConfig::default();
    let patient = SessionConfig {
        heartbeat: Duration::from_secs(3600),
        ..config.clone()
    };
    for (dialer, pinging) in [(config.clone(), 0), (patient, 1)] {
        let mut pair = Pair::new(&config, 1);
        pair.sides[0] = Side::new(0, &dialer, 7);
        let id = pair.connect(0);
        pair.settle(10_000);
        let begin = pair.now;
        for _ in 0..10 {
            pair.advance();
            let sends = |side: &Side| side.session.wants_to_send(id);
            assert!(sends(&pair.sides[pinging]) && !sends(&pair.sides[1 - pinging]));
            for _ in 0..100 {
                pair.step();
            }
            assert!(!sends(&pair.sides[0]) && !sends(&pair.sides[1]));
        }
        let interval = (pair.now - begin) / 10;
        assert!(interval <= config.heartbeat * 5 / 4, "{interval:?}");
        assert!(pair.sides.iter().all(|it| it.session.current().is_some()));
    }
}
