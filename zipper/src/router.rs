//! Who gets a message: functions here, and functions at other zippers. Pure.
//!
//! Every function name that observes a tag gets one copy (or each instance, by [`Policy::All`]).
//! The zipper that a message enters chooses the instances, and addresses each copy to the zipper
//! that the instance is connected to, its *home*; zippers between only pass it on. Homes and ways
//! are learned as in a path-vector protocol (RFC 4271, section 5.1.2, without its attributes):
//! each neighbour tells what it can reach and by which zippers, and nobody takes a way that leads
//! through itself, so there are no loops in any topology. The hop limit catches what is on its way
//! while tables change.

mod instead;

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
pub struct Function {
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
pub struct Key<'a> {
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
struct Site {
    /// The client, or the zipper that it is connected to.
    node: Node,
    /// The neighbour on the way; none for a function here.
    via: Option<Node>,
    presence: Presence,
    distance: usize,
    target: Option<String>,
}

#[derive(Debug)]
struct Choice {
    name: Arc<str>,
    policy: Policy,
    turn: Turn,
    /// The nearest first, once all are known.
    sites: Vec<Site>,
}

#[derive(Debug)]
struct Local {
    function: Function,
    presence: Presence,
}

#[derive(Debug)]
struct Neighbour {
    entries: Vec<InterestEntry>,
    presence: Presence,
}

/// How often a name was chosen; shared by all who choose.
type Turn = Arc<AtomicUsize>;

/// Where messages of one tag and target go until something changes. For who routes many of them: it
/// chooses among instances as [`Router::route`] does, and needs no router for it.
#[derive(Debug, Clone)]
pub struct Plan {
    forks: Vec<Fork>,
    /// Those of all forks, one behind the other.
    branches: Vec<Branch>,
    stops: Vec<Stop>,
}

/// A name that gets the messages, or each of its instances.
#[derive(Debug, Clone)]
struct Fork {
    name: Arc<str>,
    policy: Policy,
    turn: Turn,
    /// Of these each message goes to one, or to all of them by [`Policy::All`]. Never empty.
    branches: Range<usize>,
}

/// One way that a message can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Branch {
    /// The client, or the zipper that it is connected to.
    node: Node,
    /// Where the copy is handed to, in the list of the plan.
    stop: usize,
}

/// Whom a zipper hands a copy to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// A function that is connected here.
    Local(Node),
    /// A neighbour, which passes it on.
    Via(Node),
}

/// A choice that a [`Plan`] has made for one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen<'a> {
    /// Whom the copy is handed to: its place among [`Plan::stops`].
    pub stop: usize,
    /// The name of the function.
    pub name: &'a str,
    /// The function, or the zipper that it is connected to.
    pub node: Node,
}

/// The routes of one zipper.
#[derive(Debug)]
pub struct Router {
    own: Node,
    local: BTreeMap<Node, Local>,
    neighbours: BTreeMap<Node, Neighbour>,
    /// For each tag, those of whom some get a message. Made anew at each change.
    choices: HashMap<Tag, Vec<Choice>>,
    /// How often a name was chosen, for those that take turns.
    turns: HashMap<Arc<str>, Turn>,
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
            choices: HashMap::new(),
            turns: HashMap::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// A function is connected here.
    pub fn add_function(&mut self, client: Node, function: Function) {
        let local = Local {
            function,
            presence: Presence::Up,
        };
        self.local.insert(client, local);
        self.rebuild();
    }

