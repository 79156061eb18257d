//! Messages that are kept, refused or dropped while the peer is unreachable.

use std::time::Duration;

use selvedge_endpoint::{Event, LaneConfig, OfflinePolicy, SendError, SessionConfig};
use selvedge_testkit::{Conditions, Kind, World};

const BUFFER: u64 = 10_000;

fn world(offline_policy: OfflinePolicy) -> World {
    let config = SessionConfig {
        lanes: vec![LaneConfig::default(); 2],
        send_buffer: BUFFER,
        offline_policy,
        ..SessionConfig::default()
    };
    World::new(&config, 1)
}

fn numbered(number: u32) -> Vec<u8> {
    let mut payload = vec![0; 98];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

fn numbers(world: &World, side: usize) -> Vec<u32> {
    let payloads = world.sides[side].payloads(0);
    let read = |payload: &[u8]| payload.first_chunk().map(|head| u32::from_be_bytes(*head));
    payloads.filter_map(|payload| read(payload)).collect()
}

fn fill(world: &mut World) -> (u32, SendError) {
    for number in 0.. {
        if let Err(refused) = world.sides[0].send(0, numbered(number)) {
            return (number, refused);
        }
    }
    unreachable!("a buffer has an end");
}

#[test]
fn a_sender_waits_or_is_refused_when_the_buffer_is_full_and_nothing_accepted_is_lost() {
    for (policy, is_refused) in [(OfflinePolicy::Wait, false), (OfflinePolicy::Refuse, true)] {
        let mut world = world(policy);
        let (accepted, refused) = fill(&mut world);
        assert_eq!(u64::from(accepted), BUFFER / 100);
        assert_eq!(
            matches!(refused, SendError::Unreachable(_)),
            is_refused,
            "{refused:?}"
        );
        assert!(refused.retry_helps());
        world.sides[0].send(1, "another lane has room").unwrap();
        world.connect(0, Kind::Stream, Conditions::default());
        world.pass(Duration::from_secs(1));
        assert_eq!(numbers(&world, 1), (0..accepted).collect::<Vec<_>>());
        world.sides[0].send(0, numbered(accepted)).unwrap();
    }
}

#[test]
fn n7_the_oldest_make_room_and_are_counted_exactly() {
    for kind in [Kind::Stream, Kind::Datagrams] {
        let mut world = world(OfflinePolicy::DropOldest);
        let sent = 1000;
        for number in 0..sent {
            world.sides[0]
                .send(0, numbered(number))
                .expect("the oldest make room");
            world.pass(Duration::ZERO);
            assert!(world.sides[0].outbox.used() <= 2 * BUFFER);
        }
        world.connect(0, kind, Conditions::default());
        world.pass(Duration::from_secs(1));
        let received = numbers(&world, 1);
        let reported: u64 = world.sides[0]
            .events
            .iter()
            .map(|event| match event {
                Event::Dropped { lane, messages } if lane.number() == 0 => *messages,
                _ => 0,
            })
            .sum();
        assert_eq!(
            received.len() as u64 + reported,
            u64::from(sent),
            "{kind:?}"
        );
        assert_eq!(
            world.sides[0].session.stats().dropped_while_offline,
            reported
        );
        // The youngest, without a gap.
        let first = sent - received.len() as u32;
        assert_eq!(received, (first..sent).collect::<Vec<_>>());
        assert!(received.len() as u64 >= BUFFER / 100 * 3 / 4);
    }
}

#[test]
fn what_may_have_reached_the_peer_is_never_dropped() {
    let mut world = world(OfflinePolicy::DropOldest);
    let far = Conditions {
        latency: Duration::from_millis(50),
        ..Conditions::default()
    };
    let path = world.connect(0, Kind::Stream, far);
    world.pass(Duration::from_secs(1));
    for number in 0..50 {
        world.sides[0].send(0, numbered(number)).unwrap();
    }
    // Everything was sent and nothing is acknowledged.
    world.pass(Duration::from_millis(60));
    world.cut(path);
    for number in 50..1000 {
        world.sides[0].send(0, numbered(number)).unwrap();
        world.pass(Duration::ZERO);
    }
    world.connect(1, Kind::Stream, far);
    world.pass(Duration::from_secs(1));
    let received = numbers(&world, 1);
    assert_eq!(received[..50], (0..50).collect::<Vec<_>>());
    assert_eq!(received.last(), Some(&999));
}

#[test]
fn a_mark_is_settled_when_all_before_it_is_acknowledged_or_reports_what_was_given_up() {
    let mut world = world(OfflinePolicy::Wait);
    world.connect(0, Kind::Stream, Conditions::default());
    world.sides[0].send(0, "one").unwrap();
    world.sides[0].send(1, "two").unwrap();
    let mark = world.sides[0].outbox.mark();
    assert_eq!(world.sides[0].outbox.is_settled(&mark), None);
    let settled = world.run(Duration::from_secs(1), |world| {
        world.sides[0].outbox.is_settled(&mark) == Some(Ok(()))
    });
    assert!(settled && world.sides[1].received.len() == 2);

    let ids: Vec<_> = world.paths.iter().map(selvedge_testkit::Path::id).collect();
    ids.into_iter().for_each(|id| world.cut(id));
    world.sides[0].send(0, "never").unwrap();
    let mark = world.sides[0].outbox.mark();
    world.pass(Duration::ZERO);
    world.sides[0].session.abort();
    world.pass(Duration::ZERO);
    let given_up = world.sides[0]
        .outbox
        .is_settled(&mark)
        .unwrap()
        .unwrap_err();
    assert_eq!(given_up.messages, 1);
}
