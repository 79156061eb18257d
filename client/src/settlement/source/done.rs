//! Messages that need no further care: they leave the log, and their outcome is counted.

use std::ops::Range;

use super::SourceFlow;
use crate::settlement::progress::GroupProgress;
use crate::settlement::{AbandonReason, DeclinedRange, SequenceSet};

/// What has become of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageOutcome {
    Abandoned(AbandonReason),
    Settled,
    Unobserved,
}

impl SourceFlow {
    /// No group receives these messages.
    pub(super) fn decline(&mut self, DeclinedRange { reason, messages }: &DeclinedRange) {
        let mut messages = messages.clone();
        messages.remove_below(self.base());
        self.declined.insert_all(*reason, &messages);
        for group in &mut self.groups {
            group.done.insert_all(&messages);
        }
    }

    /// Removes what every group has from the front of the log, and counts the outcomes.
    pub(super) fn advance(&mut self) {
        while let Some((end, outcome)) = self.done_from(self.base()) {
            self.count(end - self.base(), outcome);
            self.sent_bytes -= self.log.remove_below(end);
            self.is_refusing = false;
        }
        let base = self.base();
        let is_over = |it: &GroupProgress| it.recipients.until.is_some_and(|until| until <= base);
        self.groups.retain(|group| !is_over(group));
        self.declined.remove_below(base);
        for group in &mut self.groups {
            group.done.remove_below(base);
            group.abandoned.remove_below(base);
        }
    }

    fn count(&mut self, messages: u64, outcome: MessageOutcome) {
        let counter = match outcome {
            MessageOutcome::Abandoned(reason) => self.outcome.of_reason(reason),
            MessageOutcome::Settled => &mut self.outcome.settled,
            MessageOutcome::Unobserved => &mut self.outcome.unobserved,
        };
        *counter += messages;
    }

    /// Counts the outcomes of messages that have left the log behind others. Returns how many of those below `end`
    /// have not.
    pub(super) fn count_released(&mut self, base: u64, end: u64) -> u64 {
        let (mut at, mut held) = (base, 0);
        while at < end {
            let first_held = self.log.first_held(at).unwrap_or(end);
            match self.done_from(at).filter(|_| first_held > at) {
                Some((done, outcome)) => {
                    let done = done.min(first_held).min(end);
                    self.count(done - at, outcome);
                    at = done;
                }
                None => {
                    held += 1;
                    at += 1;
                }
            }
        }
        held
    }

    /// Releases messages that every group has, and that are not at the front of the log.
    pub(super) fn release_all(&mut self, messages: &SequenceSet) {
        for range in messages.ranges() {
            self.release(range);
        }
    }

    pub(super) fn release(&mut self, messages: Range<u64>) {
        let messages = messages.start.max(self.base())..messages.end.min(self.routed);
        if messages.is_empty() {
            return;
        }
        let mut done = SequenceSet::from(messages);
        // The group that lacked some last time probably lacks these, too.
        let len = self.groups.len();
        for at in (self.lacking..len).chain(0..self.lacking.min(len)) {
            self.groups[at].retain_done(&mut done);
            if done.is_empty() {
                self.lacking = at;
                return;
            }
        }
        for range in done.ranges() {
            let freed = self.log.release(range);
            self.sent_bytes -= freed;
            self.is_refusing &= freed == 0;
        }
    }

    /// The end of the messages from `at` on that are done and have one outcome, and that outcome.
    fn done_from(&self, at: u64) -> Option<(u64, MessageOutcome)> {
        let (declined, end) = self.declined.find(at, self.routed);
        if let Some(reason) = declined {
            return (end > at).then_some((end, MessageOutcome::Abandoned(reason)));
        }
        let mut end = end;
        let (mut why, mut is_observed) = (None, false);
        for group in &self.groups {
            if !group.receives(at) {
                // Until it does.
                let from = group.recipients.from;
                end = if from > at { end.min(from) } else { end };
                continue;
            }
            is_observed = true;
            end = end.min(group.recipients.until.unwrap_or(end));
            if self.settles_when_routed {
                continue;
            }
            let (of_group, group_end) = group.abandoned.find(at, end);
            end = group_end.min(group.done.first_missing(at));
            why = why.max(of_group);
        }
        let outcome = match (is_observed, why) {
            (_, Some(reason)) => MessageOutcome::Abandoned(reason),
            (true, None) => MessageOutcome::Settled,
            (false, None) => MessageOutcome::Unobserved,
        };
        (end > at).then_some((end, outcome))
    }
}
