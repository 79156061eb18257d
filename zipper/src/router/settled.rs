//! The instances that receive the messages of settled flows, and the paths to them. Pure.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use selvedge_client::settlement::InstanceId;
use selvedge_client::tag::Tag;
use selvedge_client::wire::settlement::{GROUP_MEMBERS_MAX, InstanceNotice};
use selvedge_client::wire::{ListedInstances, NodeKey, Policy};

use super::groups::{FunctionGroup, GroupInstance};
use super::routes::RouteKey;
use super::{NextHop, Plan, Presence, Router};

/// A group with instances that take part in settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledGroup {
    /// The name of its functions.
    pub name: Arc<str>,
    /// How messages are distributed. By [`Policy::All`], each member is a group of its own.
    pub policy: Policy,
    /// Whether messages that an instance may have processed when it is lost go to another one. A function
    /// of this zipper decides, if there is any.
    pub redelivers: bool,
    /// The instances among which messages are distributed: disconnected ones only if there are no others, or
    /// if each instance receives each message. Empty if a message of a neighbour had no room for them.
    pub members: Vec<SettledMember>,
    /// Instances that receive no new messages at present, but may have earlier ones.
    pub others: Vec<SettledMember>,
}

/// An instance, with the zipper to which it is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledMember {
    /// The instance.
    pub instance: InstanceId,
    /// The zipper to which it is connected, or was connected last.
    pub home: NodeKey,
    /// The next hop on the path to it.
    pub next_hop: NextHop,
}

impl Router {
    /// The groups that receive the messages of a settled flow with that source, tag and target; valid until
    /// the routes for the tag change.
    ///
    /// A group is settled from when one of its functions introduces an instance until each of those has left
    /// or is [`Presence::Gone`]. Meanwhile its functions without an instance receive nothing of settled flows.
    /// An instance occurs once per group, with the preferred home: where it is connected, then the nearest.
    /// A group has at most [`GROUP_MEMBERS_MAX`] instances, members first.
    #[must_use]
    pub fn settled_groups(
        &self,
        tag: Tag,
        target: Option<&str>,
        source: &NodeKey,
    ) -> Vec<SettledGroup> {
        let groups = self.tags.groups(tag).iter();
        let settled = groups.filter_map(|group| self.settled_group(group, target, source));
        settled.collect()
    }

    fn settled_group(
        &self,
        group: &FunctionGroup,
        target: Option<&str>,
        source: &NodeKey,
    ) -> Option<SettledGroup> {
        let settled = group.settled(target);
        let first = settled.clone().min_by_key(|(it, _)| it.precedence());
        let (_, ListedInstances { redelivers, .. }) = first?;
        let (mut connected, mut away) = (Vec::new(), Vec::new());
        for (it, listed) in settled {
            let is_away = it.via.is_none() && it.presence > Presence::Up;
            let choice = if is_away { &mut away } else { &mut connected };
            choice.push((it, &*listed.instances));
            away.push((it, &*listed.away));
        }
        let is_any = |(_, instances): &(&GroupInstance, &[InstanceId])| !instances.is_empty();
        connected.retain(is_any);
        away.retain(is_any);
        let best = match connected.is_empty() {
            true => &away,
            false => &connected,
        };
        let best = best
            .iter()
            .filter(|(it, _)| it.is_as_good(group.policy, best[0].0));
        let mut known = BTreeSet::new();
        let mut take = |(it, instances): &(&_, &_)| self.new_members(it, instances, &mut known);
        let mut members: Vec<SettledMember> = best.flat_map(&mut take).collect();
        let mut others: Vec<_> = connected.iter().chain(&away).flat_map(take).collect();
        if group.policy == Policy::All {
            members.append(&mut others);
        }
        if group.policy == Policy::Hash {
            let selected = members
                .iter()
                .max_by_key(|it| hash_weight(source, it.instance));
            let selected: Vec<_> = selected.copied().into_iter().collect();
            members.retain(|it| !selected.contains(it));
            others = [members, others].concat();
            members = selected;
        }
        Some(SettledGroup {
            name: Arc::clone(&group.name),
            policy: group.policy,
            redelivers: *redelivers,
            members,
            others,
        })
    }

