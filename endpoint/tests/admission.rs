//! What a peer may send before the user has admitted it, and that nothing is lost meanwhile.

mod pair;

use bytes::Bytes;
use pair::{Pair, Side};
use selvedge_endpoint::{DetachReason, Event, LaneConfig, LaneId, SessionConfig};

const BUFFER: usize = 1024;

fn config(admission_buffer: Option<usize>) -> SessionConfig {
    SessionConfig {
        lanes: vec![LaneConfig::default(); 2],
        message_max: 20_000,
        receive_window: 4_000,
        admission_buffer,
        ..SessionConfig::default()
    }
}

/// A pair whose second side has not admitted the first one.
fn pair(seed: u64) -> Pair {
    let mut pair = Pair::new(&config(None), seed);
    pair.sides[1] = Side::new(1, &config(Some(BUFFER)), seed + 1);
    pair
}

fn lane(number: u8) -> LaneId {
    LaneId::new(number).expect("a lane")
}

fn admissions(side: &Side) -> usize {
    let events = side.events.iter();
    events.filter(|it| matches!(it, Event::Admitted)).count()
}

#[test]
fn a_peer_has_the_admission_buffer_on_the_first_lane_and_nothing_on_others() {
    let mut pair = pair(1);
    pair.sides[1].reads = false;
    pair.connect(0);
    for byte in 0..100 {
        for lane in 0..2 {
            pair.sides[0].send(lane, vec![byte; 50]).unwrap();
        }
    }
    pair.settle(10_000);
    let untaken = pair.sides[1].session.untaken();
    assert!(untaken > 0 && untaken <= BUFFER as u64 / 2, "{untaken}");
    pair.sides[1].reads = true;
    pair.settle(10_000);
    let arrived = [0, 1].map(|lane| pair.sides[1].payloads(lane).len());
    assert_eq!((arrived, admissions(&pair.sides[1])), ([100, 0], 0));
    pair.sides[1].session.admit(lane(1));
    pair.sides[1].session.admit(lane(0));
    pair.sides[1].session.admit(lane(1));
    pair.settle(10_000);
    let arrived = [0, 1].map(|lane| pair.sides[1].payloads(lane).len());
    assert_eq!((arrived, admissions(&pair.sides[1])), ([100, 100], 1));
}

#[test]
fn a_long_message_ends_the_transport_of_a_peer_that_is_not_admitted() {
    let mut pair = pair(1);
    pair.connect(0);
    let longest = Bytes::from(vec![1; BUFFER / 2]);
    pair.sides[0].send(0, longest.clone()).unwrap();
    pair.settle(10_000);
    assert_eq!(pair.sides[1].payloads(0), [longest]);
    let too_long = Bytes::from(vec![2; BUFFER / 2 + 1]);
    pair.sides[0].send(0, too_long.clone()).unwrap();
    pair.settle(10_000);
    let is_refused = pair.sides[1].events.iter().any(|event| {
        let reason = DetachReason::Misbehaved {
            what: "sent a message longer than the limit",
        };
        matches!(event, Event::Detached { reason: found } if found.to_string() == reason.to_string())
    });
    assert!(is_refused, "{:?}", pair.sides[1].events);
    pair.sides[1].session.admit(lane(0));
    pair.connect(0);
    pair.settle(10_000);
    assert_eq!(pair.sides[1].payloads(0).last(), Some(&too_long));
}

#[test]
fn a_session_without_an_admission_buffer_needs_no_admission() {
    let mut pair = Pair::new(&config(None), 1);
    pair.connect(0);
    pair.sides[0].send(1, vec![1; 20_000]).unwrap();
    pair.sides[1].session.admit(lane(1));
    pair.settle(10_000);
    assert_eq!(pair.sides[1].payloads(1).len(), 1);
    assert_eq!(admissions(&pair.sides[1]), 0);
}

#[test]
fn only_admitted_lanes_have_the_full_limits_also_those_that_this_side_does_not_use() {
    let receiver = SessionConfig {
        lanes: vec![LaneConfig::default()],
        ..config(Some(BUFFER))
    };
    let mut pair = pair(1);
    pair.sides[1] = Side::new(1, &receiver, 7);
    pair.connect(0);
    let message = Bytes::from(vec![1; 10_000]);
    pair.sides[0].send(1, message.clone()).unwrap();
    pair.settle(10_000);
    assert!(pair.sides[1].received.is_empty());
    pair.sides[1].session.admit(lane(1));
    pair.settle(10_000);
    assert_eq!(pair.sides[1].payloads(1), [message]);
}

/// Messages are sent while transports come and go, and lanes are admitted at random times.
#[test]
fn whenever_a_peer_is_admitted_every_message_arrives_once() {
    for seed in 0..2000 {
        let mut pair = pair(seed);
        let mut sent = [0_u32; 2];
        for _ in 0..200 {
            match pair.rng.u8(0..24) {
                0 if pair.pipes.len() < 3 => {
                    let dialer = pair.rng.usize(0..2);
                    pair.connect(dialer);
                }
                1 if !pair.pipes.is_empty() => {
                    let at = pair.rng.usize(0..pair.pipes.len());
                    let id = pair.pipes[at].id;
                    pair.cut(id);
                }
                2 => pair.advance(),
                3 if pair.rng.u8(0..8) == 0 => {
                    let admitted = pair.rng.u8(0..2);
                    pair.sides[1].session.admit(lane(admitted));
                }
                4..10 => {
                    let to = pair.rng.usize(0..2);
                    let mut payload = vec![0; pair.rng.usize(4..200)];
                    payload[..4].copy_from_slice(&sent[to].to_le_bytes());
                    pair.sides[0].send(to as u8, payload).unwrap();
                    sent[to] += 1;
                }
                _ => {
                    pair.step();
                }
            }
        }
        for number in 0..2 {
            pair.sides[1].session.admit(lane(number));
        }
        if pair.pipes.is_empty() {
            pair.connect(0);
        }
        pair.settle(100_000);
        if pair.sides[0].session.current().is_none() {
            pair.connect(1);
            pair.settle(100_000);
        }
        for (number, count) in (0..).zip(sent) {
            let payloads = pair.sides[1].payloads(number).into_iter();
            let number_of = |it: Bytes| u32::from_le_bytes(it[..4].try_into().unwrap());
            let numbers: Vec<u32> = payloads.map(number_of).collect();
            let expected: Vec<u32> = (0..count).collect();
            assert_eq!(numbers, expected, "seed {seed}, lane {number}");
        }
        assert_eq!(admissions(&pair.sides[1]), 1, "seed {seed}");
    }
}
