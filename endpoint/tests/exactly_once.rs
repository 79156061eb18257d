//! Every message arrives exactly once and in order, whatever happens to the transports.

mod pair;

use bytes::Bytes;
use pair::Pair;
use selvedge_endpoint::{LaneConfig, SendError, SessionConfig};

/// A message with its lane and its number, padded to `len` bytes.
fn numbered(lane: u8, number: u32, len: usize) -> Bytes {
    let mut payload = vec![lane; len.max(5)];
    payload[1..5].copy_from_slice(&number.to_le_bytes());
    payload.into()
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_le_bytes(payload[1..5].try_into().expect("four bytes"))
}

fn config(lanes: usize) -> SessionConfig {
    let lane = |number| LaneConfig {
        priority: number as u8 / 2,
        ..LaneConfig::default()
    };
    SessionConfig {
        lanes: (0..lanes).map(lane).collect(),
        message_max: 20_000,
        send_buffer: 30_000,
        receive_window: 4_000,
        ..SessionConfig::default()
    }
}

/// Sends random messages both ways while transports are attached, cut and overlap, from one seed.
fn run_scenario(seed: u64) {
    let lanes = 3;
    let mut pair = Pair::new(&config(lanes), seed);
    let mut sent = [[0_u32; 3]; 2];
    for _ in 0..600 {
        match pair.rng.u8(0..20) {
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
            3 => {
                let side = pair.rng.usize(0..2);
                pair.sides[side].reads = !pair.sides[side].reads;
            }
            4..10 => {
                let (side, lane) = (pair.rng.usize(0..2), pair.rng.usize(0..lanes));
                let len = if pair.rng.u8(0..10) == 0 {
                    10_000
                } else {
                    pair.rng.usize(5..300)
                };
                let message = numbered(lane as u8, sent[side][lane], len);
                match pair.sides[side].send(lane as u8, message) {
                    Ok(()) => sent[side][lane] += 1,
                    Err(SendError::Full(_)) => {}
                    Err(other) => panic!("seed {seed}: {other}"),
                }
            }
            _ => {
                pair.step();
            }
        }
    }
    pair.sides.iter_mut().for_each(|side| side.reads = true);
    if pair.pipes.is_empty() {
        pair.connect(0);
    }
    pair.settle(100_000);
    if pair.sides[0].session.current().is_none() {
        pair.connect(1);
        pair.settle(100_000);
    }
    for (from, lanes_sent) in sent.iter().enumerate() {
        for (lane, &count) in lanes_sent.iter().enumerate() {
            let payloads = pair.sides[1 - from].payloads(lane as u8);
            let numbers: Vec<u32> = payloads.iter().map(|payload| number_of(payload)).collect();
            let expected: Vec<u32> = (0..count).collect();
            assert_eq!(numbers, expected, "seed {seed}, side {from}, lane {lane}");
        }
        assert_eq!(
            pair.sides[from].session.unacknowledged(),
            0,
            "seed {seed}: messages are retained"
        );
        assert_eq!(
            pair.sides[from].send_buffer.used(),
            0,
            "seed {seed}: the send buffer is not empty"
        );
    }
}

#[test]
fn over_transports_that_are_attached_cut_and_overlap() {
    for seed in 0..3000 {
        run_scenario(seed);
    }
}

#[test]
fn n3_when_the_transport_is_cut_at_every_point_of_an_exchange() {
    let script = |pair: &mut Pair, cut_after: usize| {
        pair.connect(0);
        for number in 0..20 {
            pair.sides[0].send(0, numbered(0, number, 300)).unwrap();
            pair.sides[1].send(0, numbered(0, number, 30)).unwrap();
        }
        for _ in 0..cut_after {
            pair.step();
        }
        if let Some(pipe) = pair.pipes.first() {
            let id = pipe.id;
            pair.cut(id);
        }
        pair.connect(1);
        pair.settle(100_000);
    };
    for cut_after in 0..150 {
        let mut pair = Pair::new(&config(1), cut_after as u64);
        script(&mut pair, cut_after);
        for side in 0..2 {
            let numbers: Vec<_> = pair.sides[side]
                .payloads(0)
                .iter()
                .map(|p| number_of(p))
                .collect();
            assert_eq!(
                numbers,
                (0..20).collect::<Vec<_>>(),
                "cut after {cut_after} steps"
            );
        }
    }
}
