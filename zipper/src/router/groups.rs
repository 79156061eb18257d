//! Function groups: the functions of one name, as a zipper distributes messages among them. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use selvedge_client::tag::Tag;
use selvedge_client::wire::{DropPolicy, ListedInstances, NodeKey, Policy};

use super::{NextHop, Presence};

/// How often an instance of one name was selected in turn; shared by all plans for that name.
pub(super) type RotationCounter = Arc<AtomicUsize>;

/// An instance that can be selected: one function of this zipper, or all of that name at another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupInstance {
    /// The function, or the home zipper of the functions.
    pub(super) node: NodeKey,
    /// The neighbour on the path to that zipper; `None` for a function of this zipper.
    pub(super) via: Option<NodeKey>,
    pub(super) presence: Presence,
    /// The number of zippers on the path.
    pub(super) distance: usize,
    pub(super) target: Option<Arc<str>>,
    pub(super) policy: Policy,
    /// The processes that take part in settlement.
    pub(super) settled: Option<Arc<ListedInstances>>,
    /// Which messages are dropped while it has no room; otherwise they wait.
    pub(super) drops: Option<DropPolicy>,
}

/// The functions of one name that observe a tag.
#[derive(Debug)]
pub(super) struct FunctionGroup {
    pub(super) name: Arc<str>,
    /// The policy of the instance that [`GroupInstance::precedence`] puts first.
    pub(super) policy: Policy,
    /// Whether the policies of the instances may differ.
    is_mixed: bool,
    pub(super) rotation: RotationCounter,
    /// Sorted by [`GroupInstance::order`], which is unique within a group. Never empty.
    instances: Vec<Arc<GroupInstance>>,
}

/// An instance with its name, and the tags that it observes: sorted, each once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observer<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) tags: &'a [Tag],
    pub(super) instance: &'a Arc<GroupInstance>,
}

/// A name with observers.
#[derive(Debug, Default)]
struct ObservingName {
    rotation: RotationCounter,
    observers: usize,
}

/// The groups that observe each tag. A change costs in proportion to the tags of the changed observer.
#[derive(Debug, Default)]
pub(super) struct TagTable {
    /// Sorted by name; an ordered map, because the growth of a hash table would delay one change by
    /// the cost of all of them.
    groups: BTreeMap<Tag, Vec<FunctionGroup>>,
    names: BTreeMap<Arc<str>, ObservingName>,
    /// The tags whose groups have changed; some may occur more than once.
    changed: Vec<Tag>,
}

/// From this length on, duplicates are removed from the list of changed tags when it is full, so that it
/// does not grow if it is never taken.
const CHANGED_LEN_MIN: usize = 4096;

impl TagTable {
    /// The groups that observe a tag, sorted by name.
    pub(super) fn groups(&self, tag: Tag) -> &[FunctionGroup] {
        self.groups.get(&tag).map_or(&[], Vec::as_slice)
    }

