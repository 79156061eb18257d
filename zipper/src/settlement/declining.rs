//! Messages that no group receives, because their source may not write them.

use std::ops::Range;

use selvedge_client::settlement::{AbandonReason, DeclinedRange, RANGES_MAX, SequenceSet};
use selvedge_hub::Instant;

use super::entry::EntryFlow;
use super::group::GroupFlow;

/// Messages that were declined and are not reported yet, and whether all of them are.
#[derive(Debug, Default)]
pub(super) struct DeclinedMessages {
    unreported: Vec<(AbandonReason, SequenceSet)>,
    pub(super) is_forbidden: bool,
}

impl EntryFlow {
    /// The source may not write the tag any more, or never might: groups receive nothing but what is on its way to
    /// their instances. Messages that arrive are to be [declined](Self::decline). Until
    /// [`set_groups`](Self::set_groups).
    pub fn forbid(&mut self, now: Instant) {
        self.close_blocks();
        self.is_changed |= self.announced == 0;
        let leftover = self.leftover();
        leftover.declined.is_forbidden = true;
        leftover.absent.retain_mut(|it| {
            it.is_listed = false;
            it.until.is_some()
        });
        for at in 0..self.groups.len() {
            let group = &mut self.groups[at];
            self.is_changed |= group.recipients.until.is_none();
            group.close(self.arrived);
            group.list(now, |_| false, |_| false);
            self.proceed(at);
        }
    }

    /// The source may write the tag.
    pub(super) fn permit(&mut self) {
        if let Some(leftover) = &mut self.leftover {
            leftover.declined.is_forbidden = false;
        }
    }

    pub(super) fn is_forbidden(&self) -> bool {
        let leftover = self.leftover.as_ref();
        leftover.is_some_and(|it| it.declined.is_forbidden)
    }

    /// So many live messages have arrived, from [`expected`](Self::expected) on, and go to no group.
    pub fn decline(&mut self, count: u64, reason: AbandonReason) {
        self.close_blocks();
        let messages = self.arrived..self.arrived + count;
        self.arrived = messages.end;
        for group in &mut self.groups {
            group.pass_over(&messages);
        }
        let unreported = &mut self.leftover().declined.unreported;
        match unreported.iter_mut().find(|it| it.0 == reason) {
            Some((_, known)) => known.insert(messages),
            None => unreported.push((reason, messages.into())),
        }
    }

    /// Takes the declined messages below `routed`, or below the number that is returned: the ranges of a report are
    /// limited.
    pub(super) fn take_declined(&mut self, mut routed: u64) -> (u64, Vec<DeclinedRange>) {
        let mut declined = Vec::new();
        let leftover = self.leftover.as_mut();
        let Some(DeclinedMessages { unreported, .. }) = leftover.map(|it| &mut it.declined) else {
            return (routed, declined);
        };
        for (_, messages) in &*unreported {
            if let Some(first) = messages.ranges().nth(RANGES_MAX) {
                routed = routed.min(first.start);
            }
        }
        for (reason, messages) in unreported.iter_mut() {
            let taken = messages.within(0..routed);
            messages.remove_below(routed);
            if !taken.is_empty() {
                declined.push(DeclinedRange {
                    reason: *reason,
                    messages: taken,
                });
            }
        }
        unreported.retain(|it| !it.1.is_empty());
        (routed, declined)
    }
}

impl GroupFlow {
    /// Messages arrive that the group does not receive.
    fn pass_over(&mut self, messages: &Range<u64>) {
        let until = self.recipients.until.unwrap_or(messages.end);
        let own = messages.start.max(self.floor)..messages.end.min(until);
        if !own.is_empty() {
            self.finish(&own.into());
        }
    }

    /// Abandons what is not on its way to an instance.
    pub(super) fn abandon_unsent(&mut self) {
        if self.is_recovering() {
            return;
        }
        let mut unsent = self.unassigned.clone();
        for member in &mut self.members {
            unsent.insert_all(&member.missing);
        }
        self.abandon(unsent, AbandonReason::Forbidden);
    }
}
