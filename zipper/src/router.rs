//! Routing: which functions, at this zipper and at others, receive a message. Pure.
//!
//! Every function name that observes a tag receives one copy (by [`Policy::All`], each instance does).
//! The zipper that a message enters selects the instances and addresses each copy to the *home* of
//! the instance: the zipper to which it is connected. Zippers between only forward the copy. Homes
//! and paths are learned as in a path-vector protocol (RFC 4271, section 5.1.2, without its
//! attributes): each neighbour advertises the functions that it reaches and the zippers on the path,
//! and no zipper uses a path that contains itself, so there are no loops in any topology. The hop
//! limit drops messages that loop while tables change.

mod advertised;
mod failover;
mod groups;
mod learning;
mod listing;
mod plan;
mod refresh;
mod routes;
mod settled;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use selvedge_client::settlement::InstanceId;
use selvedge_client::tag::Tag;
use selvedge_client::wire::settlement::InstanceNotice;
use selvedge_client::wire::{
    DropPolicy, InterestDelta, InterestEntry, NodeKey, Origin, Policy, Recipient,
};

pub use learning::LearnError;
pub use plan::{NextHop, Plan, Selection};
pub use settled::{SettledGroup, SettledMember};

pub(crate) use listing::{RoutePosition, RouteView};

use advertised::{AdvertisedTable, RoutesFor};
use groups::{FunctionGroup, GroupInstance, TagTable, equally_good, pick};
use plan::{CandidateRoute, GroupPlan};
use refresh::OutdatedRoutes;
use routes::{BestRoute, LocalFunction, LocalGroup, NeighbourTable, RouteKey};

/// A connected function: the messages that it observes, and how its name shares them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionSpec {
    /// The name. Functions with one name are instances of one group.
    pub name: String,
    /// The tags that the function observes.
    pub tags: Vec<Tag>,
    /// The target: messages with another target are not delivered to the function.
    pub target: Option<String>,
    /// How messages are distributed among the instances.
    pub policy: Policy,
    /// The process, if it takes part in settlement. The messages of settled flows go to it by routes of
    /// their own.
    pub instance: Option<InstanceNotice>,
    /// Which messages are dropped while the function has no room. Without such a policy, and without a
    /// process that settles, it holds its sources back.
    pub drops: Option<DropPolicy>,
}

impl FunctionSpec {
    /// Whether both share the work. They may be different processes.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let Self {
            name,
            tags,
            target,
            policy,
            drops,
            instance: _,
        } = other;
        (&self.name, &self.tags, &self.target) == (name, tags, target)
            && (self.policy, self.drops) == (*policy, *drops)
    }
}

/// Whether a client or neighbour is connected. Connected instances are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// Connected.
    Up,
    /// Disconnected; messages to it wait for its return.
    Away,
    /// Disconnected for so long that nothing is sent to it any more.
    Gone,
}

/// The fields of a message that decide its routes.
#[derive(Debug, Clone, Copy)]
pub struct FlowKey<'a> {
    /// The tag.
    pub tag: Tag,
    /// The target.
    pub target: Option<&'a str>,
    /// The source, and the number of the message there.
    pub origin: Origin,
}

/// The recipients of one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// Functions that are connected to this zipper.
    pub local: Vec<NodeKey>,
    /// Neighbours, each with the functions for which it forwards a copy.
    pub forward: BTreeMap<NodeKey, Vec<Recipient>>,
    /// Functions that the message was addressed to and that are not reachable any more.
    pub unreachable: Vec<String>,
}

impl Routes {
    /// Whether the message has no recipient.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.local.is_empty() && self.forward.is_empty()
    }
}

/// The routes of one zipper.
///
/// A change costs in proportion to what changes: the tags of a function, or the entries of a table.
/// [`plan`](Self::plan) and [`route`](Self::route) read the result.
#[derive(Debug)]
pub struct Router {
    own: NodeKey,
    local: BTreeMap<NodeKey, LocalFunction>,
    local_groups: BTreeMap<RouteKey, LocalGroup>,
    neighbours: BTreeMap<NodeKey, NeighbourTable>,
    /// The best path to each function.
    routes: BTreeMap<RouteKey, BestRoute>,
    outdated: OutdatedRoutes,
    tags: TagTable,
    /// The functions of each instance that are connected to this zipper or were so recently, the
    /// connected ones first.
    instances: BTreeSet<(InstanceId, Presence, NodeKey)>,
    random: fastrand::Rng,
}

