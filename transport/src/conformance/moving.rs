//! Frames on their way.

use std::time::Duration;

use bytes::Bytes;

use super::load::LABEL_LEN;
use super::world::World;
use super::{Check, Outcome};
use crate::{Frame, FrameHeader, FrameOrder, LANES_MAX};

pub(super) const UNRELIABLE: Outcome = Outcome::Skipped("it may lose and reorder frames");

/// The flows that keep their order: control and all lanes.
pub(super) fn ordered_flows() -> impl Iterator<Item = FrameOrder> {
    let lanes = (0..u8::MAX).take(LANES_MAX).map(FrameOrder::Lane);
    std::iter::once(FrameOrder::Control).chain(lanes)
}

pub(super) const LENGTHS: Check = Check {
    name: "frames_of_every_length_arrive_whole",
    rule: "a frame of any length from 1 to frame_max arrives whole, however it is divided into head \
           and body",
    body: |harness| {
        let mut world = World::connected(harness);
        let frame_max = world.nodes[0].transport.info().frame_max;
        let mut lens: Vec<usize> = (1..40).collect();
        for near in [255, 1200, 4096, 16_384, 65_535] {
            lens.extend(near - 30..near + 10);
        }
        lens.extend([frame_max - 1, frame_max, 1, frame_max]);
        lens.retain(|&len| (1..=frame_max).contains(&len));
        world.nodes[1].incoming.kept = Some(Vec::new());
        for (number, len) in lens.into_iter().enumerate() {
            let bytes: Bytes = (0..len)
                .map(|i| (i ^ (i >> 8) ^ number).to_le_bytes()[0])
                .collect::<Vec<u8>>()
                .into();
            let head_len = (number % 4 * 7).min(len).min(FrameHeader::CAPACITY);
            deliver(&mut world, &bytes, head_len);
        }
        Outcome::Kept
    },
};

/// Sends one frame from 0 to 1 until it has arrived; once, where that is reliable.
fn deliver(world: &mut World<'_>, bytes: &Bytes, head_len: usize) {
    let mut head = FrameHeader::EMPTY;
    head.extend(&bytes[..head_len]);
    let frame = Frame {
        flow: FrameOrder::Lane(3),
        head,
        body: bytes.slice(head_len..),
    };
    let is_reliable = world.nodes[0].transport.info().reliable;
    world.nodes[0].outgoing.put_frame(frame.clone());
    world.until("the frame has arrived", |world| {
        if !is_reliable && world.nodes[0].outgoing.waiting() == 0 {
            world.nodes[0].outgoing.put_frame(frame.clone());
        }
        let kept = world.nodes[1].incoming.kept.as_mut();
        let Some(last) = kept.and_then(Vec::pop) else {
            return false;
        };
        // An unreliable transport may still bring an earlier one.
        let is_it = last == *bytes;
        assert!(
            is_it || !is_reliable,
            "a frame of {} bytes arrived as another, of {}",
            bytes.len(),
            last.len()
        );
        is_it
    });
}

pub(super) const ORDER: Check = Check {
    name: "flows_keep_their_order",
    rule: "all frames of a flow arrive, once and in the order in which they were taken, while all \
           flows are in use and their frames of many lengths",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut world = World::connected(harness);
        let frame_max = world.nodes[0].transport.info().frame_max;
        for round in 0..40 {
            for (at, flow) in ordered_flows().enumerate() {
                let len = [LABEL_LEN, 64, 700, 4090, 9000, frame_max][(round + at * 5) % 6];
                world.nodes[at % 2].outgoing.put(flow, 1 + at % 3, len);
                world.nodes[1 - at % 2].outgoing.put(flow, 1, 100);
            }
            world.turn(Duration::ZERO);
        }
        until_all_arrived(&mut world);
        Outcome::Kept
    },
};

/// Waits until each has received what the other has taken, and the other has taken everything.
pub(super) fn until_all_arrived(world: &mut World<'_>) {
    world.until("all frames have arrived", |world| {
        let [a, b] = &world.nodes[..] else {
            return false;
        };
        a.outgoing.waiting() + b.outgoing.waiting() == 0
            && a.incoming.arrived() == b.outgoing.taken()
            && b.incoming.arrived() == a.outgoing.taken()
    });
    // Nothing comes behind them.
    world.until_quiet();
    for (to, from) in [(0, 1), (1, 0)] {
        let received = world.nodes[to].incoming.arrived();
        assert!(received == world.nodes[from].outgoing.taken());
    }
}

