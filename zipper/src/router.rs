//! Routing: which functions, at this zipper and at others, receive a message. Pure.
//!
//! Every function name that observes a tag receives one copy (by [`Policy::All`], each instance does).
//! The zipper that a message enters selects the instances and addresses each copy to the *home* of
//! the instance: the zipper to which it is connected. Zippers between only forward the copy. Homes
//! and paths are learned as in a path-vector protocol (RFC 4271, section 5.1.2, without its
//! attributes): each neighbour advertises the functions that it reaches and the zippers on the path,
//! and no zipper uses a path that contains itself, so there are no loops in any topology. The hop
//! limit drops messages that loop while tables change.

mod failover;
mod groups;
mod plan;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use selvedge_client::tag::Tag;
use selvedge_client::wire::{InterestEntry, NodeKey, Origin, PATH_MAX, Policy, Recipient};

pub use plan::{NextHop, Plan, Selection};

use groups::{FunctionGroup, GroupInstance, GroupsBuilder, RotationCounter, equally_good, pick};
use plan::{CandidateRoute, GroupPlan};

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

#[derive(Debug)]
struct LocalFunction {
    function: FunctionSpec,
    presence: Presence,
}

#[derive(Debug)]
struct NeighbourTable {
    entries: Vec<InterestEntry>,
    presence: Presence,
}

/// The routes of one zipper.
///
/// Methods that change routes rebuild the groups; [`plan`](Self::plan) and
/// [`route`](Self::route) read them.
#[derive(Debug)]
pub struct Router {
    own: NodeKey,
    local: BTreeMap<NodeKey, LocalFunction>,
    neighbours: BTreeMap<NodeKey, NeighbourTable>,
    /// The groups that observe each tag; rebuilt at each change.
    groups: HashMap<Tag, Vec<FunctionGroup>>,
    /// The rotation counter of each name.
    rotations: HashMap<Arc<str>, RotationCounter>,
    random: fastrand::Rng,
}

