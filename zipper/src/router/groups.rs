//! Function groups: the functions of one name, as a zipper distributes messages among them. Pure.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use selvedge_client::tag::Tag;
use selvedge_client::wire::{NodeKey, Policy};

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
    pub(super) target: Option<String>,
}

/// The functions of one name that observe a tag.
#[derive(Debug)]
pub(super) struct FunctionGroup {
    pub(super) name: Arc<str>,
    pub(super) policy: Policy,
    pub(super) rotation: RotationCounter,
    /// Sorted by presence and distance, once the group is complete.
    pub(super) instances: Vec<GroupInstance>,
}

/// Collects the groups of all tags when the routes have changed.
pub(super) struct GroupsBuilder<'a> {
    /// The counters before the change, which are kept.
    pub(super) previous: &'a HashMap<Arc<str>, RotationCounter>,
    pub(super) rotations: HashMap<Arc<str>, RotationCounter>,
    pub(super) groups: HashMap<Tag, Vec<FunctionGroup>>,
}

impl GroupsBuilder<'_> {
    pub(super) fn add(
        &mut self,
        name: &str,
        policy: Policy,
        tags: &[Tag],
        instance: &GroupInstance,
    ) {
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

    /// The counter of a name: one for all tags.
    fn rotation(&mut self, name: &str) -> (Arc<str>, RotationCounter) {
        let known = self.rotations.get_key_value(name);
        let known = known.or_else(|| self.previous.get_key_value(name));
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
    /// The instances among which the policy selects one for a message with that target; by
    /// [`Policy::All`] each of them receives the message.
    pub(super) fn eligible(&self, target: Option<&str>) -> impl Iterator<Item = &GroupInstance> {
        let instances = self
            .instances
            .iter()
            .filter(move |it| it.matches_target(target));
        equally_good(self.policy, instances)
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
}

/// Of sorted instances, those that are as good as the first; by [`Policy::All`] all of them.
pub(super) fn equally_good<'a>(
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
