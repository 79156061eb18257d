//! Paths that overlap, share the lanes, and fail.

use std::time::Duration;

use selvedge_endpoint::{Delivery, Event, LaneConfig, LaneId, SessionConfig};
use selvedge_testkit::{Burst, Conditions, Kind, Oracle, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const LATENCY: Duration = ms(20);

fn good() -> Conditions {
    Conditions {
        latency: LATENCY,
        ..Conditions::default()
    }
}

/// Sends a message each millisecond for so long. Returns the longest time without an arrival.
fn longest_pause(world: &mut World, oracle: &mut Oracle, time: Duration) -> Duration {
    let begin = world.elapsed();
    let (mut last, mut longest) = (begin, Duration::ZERO);
    while world.elapsed() < begin + time {
        oracle.send(&mut world.sides[0], 0, 100).expect("a lane");
        let before = world.sides[1].received.len();
        world.pass(ms(1));
        if world.sides[1].received.len() > before {
            longest = longest.max(world.elapsed() - last);
            last = world.elapsed();
        }
    }
    oracle.look(&world.sides[1]).expect("exactly once");
    longest.max(world.elapsed() - last)
}

#[test]
fn n8_a_planned_swap_pauses_for_less_than_a_round_trip_and_delivers_nothing_twice() {
    let kinds = [Kind::Streams, Kind::Stream, Kind::Datagrams];
    for from in kinds {
        for to in kinds {
            let mut world = World::new(&SessionConfig::default(), 1);
            let mut oracle = Oracle::new(1);
            world.connect(0, from, good());
            longest_pause(&mut world, &mut oracle, ms(200));
            world.connect(0, to, good());
            let pause = longest_pause(&mut world, &mut oracle, ms(500));
            assert!(pause <= 2 * LATENCY, "{from:?} to {to:?}: {pause:?}");
            let moved = |event: &Event| matches!(event, Event::Moved { .. });
            assert!(world.sides[0].events.iter().any(moved));
            assert_eq!(world.paths.len(), 1, "the old one is let go");
            let complete = world.run(ms(1000), |world| {
                oracle.look(&world.sides[1]).expect("exactly once");
                oracle.is_complete()
            });
            assert!(complete, "{from:?} to {to:?}");
        }
    }
}

fn redundant() -> SessionConfig {
    let lane = |redundant| LaneConfig {
        redundant,
        ..LaneConfig::default()
    };
    SessionConfig {
        lanes: vec![lane(true), lane(false)],
        ..SessionConfig::default()
    }
}

#[test]
fn with_two_paths_the_end_of_either_is_not_noticed_on_a_redundant_lane() {
    for kinds in [
        [Kind::Streams, Kind::Stream],
        [Kind::Stream, Kind::Datagrams],
        [Kind::Datagrams, Kind::Datagrams],
    ] {
        for silent in [false, true] {
            for victim in 0..2 {
                let mut world = World::new(&redundant(), 1);
                let mut oracle = Oracle::new(2);
                let ids = kinds.map(|kind| world.connect(0, kind, good()));
                longest_pause(&mut world, &mut oracle, ms(300));
                let events_before = world.sides[1].events.len();
                if silent {
                    let path = world.path(ids[victim]).expect("it is there");
                    path.set(Conditions {
                        cut: true,
                        ..good()
                    });
                } else {
                    world.cut(ids[victim]);
                }
                let pause = longest_pause(&mut world, &mut oracle, ms(6000));
                assert!(
                    pause <= ms(2),
                    "{kinds:?}, {victim} cut (silently: {silent}): {pause:?} without a message"
                );
                let events = &world.sides[1].events[events_before..];
                let lost = |event: &Event| matches!(event, Event::Detached { .. });
                assert!(!events.iter().any(lost), "{events:?}");
                let alone = |event: &Event| matches!(event, Event::Redundant { attachment: None });
                assert!(events.iter().any(alone), "{events:?}");
            }
        }
    }
}

#[test]
fn a_lane_that_is_not_redundant_goes_over_one_path_only() {
    let mut world = World::new(&redundant(), 1);
    world.connect(0, Kind::Stream, good());
    world.connect(0, Kind::Stream, good());
    world.pass(ms(500));
    for lane in [0, 1] {
        world.sides[0].send(lane, vec![1; 10_000]).expect("room");
    }
    world.pass(ms(500));
    let stats = world.sides[1].session.stats();
    assert_eq!(stats.messages_received, 2);
    assert_eq!(
        stats.bytes_repeated,
        10_000 + 2,
        "the redundant message came twice"
    );
}

#[test]
fn a_loss_on_one_lane_does_not_hold_another_over_datagrams() {
    // Lane 0 is lost now and then; that does not delay the other lane's messages in the same flight.
    let config = SessionConfig {
        lanes: vec![LaneConfig::default(); 2],
        ..SessionConfig::default()
    };
    let mut world = World::new(&config, 3);
    let path = world.connect(0, Kind::Datagrams, good());
    world.pass(ms(500));
    let cut = |world: &mut World, cut| {
        let conditions = Conditions { cut, ..good() };
        world.path(path).expect("it is there").links[0].set(conditions);
    };
    for round in 0..50 {
        world.sides[0].send(0, vec![round; 100]).expect("room");
        cut(&mut world, true);
        world.pass(Duration::ZERO);
        cut(&mut world, false);
        world.sides[0].send(1, vec![round; 100]).expect("room");
        let sent = world.elapsed();
        let arrived = world.run(ms(2000), |world| {
            world.sides[1].payloads(1).count() == usize::from(round) + 1
        });
        assert!(arrived);
        assert_eq!(world.elapsed() - sent, LATENCY, "round {round}");
        assert_eq!(world.sides[1].payloads(0).count(), usize::from(round));
        let repaired = world.run(ms(2000), |world| {
            world.sides[1].payloads(0).count() == usize::from(round) + 1
        });
        assert!(repaired);
    }
}

#[test]
fn n15_a_stalled_reader_on_one_lane_does_not_slow_the_others() {
    let moved = |stalled: bool, kind| {
        let config = SessionConfig {
            lanes: vec![LaneConfig::default(); 3],
            ..SessionConfig::default()
        };
        let mut world = World::new(&config, 1);
        let conditions = Conditions {
            rate: Some(10_000_000),
            ..good()
        };
        world.connect(0, kind, conditions);
        if stalled {
            world.sides[1].stalled.push(LaneId::FIRST);
        }
        let end = ms(5000);
        while world.elapsed() < end {
            for lane in 0..3 {
                while world.sides[0].send(lane, vec![0; 4000]).is_ok() {}
            }
            world.pass(ms(5));
        }
        [1, 2].map(|lane| world.sides[1].payloads(lane).count())
    };
    for kind in [Kind::Stream, Kind::Streams, Kind::Datagrams] {
        let (with, without) = (moved(true, kind), moved(false, kind));
        for (with, without) in with.into_iter().zip(without) {
            assert!(with * 100 >= without * 95, "{kind:?}: {with} of {without}");
        }
    }
}

#[test]
fn n11_best_effort_messages_are_counted_exactly_whatever_the_weather() {
    let lane = LaneConfig {
        delivery: Delivery::BestEffort,
        ..LaneConfig::default()
    };
    let config = SessionConfig {
        lanes: vec![lane],
        ..SessionConfig::default()
    };
    for seed in 0..50 {
        let mut world = World::new(&config, seed);
        let weather = Conditions {
            loss: 0.1,
            burst: Some(Burst {
                begins: 0.01,
                length: 20.0,
            }),
            reorder: 0.05,
            duplicate: 0.05,
            corrupt: 0.02,
            jitter: ms(5),
            ..good()
        };
        let path = world.connect(0, Kind::Datagrams, weather);
        for number in 0..2000_u32 {
            world.sides[0]
                .send(0, number.to_be_bytes().to_vec())
                .expect("always");
            world.pass(ms(1));
        }
        world
            .path(path)
            .map(|path| path.set(good()))
            .expect("still there");
        world.pass(ms(1000));
        // The last one contains the number of those before.
        world.sides[0]
            .send(0, 2000_u32.to_be_bytes().to_vec())
            .expect("always");
        world.pass(ms(1000));
        let received = &world.sides[1].received;
        let numbers: Vec<&[u8]> = received
            .iter()
            .map(|message| &message.payload[..])
            .collect();
        assert!(numbers.is_sorted() && numbers.windows(2).all(|two| two[0] != two[1]));
        assert_eq!(
            numbers.last(),
            Some(&&2000_u32.to_be_bytes()[..]),
            "seed {seed}"
        );
        let (sent, got) = (
            world.sides[0].session.stats(),
            world.sides[1].session.stats(),
        );
        assert_eq!(sent.best_effort_sent + sent.best_effort_dropped, 2001);
        assert_eq!(
            got.messages_received + got.best_effort_lost,
            2001,
            "seed {seed}"
        );
    }
}

#[test]
fn n10_when_the_path_swallows_large_datagrams_there_is_progress_within_three_seconds() {
    for mtu in [1280, 600] {
        let mut world = World::new(&SessionConfig::default(), 1);
        let mut oracle = Oracle::new(1);
        let path = world.connect(0, Kind::Datagrams, good());
        longest_pause(&mut world, &mut oracle, ms(300));
        let narrow = Conditions { mtu, ..good() };
        world.path(path).expect("it is there").set(narrow);
        let before = world.elapsed();
        for _ in 0..100 {
            oracle.send(&mut world.sides[0], 0, 5000).expect("a lane");
        }
        let arrived = world.run(ms(3000), |world| {
            oracle.look(&world.sides[1]).expect("exactly once");
            oracle.is_complete()
        });
        let took = world.elapsed() - before;
        println!("{mtu}: {took:?}");
        assert!(arrived, "{mtu}: nothing within 3 s");
        assert_eq!(world.paths.len(), 1, "{mtu}: over the same path");
    }
}

#[test]
fn n11_a_blackout_of_five_seconds_and_a_slow_satellite_lose_nothing() {
    for kind in [Kind::Stream, Kind::Streams, Kind::Datagrams] {
        let far = Conditions {
            latency: ms(375),
            ..good()
        };
        let mut world = World::new(&SessionConfig::default(), 1);
        let mut oracle = Oracle::new(1);
        let path = world.connect(0, kind, far);
        for _ in 0..200 {
            oracle.send(&mut world.sides[0], 0, 1000).expect("a lane");
        }
        world.pass(ms(900));
        let dark = Conditions { cut: true, ..far };
        world.path(path).expect("it is there").set(dark);
        world.pass(ms(5000));
        assert!(
            world.sides[0].session.current().is_none(),
            "noticed after 3 s"
        );
        world.connect(1, kind, far);
        let complete = world.run(ms(20_000), |world| {
            oracle.look(&world.sides[1]).expect("exactly once");
            oracle.is_complete()
        });
        assert!(complete, "{kind:?}");
    }
}

#[test]
fn s7_a_leap_of_the_clock_costs_a_path_at_most_and_no_message() {
    for leap in [
        ms(2_000),
        Duration::from_secs(86_400),
        Duration::from_secs(365 * 86_400),
    ] {
        let mut world = World::new(&SessionConfig::default(), 1);
        let mut oracle = Oracle::new(1);
        world.connect(0, Kind::Datagrams, good());
        longest_pause(&mut world, &mut oracle, ms(200));
        world.leap(leap);
        longest_pause(&mut world, &mut oracle, ms(200));
        if world.paths.is_empty() {
            world.connect(1, Kind::Datagrams, good());
        }
        let complete = world.run(ms(5000), |world| {
            oracle.look(&world.sides[1]).expect("exactly once");
            oracle.is_complete()
        });
        assert!(complete, "{leap:?}");
    }
}

#[test]
fn best_effort_messages_that_nobody_reads_cost_no_more_than_their_buffer() {
    let lane = LaneConfig {
        delivery: Delivery::BestEffort,
        ..LaneConfig::default()
    };
    let config = SessionConfig {
        lanes: vec![lane],
        best_effort_buffer: 10_000,
        ..SessionConfig::default()
    };
    let mut world = World::new(&config, 1);
    world.connect(0, Kind::Datagrams, good());
    world.pass(ms(500));
    world.sides[1].stalled.push(LaneId::FIRST);
    for _ in 0..1000 {
        world.sides[0].send(0, vec![0; 998]).expect("always");
        world.pass(ms(1));
    }
    world.pass(ms(500));
    let stats = *world.sides[1].session.stats();
    assert_eq!((stats.messages_received, stats.best_effort_lost), (10, 990));
    world.sides[1].stalled.clear();
    world.pass(ms(1));
    assert_eq!(world.sides[1].received.len(), 10);
    world.sides[0].send(0, vec![0; 998]).expect("always");
    world.pass(ms(500));
    assert_eq!(world.sides[1].received.len(), 11, "there is room again");
}

#[test]
fn an_orderly_close_over_a_bad_path_leaves_nothing_in_doubt() {
    for seed in 0..300 {
        let weather = Conditions {
            loss: 0.2,
            reorder: 0.2,
            duplicate: 0.1,
            ..good()
        };
        let mut world = World::new(&SessionConfig::default(), seed);
        let path = world.connect(0, Kind::Datagrams, good());
        world.pass(ms(300));
        world.path(path).expect("it is there").set(weather);
        world.sides[1].send(0, "heard").expect("room");
        let heard = world.run(ms(5000), |world| !world.sides[0].received.is_empty());
        assert!(heard, "seed {seed}");
        // Before it is acknowledged.
        let now = world.now();
        let side = &mut world.sides[0];
        side.session.close(now, &mut side.outbox);
        world.pass(ms(5000));
        for side in &world.sides {
            let ends = side.events.iter().filter_map(|event| match event {
                Event::Closed {
                    reason,
                    undelivered,
                } => Some((*reason, undelivered.len())),
                _ => None,
            });
            let ends: Vec<_> = ends.collect();
            assert_eq!(ends.len(), 1, "seed {seed}: {ends:?}");
            assert_eq!(ends[0].1, 0, "seed {seed}: {ends:?}");
        }
    }
}
