//! The routes of a zipper: the functions that it reaches, each by its best path. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use selvedge_client::settlement::InstanceId;
use selvedge_client::tag::Tag;
use selvedge_client::wire::settlement::{GROUP_MEMBERS_MAX, InstanceNotice};
use selvedge_client::wire::{
    DropPolicy, InterestEntry, ListedInstances, NodeKey, PATH_MAX, Policy, TAGS_MAX, WithdrawnRoute,
};

use super::advertised::AdvertisedTable;
use super::groups::{GroupInstance, Observer};
use super::{FunctionSpec, Presence};

/// Identifies the functions that zippers advertise as one: those with one name, target and home.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteKey {
    pub(super) name: Arc<str>,
    pub(super) target: Option<Arc<str>>,
    pub(super) home: NodeKey,
}

impl RouteKey {
    pub(super) fn new(name: &str, target: Option<&str>, home: NodeKey) -> Self {
        Self {
            name: name.into(),
            target: target.map(Into::into),
            home,
        }
    }

    /// The key of an entry; `None` if its path is empty.
    pub(super) fn of_entry(entry: &InterestEntry) -> Option<Self> {
        let home = *entry.path.first()?;
        Some(Self::new(&entry.name, entry.target.as_deref(), home))
    }

    pub(super) fn withdrawn(&self) -> WithdrawnRoute {
        WithdrawnRoute {
            name: self.name.to_string(),
            target: self.target.as_deref().map(str::to_owned),
            home: self.home,
        }
    }
}

impl From<&WithdrawnRoute> for RouteKey {
    fn from(route: &WithdrawnRoute) -> Self {
        Self::new(&route.name, route.target.as_deref(), route.home)
    }
}

/// A function that is connected to this zipper.
#[derive(Debug)]
pub(super) struct LocalFunction {
    /// Its tags are sorted and occur once each.
    pub(super) function: FunctionSpec,
    /// With this zipper as the home.
    pub(super) key: RouteKey,
    pub(super) instance: Arc<GroupInstance>,
}

impl LocalFunction {
    pub(super) fn new(own: NodeKey, client: NodeKey, mut function: FunctionSpec) -> Self {
        function.tags.sort_unstable();
        function.tags.dedup();
        let key = RouteKey::new(&function.name, function.target.as_deref(), own);
        let instance = GroupInstance {
            node: client,
            via: None,
            presence: Presence::Up,
            distance: 0,
            target: key.target.clone(),
            policy: function.policy,
            settled: function.instance.map(|notice| {
                let listed = ListedInstances {
                    redelivers: notice.redelivers,
                    instances: vec![notice.instance],
                    away: Vec::new(),
                };
                listed.into()
            }),
            drops: function.drops,
        };
        Self {
            function,
            key,
            instance: instance.into(),
        }
    }

    pub(super) fn presence(&self) -> Presence {
        self.instance.presence
    }

    /// Its process and presence, if messages of settled flows may be sent to it.
    pub(super) fn listed(&self) -> Option<(InstanceNotice, Presence)> {
        let notice = self.function.instance?;
        (self.presence() < Presence::Gone).then_some((notice, self.presence()))
    }

    pub(super) fn listed_by_key(&self) -> Option<(&RouteKey, (InstanceNotice, Presence))> {
        self.listed().map(|listed| (&self.key, listed))
    }

    /// The function as an observer, if messages may be sent to it.
    pub(super) fn observer(&self) -> Option<Observer<'_>> {
        self.observer_as(&self.instance)
    }

    /// The same with another instance, such as a previous one.
    pub(super) fn observer_as<'a>(
        &'a self,
        instance: &'a Arc<GroupInstance>,
    ) -> Option<Observer<'a>> {
        let observer = Observer {
            name: &self.key.name,
            tags: &self.function.tags,
            instance,
        };
        (instance.presence < Presence::Gone).then_some(observer)
    }
}

/// The functions of this zipper that it advertises as one.
#[derive(Debug, Default)]
pub(super) struct LocalGroup {
    /// The functions, with their policies.
    pub(super) members: BTreeMap<NodeKey, (Policy, Option<DropPolicy>)>,
    /// How many of them do not drop messages.
    holding: usize,
    /// How many of them observe each tag.
    tags: BTreeMap<Tag, usize>,
    /// The functions with instances, connected or not, and whether they redeliver.
    redelivering: BTreeMap<NodeKey, bool>,
    /// How many functions each instance is: connected ones, and disconnected ones.
    instances: [BTreeMap<InstanceId, usize>; 2],
}

impl LocalGroup {
    pub(super) fn add(&mut self, client: NodeKey, function: &FunctionSpec) {
        self.remove(&client);
        let policies = (function.policy, function.drops);
        self.members.insert(client, policies);
        self.holding += usize::from(function.drops.is_none());
        for tag in &function.tags {
            *self.tags.entry(*tag).or_default() += 1;
        }
    }

    /// Removes a function, but for its tags and its process.
    pub(super) fn remove(&mut self, client: &NodeKey) {
        let removed = self.members.remove(client);
        self.holding -= usize::from(removed.is_some_and(|(_, drops)| drops.is_none()));
    }

    /// Removes the tags of a function, which may have been added again with other tags.
    pub(super) fn remove_tags(&mut self, function: &FunctionSpec) {
        for tag in &function.tags {
            if let Some(count) = self.tags.get_mut(tag) {
                *count -= 1;
                if *count == 0 {
                    self.tags.remove(tag);
                }
            }
        }
    }