    /// The observed tags behind a tag, in their order, with their groups.
    pub(super) fn groups_after(
        &self,
        after: Option<Tag>,
    ) -> impl Iterator<Item = (Tag, &[FunctionGroup])> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let groups = self.groups.range((start, Bound::Unbounded));
        groups.map(|(tag, groups)| (*tag, groups.as_slice()))
    }

    /// The number of observed tags.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// The group of one name that observes a tag.
    pub(super) fn group(&self, tag: Tag, name: &str) -> Option<&FunctionGroup> {
        let groups = self.groups(tag);
        let at = groups.binary_search_by(|group| (*group.name).cmp(name));
        at.ok().and_then(|at| groups.get(at))
    }

    /// Replaces an observer. Tags that both observe remain untouched if nothing else differs.
    pub(super) fn replace(&mut self, old: Option<Observer<'_>>, new: Option<Observer<'_>>) {
        let is_same = old
            .zip(new)
            .is_some_and(|(old, new)| old.name == new.name && old.instance == new.instance);
        let is_kept = |other: Option<Observer<'_>>, tag: &Tag| {
            is_same && other.is_some_and(|other| other.tags.binary_search(tag).is_ok())
        };
        // Counted first, so that the rotation of a name survives the replacement of its only observer.
        let rotation = new.map(|new| self.count(new.name));
        if let Some(old) = old {
            let tags = old.tags.iter().filter(|tag| !is_kept(new, tag));
            tags.for_each(|tag| self.remove(*tag, old));
        }
        if let (Some(new), Some(rotation)) = (new, rotation) {
            let tags = new.tags.iter().filter(|tag| !is_kept(old, tag));
            tags.for_each(|tag| self.insert(*tag, new, &rotation));
        }
        if let Some(old) = old {
            self.discount(old.name);
        }
    }

    /// Returns the tags whose groups have changed since the last call.
    pub(super) fn take_changed(&mut self) -> Vec<Tag> {
        std::mem::take(&mut self.changed)
    }

    fn count(&mut self, name: &Arc<str>) -> RotationCounter {
        let observing = self.names.entry(Arc::clone(name)).or_default();
        observing.observers += 1;
        Arc::clone(&observing.rotation)
    }

    fn discount(&mut self, name: &str) {
        if let Some(observing) = self.names.get_mut(name) {
            observing.observers -= 1;
            if observing.observers == 0 {
                self.names.remove(name);
            }
        }
    }

    fn insert(&mut self, tag: Tag, observer: Observer<'_>, rotation: &RotationCounter) {
        self.note_changed(tag);
        let groups = self.groups.entry(tag).or_default();
        match groups.binary_search_by(|group| group.name.cmp(observer.name)) {
            Ok(at) => groups[at].insert(observer.instance),
            Err(at) => {
                if groups.is_empty() {
                    // Most tags have one group.
                    groups.reserve_exact(1);
                }
                let group = FunctionGroup {
                    name: Arc::clone(observer.name),
                    policy: observer.instance.policy,
                    is_mixed: false,
                    rotation: Arc::clone(rotation),
                    instances: vec![Arc::clone(observer.instance)],
                };
                groups.insert(at, group);
            }
        }
    }

    fn remove(&mut self, tag: Tag, observer: Observer<'_>) {
        self.note_changed(tag);
        let Some(groups) = self.groups.get_mut(&tag) else {
            return;
        };
        let at = groups.binary_search_by(|group| group.name.cmp(observer.name));
        if let Ok(at) = at
            && groups[at].remove(observer.instance)
        {
            groups.remove(at);
        }
        if groups.is_empty() {
            self.groups.remove(&tag);
        }
    }

    fn note_changed(&mut self, tag: Tag) {
        let is_full = self.changed.len() == self.changed.capacity();
        if is_full && self.changed.len() >= CHANGED_LEN_MIN {
            self.changed.sort_unstable();
            self.changed.dedup();
        }
        self.changed.push(tag);
    }
}

impl FunctionGroup {
    /// Those for a message with that target that take part in settlement, the preferred ones first.
    pub(super) fn settled<'a>(
        &'a self,
        target: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a GroupInstance, &'a ListedInstances)> + Clone {
        let matching = self.instances().filter(move |it| it.matches_target(target));
        matching.filter_map(|it| Some((it, it.settled.as_deref()?)))
    }

    /// All instances, the preferred ones first.
    pub(super) fn instances(&self) -> impl Iterator<Item = &GroupInstance> + Clone {
        self.instances.iter().map(|instance| &**instance)
    }

    /// The instances among which the policy selects one for a message with that target; by
    /// [`Policy::All`] each of them receives the message.
    pub(super) fn eligible(&self, target: Option<&str>) -> impl Iterator<Item = &GroupInstance> {
        let instances = self.instances().filter(move |it| it.matches_target(target));
        equally_good(self.policy, instances)
    }

    fn insert(&mut self, instance: &Arc<GroupInstance>) {
        let at = self.position(instance).unwrap_or_else(|at| at);
        self.instances.insert(at, Arc::clone(instance));
        self.is_mixed |= instance.policy != self.policy;
        self.update_policy();
    }

    /// Removes an instance. Returns whether no other is left.
    fn remove(&mut self, instance: &GroupInstance) -> bool {
        if let Ok(at) = self.position(instance) {
            self.instances.remove(at);
            self.update_policy();
        }
        self.instances.is_empty()
    }

    fn position(&self, instance: &GroupInstance) -> Result<usize, usize> {
        let order = instance.order();
        self.instances.binary_search_by(|it| it.order().cmp(&order))
    }

    /// Instances of one name rarely have different policies: only then all of them are compared.
    fn update_policy(&mut self) {
        if !self.is_mixed {
            return;
        }
        let first = self.instances().min_by_key(|it| it.precedence());
        let policy = first.map_or(self.policy, |first| first.policy);
        self.policy = policy;
        self.is_mixed = self.instances.iter().any(|it| it.policy != policy);
    }
}