pub(super) const SMALL_FRAMES: Check = Check {
    name: "many_small_frames_arrive",
    rule: "tens of thousands of small frames arrive, all and in order",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut world = World::connected(harness);
        for flow in [
            FrameOrder::Lane(0),
            FrameOrder::Lane(7),
            FrameOrder::Control,
        ] {
            world.nodes[0].outgoing.put(flow, 12_000, 40);
            world.nodes[1].outgoing.put(flow, 3_000, LABEL_LEN);
        }
        until_all_arrived(&mut world);
        Outcome::Kept
    },
};

pub(super) const FULL_LOAD: Check = Check {
    name: "both_directions_at_full_load_do_not_block_each_other",
    rule: "both sides send far more than any buffer holds at the same time, and all of it arrives",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut world = World::connected(harness);
        let frame_max = world.nodes[0].transport.info().frame_max;
        for node in &mut world.nodes {
            for lane in 0..4 {
                node.outgoing
                    .put(FrameOrder::Lane(lane), 400, frame_max - usize::from(lane));
            }
            node.outgoing.put(FrameOrder::Control, 400, 30);
        }
        until_all_arrived(&mut world);
        Outcome::Kept
    },
};

pub(super) const DRY_SOURCE: Check = Check {
    name: "a_source_that_ran_dry_is_asked_again",
    rule: "a source that had nothing is asked again by the next call of send, and one frame needs no \
           other to follow it",
    body: |harness| {
        let mut world = World::connected(harness);
        for number in 0..200 {
            let (from, to) = (number % 2, 1 - number % 2);
            let before = world.nodes[to].incoming.count;
            world.nodes[from]
                .outgoing
                .put(FrameOrder::Lane(0), 1, 50 + number);
            // Loopback loses nothing while its buffers are empty.
            world.until("the frame has arrived", |world| {
                world.nodes[to].incoming.count > before
            });
        }
        Outcome::Kept
    },
};

pub(super) const BACKPRESSURE: Check = Check {
    name: "a_reader_that_stops_stops_the_writer",
    rule: "while its peer does not receive, a transport takes a bounded amount and stops asking; \
           when the peer receives again, it goes on by itself",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut world = World::connected(harness);
        let frame_max = world.nodes[0].transport.info().frame_max;
        let frames = HELD_LEN_MAX / frame_max + 1;
        world.nodes[1].is_deaf = true;
        world.nodes[0]
            .outgoing
            .put(FrameOrder::Lane(0), frames, frame_max);
        world.until_quiet();
        let taken = world.nodes[0].outgoing.taken_len;
        assert!(
            world.nodes[0].outgoing.waiting() > 0,
            "all of {taken} bytes were taken though nobody receives"
        );
        world.nodes[1].is_deaf = false;
        until_all_arrived(&mut world);
        Outcome::Kept
    },
};

/// No transport may take more than this for a peer that does not receive; kernels hold up to
/// 32 MiB of it (`net.ipv4.tcp_rmem`).
const HELD_LEN_MAX: usize = 96 << 20;

pub(super) const DATAGRAMS: Check = Check {
    name: "datagrams_arrive_where_there_are_any",
    rule: "datagrams up to datagram_max arrive whole, or not at all",
    body: |harness| {
        if !harness.abilities().datagrams {
            return Outcome::Skipped("it has no datagrams");
        }
        let mut world = World::connected(harness);
        world.until_quiet();
        for number in 0..100 {
            let (from, to) = (number % 2, 1 - number % 2);
            let max = world.nodes[from].transport.info().datagram_max;
            let len = [max, max - 1, LABEL_LEN, 100][number % 4];
            let before = world.nodes[to].incoming.count;
            world.until("a datagram has arrived", |world| {
                if world.nodes[from].outgoing.waiting() == 0 {
                    world.nodes[from].outgoing.put(FrameOrder::Datagram, 1, len);
                }
                world.nodes[to].incoming.count > before
            });
        }
        Outcome::Kept
    },
};
