//! Plans: where the messages of one tag and target go until the routes change. Pure.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use selvedge_client::wire::{NodeKey, Policy};

use super::groups::{GroupInstance, RotationCounter, pick};

/// Where the messages of one tag and target go until the routes change.
///
/// A plan selects instances as [`Router::route`](super::Router::route) does, without the router: a
/// connection makes one plan for many messages.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub(super) groups: Vec<GroupPlan>,
    /// The candidates of all groups, group by group.
    pub(super) candidates: Vec<CandidateRoute>,
    pub(super) next_hops: Vec<NextHop>,
}

/// A group that receives the messages.
#[derive(Debug, Clone)]
pub(super) struct GroupPlan {
    pub(super) name: Arc<str>,
    pub(super) policy: Policy,
    pub(super) rotation: RotationCounter,
    /// Each message goes to one of these, or by [`Policy::All`] to all. Never empty.
    pub(super) candidates: Range<usize>,
}

/// An instance that can receive a message, and the next hop to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CandidateRoute {
    /// The function, or its home zipper.
    pub(super) node: NodeKey,
    /// The index of the next hop in the plan.
    pub(super) next_hop: usize,
    /// Whether messages are dropped while it has no room.
    pub(super) drops: bool,
}

/// The peer to which a zipper sends a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHop {
    /// A function that is connected to this zipper.
    Local(NodeKey),
    /// A neighbour, which forwards the copy.
    Via(NodeKey),
}

/// An instance that a [`Plan`] has selected for one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection<'a> {
    /// The index of the next hop in [`Plan::next_hops`].
    pub next_hop: usize,
    /// The name of the function.
    pub name: &'a str,
    /// The function, or its home zipper.
    pub node: NodeKey,
    /// Whether the message is dropped if it has no room; otherwise it waits.
    pub drops: bool,
}

impl Plan {
    /// The index of an instance's next hop, which is added if it is new. A function of this zipper is an
    /// instance of one group only, so only neighbours have to be looked up.
    // As a call it costs 7 % of a plan with 100 functions, and `#[inline]` alone is at times not enough.
    #[inline(always)]
    pub(super) fn next_hop_index(
        &mut self,
        instance: &GroupInstance,
        neighbours: &mut BTreeMap<NodeKey, usize>,
    ) -> usize {
        let (next_hop, new) = (instance.next_hop(), self.next_hops.len());
        let index = match next_hop {
            NextHop::Via(via) => *neighbours.entry(via).or_insert(new),
            // Instances are sorted, so duplicates are adjacent.
            NextHop::Local(_) if self.next_hops.last() == Some(&next_hop) => new - 1,
            NextHop::Local(_) => new,
        };
        if index == new {
            self.next_hops.push(next_hop);
        }
        index
    }

    /// All peers that copies may be sent to.
    #[must_use]
    pub fn next_hops(&self) -> &[NextHop] {
        &self.next_hops
    }

    /// Whether all messages to a next hop are for functions that drop messages.
    pub(crate) fn drops_at(&self, next_hop: usize) -> bool {
        let mut candidates = self.candidates.iter();
        candidates.all(|it| it.next_hop != next_hop || it.drops)
    }

    /// The names of the functions that receive the messages.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.groups.iter().map(|group| &*group.name)
    }

    /// The largest number of copies of one message.
    #[must_use]
    pub fn copies_max(&self) -> usize {
        let copies = |group: &GroupPlan| match group.policy {
            Policy::All => group.candidates.len(),
            _ => 1,
        };
        self.groups.iter().map(copies).sum()
    }

    /// Selects the instances that receive the next message of `source`.
    pub fn select<'a>(
        &'a self,
        source: &'a NodeKey,
        random: &'a mut fastrand::Rng,
    ) -> impl Iterator<Item = Selection<'a>> {
        self.groups.iter().flat_map(move |group| {
            let candidates = &self.candidates[group.candidates.clone()];
            let selected = group.select(candidates, source, random);
            selected.iter().map(|candidate| Selection {
                next_hop: candidate.next_hop,
                name: &group.name,
                node: candidate.node,
                drops: candidate.drops,
            })
        })
    }
}

impl GroupPlan {
    fn select<'a>(
        &self,
        candidates: &'a [CandidateRoute],
        source: &NodeKey,
        random: &mut fastrand::Rng,
    ) -> &'a [CandidateRoute] {
        if self.policy == Policy::All || candidates.len() == 1 {
            return candidates;
        }
        let nodes = candidates.iter().map(|candidate| candidate.node);
        let at = pick(self.policy, nodes, source, &self.rotation, random);
        std::slice::from_ref(&candidates[at])
    }
}