impl Router {
    /// A router for the zipper `own`. The seed decides the selections of [`Policy::Random`].
    #[must_use]
    pub fn new(own: NodeKey, seed: u64) -> Self {
        Self {
            own,
            local: BTreeMap::new(),
            local_groups: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            routes: BTreeMap::new(),
            outdated: OutdatedRoutes::default(),
            tags: TagTable::default(),
            instances: BTreeSet::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Adds a function that has connected to this zipper, or replaces the function of that client.
    pub fn add_function(&mut self, client: NodeKey, function: FunctionSpec) {
        let local = LocalFunction::new(self.own, client, function);
        self.set_local(client, Some(local));
    }

    /// Adds a neighbour that has introduced itself. Its own table remains if it is known; nothing has
    /// been advertised to it yet.
    pub fn add_neighbour(&mut self, neighbour: NodeKey) {
        let table = self.neighbours.entry(neighbour).or_default();
        table.advertised = AdvertisedTable::default();
    }

    /// The same for a neighbour with the feature
    /// [`FEATURE_SETTLEMENT`](selvedge_client::wire::settlement::FEATURE_SETTLEMENT): deltas for it list the
    /// instances of functions.
    pub fn add_settling_neighbour(&mut self, neighbour: NodeKey) {
        self.add_neighbour(neighbour);
        if let Some(table) = self.neighbours.get_mut(&neighbour) {
            table.advertised.list_instances();
        }
    }

    /// Records that a client or neighbour has disconnected or returned.
    pub fn set_presence(&mut self, node: NodeKey, presence: Presence) {
        self.begin_presence(node, presence);
        self.advance(usize::MAX);
    }

    /// Removes a client or neighbour.
    pub fn remove(&mut self, node: NodeKey) {
        self.begin_removal(node);
        self.advance(usize::MAX);
    }

    /// The tags for which messages may be routed differently since the last call; some may occur more
    /// than once.
    pub fn take_changed(&mut self) -> Vec<Tag> {
        self.tags.take_changed()
    }

    /// The neighbours that have introduced themselves or sent a table.
    pub fn neighbours(&self) -> impl Iterator<Item = NodeKey> {
        self.neighbours.keys().copied()
    }

    /// The number of routes: names, targets and homes that this zipper reaches.
    #[must_use]
    pub fn routes(&self) -> usize {
        self.routes.len()
    }

    /// The interest table for a neighbour: the functions that this zipper reaches by a path without
    /// that neighbour.
    #[must_use]
    pub fn advertise(&self, neighbour: NodeKey) -> Vec<InterestEntry> {
        let table = self.routes_for(neighbour).table();
        table
            .map(|(_, route)| route.advertised_by(self.own, Some(usize::MAX)))
            .collect()
    }

    /// The next part of what has changed in the interest table for a neighbour, in at most `len_max` bytes
    /// and [`INTEREST_DELTA_LEN_MAX`](selvedge_client::wire::INTEREST_DELTA_LEN_MAX), to be sent before any
    /// further part; `None` if the neighbour has been sent everything.
    pub fn next_delta(&mut self, neighbour: NodeKey, len_max: usize) -> Option<InterestDelta> {
        let table = self.neighbours.get_mut(&neighbour)?;
        let routes = RoutesFor {
            own: self.own,
            neighbour,
            routes: &self.routes,
        };
        table.advertised.next_delta(routes, len_max)
    }

    /// The interest table for a neighbour that does not implement deltas, with its number, if the table
    /// has changed since the last call.
    pub fn next_table(&mut self, neighbour: NodeKey) -> Option<(u64, Vec<InterestEntry>)> {
        let table = self.neighbours.get_mut(&neighbour)?;
        table.advertised.next_table(RoutesFor {
            own: self.own,
            neighbour,
            routes: &self.routes,
        })
    }

    /// Whether the interest table for a neighbour has too many entries, so that some are left out.
    #[must_use]
    pub fn is_table_full(&self, neighbour: NodeKey) -> bool {
        let table = self.neighbours.get(&neighbour);
        table.is_some_and(|it| it.advertised.is_full())
    }

    fn routes_for(&self, neighbour: NodeKey) -> RoutesFor<'_> {
        RoutesFor {
            own: self.own,
            neighbour,
            routes: &self.routes,
        }
    }

    fn set_local_presence(&mut self, client: NodeKey, presence: Presence) {
        if let Some(local) = self.local.get_mut(&client)
            && local.presence() != presence
        {
            let listed_before = local.listed();
            let mut instance = GroupInstance::clone(&local.instance);
            instance.presence = presence;
            let old = std::mem::replace(&mut local.instance, instance.into());
            let old = local.observer_as(&old);
            self.tags.replace(old, local.observer());
            if local.function.instance.is_some() {
                let (key, listed) = (local.key.clone(), local.listed());
                self.list_locally(client, &key, listed_before, listed);
                self.refresh_local(&key);
            }
        }
    }

    /// Replaces the function of a client.
    fn set_local(&mut self, client: NodeKey, new: Option<LocalFunction>) {
        let old = self.local.remove(&client);
        self.tags.replace(
            old.as_ref().and_then(LocalFunction::observer),
            new.as_ref().and_then(LocalFunction::observer),
        );
        if let Some(new) = &new {
            let group = self.local_groups.entry(new.key.clone()).or_default();
            group.add(client, &new.function);
        }
        if let Some(old) = &old
            && let Some(group) = self.local_groups.get_mut(&old.key)
        {
            group.remove_tags(&old.function);
            if new.as_ref().is_none_or(|new| new.key != old.key) {
                group.remove(&client);
            }
        }
        if let Some((key, listed)) = old.as_ref().and_then(LocalFunction::listed_by_key) {
            self.list_locally(client, key, Some(listed), None);
        }
        if let Some((key, listed)) = new.as_ref().and_then(LocalFunction::listed_by_key) {
            self.list_locally(client, key, None, Some(listed));
        }
        let keys = [old.map(|it| it.key), new.as_ref().map(|it| it.key.clone())];
        if let Some(new) = new {
            self.local.insert(client, new);
        }
        keys.iter()
            .flatten()
            .for_each(|key| self.refresh_local(key));
    }

    /// Advertises the functions of this zipper with one key as one, if that has changed.
    fn refresh_local(&mut self, key: &RouteKey) {
        let group = self.local_groups.get(key);
        let entry = group.and_then(|group| group.entry(key));
        if self.routes.get(key).map(|route| &*route.entry) == entry.as_ref() {
            return;
        }
        match entry {
            Some(entry) => {
                let (entry, remote) = (entry.into(), None);
                self.routes.insert(key.clone(), BestRoute { entry, remote });
            }
            None => {
                self.routes.remove(key);
                self.local_groups.remove(key);
            }
        }
        self.mark(key);
    }

    /// Selects the best path to remote functions anew: connected before disconnected, then the shortest.
    /// The neighbour with the smaller key breaks ties, so all zippers decide alike.
    fn refresh(&mut self, key: &RouteKey) {
        let neighbours = self.neighbours.iter();
        let present = neighbours.filter(|(_, table)| table.presence < Presence::Gone);
        let offers = present.filter_map(|(via, table)| {
            let entry = table.routes.get(key)?;
            Some((table.presence, entry.path.len(), *via, entry))
        });
        let best = offers.min_by_key(|(presence, distance, via, _)| (*presence, *distance, *via));
        let new = best.map(|(presence, _, via, entry)| BestRoute::new(via, presence, key, entry));
        let old = self.routes.get(key);
        let is_advertised_anew = match (old, &new) {
            (Some(old), Some(new)) => {
                // Entries of different neighbours are different pieces of memory.
                let is_same_entry = Arc::ptr_eq(&old.entry, &new.entry);
                if is_same_entry && old.remote == new.remote {
                    return;
                }
                !is_same_entry
            }
            (None, None) => return,
            _ => true,
        };
        self.tags.replace(
            old.and_then(|old| old.observer(key)),
            new.as_ref().and_then(|new| new.observer(key)),
        );
        match new {
            Some(new) => _ = self.routes.insert(key.clone(), new),
            None => _ = self.routes.remove(key),
        }
        if is_advertised_anew {
            self.mark(key);
        }
    }

    /// Has a route advertised anew to each neighbour.
    fn mark(&mut self, key: &RouteKey) {
        let tables = self.neighbours.values_mut();
        tables.for_each(|table| table.advertised.mark(key));
    }

    /// The names of the functions that observe a tag, at this zipper or at others.
    #[must_use]
    pub fn observers(&self, tag: Tag) -> Vec<String> {
        let groups = self.tags.groups(tag).iter();
        groups.map(|group| group.name.to_string()).collect()
    }

    /// The plan for messages of clients with that tag and target; valid until the routes change.
    #[must_use]
    pub fn plan(&self, tag: Tag, target: Option<&str>) -> Plan {
        self.plan_for(tag, target, |_| true, |_, _| true)
    }

    /// The plan for the groups and instances that are selected.
    fn plan_for(
        &self,
        tag: Tag,
        target: Option<&str>,
        is_included: impl Fn(&FunctionGroup) -> bool,
        is_candidate: impl Fn(&FunctionGroup, &GroupInstance) -> bool,
    ) -> Plan {
        let groups = self.tags.groups(tag);
        let mut plan = Plan {
            groups: Vec::with_capacity(groups.len()),
            candidates: Vec::with_capacity(groups.len()),
            next_hops: Vec::with_capacity(groups.len()),
        };
        let mut neighbours = BTreeMap::new();
        for group in groups.iter().filter(|group| is_included(group)) {
            let first = plan.candidates.len();
            let eligible = group.eligible(target);
            for instance in eligible.filter(|instance| is_candidate(group, instance)) {
                let next_hop = plan.next_hop_index(instance, &mut neighbours);
                plan.candidates.push(CandidateRoute {
                    node: instance.node,
                    next_hop,
                    drops: instance.drops.is_some(),
                });
            }
            if plan.candidates.len() > first {
                plan.groups.push(GroupPlan {
                    name: Arc::clone(&group.name),
                    policy: group.policy,
                    rotation: Arc::clone(&group.rotation),
                    candidates: first..plan.candidates.len(),
                });
            }
        }
        plan
    }

    /// Routes a message of a client.
    pub fn route(&mut self, key: FlowKey<'_>) -> Routes {
        let (mut routes, plan) = (Routes::default(), self.plan(key.tag, key.target));
        for selected in plan.select(&key.origin.source, &mut self.random) {
            let next_hop = plan.next_hops[selected.next_hop];
            routes.add(selected.name, next_hop, selected.node);
        }
        routes
    }

    /// Routes a message that the zipper `from` has forwarded to `recipients`.
    pub fn relay(&mut self, from: NodeKey, key: FlowKey<'_>, recipients: Vec<Recipient>) -> Routes {
        let mut routes = Routes::default();
        for recipient in recipients {
            if !self.relay_one(from, key, &recipient, &mut routes) {
                routes.unreachable.push(recipient.name);
            }
        }
        routes
    }

    fn relay_one(
        &mut self,
        from: NodeKey,
        key: FlowKey<'_>,
        to: &Recipient,
        routes: &mut Routes,
    ) -> bool {
        let Some(group) = self.tags.group(key.tag, &to.name) else {
            return false;
        };
        let instances = || {
            let all = group.instances();
            all.filter(|instance| instance.matches_target(key.target))
        };
        let here: Vec<&GroupInstance> = instances()
            .filter(|instance| instance.via.is_none())
            .collect();
        let beyond = || instances().filter(|instance| instance.via.is_some_and(|via| via != from));
        let chosen = if to.home != self.own {
            beyond()
                .filter(|instance| instance.node == to.home)
                .take(1)
                .collect()
        } else if group.policy == Policy::All {
            here
        } else if here.is_empty() {
            // The instance has left while the message was in flight: another one replaces it.
            beyond().take(1).collect()
        } else {
            let eligible: Vec<&GroupInstance> =
                equally_good(group.policy, here.iter().copied()).collect();
            let nodes = eligible.iter().map(|instance| instance.node);
            let source = &key.origin.source;
            let at = pick(
                group.policy,
                nodes,
                source,
                &group.rotation,
                &mut self.random,
            );
            eligible.get(at).copied().into_iter().collect()
        };
        for instance in &chosen {
            routes.add(&to.name, instance.next_hop(), instance.node);
        }
        !chosen.is_empty()
    }
}

impl Routes {
    fn add(&mut self, name: &str, next_hop: NextHop, node: NodeKey) {
        match next_hop {
            NextHop::Local(client) => self.local.push(client),
            NextHop::Via(via) => self.forward.entry(via).or_default().push(Recipient {
                name: name.to_owned(),
                home: node,
            }),
        }
    }
}

#[cfg(test)]
mod differential_tests;
#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
