//! Checks of the transfer of frames.

use std::time::Duration;

use bytes::Bytes;

use super::frame_generator::LABEL_LEN;
use super::test_bed::TestBed;
use super::{Check, CheckOutcome};
use crate::{Frame, FrameHeader, FrameOrder, LANES_MAX};

pub(super) const UNRELIABLE: CheckOutcome = CheckOutcome::Skipped("it may lose and reorder frames");

/// The orders that are reliable and ordered: control and all lanes.
pub(super) fn ordered_sequences() -> impl Iterator<Item = FrameOrder> {
    let lanes = (0..u8::MAX).take(LANES_MAX).map(FrameOrder::Lane);
    std::iter::once(FrameOrder::Control).chain(lanes)
}

pub(super) const LENGTHS: Check = Check {
    name: "frames_of_every_length_arrive_whole",
    rule: "a frame of any length from 1 to frame_max arrives whole, however it is divided into \
           header and body",
    body: |harness| {
        let mut bed = TestBed::connected(harness);
        let frame_max = bed.transports[0].transport.info().frame_max;
        let mut lens: Vec<usize> = (1..40).collect();
        for near in [255, 1200, 4096, 16_384, 65_535] {
            lens.extend(near - 30..near + 10);
        }
        lens.extend([frame_max - 1, frame_max, 1, frame_max]);
        lens.retain(|&len| (1..=frame_max).contains(&len));
        bed.transports[1].incoming.kept = Some(Vec::new());
        for (number, len) in lens.into_iter().enumerate() {
            let bytes: Bytes = (0..len)
                .map(|i| (i ^ (i >> 8) ^ number).to_le_bytes()[0])
                .collect::<Vec<u8>>()
                .into();
            let head_len = (number % 4 * 7).min(len).min(FrameHeader::CAPACITY);
            deliver(&mut bed, &bytes, head_len);
        }
        CheckOutcome::Kept
    },
};

/// Delivers one frame from transport 0 to 1; on an unreliable transport it is repeated until it
/// arrives.
fn deliver(bed: &mut TestBed<'_>, bytes: &Bytes, head_len: usize) {
    let mut header = FrameHeader::EMPTY;
    header.extend(&bytes[..head_len]);
    let frame = Frame {
        order: FrameOrder::Lane(3),
        header,
        body: bytes.slice(head_len..),
    };
    let is_reliable = bed.transports[0].transport.info().reliable;
    bed.transports[0].outgoing.push(frame.clone());
    bed.until("the frame has arrived", |bed| {
        if !is_reliable && bed.transports[0].outgoing.waiting() == 0 {
            bed.transports[0].outgoing.push(frame.clone());
        }
        let kept = bed.transports[1].incoming.kept.as_mut();
        let Some(last) = kept.and_then(Vec::pop) else {
            return false;
        };
        // An unreliable transport may deliver an earlier frame again.
        let is_it = last == *bytes;
        assert!(
            is_it || !is_reliable,
            "a frame of {} bytes arrived as a different one of {}",
            bytes.len(),
            last.len()
        );
        is_it
    });
}

pub(super) const ORDER: Check = Check {
    name: "frames_of_one_order_arrive_in_order",
    rule: "all frames of one order arrive, once and in the sequence in which they were pulled, while \
           all orders are in use, with frames of many lengths",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut bed = TestBed::connected(harness);
        let frame_max = bed.transports[0].transport.info().frame_max;
        for round in 0..40 {
            for (at, order) in ordered_sequences().enumerate() {
                let len = [LABEL_LEN, 64, 700, 4090, 9000, frame_max][(round + at * 5) % 6];
                bed.transports[at % 2]
                    .outgoing
                    .generate(order, 1 + at % 3, len);
                bed.transports[1 - at % 2].outgoing.generate(order, 1, 100);
            }
            bed.turn(Duration::ZERO);
        }
        until_all_arrived(&mut bed);
        CheckOutcome::Kept
    },
};

/// Waits until all frames are pulled and each side has received all frames of the other.
pub(super) fn until_all_arrived(bed: &mut TestBed<'_>) {
    bed.until("all frames have arrived", |bed| {
        let [a, b] = &bed.transports[..] else {
            return false;
        };
        a.outgoing.waiting() + b.outgoing.waiting() == 0
            && a.incoming.arrived() == b.outgoing.pulled()
            && b.incoming.arrived() == a.outgoing.pulled()
    });
    // No further frames may arrive.
    bed.until_quiet();
    for (to, from) in [(0, 1), (1, 0)] {
        let received = bed.transports[to].incoming.arrived();
        assert!(received == bed.transports[from].outgoing.pulled());
    }
}