    /// The instances that are not known yet, as far as there is room.
    fn new_members(
        &self,
        functions: &GroupInstance,
        instances: &[InstanceId],
        known: &mut BTreeSet<InstanceId>,
    ) -> Vec<SettledMember> {
        let home = functions.via.map_or(self.own, |_| functions.node);
        let instances = instances.iter().copied();
        let new = instances.filter(|it| known.len() < GROUP_MEMBERS_MAX && known.insert(*it));
        let member = |instance| SettledMember {
            instance,
            home,
            next_hop: functions.next_hop(),
        };
        new.map(member).collect()
    }

    /// The plan for the messages of settled flows to functions that do not take part in settlement: as
    /// [`plan`](Self::plan), without the groups that [`settled_groups`](Self::settled_groups) returns. By
    /// [`Policy::All`], functions at a zipper where one of the group has an instance are left out. So a function
    /// with a drop policy receives nothing of settled flows while others of its name settle.
    #[must_use]
    pub fn unsettled_plan(&self, tag: Tag, target: Option<&str>) -> Plan {
        let is_included = |group: &FunctionGroup| {
            group.policy == Policy::All || group.settled(target).next().is_none()
        };
        self.plan_for(tag, target, is_included, |_, it| it.settled.is_none())
    }

    /// The function of this zipper with that instance: a connected one if there is any.
    #[must_use]
    pub fn local_instance(&self, instance: InstanceId) -> Option<NodeKey> {
        let first = (instance, Presence::Up, [0; 32]);
        let (found, _, client) = self.instances.range(first..).next()?;
        (*found == instance).then_some(*client)
    }

    /// The next hop on the best path to another zipper that is the home of functions with that name, some of
    /// which take part in settlement.
    #[must_use]
    pub fn next_hop_towards(&self, name: &str, home: NodeKey) -> Option<NextHop> {
        let mut best = None;
        let mut key = RouteKey::new(name, None, home);
        // One step for each target of the name.
        loop {
            let route = self.routes.get(&key).and_then(|it| it.remote.as_ref());
            // A neighbour that lists no instances does not know labels.
            let route = route.filter(|(_, it)| it.settled.is_some());
            let offer = route.map(|(via, it)| (it.presence, it.distance, *via));
            best = best.into_iter().chain(offer).min();
            key.home = [u8::MAX; 32];
            let mut rest = self.routes.range((Bound::Excluded(&key), Bound::Unbounded));
            match rest.next() {
                Some((next, _)) if *next.name == *name => {
                    key = RouteKey {
                        home,
                        ..next.clone()
                    };
                }
                _ => break,
            }
        }
        best.map(|(_, _, via)| NextHop::Via(via))
    }

    /// Records the process and the presence of a function, instead of earlier ones.
    pub(super) fn list_locally(
        &mut self,
        client: NodeKey,
        key: &RouteKey,
        old: Option<(InstanceNotice, Presence)>,
        new: Option<(InstanceNotice, Presence)>,
    ) {
        let mut group = self.local_groups.get_mut(key);
        if let Some((notice, presence)) = old {
            self.instances.remove(&(notice.instance, presence, client));
            if let Some(group) = &mut group {
                group.delist(client, notice, presence);
            }
        }
        if let Some((notice, presence)) = new {
            self.instances.insert((notice.instance, presence, client));
            if let Some(group) = &mut group {
                group.list(client, notice, presence);
            }
        }
    }
}

/// Rendezvous hashing, by which all zippers decide alike.
fn hash_weight(source: &NodeKey, instance: InstanceId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (source, instance).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "settled_tests.rs"]
mod tests;
