//! The router against a model that computes all groups and tables anew after each change.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use fastrand::Rng;
use selvedge_client::wire::{INTEREST_DELTA_LEN_MAX, PATH_MAX, WithdrawnRoute};

const OWN: NodeKey = [0; 32];
const POLICIES: [Policy; 5] = [
    Policy::Nearest,
    Policy::RoundRobin,
    Policy::Hash,
    Policy::All,
    Policy::Random,
];

type Key = (String, Option<String>, NodeKey);

/// A function group without its counter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ModelGroup {
    policy: Policy,
    /// In the order of preference.
    instances: Vec<GroupInstance>,
}

/// The groups of each tag, by name.
type ModelGroups = BTreeMap<Tag, BTreeMap<String, ModelGroup>>;

/// Functions and tables as they were handed in.
#[derive(Debug, Default)]
struct ModelRouter {
    local: BTreeMap<NodeKey, (FunctionSpec, Presence)>,
    neighbours: BTreeMap<NodeKey, (BTreeMap<Key, InterestEntry>, Presence)>,
}

fn key_of(entry: &InterestEntry) -> Key {
    (entry.name.clone(), entry.target.clone(), entry.path[0])
}

impl ModelRouter {
    fn learn(&mut self, neighbour: NodeKey, entries: &[InterestEntry]) {
        let table = &mut self.neighbours.entry(neighbour).or_insert_with(absent).0;
        table.clear();
        for entry in entries {
            let known = table.get(&key_of(entry));
            if is_usable(neighbour, entry)
                && known.is_none_or(|known| entry.path.len() < known.path.len())
            {
                table.insert(key_of(entry), entry.clone());
            }
        }
    }

    fn learn_delta(&mut self, neighbour: NodeKey, delta: &InterestDelta) {
        let table = &mut self.neighbours.entry(neighbour).or_insert_with(absent).0;
        for route in &delta.withdrawn {
            table.remove(&(route.name.clone(), route.target.clone(), route.home));
        }
        for entry in &delta.updated {
            match is_usable(neighbour, entry) {
                true => _ = table.insert(key_of(entry), entry.clone()),
                false => _ = table.remove(&key_of(entry)),
            }
        }
    }

    fn set_presence(&mut self, node: NodeKey, presence: Presence) {
        if let Some(local) = self.local.get_mut(&node) {
            local.1 = presence;
        }
        if let Some(neighbour) = self.neighbours.get_mut(&node) {
            neighbour.1 = presence;
        }
    }

    fn remove(&mut self, node: NodeKey) {
        self.local.remove(&node);
        self.neighbours.remove(&node);
    }

    fn best_routes(&self) -> BTreeMap<Key, (Presence, NodeKey, &InterestEntry)> {
        let mut best = BTreeMap::<Key, (Presence, usize, NodeKey, &InterestEntry)>::new();
        for (via, (table, presence)) in &self.neighbours {
            for (key, entry) in table.iter().filter(|_| *presence < Presence::Gone) {
                let route = (*presence, entry.path.len(), *via, entry);
                let known = best.entry(key.clone()).or_insert(route);
                if (route.0, route.1, route.2) < (known.0, known.1, known.2) {
                    *known = route;
                }
            }
        }
        let route = |(key, (presence, _, via, entry))| (key, (presence, via, entry));
        best.into_iter().map(route).collect()
    }

    fn groups(&self) -> ModelGroups {
        let mut groups = ModelGroups::new();
        let mut add = |name: &str, tags: &[Tag], instance: GroupInstance| {
            for tag in tags.iter().collect::<BTreeSet<_>>() {
                let by_name = groups.entry(*tag).or_default();
                let group = by_name.entry(name.to_owned()).or_insert(ModelGroup {
                    policy: instance.policy,
                    instances: Vec::new(),
                });
                group.instances.push(instance.clone());
            }
        };
        for (node, (function, presence)) in &self.local {
            let instance = GroupInstance {
                node: *node,
                via: None,
                presence: *presence,
                distance: 0,
                target: function.target.as_deref().map(Into::into),
                policy: function.policy,
            };
            if *presence < Presence::Gone {
                add(&function.name, &function.tags, instance);
            }
        }
        for ((name, target, home), (presence, via, entry)) in self.best_routes() {
            let instance = GroupInstance {
                node: home,
                via: Some(via),
                presence,
                distance: entry.path.len(),
                target: target.as_deref().map(Into::into),
                policy: entry.policy,
            };
            add(&name, &entry.tags, instance);
        }
        for group in groups.values_mut().flat_map(BTreeMap::values_mut) {
            let order = |it: &GroupInstance| (it.presence, it.distance, it.node);
            group.instances.sort_by_key(order);
        }
        groups
    }