pub(super) const SMALL_FRAMES: Check = Check {
    name: "many_small_frames_arrive",
    rule: "tens of thousands of small frames arrive, all and in order",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut bed = TestBed::connected(harness);
        for order in [
            FrameOrder::Lane(0),
            FrameOrder::Lane(7),
            FrameOrder::Control,
        ] {
            bed.transports[0].outgoing.generate(order, 12_000, 40);
            bed.transports[1].outgoing.generate(order, 3_000, LABEL_LEN);
        }
        until_all_arrived(&mut bed);
        CheckOutcome::Kept
    },
};

pub(super) const FULL_LOAD: Check = Check {
    name: "both_directions_at_full_load_do_not_block_each_other",
    rule: "when both sides send far more than any buffer holds at the same time, everything arrives",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut bed = TestBed::connected(harness);
        let frame_max = bed.transports[0].transport.info().frame_max;
        for driven in &mut bed.transports {
            for lane in 0..4 {
                driven.outgoing.generate(
                    FrameOrder::Lane(lane),
                    400,
                    frame_max - usize::from(lane),
                );
            }
            driven.outgoing.generate(FrameOrder::Control, 400, 30);
        }
        until_all_arrived(&mut bed);
        CheckOutcome::Kept
    },
};

pub(super) const EMPTY_SOURCE: Check = Check {
    name: "an_empty_source_is_polled_again",
    rule: "an empty source is polled again by the next call of send, and one frame needs no \
           other to follow it",
    body: |harness| {
        let mut bed = TestBed::connected(harness);
        for number in 0..200 {
            let (from, to) = (number % 2, 1 - number % 2);
            let before = bed.transports[to].incoming.count;
            bed.transports[from]
                .outgoing
                .generate(FrameOrder::Lane(0), 1, 50 + number);
            // Loopback loses no frame while its buffers are empty.
            bed.until("the frame has arrived", |bed| {
                bed.transports[to].incoming.count > before
            });
        }
        CheckOutcome::Kept
    },
};

pub(super) const BACKPRESSURE: Check = Check {
    name: "a_stopped_reader_applies_backpressure",
    rule: "while its peer does not receive, a transport accepts a bounded amount and stops pulling; \
           when the peer receives again, it continues",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut bed = TestBed::connected(harness);
        let frame_max = bed.transports[0].transport.info().frame_max;
        let frames = HELD_LEN_MAX / frame_max + 1;
        bed.transports[1].receive_paused = true;
        bed.transports[0]
            .outgoing
            .generate(FrameOrder::Lane(0), frames, frame_max);
        bed.until_quiet();
        let pulled = bed.transports[0].outgoing.pulled_len;
        assert!(
            bed.transports[0].outgoing.waiting() > 0,
            "all of {pulled} bytes were pulled though the peer does not receive"
        );
        bed.transports[1].receive_paused = false;
        until_all_arrived(&mut bed);
        CheckOutcome::Kept
    },
};

/// The maximum that a transport may accept while its peer does not receive. Kernels buffer up to 32
/// MiB of it (`net.ipv4.tcp_rmem`).
const HELD_LEN_MAX: usize = 96 << 20;

pub(super) const DATAGRAMS: Check = Check {
    name: "datagrams_arrive_whole_or_not_at_all",
    rule: "datagrams of up to datagram_max bytes arrive whole or not at all",
    body: |harness| {
        if !harness.abilities().datagrams {
            return CheckOutcome::Skipped("the transport carries no datagrams");
        }
        let mut bed = TestBed::connected(harness);
        bed.until_quiet();
        for number in 0..100 {
            let (from, to) = (number % 2, 1 - number % 2);
            let max = bed.transports[from].transport.info().datagram_max;
            let len = [max, max - 1, LABEL_LEN, 100][number % 4];
            let before = bed.transports[to].incoming.count;
            bed.until("a datagram has arrived", |bed| {
                if bed.transports[from].outgoing.waiting() == 0 {
                    bed.transports[from]
                        .outgoing
                        .generate(FrameOrder::Datagram, 1, len);
                }
                bed.transports[to].incoming.count > before
            });
        }
        CheckOutcome::Kept
    },
};
