//! What is checked:
//!
//! - In each group, a message is handled at most once without the flag of a redelivery. If it is handled
//!   again, it is flagged, and the instance that handled it before has died or lost its lease, or was removed
//!   because it had stalled. An instance that does not know yet that it was removed may handle what it has,
//!   too; then the other handling is flagged.
//! - An instance handles the messages without that flag in ascending order.
//! - A message that is reported as settled by a group was handled in that group. One that is abandoned
//!   counts as abandoned, and for the last of the reasons that were reported for it.
//! - At the end, nothing is unsettled: every message was declined, or was handled or abandoned in every group that
//!   was announced to receive it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use selvedge_client::settlement::{
    AbandonReason, DeclinedRange, GroupId, InstanceId, RecipientGroup, SequenceSet,
};
use selvedge_hub::Instant;

/// A group by its name, and the instance that is a group of its own.
pub(crate) type GroupKey = (String, Option<InstanceId>);

/// A message was handled.
#[derive(Debug, Clone, Copy)]
struct Handling {
    instance: InstanceId,
    at: Instant,
    is_redelivery: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Judge {
    handled: BTreeMap<(GroupKey, u64), Vec<Handling>>,
    last: BTreeMap<(InstanceId, GroupId), u64>,
    dead: BTreeSet<InstanceId>,
    /// When an entry zipper has removed an instance because it had stalled.
    pub(crate) stalled: BTreeMap<InstanceId, Instant>,
    /// When an instance had no lease for the last time.
    lapsed: BTreeMap<(InstanceId, GroupId), Instant>,
    has_lost: BTreeSet<String>,
    keys: BTreeMap<GroupId, GroupKey>,
    /// The messages that a group receives.
    spans: BTreeMap<GroupId, Range<u64>>,
    abandoned: BTreeMap<GroupKey, SequenceSet>,
    /// Messages that no group receives.
    declined: SequenceSet,
    /// Why messages were abandoned or declined: the last of several reasons.
    reasons: BTreeMap<u64, AbandonReason>,
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
        // One that has stalled has lost its messages, and may not know it yet.
        let is_stalled = self.stalled.contains_key(&instance);
        for earlier in &*before {
            let lapsed = self.lapsed.get(&(earlier.instance, group));
            let is_gone = self.dead.contains(&earlier.instance)
                || self.stalled.contains_key(&earlier.instance)
                || lapsed.is_some_and(|&lapsed| lapsed > earlier.at);
            assert!(
                is_redelivery && is_gone || is_stalled && earlier.is_redelivery,
                "{key:?}: message {sequence} at {instance:?} again, handled by {before:?} before"
            );
        }
        before.push(Handling {
            instance,
            at: now,
            is_redelivery,
        });
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

    pub(crate) fn stalled(&mut self, instance: InstanceId, now: Instant) {
        self.stalled.insert(instance, now);
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

    /// How many messages groups have settled so far.
    pub(crate) fn settled_len(&self) -> u64 {
        let sets = self.settled.values().flat_map(SequenceSet::ranges);
        sets.map(|it| it.end - it.start).sum()
    }

    pub(crate) fn abandoned(
        &mut self,
        group: GroupId,
        messages: &SequenceSet,
        reason: AbandonReason,
    ) {
        self.note_reason(messages, reason);
        let key = &self.keys[&group];
        let abandoned = self.abandoned.entry(key.clone()).or_default();
        abandoned.insert_all(messages);
    }

    pub(crate) fn declined(&mut self, declined: &DeclinedRange) {
        self.note_reason(&declined.messages, declined.reason);
        self.declined.insert_all(&declined.messages);
    }

    fn note_reason(&mut self, messages: &SequenceSet, reason: AbandonReason) {
        for sequence in messages.ranges().flatten() {
            let known = self.reasons.entry(sequence).or_insert(reason);
            *known = reason.max(*known);
        }
    }

    /// How many messages were abandoned or declined for a reason.
    pub(crate) fn count_of(&self, reason: AbandonReason) -> u64 {
        self.reasons.values().filter(|it| **it == reason).count() as u64
    }

    /// The messages below `end` that a group was to receive, and neither handled nor abandoned.
    pub(crate) fn missing(&self, key: &GroupKey, end: u64) -> SequenceSet {
        let numbers = self.keys.iter().filter(|(_, it)| *it == key);
        let spans = numbers.filter_map(|(group, _)| self.spans.get(group).cloned());
        let mut missing = spans.collect::<SequenceSet>().within(0..end);
        let handled = self.handled.keys().filter(|(it, _)| it == key);
        let handled: SequenceSet = handled.map(|&(_, at)| at..at + 1).collect();
        missing.remove_all(&handled);
        missing.remove_all(&self.declined);
        if let Some(abandoned) = self.abandoned.get(key) {
            missing.remove_all(abandoned);
        }
        missing
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &GroupKey> {
        self.keys.values()
    }
}