    fn advertise(&self, neighbour: NodeKey) -> BTreeMap<Key, InterestEntry> {
        let mut advertised = BTreeMap::<Key, InterestEntry>::new();
        for (function, _) in self.local.values() {
            let key = (function.name.clone(), function.target.clone(), OWN);
            let entry = advertised.entry(key).or_insert_with(|| InterestEntry {
                name: function.name.clone(),
                tags: Vec::new(),
                target: function.target.clone(),
                policy: function.policy,
                path: vec![OWN],
            });
            entry.tags.extend(&function.tags);
        }
        for (key, (_, via, entry)) in self.best_routes() {
            let is_for = via != neighbour && !entry.path.contains(&neighbour);
            if is_for && entry.path.len() < PATH_MAX {
                let mut entry = entry.clone();
                entry.path.push(OWN);
                advertised.insert(key, entry);
            }
        }
        for entry in advertised.values_mut() {
            entry.tags.sort_unstable();
            entry.tags.dedup();
        }
        advertised
    }
}

fn absent() -> (BTreeMap<Key, InterestEntry>, Presence) {
    (BTreeMap::new(), Presence::Up)
}

fn is_usable(neighbour: NodeKey, entry: &InterestEntry) -> bool {
    let path = &entry.path;
    path.last() == Some(&neighbour) && path.len() <= PATH_MAX && !path.contains(&OWN)
}

fn groups_of(router: &Router, tags: &BTreeSet<Tag>) -> ModelGroups {
    let mut groups = ModelGroups::new();
    for tag in tags {
        for group in router.tags.groups(*tag) {
            let model = ModelGroup {
                policy: group.policy,
                instances: group.instances().cloned().collect(),
            };
            let by_name = groups.entry(*tag).or_default();
            let twice = by_name.insert(group.name.to_string(), model);
            assert!(twice.is_none(), "a name occurs once");
        }
    }
    groups
}

/// Draws changes. Everything is drawn from few values, so that changes concern the same things.
struct Changes {
    random: Rng,
}

impl Changes {
    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.usize(..all.len())]
    }

    fn node(&mut self, first: u8, count: u8) -> NodeKey {
        [first + self.random.u8(..count); 32]
    }

    fn client(&mut self) -> NodeKey {
        self.node(100, 8)
    }

    fn neighbour(&mut self) -> NodeKey {
        self.node(1, 4)
    }

    fn name(&mut self) -> String {
        self.pick(&["a", "b", "c"]).into()
    }

    fn target(&mut self) -> Option<String> {
        self.pick(&[None, None, Some("t"), Some("u")])
            .map(Into::into)
    }

    fn tags(&mut self) -> Vec<Tag> {
        let count = self.random.usize(1..6);
        (0..count).map(|_| Tag(self.random.u32(..8))).collect()
    }

    fn policy(&mut self) -> Policy {
        // Mostly equal, as those of one name should be.
        match self.random.u8(..4) {
            0 => self.pick(&POLICIES),
            _ => Policy::Nearest,
        }
    }

    fn function(&mut self) -> FunctionSpec {
        FunctionSpec {
            name: self.name(),
            tags: self.tags(),
            target: self.target(),
            policy: self.policy(),
        }
    }

    /// An entry of a neighbour's table, now and then one that is not usable.
    fn entry(&mut self, neighbour: NodeKey) -> InterestEntry {
        let length = match self.random.u8(..12) {
            0 => self.random.usize(PATH_MAX - 2..PATH_MAX + 2),
            _ => self.random.usize(..3),
        };
        let mut path: Vec<_> = (0..length).map(|_| self.node(1, 8)).collect();
        path.push(neighbour);
        match self.random.u8(..20) {
            0 => path.insert(1, OWN),
            1 => path.push(OWN),
            _ => {}
        }
        InterestEntry {
            name: self.name(),
            tags: self.tags(),
            target: self.target(),
            policy: self.policy(),
            path,
        }
    }

    fn entries(&mut self, neighbour: NodeKey, count: usize) -> Vec<InterestEntry> {
        let count = self.random.usize(..=count);
        (0..count).map(|_| self.entry(neighbour)).collect()
    }

    fn presence(&mut self) -> Presence {
        self.pick(&[Presence::Up, Presence::Away, Presence::Gone])
    }
}