    /// A zipper is connected.
    pub fn add_neighbour(&mut self, neighbour: Node) {
        self.neighbours.entry(neighbour).or_insert(Neighbour {
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
        let mut told: BTreeMap<(&str, Option<&str>), InterestEntry> = BTreeMap::new();
        for Local { function, .. } in self.local.values() {
            let key = (function.name.as_str(), function.target.as_deref());
            let entry = told.entry(key).or_insert_with(|| InterestEntry {
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
        let passed_on = self.best().into_iter().filter_map(|(via, entry)| {
            let loops = via == neighbour || entry.path.contains(&neighbour);
            (!loops && entry.path.len() < PATH_MAX).then(|| {
                let mut entry = entry.clone();
                entry.path.push(self.own);
                entry
            })
        });
        told.into_values().chain(passed_on).collect()
    }

    /// The names of those who observe a tag, here or elsewhere.
    #[must_use]
    pub fn observers(&self, tag: Tag) -> Vec<String> {
        let choices = self.choices.get(&tag).into_iter().flatten();
        choices.map(|choice| choice.name.to_string()).collect()
    }

    /// Where messages of clients with that tag and target go, until something changes here.
    #[must_use]
    pub fn plan(&self, tag: Tag, target: Option<&str>) -> Plan {
        let choices = self.choices.get(&tag).map_or(&[][..], Vec::as_slice);
        let mut plan = Plan {
            forks: Vec::with_capacity(choices.len()),
            branches: Vec::with_capacity(choices.len()),
            stops: Vec::with_capacity(choices.len()),
        };
        let mut ways = BTreeMap::new();
        for choice in choices {
            let first = plan.branches.len();
            for site in choice.open(target) {
                let stop = plan.stop_for(site, &mut ways);
                let node = site.node;
                plan.branches.push(Branch { node, stop });
            }
            if plan.branches.len() > first {
                plan.forks.push(Fork {
                    name: Arc::clone(&choice.name),
                    policy: choice.policy,
                    turn: Arc::clone(&choice.turn),
                    branches: first..plan.branches.len(),
                });
            }
        }
        plan
    }

    /// Routes a message of a client.
    pub fn route(&mut self, key: Key<'_>) -> Routes {
        let (mut routes, plan) = (Routes::default(), self.plan(key.tag, key.target));
        for chosen in plan.choose(&key.origin.source, &mut self.random) {
            routes.add(chosen.name, plan.stops[chosen.stop], chosen.node);
        }
        routes
    }

    /// Routes a message that the zipper `from` passes on to `recipients`.
    pub fn relay(&mut self, from: Node, key: Key<'_>, recipients: Vec<Recipient>) -> Routes {
        let mut routes = Routes::default();
        for recipient in recipients {
            if !self.relay_one(from, key, &recipient, &mut routes) {
                routes.unreachable.push(recipient.name);
            }
        }
        routes
    }

    fn relay_one(&mut self, from: Node, key: Key<'_>, to: &Recipient, routes: &mut Routes) -> bool {
        let choices = self.choices.get(&key.tag).into_iter().flatten();
        let Some(choice) = choices.into_iter().find(|choice| *choice.name == *to.name) else {
            return false;
        };
        let sites = || choice.sites.iter().filter(|site| site.wants(key.target));
        let here: Vec<&Site> = sites().filter(|site| site.via.is_none()).collect();
        let beyond = || sites().filter(|site| site.via.is_some_and(|via| via != from));
        let chosen = if to.home != self.own {
            beyond()
                .filter(|site| site.node == to.home)
                .take(1)
                .collect()
        } else if choice.policy == Policy::All {
            here
        } else if here.is_empty() {
            // It has left while the message was on its way: another instance will do.
            beyond().take(1).collect()
        } else {
            let open: Vec<&Site> = alike(choice.policy, here.iter().copied()).collect();
            let nodes = open.iter().map(|site| site.node);
            let source = &key.origin.source;
            let at = one_of(choice.policy, nodes, source, &choice.turn, &mut self.random);
            open.get(at).copied().into_iter().collect()
        };
        for site in &chosen {
            routes.add(&to.name, site.stop(), site.node);
        }
        !chosen.is_empty()
    }

    /// For each function elsewhere the best way to it: up, then short, then the same for everybody.
    fn best(&self) -> Vec<(Node, &InterestEntry)> {
        let mut best: BTreeMap<_, (Presence, usize, Node, &InterestEntry)> = BTreeMap::new();
        let neighbours = self.neighbours.iter();
        for (&via, neighbour) in neighbours.filter(|(_, it)| it.presence < Presence::Gone) {
            for entry in &neighbour.entries {
                let key = (&entry.name, &entry.target, entry.path.first());
                let way = (neighbour.presence, entry.path.len(), via, entry);
                let known = best.entry(key).or_insert(way);
                if (way.0, way.1, way.2) < (known.0, known.1, known.2) {
                    *known = way;
                }
            }
        }
        best.into_values()
            .map(|(_, _, via, entry)| (via, entry))
            .collect()
    }

    fn rebuild(&mut self) {
        let mut offers = Offers {
            known: &self.turns,
            turns: HashMap::new(),
            choices: HashMap::new(),
        };
        let local = self.local.iter();
        for (&node, local) in local.filter(|(_, it)| it.presence < Presence::Gone) {
            let site = Site {
                node,
                via: None,
                presence: local.presence,
                distance: 0,
                target: local.function.target.clone(),
            };
            let Function { name, tags, .. } = &local.function;
            offers.add(name, local.function.policy, tags, &site);
        }
        for (via, entry) in self.best() {
            let site = Site {
                node: entry.path.first().copied().unwrap_or(via),
                via: Some(via),
                presence: self
                    .neighbours
                    .get(&via)
                    .map_or(Presence::Gone, |it| it.presence),
                distance: entry.path.len(),
                target: entry.target.clone(),
            };
            offers.add(&entry.name, entry.policy, &entry.tags, &site);
        }
        let Offers {
            turns, mut choices, ..
        } = offers;
        for choice in choices.values_mut().flatten() {
            choice
                .sites
                .sort_by_key(|site| (site.presence, site.distance, site.node));
        }
        (self.turns, self.choices) = (turns, choices);
    }
}

/// The choices as they are made anew.
struct Offers<'a> {
    /// The turns so far, which last over changes.
    known: &'a HashMap<Arc<str>, Turn>,
    turns: HashMap<Arc<str>, Turn>,
    choices: HashMap<Tag, Vec<Choice>>,
}

impl Offers<'_> {
    fn add(&mut self, name: &str, policy: Policy, tags: &[Tag], site: &Site) {
        for &tag in tags {
            let choices = self.choices.entry(tag).or_default();
            let known = choices.iter_mut().find(|choice| *choice.name == *name);
            if let Some(choice) = known {
                choice.sites.push(site.clone());
                continue;
            }
            let (name, turn) = self.turn(name);
            let choice = Choice {
                name,
                policy,
                turn,
                sites: vec![site.clone()],
            };
            self.choices.entry(tag).or_default().push(choice);
        }
    }

    /// The turn of a name, of which there is one for all tags.
    fn turn(&mut self, name: &str) -> (Arc<str>, Turn) {
        let known = self.turns.get_key_value(name);
        let known = known.or_else(|| self.known.get_key_value(name));
        let (name, turn) = match known {
            Some((name, turn)) => (Arc::clone(name), Arc::clone(turn)),
            None => (name.into(), Turn::default()),
        };
        self.turns.insert(Arc::clone(&name), Arc::clone(&turn));
        (name, turn)
    }
}

impl Choice {
    /// Of whom a message with that target goes to one, or to all of them by [`Policy::All`].
    fn open(&self, target: Option<&str>) -> impl Iterator<Item = &Site> {
        let sites = self.sites.iter().filter(move |it| it.wants(target));
        alike(self.policy, sites)
    }
}

impl Site {
    /// A message with a target is for those who want this target; one without is for all.
    fn wants(&self, target: Option<&str>) -> bool {
        target.is_none() || target == self.target.as_deref()
    }

    fn stop(&self) -> Stop {
        self.via.map_or(Stop::Local(self.node), Stop::Via)
    }
}

impl Routes {
    fn add(&mut self, name: &str, stop: Stop, node: Node) {
        match stop {
            Stop::Local(client) => self.local.push(client),
            Stop::Via(via) => self.forward.entry(via).or_default().push(Recipient {
                name: name.to_owned(),
                home: node,
            }),
        }
    }
}

impl Plan {
    /// The place of a stop, each of which is listed once. A function here is a site of one choice only, so
    /// only ways to neighbours have to be looked for.
    fn stop_for(&mut self, site: &Site, ways: &mut BTreeMap<Node, usize>) -> usize {
        let (stop, next) = (site.stop(), self.stops.len());
        let place = match stop {
            Stop::Via(via) => *ways.entry(via).or_insert(next),
            // Sites are sorted: what was offered twice is next to itself.
            Stop::Local(_) if self.stops.last() == Some(&stop) => next - 1,
            Stop::Local(_) => next,
        };
        if place == next {
            self.stops.push(stop);
        }
        place
    }

    /// All whom copies may be handed to.
    #[must_use]
    pub fn stops(&self) -> &[Stop] {
        &self.stops
    }

    /// How many copies a message makes at the most.
    #[must_use]
    pub fn copies_max(&self) -> usize {
        let copies = |fork: &Fork| match fork.policy {
            Policy::All => fork.branches.len(),
            _ => 1,
        };
        self.forks.iter().map(copies).sum()
    }

    /// Chooses for one message of `source`.
    pub fn choose<'a>(
        &'a self,
        source: &'a Node,
        random: &'a mut fastrand::Rng,
    ) -> impl Iterator<Item = Chosen<'a>> {
        self.forks.iter().flat_map(move |fork| {
            let branches = &self.branches[fork.branches.clone()];
            let chosen = fork.choose(branches, source, random);
            chosen.iter().map(|branch| Chosen {
                stop: branch.stop,
                name: &fork.name,
                node: branch.node,
            })
        })
    }
}

impl Fork {
    fn choose<'a>(
        &self,
        branches: &'a [Branch],
        source: &Node,
        random: &mut fastrand::Rng,
    ) -> &'a [Branch] {
        if self.policy == Policy::All || branches.len() == 1 {
            return branches;
        }
        let nodes = branches.iter().map(|branch| branch.node);
        let at = one_of(self.policy, nodes, source, &self.turn, random);
        std::slice::from_ref(&branches[at])
    }
}

/// Of sites that are sorted by nearness those that are as good as the first; by [`Policy::All`] all.
fn alike<'a>(
    policy: Policy,
    sites: impl Iterator<Item = &'a Site> + Clone,
) -> impl Iterator<Item = &'a Site> {
    let first = sites.clone().next();
    sites.filter(move |site| {
        policy == Policy::All
            || first.is_some_and(|first| {
                site.presence == first.presence
                    && (policy != Policy::Nearest || site.distance == first.distance)
            })
    })
}

/// Which of the nodes, of which there is at least one.
fn one_of(
    policy: Policy,
    nodes: impl ExactSizeIterator<Item = Node>,
    source: &Node,
    turn: &AtomicUsize,
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
            turn.fetch_add(1, Ordering::Relaxed).wrapping_add(1) % nodes.len()
        }
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