impl Router {
    /// A router for the zipper `own`. The seed decides the selections of [`Policy::Random`].
    #[must_use]
    pub fn new(own: NodeKey, seed: u64) -> Self {
        Self {
            own,
            local: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            groups: HashMap::new(),
            rotations: HashMap::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Adds a function that has connected to this zipper.
    pub fn add_function(&mut self, client: NodeKey, function: FunctionSpec) {
        let local = LocalFunction {
            function,
            presence: Presence::Up,
        };
        self.local.insert(client, local);
        self.rebuild();
    }

    /// Adds a neighbour, without any route.
    pub fn add_neighbour(&mut self, neighbour: NodeKey) {
        self.neighbours.entry(neighbour).or_insert(NeighbourTable {
            entries: Vec::new(),
            presence: Presence::Up,
        });
    }

    /// Replaces the interest table of a neighbour. Entries are ignored if their path contains this
    /// zipper, is too long or does not end at the neighbour.
    pub fn learn(&mut self, neighbour: NodeKey, mut entries: Vec<InterestEntry>) {
        entries.retain(|entry| {
            entry.path.last() == Some(&neighbour)
                && entry.path.len() <= PATH_MAX
                && !entry.path.contains(&self.own)
        });
        self.add_neighbour(neighbour);
        self.neighbours
            .entry(neighbour)
            .and_modify(|it| it.entries = entries);
        self.rebuild();
    }

    /// Records that a client or neighbour has disconnected or returned.
    pub fn set_presence(&mut self, node: NodeKey, presence: Presence) {
        let local = self.local.get_mut(&node).map(|it| &mut it.presence);
        let neighbour = self.neighbours.get_mut(&node);
        let neighbour = neighbour.map(|it| &mut it.presence);
        for best in local.into_iter().chain(neighbour) {
            *best = presence;
        }
        self.rebuild();
    }

    /// Removes a client or neighbour.
    pub fn remove(&mut self, node: NodeKey) {
        self.local.remove(&node);
        self.neighbours.remove(&node);
        self.rebuild();
    }

    /// The interest table for a neighbour: the functions that this zipper reaches by a path without
    /// that neighbour.
    #[must_use]
    pub fn advertise(&self, neighbour: NodeKey) -> Vec<InterestEntry> {
        let mut advertised: BTreeMap<(&str, Option<&str>), InterestEntry> = BTreeMap::new();
        for LocalFunction { function, .. } in self.local.values() {
            let key = (function.name.as_str(), function.target.as_deref());
            let entry = advertised.entry(key).or_insert_with(|| InterestEntry {
                name: function.name.clone(),
                tags: Vec::new(),
                target: function.target.clone(),
                policy: function.policy,
                path: vec![self.own],
            });
            entry.tags.extend(&function.tags);
            entry.tags.sort_unstable();
            entry.tags.dedup();
        }
        let passed_on = self.best_routes().into_iter().filter_map(|(via, entry)| {
            let loops = via == neighbour || entry.path.contains(&neighbour);
            (!loops && entry.path.len() < PATH_MAX).then(|| {
                let mut entry = entry.clone();
                entry.path.push(self.own);
                entry
            })
        });
        advertised.into_values().chain(passed_on).collect()
    }

    /// The names of the functions that observe a tag, at this zipper or at others.
    #[must_use]
    pub fn observers(&self, tag: Tag) -> Vec<String> {
        let groups = self.groups.get(&tag).into_iter().flatten();
        groups.map(|group| group.name.to_string()).collect()
    }

    /// The plan for messages of clients with that tag and target; valid until the routes change.
    #[must_use]
    pub fn plan(&self, tag: Tag, target: Option<&str>) -> Plan {
        let groups = self.groups.get(&tag).map_or(&[][..], Vec::as_slice);
        let mut plan = Plan {
            groups: Vec::with_capacity(groups.len()),
            candidates: Vec::with_capacity(groups.len()),
            next_hops: Vec::with_capacity(groups.len()),
        };
        let mut neighbours = BTreeMap::new();
        for group in groups {
            let first = plan.candidates.len();
            for instance in group.eligible(target) {
                let next_hop = plan.next_hop_index(instance, &mut neighbours);
                let node = instance.node;
                plan.candidates.push(CandidateRoute { node, next_hop });
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
        let groups = self.groups.get(&key.tag).into_iter().flatten();
        let Some(group) = groups.into_iter().find(|group| *group.name == *to.name) else {
            return false;
        };
        let instances = || {
            group
                .instances
                .iter()
                .filter(|instance| instance.matches_target(key.target))
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

    /// The best path to each remote function: connected before disconnected, then the shortest. The
    /// neighbour with the smaller key breaks ties, so all zippers decide alike.
    fn best_routes(&self) -> Vec<(NodeKey, &InterestEntry)> {
        let mut best_routes: BTreeMap<_, (Presence, usize, NodeKey, &InterestEntry)> =
            BTreeMap::new();
        let neighbours = self.neighbours.iter();
        for (&via, neighbour) in neighbours.filter(|(_, it)| it.presence < Presence::Gone) {
            for entry in &neighbour.entries {
                let key = (&entry.name, &entry.target, entry.path.first());
                let route = (neighbour.presence, entry.path.len(), via, entry);
                let best = best_routes.entry(key).or_insert(route);
                if (route.0, route.1, route.2) < (best.0, best.1, best.2) {
                    *best = route;
                }
            }
        }
        best_routes
            .into_values()
            .map(|(_, _, via, entry)| (via, entry))
            .collect()
    }

    fn rebuild(&mut self) {
        let mut offers = GroupsBuilder {
            previous: &self.rotations,
            rotations: HashMap::new(),
            groups: HashMap::new(),
        };
        let local = self.local.iter();
        for (&node, local) in local.filter(|(_, it)| it.presence < Presence::Gone) {
            let instance = GroupInstance {
                node,
                via: None,
                presence: local.presence,
                distance: 0,
                target: local.function.target.clone(),
            };
            let FunctionSpec { name, tags, .. } = &local.function;
            offers.add(name, local.function.policy, tags, &instance);
        }
        for (via, entry) in self.best_routes() {
            let instance = GroupInstance {
                node: entry.path.first().copied().unwrap_or(via),
                via: Some(via),
                presence: self
                    .neighbours
                    .get(&via)
                    .map_or(Presence::Gone, |it| it.presence),
                distance: entry.path.len(),
                target: entry.target.clone(),
            };
            offers.add(&entry.name, entry.policy, &entry.tags, &instance);
        }
        let GroupsBuilder {
            rotations,
            mut groups,
            ..
        } = offers;
        for group in groups.values_mut().flatten() {
            group
                .instances
                .sort_by_key(|instance| (instance.presence, instance.distance, instance.node));
        }
        (self.rotations, self.groups) = (rotations, groups);
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
#[path = "router_tests.rs"]
mod tests;
