//! Who gets a message: functions here, and functions at other zippers. Pure.
//!
//! Every function name that observes a tag gets one copy (or each instance, by [`Policy::All`]).
//! The zipper that a message enters chooses the instances, and addresses each copy to the zipper
//! that the instance is connected to, its *home*; zippers between only pass it on. Homes and ways
//! are learned as in a path-vector protocol (RFC 4271, section 5.1.2, without its attributes):
//! each neighbour tells what it can reach and by which zippers, and nobody takes a way that leads
//! through itself, so there are no loops in any topology. The hop limit catches what is on its way
//! while tables change.

mod failover;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use selvedge_client::tag::Tag;
use selvedge_client::wire::{InterestEntry, Origin, PATH_MAX, Policy, Recipient};

/// The id of a client or zipper: its public key.
pub type Node = [u8; 32];

/// What a connected function observes, and how it shares with others of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionSpec {
    /// Its name.
    pub name: String,
    /// The tags that it observes.
    pub tags: Vec<Tag>,
    /// Of messages with a target it gets those with this one.
    pub target: Option<String>,
    /// How its instances share.
    pub policy: Policy,
}

/// Whether a client or neighbour can be reached. Those that can are chosen first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// Now.
    Up,
    /// Not now; what is sent to it waits.
    Away,
    /// It has been away for so long that nothing is sent to it any more.
    Gone,
}

/// What decides where a message goes.
#[derive(Debug, Clone, Copy)]
pub struct FlowKey<'a> {
    /// Its tag.
    pub tag: Tag,
    /// Its target.
    pub target: Option<&'a str>,
    /// Who sent it.
    pub origin: Origin,
}

/// Where copies of a message go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// Functions connected here.
    pub local: Vec<Node>,
    /// Neighbours, each with those for whom it passes a copy on.
    pub forward: BTreeMap<Node, Vec<Recipient>>,
    /// Functions that it was addressed to and that cannot be reached any more.
    pub unreachable: Vec<String>,
}

impl Routes {
    /// Whether nobody gets it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.local.is_empty() && self.forward.is_empty()
    }
}

/// An instance to choose: one function here, or all of that name at another zipper.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupInstance {
    /// The client, or the zipper that it is connected to.
    node: Node,
    /// The neighbour on the way; none for a function here.
    via: Option<Node>,
    presence: Presence,
    distance: usize,
    target: Option<String>,
}

#[derive(Debug)]
struct FunctionGroup {
    name: Arc<str>,
    policy: Policy,
    rotation: RotationCounter,
    /// The nearest first, once all are known.
    instances: Vec<GroupInstance>,
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

/// How often a name was chosen; shared by all who choose.
type RotationCounter = Arc<AtomicUsize>;

/// Where messages of one tag and target go until something changes. For who routes many of them: it
/// chooses among instances as [`Router::route`] does, and needs no router for it.
#[derive(Debug, Clone)]
pub struct Plan {
    groups: Vec<GroupPlan>,
    /// Those of all forks, one behind the other.
    candidates: Vec<CandidateRoute>,
    next_hops: Vec<NextHop>,
}

/// A name that gets the messages, or each of its instances.
#[derive(Debug, Clone)]
struct GroupPlan {
    name: Arc<str>,
    policy: Policy,
    rotation: RotationCounter,
    /// Of these each message goes to one, or to all of them by [`Policy::All`]. Never empty.
    candidates: Range<usize>,
}

/// One way that a message can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CandidateRoute {
    /// The client, or the zipper that it is connected to.
    node: Node,
    /// Where the copy is handed to, in the list of the plan.
    next_hop: usize,
}

/// Whom a zipper hands a copy to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHop {
    /// A function that is connected here.
    Local(Node),
    /// A neighbour, which passes it on.
    Via(Node),
}

/// A choice that a [`Plan`] has made for one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection<'a> {
    /// Whom the copy is handed to: its place among [`Plan::next_hops`].
    pub next_hop: usize,
    /// The name of the function.
    pub name: &'a str,
    /// The function, or the zipper that it is connected to.
    pub node: Node,
}

/// The routes of one zipper.
#[derive(Debug)]
pub struct Router {
    own: Node,
    local: BTreeMap<Node, LocalFunction>,
    neighbours: BTreeMap<Node, NeighbourTable>,
    /// For each tag, those of whom some get a message. Made anew at each change.
    groups: HashMap<Tag, Vec<FunctionGroup>>,
    /// How often a name was chosen, for those that take turns.
    rotations: HashMap<Arc<str>, RotationCounter>,
    random: fastrand::Rng,
}

