//! How it is driven: events, budgets, timers, polls.

use std::time::{Duration, Instant};

use super::ending::assert_ends;
use super::moving::{UNRELIABLE, ordered_flows, until_all_arrived};
use super::world::World;
use super::{Check, Outcome};
use crate::{FRAME_LEN_MAX, FrameOrder, Phase};

pub(super) const IDLE: Check = Check {
    name: "idle_is_idle",
    rule: "with nothing to do, recv and send say Idle, no timer is due and no event comes",
    body: |harness| {
        let mut world = World::connected(harness);
        world.nodes[0].outgoing.put(FrameOrder::Lane(0), 10, 1000);
        world.until_quiet();
        Outcome::Kept
    },
};

/// By how much a call may exceed its budget: a batch of datagrams, or a frame, begun within it.
const EXCESS_MAX: usize = 4 * FRAME_LEN_MAX;

pub(super) const BUDGET: Check = Check {
    name: "the_budget_is_respected",
    rule: "a call of recv moves about as much as its budget and no more, and says More when it stops \
           for that",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut world = World::connected(harness);
        let frame_max = world.nodes[0].transport.info().frame_max;
        // A kernel holds more for a reader that was busy: more than one call may read.
        world.nodes[0]
            .outgoing
            .put(FrameOrder::Lane(0), 300, frame_max);
        until_all_arrived(&mut world);
        world.nodes[1].received_max = 0;
        world.nodes[1].more_count = 0;
        // What has arrived while nobody received would all come at once.
        world.nodes[1].is_deaf = true;
        world.nodes[0]
            .outgoing
            .put(FrameOrder::Lane(0), 300, frame_max);
        world.nodes[0]
            .outgoing
            .put(FrameOrder::Lane(1), 300, frame_max);
        world.until_quiet();
        world.budget = 16 * 1024;
        world.nodes[1].is_deaf = false;
        until_all_arrived(&mut world);
        let (most, more) = (world.nodes[1].received_max, world.nodes[1].more_count);
        assert!(more > 0, "no call said More");
        assert!(
            most <= world.budget + EXCESS_MAX,
            "one call received {most} bytes with a budget of {}",
            world.budget
        );
        Outcome::Kept
    },
};

pub(super) const SMALLEST_BUDGET: Check = Check {
    name: "the_smallest_budget_moves_frames",
    rule: "a budget of one byte is slow, but everything arrives",
    body: |harness| {
        let mut world = World::connected(harness);
        world.budget = 1;
        let is_reliable = harness.abilities().reliable;
        let frame_max = world.nodes[0].transport.info().frame_max;
        for node in &mut world.nodes {
            node.outgoing.put(FrameOrder::Lane(0), 20, 20);
            node.outgoing
                .put(FrameOrder::Lane(1), 2, frame_max.min(5_000));
        }
        if is_reliable {
            until_all_arrived(&mut world);
        } else {
            world.until_quiet();
            assert!(world.nodes.iter().all(|node| node.incoming.count > 0));
        }
        Outcome::Kept
    },
};

pub(super) const TIMERS: Check = Check {
    name: "timers_may_be_asked_and_called_at_any_time",
    rule: "timeout and on_timeout may be called at any time, also too early, and change nothing then",
    body: |harness| {
        let mut world = World::new(harness);
        world.dial(None);
        let call = |world: &mut World<'_>| {
            let now = Instant::now();
            for node in &mut world.nodes {
                let before = node.transport.timeout();
                if node.end.is_none() && before.is_none_or(|at| at > now) {
                    node.transport.on_timeout(now);
                }
            }
        };
        world.until("both sides are open", |world| {
            call(world);
            let is_open = |node: &super::node::Node| node.transport.phase() == Phase::Open;
            world.nodes.len() == 2 && world.nodes.iter().all(is_open)
        });
        let is_reliable = harness.abilities().reliable;
        for node in &mut world.nodes {
            let count = if is_reliable { 500 } else { 20 };
            node.outgoing.put(FrameOrder::Lane(0), count, 1000);
        }
        world.until("frames have arrived", |world| {
            call(world);
            let is_done =
                |node: &super::node::Node| node.incoming.count >= if is_reliable { 500 } else { 1 };
            world.nodes.iter().all(is_done)
        });
        world.nodes[0].close();
        world.until("both have ended", |world| {
            call(world);
            world.nodes.iter().all(|node| node.end.is_some())
        });
        assert_ends(&world);
        Outcome::Kept
    },
};

pub(super) const MOVES_POLL: Check = Check {
    name: "moving_to_another_poll_under_load_loses_nothing",
    rule: "a transport that is taken from one poll and put on another, again and again in mid-stream, \
           loses, repeats and reorders nothing",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut world = World::connected(harness);
        let frame_max = world.nodes[0].transport.info().frame_max;
        for node in &mut world.nodes {
            for (at, flow) in ordered_flows().enumerate() {
                let len = [40, 900, 8_000, frame_max][at % 4];
                node.outgoing.put(flow, 60, len);
            }
        }
        let mut turns = 0;
        world.until("all is taken", |world| {
            turns += 1;
            if turns % 3 == 0 {
                world.move_node(turns / 3 % 2);
            }
            world.nodes.iter().all(|node| node.outgoing.waiting() == 0)
        });
        for at in 0..2 {
            if world.nodes[at].poll == 1 {
                world.move_node(at);
            }
        }
        until_all_arrived(&mut world);
        Outcome::Kept
    },
};

pub(super) const MOVES_BLOCKED: Check = Check {
    name: "moving_to_another_poll_while_blocked_loses_nothing",
    rule: "a transport that is moved while it is blocked goes on when its peer receives again",
    body: |harness| {
        if !harness.abilities().reliable {
            return UNRELIABLE;
        }
        let mut world = World::connected(harness);
        let frame_max = world.nodes[0].transport.info().frame_max;
        world.nodes[1].is_deaf = true;
        world.nodes[0]
            .outgoing
            .put(FrameOrder::Lane(0), (64 << 20) / frame_max, frame_max);
        world.until_quiet();
        // The writer is moved while it waits, the reader while it has not read.
        world.move_node(0);
        world.turn(Duration::ZERO);
        world.move_node(1);
        world.turn(Duration::ZERO);
        world.nodes[1].is_deaf = false;
        world.until("all is taken", |world| {
            world.nodes[0].outgoing.waiting() == 0
        });
        world.move_node(0);
        world.move_node(1);
        until_all_arrived(&mut world);
        Outcome::Kept
    },
};
