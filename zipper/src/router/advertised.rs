//! What a zipper has advertised to one neighbour, and what has changed since. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use selvedge_client::wire::{
    INTEREST_DELTA_LEN_MAX, INTEREST_MAX, InterestDelta, InterestEntry, ListedInstances, NodeKey,
};

use super::routes::{BestRoute, RouteKey};

/// The number of bytes of a node key on a path.
const NODE_LEN: usize = size_of::<NodeKey>();

/// The table that a neighbour has been sent, and the routes that may differ from it.
///
/// Changes of one route are coalesced until the next delta is made, so a neighbour without room in its
/// send buffer costs memory in proportion to the routes, not to their changes.
#[derive(Debug, Default)]
pub(super) struct AdvertisedTable {
    /// How many deltas or tables have been made.
    number: u64,
    sent: BTreeMap<RouteKey, Arc<InterestEntry>>,
    pending: BTreeSet<RouteKey>,
    first_pass: FirstPass,
    /// Whether routes were left out, because the table has the largest number of entries, or because they
    /// are too long for a message.
    is_full: bool,
    lists_instances: bool,
}

/// A new table is sent in the order of the keys, so that beginning one costs nothing.
#[derive(Debug, Default, PartialEq, Eq)]
enum FirstPass {
    #[default]
    Beginning,
    /// Every route up to this one has been considered.
    At(RouteKey),
    Done,
}

/// The bytes for entries in a delta.
struct DeltaRoom {
    space: usize,
    left: usize,
}

impl DeltaRoom {
    /// Reserves room, if there is enough.
    const fn take(&mut self, len: usize) -> bool {
        let is_enough = len <= self.left;
        if is_enough {
            self.left -= len;
        }
        is_enough
    }
}

/// The length of an entry in a delta, and how many instances it lists if any.
struct AdvertisedLen {
    len: usize,
    instances: Option<usize>,
}

/// Whether entries differ in nothing but what only deltas with instances have.
fn is_like(one: &InterestEntry, other: &InterestEntry) -> bool {
    let InterestEntry {
        name,
        tags,
        target,
        policy,
        path,
        settled: _,
        drops: _,
    } = other;
    (&one.name, &one.tags, &one.target) == (name, tags, target)
        && (&one.policy, &one.path) == (policy, path)
}

/// The routes of the zipper from the point of view of a neighbour.
#[derive(Clone, Copy)]
pub(super) struct RoutesFor<'a> {
    pub(super) own: NodeKey,
    pub(super) neighbour: NodeKey,
    pub(super) routes: &'a BTreeMap<RouteKey, BestRoute>,
}

impl<'a> RoutesFor<'a> {
    /// The whole table.
    pub(super) fn table(self) -> impl Iterator<Item = (&'a RouteKey, &'a BestRoute)> {
        let is_for = move |(_, route): &(&RouteKey, &BestRoute)| route.is_for(&self.neighbour);
        self.routes.iter().filter(is_for).take(INTEREST_MAX)
    }

    fn get(self, key: &RouteKey) -> Option<&'a BestRoute> {
        let route = self.routes.get(key)?;
        route.is_for(&self.neighbour).then_some(route)
    }

    /// The first route behind the first pass so far.
    fn next(self, pass: &FirstPass) -> Option<RouteKey> {
        let begin = match pass {
            FirstPass::Beginning => Bound::Unbounded,
            FirstPass::At(key) => Bound::Excluded(key),
            FirstPass::Done => return None,
        };
        let mut rest = self.routes.range((begin, Bound::Unbounded));
        rest.next().map(|(key, _)| key.clone())
    }
}

impl AdvertisedTable {
    /// Has deltas list the instances of functions.
    pub(super) const fn list_instances(&mut self) {
        self.lists_instances = true;
    }

    /// Records that a route has changed.
    pub(super) fn mark(&mut self, key: &RouteKey) {
        let is_ahead = match &self.first_pass {
            FirstPass::Beginning => true,
            FirstPass::At(last) => key > last,
            FirstPass::Done => false,
        };
        // The first pass finds new routes, but none that have been removed.
        if (!is_ahead || self.sent.contains_key(key)) && !self.pending.contains(key) {
            self.pending.insert(key.clone());
        }
    }

    /// Whether routes are missing in the table, because it has the largest number of entries, or because
    /// they are too long for a message.
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    /// The next delta of at most `len_max` bytes, to be sent before any further one; `None` if the
    /// neighbour has been sent everything. The first one replaces any other table and is made even if it is
    /// empty.
    pub(super) fn next_delta(
        &mut self,
        routes: RoutesFor<'_>,
        len_max: usize,
    ) -> Option<InterestDelta> {
        let mut delta = InterestDelta {
            number: self.number + 1,
            lists_instances: self.lists_instances,
            ..InterestDelta::default()
        };
        let len_max = len_max.min(INTEREST_DELTA_LEN_MAX);
        let space = len_max.saturating_sub(InterestDelta::EMPTY_LEN);
        let mut room = DeltaRoom { space, left: space };
        loop {
            if let Some(key) = self.pending.pop_first() {
                if !self.add(&key, routes, &mut delta, &mut room) {
                    self.pending.insert(key);
                    break;
                }
            } else if let Some(key) = routes.next(&self.first_pass) {
                if !self.add(&key, routes, &mut delta, &mut room) {
                    break;
                }
                self.first_pass = FirstPass::At(key);
            } else {
                self.first_pass = FirstPass::Done;
                break;
            }
        }
        let is_empty = delta.updated.is_empty() && delta.withdrawn.is_empty();
        if is_empty && self.number > 0 {
            return None;
        }
        self.number = delta.number;
        Some(delta)
    }