impl Router {
    /// The router of the zipper `own`.
    #[must_use]
    pub fn new(own: Node, seed: u64) -> Self {
        Self {
            own,
            local: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            groups: HashMap::new(),
            rotations: HashMap::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// A function is connected here.
    pub fn add_function(&mut self, client: Node, function: FunctionSpec) {
        let local = LocalFunction {
            function,
            presence: Presence::Up,
        };
        self.local.insert(client, local);
        self.rebuild();
    }

    /// A zipper is connected.
    pub fn add_neighbour(&mut self, neighbour: Node) {
        self.neighbours.entry(neighbour).or_insert(NeighbourTable {
            entries: Vec::new(),
            presence: Presence::Up,
        });
    }

    /// A neighbour says what it can reach, all of it. Ways that lead through this zipper, that are
    /// too long or do not begin with the neighbour are left out.
    pub fn learn(&mut self, neighbour: Node, mut entries: Vec<InterestEntry>) {
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

    /// A client or neighbour is away, or back.
    pub fn set_presence(&mut self, node: Node, presence: Presence) {
        let local = self.local.get_mut(&node).map(|it| &mut it.presence);
        let neighbour = self.neighbours.get_mut(&node);
        let neighbour = neighbour.map(|it| &mut it.presence);
        for known in local.into_iter().chain(neighbour) {
            *known = presence;
        }
        self.rebuild();
    }

    /// A client or neighbour is gone.
    pub fn remove(&mut self, node: Node) {
        self.local.remove(&node);
        self.neighbours.remove(&node);
        self.rebuild();
    }

    /// What to tell a neighbour: what can be reached here and beyond, unless by the neighbour.
    #[must_use]
    pub fn advertise(&self, neighbour: Node) -> Vec<InterestEntry> {
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

    /// The names of those who observe a tag, here or elsewhere.
    #[must_use]
    pub fn observers(&self, tag: Tag) -> Vec<String> {
        let groups = self.groups.get(&tag).into_iter().flatten();
        groups.map(|group| group.name.to_string()).collect()
    }

    /// Where messages of clients with that tag and target go, until something changes here.
    #[must_use]
    pub fn plan(&self, tag: Tag, target: Option<&str>) -> Plan {
        let groups = self.groups.get(&tag).map_or(&[][..], Vec::as_slice);
        let mut plan = Plan {
            groups: Vec::with_capacity(groups.len()),
            candidates: Vec::with_capacity(groups.len()),
            next_hops: Vec::with_capacity(groups.len()),
        };
        let mut ways = BTreeMap::new();
        for group in groups {
            let first = plan.candidates.len();
            for instance in group.eligible(target) {
                let next_hop = plan.next_hop_index(instance, &mut ways);
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
        for chosen in plan.choose(&key.origin.source, &mut self.random) {
            routes.add(chosen.name, plan.next_hops[chosen.next_hop], chosen.node);
        }
        routes
    }

    /// Routes a message that the zipper `from` passes on to `recipients`.
    pub fn relay(&mut self, from: Node, key: FlowKey<'_>, recipients: Vec<Recipient>) -> Routes {
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
        from: Node,
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
            // It has left while the message was on its way: another instance will do.
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

    /// For each function elsewhere the best way to it: up, then short, then the same for everybody.
    fn best_routes(&self) -> Vec<(Node, &InterestEntry)> {
        let mut best_routes: BTreeMap<_, (Presence, usize, Node, &InterestEntry)> = BTreeMap::new();
        let neighbours = self.neighbours.iter();
        for (&via, neighbour) in neighbours.filter(|(_, it)| it.presence < Presence::Gone) {
            for entry in &neighbour.entries {
                let key = (&entry.name, &entry.target, entry.path.first());
                let way = (neighbour.presence, entry.path.len(), via, entry);
                let known = best_routes.entry(key).or_insert(way);
                if (way.0, way.1, way.2) < (known.0, known.1, known.2) {
                    *known = way;
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
            known: &self.rotations,
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

/// The choices as they are made anew.
struct GroupsBuilder<'a> {
    /// The turns so far, which last over changes.
    known: &'a HashMap<Arc<str>, RotationCounter>,
    rotations: HashMap<Arc<str>, RotationCounter>,
    groups: HashMap<Tag, Vec<FunctionGroup>>,
}

impl GroupsBuilder<'_> {
    fn add(&mut self, name: &str, policy: Policy, tags: &[Tag], instance: &GroupInstance) {
        for &tag in tags {
            let groups = self.groups.entry(tag).or_default();
            let known = groups.iter_mut().find(|group| *group.name == *name);
            if let Some(group) = known {
                group.instances.push(instance.clone());
                continue;
            }
            let (name, rotation) = self.rotation(name);
            let group = FunctionGroup {
                name,
                policy,
                rotation,
                instances: vec![instance.clone()],
            };
            self.groups.entry(tag).or_default().push(group);
        }
    }

    /// The turn of a name, of which there is one for all tags.
    fn rotation(&mut self, name: &str) -> (Arc<str>, RotationCounter) {
        let known = self.rotations.get_key_value(name);
        let known = known.or_else(|| self.known.get_key_value(name));
        let (name, rotation) = match known {
            Some((name, rotation)) => (Arc::clone(name), Arc::clone(rotation)),
            None => (name.into(), RotationCounter::default()),
        };
        self.rotations
            .insert(Arc::clone(&name), Arc::clone(&rotation));
        (name, rotation)
    }
}

impl FunctionGroup {
    /// Of whom a message with that target goes to one, or to all of them by [`Policy::All`].
    fn eligible(&self, target: Option<&str>) -> impl Iterator<Item = &GroupInstance> {
        let instances = self
            .instances
            .iter()
            .filter(move |it| it.matches_target(target));
        equally_good(self.policy, instances)
    }
}

impl GroupInstance {
    /// A message with a target is for those who want this target; one without is for all.
    fn matches_target(&self, target: Option<&str>) -> bool {
        target.is_none() || target == self.target.as_deref()
    }

    fn next_hop(&self) -> NextHop {
        self.via.map_or(NextHop::Local(self.node), NextHop::Via)
    }
}

impl Routes {
    fn add(&mut self, name: &str, next_hop: NextHop, node: Node) {
        match next_hop {
            NextHop::Local(client) => self.local.push(client),
            NextHop::Via(via) => self.forward.entry(via).or_default().push(Recipient {
                name: name.to_owned(),
                home: node,
            }),
        }
    }
}

impl Plan {
    /// The place of a stop, each of which is listed once. A function here is a site of one choice only, so
    /// only ways to neighbours have to be looked for.
    fn next_hop_index(
        &mut self,
        instance: &GroupInstance,
        ways: &mut BTreeMap<Node, usize>,
    ) -> usize {
        let (next_hop, next) = (instance.next_hop(), self.next_hops.len());
        let place = match next_hop {
            NextHop::Via(via) => *ways.entry(via).or_insert(next),
            // Sites are sorted: what was offered twice is next to itself.
            NextHop::Local(_) if self.next_hops.last() == Some(&next_hop) => next - 1,
            NextHop::Local(_) => next,
        };
        if place == next {
            self.next_hops.push(next_hop);
        }
        place
    }

    /// All whom copies may be handed to.
    #[must_use]
    pub fn next_hops(&self) -> &[NextHop] {
        &self.next_hops
    }

    /// How many copies a message makes at the most.
    #[must_use]
    pub fn copies_max(&self) -> usize {
        let copies = |group: &GroupPlan| match group.policy {
            Policy::All => group.candidates.len(),
            _ => 1,
        };
        self.groups.iter().map(copies).sum()
    }

    /// Chooses for one message of `source`.
    pub fn choose<'a>(
        &'a self,
        source: &'a Node,
        random: &'a mut fastrand::Rng,
    ) -> impl Iterator<Item = Selection<'a>> {
        self.groups.iter().flat_map(move |group| {
            let candidates = &self.candidates[group.candidates.clone()];
            let chosen = group.choose(candidates, source, random);
            chosen.iter().map(|candidate| Selection {
                next_hop: candidate.next_hop,
                name: &group.name,
                node: candidate.node,
            })
        })
    }
}

impl GroupPlan {
    fn choose<'a>(
        &self,
        candidates: &'a [CandidateRoute],
        source: &Node,
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

/// Of sites that are sorted by nearness those that are as good as the first; by [`Policy::All`] all.
fn equally_good<'a>(
    policy: Policy,
    instances: impl Iterator<Item = &'a GroupInstance> + Clone,
) -> impl Iterator<Item = &'a GroupInstance> {
    let first = instances.clone().next();
    instances.filter(move |instance| {
        policy == Policy::All
            || first.is_some_and(|first| {
                instance.presence == first.presence
                    && (policy != Policy::Nearest || instance.distance == first.distance)
            })
    })
}

/// Which of the nodes, of which there is at least one.
fn pick(
    policy: Policy,
    nodes: impl ExactSizeIterator<Item = Node>,
    source: &Node,
    rotation: &AtomicUsize,
    random: &mut fastrand::Rng,
) -> usize {
    match policy {
        Policy::Random => random.usize(..nodes.len()),
        // Rendezvous hashing: when a site goes, only its sources move.
        Policy::Hash => {
            let weight = |(_, node): &(usize, Node)| {
                let mut hasher = DefaultHasher::new();
                (source, node).hash(&mut hasher);
                hasher.finish()
            };
            nodes.enumerate().max_by_key(weight).map_or(0, |(at, _)| at)
        }
        Policy::Nearest | Policy::RoundRobin | Policy::All => {
            rotation.fetch_add(1, Ordering::Relaxed).wrapping_add(1) % nodes.len()
        }
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
