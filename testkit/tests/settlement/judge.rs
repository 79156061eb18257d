//! What is checked:
//!
//! - In each group, a message is handled at most once without the flag of a redelivery. If it is handled
//!   again, it is flagged, and the instance that handled it before has died or lost its lease.
//! - An instance handles the messages without that flag in ascending order.
//! - A message that is reported as settled by a group was handled in that group. One that is abandoned
//!   counts as abandoned.
//! - At the end, nothing is unsettled. In a group that had an instance all the time, every message was
//!   handled or abandoned.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_client::settlement::{GroupId, InstanceId, RecipientGroup, SequenceSet};

/// A group by its name, and the instance that is a group of its own.
pub(crate) type GroupKey = (String, Option<InstanceId>);

#[derive(Debug, Default)]
pub(crate) struct Judge {
    handled: BTreeMap<(GroupKey, u64), Vec<(InstanceId, bool)>>,
    last: BTreeMap<InstanceId, u64>,
    dead: BTreeSet<InstanceId>,
    has_lost: BTreeSet<String>,
    keys: BTreeMap<GroupId, GroupKey>,
    pub(crate) abandoned: BTreeMap<GroupKey, SequenceSet>,
    settled: BTreeMap<GroupKey, SequenceSet>,
    pub(crate) count: u64,
}

impl Judge {
    pub(crate) fn handled(
        &mut self,
        key: &GroupKey,
        instance: InstanceId,
        sequence: u64,
        is_redelivery: bool,
    ) {
        self.count += 1;
        let before = self.handled.entry((key.clone(), sequence)).or_default();
        for (earlier, _) in &*before {
            assert!(
                is_redelivery && self.dead.contains(earlier),
                "{key:?}: message {sequence} at {instance:?} again, handled by {before:?} before"
            );
        }
        before.push((instance, is_redelivery));
        assert!(
            !is_redelivery || self.has_lost.contains(&key.0),
            "{key:?}: message {sequence} is flagged, and no instance of the group has gone"
        );
        if !is_redelivery {
            let last = self.last.insert(instance, sequence);
            assert!(
                last.is_none_or(|last| last < sequence),
                "{key:?}: message {sequence} at {instance:?} behind {last:?}"
            );
        }
    }

    pub(crate) fn lost(&mut self, group: &str) {
        self.has_lost.insert(group.to_owned());
    }

    pub(crate) fn died(&mut self, instance: InstanceId) {
        self.dead.insert(instance);
    }

    pub(crate) fn announced(&mut self, groups: &[RecipientGroup]) {
        for group in groups {
            let key = (group.name.clone(), group.only);
            let known = self.keys.insert(group.group, key.clone());
            assert!(
                known.is_none_or(|known| known == key),
                "a number is used twice"
            );
        }
    }

    pub(crate) fn settled(&mut self, group: GroupId, messages: &SequenceSet) {
        let key = &self.keys[&group];
        for sequence in messages.ranges().flatten() {
            assert!(
                self.handled.contains_key(&(key.clone(), sequence)),
                "{key:?}: message {sequence} is reported as settled and was not handled"
            );
        }
        let settled = self.settled.entry(key.clone()).or_default();
        settled.insert_all(messages);
    }

    pub(crate) fn abandoned(&mut self, group: GroupId, messages: &SequenceSet) {
        let key = &self.keys[&group];
        let abandoned = self.abandoned.entry(key.clone()).or_default();
        abandoned.insert_all(messages);
    }

    /// The messages below `end` that a group neither handled nor abandoned.
    pub(crate) fn missing(&self, key: &GroupKey, end: u64) -> SequenceSet {
        let of_group = self.handled.keys().filter(|(it, _)| it == key);
        let mut done: SequenceSet = of_group.map(|&(_, at)| at..at + 1).collect();
        if let Some(abandoned) = self.abandoned.get(key) {
            done.insert_all(abandoned);
        }
        done.missing_from(0..end)
    }
}