/// The router, its model, and the tables that its neighbours have received as deltas.
struct Pair {
    router: Router,
    model: ModelRouter,
    received: BTreeMap<NodeKey, (u64, BTreeMap<Key, InterestEntry>)>,
    changes: Changes,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        Self {
            router: Router::new(OWN, random.u64(..)),
            model: ModelRouter::default(),
            received: BTreeMap::new(),
            changes: Changes { random },
        }
    }

    /// Makes one change. Returns what it was.
    fn change(&mut self) -> String {
        let Self {
            router,
            model,
            received,
            changes,
        } = self;
        let (client, neighbour) = (changes.client(), changes.neighbour());
        match changes.random.u8(..12) {
            0..3 => {
                let function = changes.function();
                let what = format!("add {} {function:?}", client[0]);
                let state = (function.clone(), Presence::Up);
                model.local.insert(client, state);
                router.add_function(client, function);
                what
            }
            3 => {
                model.remove(client);
                router.remove(client);
                format!("remove client {}", client[0])
            }
            4 => {
                model.remove(neighbour);
                received.remove(&neighbour);
                router.begin_removal(neighbour);
                format!("remove neighbour {}", neighbour[0])
            }
            5 => {
                let presence = changes.presence();
                model.set_presence(client, presence);
                router.set_presence(client, presence);
                format!("client {} is {presence:?}", client[0])
            }
            6 => {
                let presence = changes.presence();
                model.set_presence(neighbour, presence);
                router.begin_presence(neighbour, presence);
                format!("neighbour {} is {presence:?}", neighbour[0])
            }
            7 => {
                let entries = changes.entries(neighbour, 8);
                model.learn(neighbour, &entries);
                router.begin_learning(neighbour, entries.clone());
                format!("learn from {}: {entries:?}", neighbour[0])
            }
            8 => {
                model.neighbours.entry(neighbour).or_insert_with(absent);
                received.remove(&neighbour);
                router.add_neighbour(neighbour);
                format!("neighbour {} is introduced", neighbour[0])
            }
            _ => self.learn_delta(neighbour),
        }
    }

    fn learn_delta(&mut self, neighbour: NodeKey) -> String {
        let table = self.router.neighbours.get(&neighbour);
        let (last, known) = table.map_or((0, Vec::new()), |it| {
            (it.last_delta, it.routes.keys().cloned().collect())
        });
        // Each key once, as the router makes them.
        let updated = self.changes.entries(neighbour, 3).into_iter();
        let updated: BTreeMap<_, _> = updated.map(|entry| (key_of(&entry), entry)).collect();
        let mut delta = InterestDelta {
            number: last + 1,
            updated: updated.values().cloned().collect(),
            withdrawn: Vec::new(),
        };
        let withdrawn = self.changes.random.choice(&known).map(RouteKey::withdrawn);
        let is_updated = |it: &WithdrawnRoute| {
            updated.contains_key(&(it.name.clone(), it.target.clone(), it.home))
        };
        delta
            .withdrawn
            .extend(withdrawn.filter(|it| !is_updated(it)));
        let unknown = WithdrawnRoute {
            name: "unknown".into(),
            target: None,
            home: neighbour,
        };
        delta.withdrawn.push(unknown);
        match delta.number {
            1 => self.model.learn(neighbour, &delta.updated),
            _ => self.model.learn_delta(neighbour, &delta),
        }
        let what = format!("delta from {}: {delta:?}", neighbour[0]);
        let learned = self.router.learn_delta(neighbour, delta);
        assert_eq!(learned, Ok(()), "{what}");
        what
    }

    /// Delivers a delta to one neighbour, or all of them to each.
    fn advertise(&mut self, is_complete: bool) {
        let one = self.changes.neighbour();
        let all = self.router.neighbours.keys().copied();
        let to: Vec<_> = all.filter(|it| is_complete || *it == one).collect();
        for neighbour in to {
            let (last, table) = self.received.entry(neighbour).or_default();
            while let Some(delta) = self.router.next_delta(neighbour, INTEREST_DELTA_LEN_MAX) {
                assert_eq!(delta.number, *last + 1);
                *last = delta.number;
                for route in delta.withdrawn {
                    let key = (route.name, route.target, route.home);
                    assert!(table.remove(&key).is_some(), "{key:?} was advertised");
                }
                for entry in delta.updated {
                    let old = table.insert(key_of(&entry), entry.clone());
                    assert_ne!(old, Some(entry), "it has changed");
                }
            }
            assert_eq!(table, &self.model.advertise(neighbour));
        }
    }
}

#[test]
fn after_any_changes_the_router_equals_one_that_computes_everything_anew() {
    let tags: BTreeSet<Tag> = (0..8).map(Tag).collect();
    for seed in 0..300 {
        let mut pair = Pair::new(seed);
        let (mut before, mut is_interleaved) = (ModelGroups::new(), false);
        let mut story = Vec::new();
        for step in 0..60 {
            story.push(pair.change());
            // Now and then, other changes follow before all routes are refreshed.
            let part = pair.changes.random.usize(..20);
            if pair.router.advance(part) && pair.changes.random.bool() {
                is_interleaved = true;
                continue;
            }
            pair.router.advance(usize::MAX);
            let show = || format!("seed {seed}, step {step}: {story:#?}");
            let (expected, found) = (pair.model.groups(), groups_of(&pair.router, &tags));
            assert_eq!(found, expected, "{}", show());
            let is_changed = |tag: &&Tag| before.get(tag) != expected.get(tag);
            let changed: BTreeSet<Tag> = pair.router.take_changed().into_iter().collect();
            let differing: BTreeSet<Tag> = tags.iter().filter(is_changed).copied().collect();
            assert!(changed.is_superset(&differing), "{}", show());
            // Two changes may cancel each other out.
            if !std::mem::take(&mut is_interleaved) {
                assert_eq!(changed, differing, "{}", show());
            }
            for neighbour in (1..5).map(|number| [number; 32]) {
                let table = pair.router.advertise(neighbour);
                let table: BTreeMap<_, _> = table.into_iter().map(|it| (key_of(&it), it)).collect();
                assert_eq!(table, pair.model.advertise(neighbour), "{}", show());
            }
            let is_complete = pair.changes.random.u8(..8) == 0;
            pair.advertise(is_complete);
            before = expected;
        }
    }
}
