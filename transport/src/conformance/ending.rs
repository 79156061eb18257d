//! Orderly and other ends.

use super::moving::ordered_flows;
use super::node::Node;
use super::world::World;
use super::{Check, Outcome};
use crate::{End, FrameOrder, Phase};

fn until_both_ended(world: &mut World<'_>) {
    world.until("both have ended", |world| {
        world.nodes.iter().all(|node| node.end.is_some())
    });
}

/// The side that closed says so, and the other that its peer did.
pub(super) fn assert_ends(world: &World<'_>) {
    let ends = [&world.nodes[0].end, &world.nodes[1].end];
    let are_right = matches!(ends, [Some(End::Closed), Some(End::PeerClosed)]);
    assert!(are_right, "they ended with {ends:?}");
}

pub(super) const CLOSE_DELIVERS: Check = Check {
    name: "close_delivers_what_was_taken",
    rule: "after close nothing more is taken, what was taken arrives, and then one side ends with \
           Closed and the other with PeerClosed",
    body: |harness| {
        let is_reliable = harness.abilities().reliable;
        let mut world = World::connected(harness);
        let frame_max = world.nodes[0].transport.info().frame_max;
        // More than is taken while the peer does not receive, where that holds the writer up.
        let count = if is_reliable {
            (64 << 20) / frame_max / 33 + 1
        } else {
            1
        };
        world.nodes[1].is_deaf = true;
        for flow in ordered_flows() {
            world.nodes[0].outgoing.put(flow, count, frame_max);
        }
        world.until("something is taken", |world| {
            world.nodes[0].outgoing.taken_len > 0
        });
        world.until_quiet();
        world.nodes[0].close();
        let phase = world.nodes[0].transport.phase();
        assert!(
            phase >= Phase::Closing,
            "the phase is {phase:?} after close"
        );
        world.nodes[1].is_deaf = false;
        until_both_ended(&mut world);
        assert_ends(&world);
        let taken = world.nodes[0].outgoing.taken();
        let arrived = world.nodes[1].incoming.arrived();
        assert!(
            arrived == taken || !is_reliable,
            "{taken:?} frames of each flow were taken, but {arrived:?} arrived"
        );
        Outcome::Kept
    },
};

pub(super) const CLOSE_IDLE: Check = Check {
    name: "close_of_an_idle_connection_ends_both_sides",
    rule: "either side may close a connection on which nothing is going on; closing twice is closing",
    body: |harness| {
        for closer in 0..2 {
            let mut world = World::connected(harness);
            world.until_quiet();
            world.nodes.swap(0, closer);
            world.nodes[0].close();
            world.nodes[0].close();
            until_both_ended(&mut world);
            assert_ends(&world);
        }
        Outcome::Kept
    },
};

pub(super) const CLOSE_BOTH: Check = Check {
    name: "both_sides_may_close_at_once",
    rule: "when both sides close at once, both end in order, and what was taken arrives",
    body: |harness| {
        let is_reliable = harness.abilities().reliable;
        let mut world = World::connected(harness);
        for node in &mut world.nodes {
            node.outgoing.put(FrameOrder::Lane(1), 5, 1000);
        }
        world.until("all is taken", |world| {
            world.nodes.iter().all(|node| node.outgoing.waiting() == 0)
        });
        world.nodes.iter_mut().for_each(Node::close);
        until_both_ended(&mut world);
        for (at, node) in world.nodes.iter().enumerate() {
            let end = &node.end;
            assert!(
                matches!(end, Some(End::Closed | End::PeerClosed)),
                "it ended with {end:?}"
            );
            let taken = world.nodes[1 - at].outgoing.taken();
            assert!(
                node.incoming.arrived() == taken || !is_reliable,
                "frames were lost"
            );
        }
        Outcome::Kept
    },
};

pub(super) const CLOSE_EARLY: Check = Check {
    name: "close_before_open_ends_it",
    rule: "a transport that is closed during its handshake ends with Closed, and moves no frame",
    body: |harness| {
        let mut world = World::new(harness);
        world.dial(None);
        world.nodes[0].outgoing.put(FrameOrder::Control, 1, 0);
        world.nodes[0].close();
        world.until("it has ended", |world| world.nodes[0].end.is_some());
        let end = &world.nodes[0].end;
        assert!(matches!(end, Some(End::Closed)), "it ended with {end:?}");
        assert!(world.nodes[0].outgoing.taken_len == 0, "a frame was taken");
        world.until("the other has ended, if there is one", |world| {
            world.nodes.iter().all(|node| node.end.is_some())
        });
        Outcome::Kept
    },
};

pub(super) const VANISHED: Check = Check {
    name: "a_vanished_peer_ends_the_other_side",
    rule: "when a peer is gone without a word, the other side ends by itself, and not with Closed",
    body: |harness| {
        for survivor in 0..2 {
            let mut world = World::connected(harness);
            world.until_quiet();
            world.drop_node(1 - survivor);
            world.until("the other has ended", |world| {
                let outgoing = &mut world.nodes[0].outgoing;
                // As a session's heartbeats: some transports notice only what they send.
                if outgoing.waiting() == 0 {
                    outgoing.put(FrameOrder::Control, 1, 20);
                }
                world.nodes[0].end.is_some()
            });
            let end = &world.nodes[0].end;
            assert!(!matches!(end, Some(End::Closed)), "it ended with {end:?}");
        }
        Outcome::Kept
    },
};