    /// Lists the process of a function.
    pub(super) fn list(&mut self, client: NodeKey, notice: InstanceNotice, presence: Presence) {
        self.redelivering.insert(client, notice.redelivers);
        let list = &mut self.instances[usize::from(presence > Presence::Up)];
        *list.entry(notice.instance).or_default() += 1;
    }

    /// Reverts [`list`](Self::list).
    pub(super) fn delist(&mut self, client: NodeKey, notice: InstanceNotice, presence: Presence) {
        self.redelivering.remove(&client);
        let list = &mut self.instances[usize::from(presence > Presence::Up)];
        if let Some(count) = list.get_mut(&notice.instance) {
            *count -= 1;
            if *count == 0 {
                list.remove(&notice.instance);
            }
        }
    }

    /// The instances to advertise. Those that are disconnected are listed apart: messages wait for them
    /// unless there are others, or they are connected to another zipper by then.
    fn listed(&self) -> Option<ListedInstances> {
        let redelivers = *self.redelivering.values().next()?;
        let [instances, away] = &self.instances;
        let room = GROUP_MEMBERS_MAX.saturating_sub(instances.len());
        Some(ListedInstances {
            redelivers,
            instances: instances.keys().copied().take(GROUP_MEMBERS_MAX).collect(),
            away: away.keys().copied().take(room).collect(),
        })
    }

    /// The entry to advertise, without a path; `None` if there is no function. An entry has room for a
    /// limited number of tags and instances: those with the smallest numbers.
    pub(super) fn entry(&self, key: &RouteKey) -> Option<InterestEntry> {
        let (policy, drops) = *self.members.values().next()?;
        Some(InterestEntry {
            name: key.name.to_string(),
            tags: self.tags.keys().copied().take(TAGS_MAX).collect(),
            target: key.target.as_deref().map(str::to_owned),
            policy,
            path: Vec::new(),
            settled: self.listed(),
            drops: drops.filter(|_| self.holding == 0),
        })
    }
}

/// A neighbour, the functions that it reaches, and the state of the table that is advertised to it.
#[derive(Debug)]
pub(super) struct NeighbourTable {
    pub(super) presence: Presence,
    pub(super) routes: BTreeMap<RouteKey, Arc<InterestEntry>>,
    /// The number of the last delta that it has sent.
    pub(super) last_delta: u64,
    pub(super) advertised: AdvertisedTable,
}

impl Default for NeighbourTable {
    fn default() -> Self {
        Self {
            presence: Presence::Up,
            routes: BTreeMap::new(),
            last_delta: 0,
            advertised: AdvertisedTable::default(),
        }
    }
}

/// The path by which this zipper reaches functions with one key.
#[derive(Debug)]
pub(super) struct BestRoute {
    /// Without this zipper on its path.
    pub(super) entry: Arc<InterestEntry>,
    /// The home zipper as an instance, and the neighbour on the path to it; `None` for functions of this
    /// zipper, each of which is an instance of its own.
    pub(super) remote: Option<(NodeKey, Arc<GroupInstance>)>,
}

impl BestRoute {
    pub(super) fn new(
        via: NodeKey,
        presence: Presence,
        key: &RouteKey,
        entry: &Arc<InterestEntry>,
    ) -> Self {
        let instance = GroupInstance {
            node: key.home,
            via: Some(via),
            presence,
            distance: entry.path.len(),
            target: key.target.clone(),
            policy: entry.policy,
            settled: entry.settled.clone().map(Arc::new),
            drops: entry.drops,
        };
        Self {
            entry: Arc::clone(entry),
            remote: Some((via, instance.into())),
        }
    }

    pub(super) fn via(&self) -> Option<NodeKey> {
        self.remote.as_ref().map(|(via, _)| *via)
    }

    pub(super) fn observer<'a>(&'a self, key: &'a RouteKey) -> Option<Observer<'a>> {
        let (_, instance) = self.remote.as_ref()?;
        Some(Observer {
            name: &key.name,
            tags: &self.entry.tags,
            instance,
        })
    }

    /// Whether the route is advertised to a neighbour: not back to where it leads, and not beyond the
    /// longest path.
    pub(super) fn is_for(&self, neighbour: &NodeKey) -> bool {
        self.remote.as_ref().is_none_or(|(via, _)| {
            let path = &self.entry.path;
            via != neighbour && path.len() < PATH_MAX && !path.contains(neighbour)
        })
    }

    /// The entry as this zipper advertises it, with at most so many instances, or none at all.
    pub(super) fn advertised_by(&self, own: NodeKey, instances: Option<usize>) -> InterestEntry {
        let InterestEntry {
            name,
            tags,
            target,
            policy,
            path,
            settled,
            drops,
        } = &*self.entry;
        let mut entry = InterestEntry {
            name: name.clone(),
            tags: tags.clone(),
            target: target.clone(),
            policy: *policy,
            path: Vec::with_capacity(path.len() + 1),
            settled: settled.as_ref().zip(instances).map(|(listed, count)| {
                let connected: Vec<_> = listed.instances.iter().copied().take(count).collect();
                let room = count - connected.len();
                ListedInstances {
                    redelivers: listed.redelivers,
                    instances: connected,
                    away: listed.away.iter().copied().take(room).collect(),
                }
            }),
            drops: *drops,
        };
        entry.path.extend(path);
        entry.path.push(own);
        entry
    }
}
