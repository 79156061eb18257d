//! A router that computes everything anew whenever it is asked.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use super::OWN;
use selvedge_client::wire::{ListedInstances, PATH_MAX};

pub(super) type Key = (String, Option<String>, NodeKey);

/// A function group without its counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelGroup {
    pub(super) policy: Policy,
    /// In the order of preference.
    pub(super) instances: Vec<GroupInstance>,
}

/// The groups of each tag, by name.
pub(super) type ModelGroups = BTreeMap<Tag, BTreeMap<String, ModelGroup>>;

/// Functions and tables as they were handed in.
#[derive(Debug, Default)]
pub(super) struct ModelRouter {
    pub(super) local: BTreeMap<NodeKey, (FunctionSpec, Presence)>,
    pub(super) neighbours: BTreeMap<NodeKey, (BTreeMap<Key, InterestEntry>, Presence)>,
    /// The neighbours with settlement.
    pub(super) settling: BTreeSet<NodeKey>,
}

pub(super) fn key_of(entry: &InterestEntry) -> Key {
    (entry.name.clone(), entry.target.clone(), entry.path[0])
}

impl ModelRouter {
    pub(super) fn learn(&mut self, neighbour: NodeKey, entries: &[InterestEntry]) {
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

    pub(super) fn learn_delta(&mut self, neighbour: NodeKey, delta: &InterestDelta) {
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

    pub(super) fn set_presence(&mut self, node: NodeKey, presence: Presence) {
        if let Some(local) = self.local.get_mut(&node) {
            local.1 = presence;
        }
        if let Some(neighbour) = self.neighbours.get_mut(&node) {
            neighbour.1 = presence;
        }
    }

    pub(super) fn remove(&mut self, node: NodeKey) {
        self.local.remove(&node);
        self.neighbours.remove(&node);
    }

    pub(super) fn best_routes(&self) -> BTreeMap<Key, (Presence, NodeKey, &InterestEntry)> {
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

    pub(super) fn groups(&self) -> ModelGroups {
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
                settled: function.instance.map(|notice| {
                    let instances = vec![notice.instance];
                    let redelivers = notice.redelivers;
                    let listed = ListedInstances {
                        redelivers,
                        instances,
                        away: Vec::new(),
                    };
                    listed.into()
                }),
                drops: function.drops,
            };
            if *presence < Presence::Gone {
                add(&function.name, &function.tags, instance);
            }
        }
        for ((name, target, home), (presence, via, entry)) in self.best_routes() {
            let mut entry = entry.clone();
            sort_instances(&mut entry);
            let instance = GroupInstance {
                node: home,
                via: Some(via),
                presence,
                distance: entry.path.len(),
                target: target.as_deref().map(Into::into),
                policy: entry.policy,
                settled: entry.settled.take().map(Into::into),
                drops: entry.drops,
            };
            add(&name, &entry.tags, instance);
        }
        for group in groups.values_mut().flat_map(BTreeMap::values_mut) {
            let order = |it: &GroupInstance| (it.presence, it.distance, it.node);
            group.instances.sort_by_key(order);
        }
        groups
    }

    pub(super) fn advertise(&self, neighbour: NodeKey) -> BTreeMap<Key, InterestEntry> {
        let mut advertised = BTreeMap::<Key, InterestEntry>::new();
        for (function, presence) in self.local.values() {
            let key = (function.name.clone(), function.target.clone(), OWN);
            let is_same = |it: &FunctionSpec| (&it.name, &it.target) == (&key.0, &key.1);
            let mut same = self.local.values().filter(|(it, _)| is_same(it));
            let is_dropping = same.all(|(it, _)| it.drops.is_some());
            let drops = function.drops.filter(|_| is_dropping);
            let entry = advertised.entry(key).or_insert_with(|| InterestEntry {
                name: function.name.clone(),
                tags: Vec::new(),
                target: function.target.clone(),
                policy: function.policy,
                path: vec![OWN],
                settled: None,
                drops,
            });
            entry.tags.extend(&function.tags);
            if let Some(notice) = function.instance
                && *presence < Presence::Gone
            {
                let listed = entry.settled.get_or_insert_with(|| ListedInstances {
                    redelivers: notice.redelivers,
                    ..ListedInstances::default()
                });
                let list = match *presence {
                    Presence::Up => &mut listed.instances,
                    _ => &mut listed.away,
                };
                list.push(notice.instance);
            }
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
            sort_instances(entry);
        }
        advertised
    }

    /// The same in deltas.
    pub(super) fn advertise_deltas(&self, neighbour: NodeKey) -> BTreeMap<Key, InterestEntry> {
        let mut advertised = self.advertise(neighbour);
        if !self.settling.contains(&neighbour) {
            let plain = |it: &mut InterestEntry| (it.settled, it.drops) = (None, None);
            advertised.values_mut().for_each(plain);
        }
        advertised
    }

    pub(super) fn local_instance(&self, instance: InstanceId) -> Option<NodeKey> {
        let is_same = |it: &FunctionSpec| it.instance.is_some_and(|it| it.instance == instance);
        let local = self
            .local
            .iter()
            .filter(|(_, (it, presence))| is_same(it) && *presence < Presence::Gone);
        let best = local.min_by_key(|(node, (_, presence))| (*presence, **node));
        best.map(|(node, _)| *node)
    }

    pub(super) fn next_hop_towards(&self, name: &str, home: NodeKey) -> Option<NextHop> {
        let best = self.best_routes().into_iter();
        let towards = best.filter(|((of, _, to), _)| of == name && *to == home);
        let towards = towards.filter(|(_, (_, _, entry))| entry.settled.is_some());
        let offers = towards.map(|(_, (presence, via, entry))| (presence, entry.path.len(), via));
        offers.min().map(|(_, _, via)| NextHop::Via(via))
    }
}

/// Whether a group redelivers, the instances among which messages are distributed, and the homes of all.
pub(super) type ModelSettledGroup = (bool, BTreeSet<InstanceId>, BTreeMap<InstanceId, NodeKey>);

/// The settled groups of a tag and target.
pub(super) fn settled_groups(
    groups: &BTreeMap<String, ModelGroup>,
    target: Option<&str>,
) -> BTreeMap<String, ModelSettledGroup> {
    let mut settled = BTreeMap::new();
    for (name, group) in groups {
        let matching = group
            .instances
            .iter()
            .filter(|it| it.matches_target(target));
        let matching: Vec<_> = matching.filter(|it| it.settled.is_some()).collect();
        let Some(first) = matching.iter().min_by_key(|it| it.precedence()) else {
            continue;
        };
        // Each instance with its rank: connected, presence of the path, distance.
        let (mut all, mut homes) = (Vec::new(), BTreeMap::new());
        for it in &matching {
            let listed = it.settled.as_ref().unwrap();
            let is_away = it.via.is_none() && it.presence > Presence::Up;
            let rank = |is_away| match group.policy {
                Policy::Nearest => (is_away, it.presence, it.distance),
                _ => (is_away, it.presence, 0),
            };
            let home = it.via.map_or(OWN, |_| it.node);
            let connected = listed.instances.iter().map(|id| (rank(is_away), *id, home));
            let away = listed.away.iter().map(|id| (rank(true), *id, home));
            all.extend(connected.chain(away));
        }
        all.sort_by_key(|((is_away, ..), ..)| *is_away);
        let best = all.iter().map(|(rank, ..)| *rank).min();
        let mut members = BTreeSet::new();
        for (rank, instance, home) in all {
            homes.entry(instance).or_insert(home);
            if Some(rank) == best || group.policy == Policy::All {
                members.insert(instance);
            }
        }
        let redelivers = first.settled.as_ref().unwrap().redelivers;
        settled.insert(name.clone(), (redelivers, members, homes));
    }
    settled
}

pub(super) fn sort_instances(entry: &mut InterestEntry) {
    if let Some(listed) = &mut entry.settled {
        for list in [&mut listed.instances, &mut listed.away] {
            list.sort_unstable();
            list.dedup();
        }
    }
}

pub(super) fn absent() -> (BTreeMap<Key, InterestEntry>, Presence) {
    (BTreeMap::new(), Presence::Up)
}

pub(super) fn is_usable(neighbour: NodeKey, entry: &InterestEntry) -> bool {
    let path = &entry.path;
    path.last() == Some(&neighbour) && path.len() <= PATH_MAX && !path.contains(&OWN)
}