    /// Adds to a delta how a route differs from what was sent. Returns whether there was room.
    fn add(
        &mut self,
        key: &RouteKey,
        routes: RoutesFor<'_>,
        delta: &mut InterestDelta,
        room: &mut DeltaRoom,
    ) -> bool {
        let (sent, route) = (self.sent.get(key), routes.get(key));
        if self.is_sent(sent, route) {
            return true;
        }
        let is_table_full = sent.is_none() && self.sent.len() >= INTEREST_MAX;
        let fitting = route
            .filter(|_| !is_table_full)
            .and_then(|route| Some((route, self.len_within(room.space, &route.entry)?)));
        self.is_full |= route.is_some() && fitting.is_none();
        if let Some((route, AdvertisedLen { len, instances })) = fitting {
            let is_added = room.take(len);
            if is_added {
                let mut entry = route.advertised_by(routes.own, instances);
                entry.drops = entry.drops.filter(|_| self.lists_instances);
                delta.updated.push(entry);
                self.sent.insert(key.clone(), Arc::clone(&route.entry));
            }
            return is_added;
        }
        if sent.is_none() {
            return true;
        }
        let withdrawn = key.withdrawn();
        let is_added = room.take(withdrawn.encoded_len());
        if is_added {
            delta.withdrawn.push(withdrawn);
            self.sent.remove(key);
            self.retry_left_out();
        }
        is_added
    }

    /// Whether a route has been sent as it is now.
    fn is_sent(&self, sent: Option<&Arc<InterestEntry>>, route: Option<&BestRoute>) -> bool {
        match (sent, route.map(|route| &route.entry)) {
            (Some(sent), Some(entry)) if self.lists_instances => sent == entry,
            (Some(sent), Some(entry)) => Arc::ptr_eq(sent, entry) || is_like(sent, entry),
            (sent, entry) => sent.is_none() && entry.is_none(),
        }
    }

    /// The length of an entry, if there is enough space. Instances for which there is none are left
    /// out, and without any the functions are advertised as if they had none.
    fn len_within(&self, space: usize, entry: &InterestEntry) -> Option<AdvertisedLen> {
        let plain = entry.plain_len() + NODE_LEN + usize::from(self.lists_instances);
        let left = space.checked_sub(plain)?;
        let listed = entry.settled.as_ref().filter(|_| self.lists_instances);
        let fitting = listed.and_then(|listed| {
            let left = left.checked_sub(ListedInstances::EMPTY_LEN)?;
            let all = listed.instances.len() + listed.away.len();
            let count = all.min(left / ListedInstances::INSTANCE_LEN);
            (count > 0 || all == 0).then_some(count)
        });
        let listed_len = |count| ListedInstances::EMPTY_LEN + count * ListedInstances::INSTANCE_LEN;
        Some(AdvertisedLen {
            len: plain + fitting.map_or(0, listed_len),
            instances: fitting,
        })
    }

    /// Considers every route again, since one of those that were left out may have room now.
    fn retry_left_out(&mut self) {
        if self.sent.len() + 1 == INTEREST_MAX && std::mem::take(&mut self.is_full) {
            self.first_pass = FirstPass::Beginning;
        }
    }

    /// The whole table and its number, for a neighbour that does not implement deltas; `None` if it has
    /// not changed.
    pub(super) fn next_table(
        &mut self,
        routes: RoutesFor<'_>,
    ) -> Option<(u64, Vec<InterestEntry>)> {
        let pending = std::mem::take(&mut self.pending);
        let is_changed = |key: &RouteKey| {
            let (sent, route) = (self.sent.get(key), routes.get(key));
            !self.is_sent(sent, route)
        };
        if self.first_pass == FirstPass::Done && !pending.iter().any(is_changed) {
            return None;
        }
        let entries =
            |(key, route): (&RouteKey, &BestRoute)| (key.clone(), Arc::clone(&route.entry));
        self.sent = routes.table().map(entries).collect();
        self.is_full = self.sent.len() >= INTEREST_MAX;
        self.first_pass = FirstPass::Done;
        self.number += 1;
        let table = routes.table().map(|(_, route)| InterestEntry {
            drops: None,
            ..route.advertised_by(routes.own, None)
        });
        Some((self.number, table.collect()))
    }
}

#[cfg(test)]
#[path = "advertised_tests.rs"]
mod tests;
