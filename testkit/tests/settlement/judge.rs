//! What is checked:
//!
//! - In each group, a message is handled at most once without the flag of a redelivery. If it is handled
//!   again, it is flagged, and the instance that handled it before has died or lost its lease.
//! - An instance handles the messages without that flag in ascending order.
//! - A message that is reported as settled by a group was handled in that group. One that is abandoned
//!   counts as abandoned.
//! - At the end, nothing is unsettled: every message was handled or abandoned in every group that was
//!   announced to receive it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use selvedge_client::settlement::{
    AbandonReason, GroupId, InstanceId, RecipientGroup, SequenceSet,
};
use selvedge_hub::Instant;

/// A group by its name, and the instance that is a group of its own.
pub(crate) type GroupKey = (String, Option<InstanceId>);

#[derive(Debug, Default)]
pub(crate) struct Judge {
    handled: BTreeMap<(GroupKey, u64), Vec<(InstanceId, Instant)>>,
    last: BTreeMap<(InstanceId, GroupId), u64>,
    dead: BTreeSet<InstanceId>,
    /// When an instance had no lease for the last time.
    lapsed: BTreeMap<(InstanceId, GroupId), Instant>,
    has_lost: BTreeSet<String>,
    keys: BTreeMap<GroupId, GroupKey>,
    /// The messages that a group receives.
    spans: BTreeMap<GroupId, Range<u64>>,
    pub(crate) abandoned: BTreeMap<GroupKey, SequenceSet>,
    pub(crate) instance_lost: SequenceSet,
    settled: BTreeMap<GroupKey, SequenceSet>,
    pub(crate) count: u64,
}

impl Judge {
    pub(crate) fn handled(
        &mut self,
        group: GroupId,
        instance: InstanceId,
        sequence: u64,
        is_redelivery: bool,
        now: Instant,
    ) {
        self.count += 1;
        let key = self.keys[&group].clone();
        let before = self.handled.entry((key.clone(), sequence)).or_default();
        for &(earlier, at) in &*before {
            let lapsed = self.lapsed.get(&(earlier, group));
            let is_gone = self.dead.contains(&earlier) || lapsed.is_some_and(|&lapsed| lapsed > at);
            assert!(
                is_redelivery && is_gone,
                "{key:?}: message {sequence} at {instance:?} again, handled by {before:?} before"
            );
        }
        before.push((instance, now));
        assert!(
            !is_redelivery || self.has_lost.contains(&key.0),
            "{key:?}: message {sequence} is flagged, and no instance of the group has gone"
        );
        if !is_redelivery {
            let last = self.last.insert((instance, group), sequence);
            assert!(
                last.is_none_or(|last| last < sequence),
                "{key:?}: message {sequence} at {instance:?} behind {last:?}"
            );
        }
    }

    pub(crate) fn lapsed(&mut self, group: GroupId, instance: InstanceId, now: Instant) {
        self.lapsed.insert((instance, group), now);
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
            let span = group.from..group.until.unwrap_or(u64::MAX);
            self.spans.insert(group.group, span);
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

    pub(crate) fn abandoned(
        &mut self,
        group: GroupId,
        messages: &SequenceSet,
        reason: AbandonReason,
    ) {
        if reason == AbandonReason::InstanceLost {
            self.instance_lost.insert_all(messages);
        }
        let key = &self.keys[&group];
        let abandoned = self.abandoned.entry(key.clone()).or_default();
        abandoned.insert_all(messages);
    }

    /// The messages below `end` that a group was to receive, and neither handled nor abandoned.
    pub(crate) fn missing(&self, key: &GroupKey, end: u64) -> SequenceSet {
        let numbers = self.keys.iter().filter(|(_, it)| *it == key);
        let spans = numbers.filter_map(|(group, _)| self.spans.get(group).cloned());
        let mut missing = spans.collect::<SequenceSet>().within(0..end);
        let handled = self.handled.keys().filter(|(it, _)| it == key);
        let handled: SequenceSet = handled.map(|&(_, at)| at..at + 1).collect();
        missing.remove_all(&handled);
        if let Some(abandoned) = self.abandoned.get(key) {
            missing.remove_all(abandoned);
        }
        missing
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &GroupKey> {
        self.keys.values()
    }
}