impl GroupInstance {
    /// A message with a target is for instances with the same target; one without is for all.
    pub(super) fn matches_target(&self, target: Option<&str>) -> bool {
        target.is_none() || target == self.target.as_deref()
    }

    pub(super) fn next_hop(&self) -> NextHop {
        self.via.map_or(NextHop::Local(self.node), NextHop::Via)
    }

    /// Whether it is as good as the best one.
    pub(super) fn is_as_good(&self, policy: Policy, first: &Self) -> bool {
        self.presence == first.presence
            && (policy != Policy::Nearest || self.distance == first.distance)
    }

    /// Connected instances precede disconnected ones, then near ones precede far ones.
    fn order(&self) -> (Presence, usize, &NodeKey, Option<&str>) {
        let target = self.target.as_deref();
        (self.presence, self.distance, &self.node, target)
    }

    /// Decides which instance provides the policy of its group: one of this zipper if there is any. It
    /// does not depend on the presence, so the policy remains when an instance disconnects.
    pub(super) fn precedence(&self) -> (bool, Option<&str>, &NodeKey) {
        let target = self.via.and(self.target.as_deref());
        (self.via.is_some(), target, &self.node)
    }
}

/// Of sorted instances, those that are as good as the first; by [`Policy::All`] all of them.
pub(super) fn equally_good<'a>(
    policy: Policy,
    instances: impl Iterator<Item = &'a GroupInstance> + Clone,
) -> impl Iterator<Item = &'a GroupInstance> {
    let first = instances.clone().next();
    instances.filter(move |instance| {
        policy == Policy::All || first.is_some_and(|first| instance.is_as_good(policy, first))
    })
}

/// The index of the node that the policy selects for messages of `source`. There is at least one node.
pub(super) fn pick(
    policy: Policy,
    nodes: impl ExactSizeIterator<Item = NodeKey>,
    source: &NodeKey,
    rotation: &AtomicUsize,
    random: &mut fastrand::Rng,
) -> usize {
    match policy {
        Policy::Random => random.usize(..nodes.len()),
        // Rendezvous hashing: when an instance leaves, only its sources move.
        Policy::Hash => {
            let weight = |(_, node): &(usize, NodeKey)| {
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
mod tests {
    use super::*;

    fn instance(number: u8) -> Arc<GroupInstance> {
        let instance = GroupInstance {
            node: [number; 32],
            via: None,
            presence: Presence::Up,
            distance: 0,
            target: None,
            policy: Policy::Nearest,
            settled: None,
            drops: None,
        };
        instance.into()
    }

    #[test]
    fn a_name_without_observers_is_forgotten() {
        let (mut table, name) = (TagTable::default(), Arc::from("a"));
        let (one, two) = (instance(1), instance(2));
        let [one, two] = [&one, &two].map(|instance| Observer {
            name: &name,
            tags: &[Tag(5)],
            instance,
        });
        table.replace(None, Some(one));
        table.replace(None, Some(two));
        table.replace(Some(one), None);
        assert_eq!((table.names.len(), table.len()), (1, 1));
        table.replace(Some(two), None);
        assert_eq!((table.names.len(), table.len()), (0, 0));
    }

    #[test]
    fn changed_tags_that_are_never_taken_are_listed_a_limited_number_of_times() {
        let (mut table, tags) = (TagTable::default(), CHANGED_LEN_MIN as u32 + 1);
        for number in 0..20 * tags {
            table.note_changed(Tag(number % tags));
        }
        let mut changed = table.take_changed();
        assert!(changed.len() <= 2 * CHANGED_LEN_MIN, "{}", changed.len());
        changed.sort_unstable();
        changed.dedup();
        assert_eq!(changed, (0..tags).map(Tag).collect::<Vec<_>>());
    }
}
