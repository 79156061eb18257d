//! What has become of the messages of a source, in total and at each group.

use super::{AbandonReason, GroupOffer, OFFER_RANGES_MAX, RecipientGroup, SequenceSet};

/// What became of the messages of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowOutcome {
    /// Messages that every group of their recipient set has.
    pub settled: u64,
    /// Messages whose recipient set was empty.
    pub unobserved: u64,
    /// Messages that the source may not write: no function received them. A retry does not help.
    pub forbidden: u64,
    /// Messages that an instance may have received that died, in a group that wants no redelivery.
    pub instance_lost: u64,
    /// Messages that a group did not receive, or may not have, because its last instance was disconnected: it had
    /// stalled.
    pub instance_stalled: u64,
    /// Other messages that a group did not receive, because none of its instances connected in time.
    pub no_subscriber: u64,
    /// Messages that had passed as many functions as the zipper permits (`limits.function_depth`): functions form a
    /// cycle. No function received them, and a retry does not help.
    pub too_deep: u64,
}

impl FlowOutcome {
    /// Messages that at least one group did not receive.
    #[must_use]
    pub const fn abandoned(&self) -> u64 {
        self.forbidden
            + self.instance_lost
            + self.instance_stalled
            + self.no_subscriber
            + self.too_deep
    }

    /// The messages that were abandoned for a reason.
    pub(super) const fn of_reason(&mut self, reason: AbandonReason) -> &mut u64 {
        match reason {
            AbandonReason::NoSubscriber => &mut self.no_subscriber,
            AbandonReason::InstanceStalled => &mut self.instance_stalled,
            AbandonReason::InstanceLost => &mut self.instance_lost,
            AbandonReason::Forbidden => &mut self.forbidden,
            AbandonReason::TooDeep => &mut self.too_deep,
        }
    }
}

/// Messages by the reason for which they were abandoned. Most flows have none.
#[derive(Debug, Default)]
pub(super) struct ReasonSets(Vec<(AbandonReason, SequenceSet)>);

impl ReasonSets {
    pub(super) fn insert_all(&mut self, reason: AbandonReason, messages: &SequenceSet) {
        if messages.is_empty() {
            return;
        }
        match self.0.iter_mut().find(|it| it.0 == reason) {
            Some((_, known)) => known.insert_all(messages),
            None => self.0.push((reason, messages.clone())),
        }
    }

    pub(super) fn remove_below(&mut self, base: u64) {
        self.0.retain_mut(|(_, messages)| {
            messages.remove_below(base);
            !messages.is_empty()
        });
    }

    /// The last reason for which a message was abandoned, if it was, and the end of the messages from it on with the
    /// same reasons; at most `end`.
    pub(super) fn find(&self, at: u64, mut end: u64) -> (Option<AbandonReason>, u64) {
        let mut why = None;
        for (reason, messages) in &self.0 {
            let abandoned = messages.first_missing(at);
            if abandoned > at {
                why = why.max(Some(*reason));
                end = end.min(abandoned);
            } else {
                end = end.min(messages.first_from(at).unwrap_or(end));
            }
        }
        (why, end)
    }
}

/// What is known of one group.
#[derive(Debug)]
pub(super) struct GroupProgress {
    pub(super) recipients: RecipientGroup,
    /// Messages that need no further care, abandoned ones among them.
    pub(super) done: SequenceSet,
    /// The abandoned ones.
    pub(super) abandoned: ReasonSets,
}

impl GroupProgress {
    pub(super) fn new(recipients: RecipientGroup) -> Self {
        Self {
            recipients,
            done: SequenceSet::default(),
            abandoned: ReasonSets::default(),
        }
    }

    pub(super) fn receives(&self, sequence: u64) -> bool {
        let RecipientGroup { from, until, .. } = self.recipients;
        from <= sequence && until.is_none_or(|until| sequence < until)
    }

    /// Removes messages that the group is to have, and does not have yet.
    pub(super) fn retain_done(&self, messages: &mut SequenceSet) {
        let RecipientGroup { from, until, .. } = self.recipients;
        let until = until.unwrap_or(u64::MAX);
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else {
            return;
        };
        let span = first.max(from)..(last + 1).min(until).max(first.max(from));
        if self.done.first_missing(span.start) < span.end {
            messages.remove_all(&self.done.missing_from(span));
        }
    }

    /// What is presented to another entry zipper.
    pub(super) fn offer(&self, base: u64, sent_max: u64) -> GroupOffer {
        let floor = self.done.first_missing(base.max(self.recipients.from));
        let mut recipients = self.recipients.clone();
        let mut rest = self.done.clone();
        rest.remove_below(floor);
        let settled = rest.take_ranges(OFFER_RANGES_MAX);
        if !rest.is_empty() {
            // The entry zipper would take them for messages that nobody has received.
            recipients.uncertain_below = sent_max;
        }
        GroupOffer {
            recipients,
            floor,
            settled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_messages_that_have_left_the_log_are_forgotten() {
        let mut sets = ReasonSets::default();
        sets.insert_all(AbandonReason::Forbidden, &(0..5).into());
        sets.insert_all(AbandonReason::TooDeep, &(3..9).into());
        sets.remove_below(5);
        assert_eq!(sets.0, [(AbandonReason::TooDeep, (5..9).into())]);
    }
}
