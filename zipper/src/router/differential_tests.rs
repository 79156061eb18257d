//! The router against a model that computes all groups and tables anew after each change.

use std::collections::{BTreeMap, BTreeSet};

mod model;

use super::*;
use fastrand::Rng;
use model::{Key, ModelGroup, ModelGroups, ModelRouter, absent, key_of, settled_groups};
use selvedge_client::wire::{INTEREST_DELTA_LEN_MAX, ListedInstances, PATH_MAX, WithdrawnRoute};

const OWN: NodeKey = [0; 32];
const POLICIES: [Policy; 5] = [
    Policy::Nearest,
    Policy::RoundRobin,
    Policy::Hash,
    Policy::All,
    Policy::Random,
];

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

    fn instance(&mut self) -> InstanceId {
        InstanceId(self.random.u64(..6))
    }

    fn function(&mut self) -> FunctionSpec {
        let notice = InstanceNotice {
            instance: self.instance(),
            redelivers: self.random.bool(),
        };
        let (instance, drops) = match self.random.u8(..4) {
            0 => (None, None),
            1 => (None, self.drops()),
            _ => (Some(notice), None),
        };
        FunctionSpec {
            instance,
            drops,
            name: self.name(),
            tags: self.tags(),
            target: self.target(),
            policy: self.policy(),
        }
    }

    fn drops(&mut self) -> Option<DropPolicy> {
        self.pick(&[None, Some(DropPolicy::Oldest), Some(DropPolicy::Newest)])
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
        let mut entry = InterestEntry {
            name: self.name(),
            tags: self.tags(),
            target: self.target(),
            policy: self.policy(),
            path,
            settled: None,
            drops: None,
        };
        if self.random.bool() {
            let count = self.random.usize(..4);
            entry.settled = Some(ListedInstances {
                redelivers: self.random.bool(),
                instances: (0..count).map(|_| self.instance()).collect(),
                away: (0..self.random.usize(..3))
                    .map(|_| self.instance())
                    .collect(),
            });
        } else {
            entry.drops = self.drops();
        }
        entry
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
                model.settling.remove(&neighbour);
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
                let is_settling = changes.random.bool();
                match is_settling {
                    true => {
                        model.settling.insert(neighbour);
                        router.add_settling_neighbour(neighbour);
                    }
                    false => {
                        model.settling.remove(&neighbour);
                        router.add_neighbour(neighbour);
                    }
                }
                format!("neighbour {} is introduced: {is_settling}", neighbour[0])
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
            lists_instances: true,
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
            assert_eq!(table, &self.model.advertise_deltas(neighbour));
        }
    }

    /// Compares what the router knows of instances.
    fn check_instances(&self, tags: &BTreeSet<Tag>, groups: &ModelGroups) {
        let Self { router, model, .. } = self;
        for instance in (0..6).map(InstanceId) {
            let expected = model.local_instance(instance);
            assert_eq!(router.local_instance(instance), expected, "{instance:?}");
        }
        for (name, home) in ["a", "b", "c"]
            .into_iter()
            .flat_map(|name| (0..9).map(move |n| (name, [n; 32])))
        {
            let expected = model.next_hop_towards(name, home);
            assert_eq!(
                router.next_hop_towards(name, home),
                expected,
                "{name} {home:?}"
            );
        }
        let (no_groups, source) = (BTreeMap::new(), [9; 32]);
        for tag in tags {
            let groups = groups.get(tag).unwrap_or(&no_groups);
            for target in [None, Some("t"), Some("u")] {
                let expected = settled_groups(groups, target);
                let found = router.settled_groups(*tag, target, &source);
                assert_eq!(found.len(), expected.len());
                for group in found {
                    let (redelivers, members, homes) = &expected[&*group.name];
                    let all = group.members.iter().chain(&group.others);
                    assert_eq!(group.redelivers, *redelivers);
                    assert_eq!(all.clone().count(), homes.len(), "{group:?}");
                    assert!(
                        all.clone().all(|it| homes[&it.instance] == it.home),
                        "{group:?}"
                    );
                    let is_hash = group.policy == Policy::Hash;
                    let found: BTreeSet<_> = group.members.iter().map(|it| it.instance).collect();
                    match is_hash && !members.is_empty() {
                        true => assert!(found.len() == 1 && found.is_subset(members)),
                        false => assert_eq!(&found, members),
                    }
                }
            }
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
            pair.check_instances(&tags, &expected);
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
