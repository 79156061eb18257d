//! The sending end of a flow, in the process of its source.

use std::collections::VecDeque;

use bytes::Bytes;

use super::log::{LoggedPayload, MessageLog, cost_of};
use super::{
    AbandonReason, FlowOffer, GroupId, GroupOffer, OFFER_RANGES_MAX, RecipientGroup, Recipients,
    ResendRequest, SequenceSet,
};

/// One flow of a source: its log of unsettled messages, and what is known of their recipients.
#[derive(Debug)]
pub struct SourceFlow {
    /// Messages from `base` on.
    log: MessageLog,
    /// The first message that is not settled.
    base: u64,
    /// The next message to send for the first time to the present entry zipper.
    sent: u64,
    /// Behind the last message that was sent to any entry zipper.
    sent_max: u64,
    /// Behind the largest number of a group so far.
    groups_end: u32,
    /// Bytes of the log below `sent`.
    sent_bytes: u64,
    limits: FlowLimits,
    /// Whether a message is settled once its recipient set is fixed.
    settles_when_routed: bool,
    attachment: u32,
    /// Whether the entry zipper has announced the recipients.
    is_open: bool,
    /// The recipient sets of messages below are fixed.
    routed: u64,
    groups: Vec<GroupProgress>,
    resends: VecDeque<Resending>,
    outcome: FlowOutcome,
}

/// How much a flow may hold, in bytes: each message counts its payload and 64 more.
///
/// They limit what the groups that wait for their first instance can hold back, too: zippers keep no
/// message, so a flow without instances costs its source a window at most.
#[derive(Debug, Clone, Copy)]
pub struct FlowLimits {
    /// Unsettled messages, sent or not. A longer log refuses messages.
    pub log_max: u64,
    /// Unsettled messages that were sent. One message is sent however long it is.
    pub window: u64,
}

impl Default for FlowLimits {
    /// A log of 16 MiB, of which 4 MiB are on their way.
    fn default() -> Self {
        Self {
            log_max: 16 << 20,
            window: 4 << 20,
        }
    }
}

/// The log of a flow has no room: a recipient is slower than the source, or cannot be reached. A retry
/// helps once messages are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log of the flow holds {bytes} bytes of unsettled messages, of at most {max}")]
pub struct LogFull {
    /// Bytes in the log.
    pub bytes: u64,
    /// The limit.
    pub max: u64,
}

/// The entry zipper has broken the protocol. A retry does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettlementError {
    /// It refers to a group that it has not announced.
    #[error("the entry zipper refers to an unknown group")]
    UnknownGroup,
    /// It refers to messages that were not sent to it, or are settled.
    #[error("the entry zipper refers to messages that it cannot have")]
    OutOfRange,
}

/// What a source sends for a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceMessage<'a> {
    /// A message for every group.
    Live {
        /// Its number.
        sequence: u64,
        /// The flags that it was written with.
        flags: u8,
        /// Its payload.
        payload: LoggedPayload<'a>,
    },
    /// A message that the entry zipper requested for one group.
    Resent {
        /// The group.
        group: GroupId,
        /// The request.
        token: u32,
        /// Its number.
        sequence: u64,
        /// The flags that it was written with.
        flags: u8,
        /// Its payload.
        payload: LoggedPayload<'a>,
    },
    /// The request is answered.
    ResendEnd {
        /// The group.
        group: GroupId,
        /// The request.
        token: u32,
        /// The first message in the log of the source: nothing below is sent again.
        base: u64,
    },
}

/// What became of the messages of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowOutcome {
    /// Messages that every group of their recipient set has.
    pub settled: u64,
    /// Messages whose recipient set was empty.
    pub unobserved: u64,
    /// Messages that an instance may have received that died, in a group that wants no redelivery.
    pub instance_lost: u64,
    /// Other messages that a group did not receive, because none of its instances connected in time.
    pub no_subscriber: u64,
}

impl FlowOutcome {
    /// Messages that at least one group did not receive.
    #[must_use]
    pub const fn abandoned(&self) -> u64 {
        self.instance_lost + self.no_subscriber
    }
}

/// What is known of one group.
#[derive(Debug)]
struct GroupProgress {
    recipients: RecipientGroup,
    /// Messages that need no further care, abandoned ones among them.
    done: SequenceSet,
    /// Abandoned, because no instance has connected.
    unsubscribed: SequenceSet,
    /// Abandoned, because an instance has died.
    lost: SequenceSet,
}

/// The answer to a request.
#[derive(Debug)]
struct Resending {
    group: GroupId,
    token: u32,
    rest: SequenceSet,
    /// How many bytes it may still have.
    bytes: u64,
    is_begun: bool,
}

impl SourceFlow {
    /// A flow without messages. It sends once the source has [attached](Self::attach) it.
    #[must_use]
    pub fn new(limits: FlowLimits) -> Self {
        Self {
            log: MessageLog::default(),
            base: 0,
            sent: 0,
            sent_max: 0,
            groups_end: 0,
            sent_bytes: 0,
            limits,
            settles_when_routed: false,
            attachment: 0,
            is_open: false,
            routed: 0,
            groups: Vec::new(),
            resends: VecDeque::new(),
            outcome: FlowOutcome::default(),
        }
    }

    /// Level `accepted`: a message is settled once the entry zipper has fixed its recipients, and is not
    /// sent again.
    #[must_use]
    pub fn settling_when_routed(mut self) -> Self {
        self.settles_when_routed = true;
        self
    }

    /// Accepts a message, with flags that are sent with it. Returns its number.
    ///
    /// # Errors
    /// [`LogFull`]; no number is used up. An empty log accepts a message of any length.
    #[inline]
    pub fn push(&mut self, payload: &[u8], flags: u8) -> Result<u64, LogFull> {
        self.reserve(payload.len())?;
        self.log.push(payload, flags);
        Ok(self.next() - 1)
    }

    /// Accepts a message without a copy if it is longer than 4 KiB. Otherwise as [`push`](Self::push).
    ///
    /// # Errors
    /// [`LogFull`].
    pub fn push_bytes(&mut self, payload: &Bytes, flags: u8) -> Result<u64, LogFull> {
        self.reserve(payload.len())?;
        self.log.push_bytes(payload, flags);
        Ok(self.next() - 1)
    }

    #[inline]
    fn reserve(&self, payload_len: usize) -> Result<(), LogFull> {
        let (bytes, max) = (self.log.bytes(), self.limits.log_max);
        match !self.log.is_empty() && bytes + cost_of(payload_len) > max {
            true => Err(LogFull { bytes, max }),
            false => Ok(()),
        }
    }

    /// The number of the next message.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    /// The number of the first message in the log. Those below are never sent again.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Bytes in the log: each message counts its payload and 64 more.
    #[must_use]
    pub const fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Whether every message is settled, abandoned or without recipients.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.log.is_empty()
    }

    /// Whether a message of an entry zipper belongs to the present attachment. Others must be ignored: in
    /// particular, a former entry zipper must not learn that the source is alive.
    #[must_use]
    pub const fn is_current(&self, attachment: u32) -> bool {
        self.attachment == attachment
    }

    /// How often the source has attached the flow.
    #[must_use]
    pub const fn attachment(&self) -> u32 {
        self.attachment
    }

    /// What became of the messages so far.
    #[must_use]
    pub const fn outcome(&self) -> FlowOutcome {
        self.outcome
    }

    /// Attaches the flow to an entry zipper that knows nothing of it: the first one, another one, or the
    /// same after a restart.
    pub fn attach(&mut self) -> FlowOffer {
        self.attachment += 1;
        self.is_open = false;
        self.resends.clear();
        self.sent = self.routed;
        let sent = 0..(self.sent - self.base) as usize;
        self.sent_bytes = sent.filter_map(|at| self.log.cost(at)).sum();
        let groups = self.groups.iter();
        let groups = groups.map(|group| group.offer(self.base, self.sent_max));
        FlowOffer {
            attachment: self.attachment,
            live_from: self.sent,
            sent_max: self.sent_max,
            groups_end: self.groups_end,
            groups: groups.collect(),
        }
    }

    /// The entry zipper announces the recipients. Returns the version, to be confirmed.
    pub fn handle_recipients(&mut self, recipients: Recipients) -> u64 {
        let mut known = std::mem::take(&mut self.groups);
        for recipients in recipients.groups {
            self.groups_end = self.groups_end.max(recipients.group.0.saturating_add(1));
            let at = known
                .iter()
                .position(|it| it.recipients.group == recipients.group);
            let Some(at) = at else {
                self.groups.push(GroupProgress::new(recipients));
                continue;
            };
            let mut progress = known.swap_remove(at);
            progress.recipients = recipients;
            self.groups.push(progress);
        }
        // One that has left counts until its last message is settled by the others, too.
        known.retain(|it| it.recipients.until.is_some());
        self.groups.append(&mut known);
        self.is_open = true;
        self.advance();
        recipients.version
    }

    /// The recipient sets of all messages below `routed` are fixed.
    ///
    /// # Errors
    /// [`SettlementError::OutOfRange`].
    pub fn handle_routed(&mut self, routed: u64) -> Result<(), SettlementError> {
        if routed > self.sent {
            return Err(SettlementError::OutOfRange);
        }
        self.routed = self.routed.max(routed);
        self.advance();
        Ok(())
    }

    /// A group has messages.
    ///
    /// # Errors
    /// [`SettlementError`].
    pub fn handle_settled(
        &mut self,
        group: GroupId,
        settled: &SequenceSet,
    ) -> Result<(), SettlementError> {
        self.group(group, settled)?.done.insert_all(settled);
        self.advance();
        Ok(())
    }

    /// A group does not receive messages.
    ///
    /// # Errors
    /// [`SettlementError`].
    pub fn handle_abandoned(
        &mut self,
        group: GroupId,
        abandoned: &SequenceSet,
        reason: AbandonReason,
    ) -> Result<(), SettlementError> {
        let progress = self.group(group, abandoned)?;
        let of_reason = match reason {
            AbandonReason::NoSubscriber => &mut progress.unsubscribed,
            AbandonReason::InstanceLost => &mut progress.lost,
        };
        of_reason.insert_all(abandoned);
        progress.done.insert_all(abandoned);
        self.advance();
        Ok(())
    }

    /// The group with that number, if it can have these messages.
    fn group(
        &mut self,
        group: GroupId,
        messages: &SequenceSet,
    ) -> Result<&mut GroupProgress, SettlementError> {
        // Not `sent`: an earlier entry zipper may have had more than this one.
        if messages.last().is_some_and(|last| last >= self.sent_max) {
            return Err(SettlementError::OutOfRange);
        }
        let mut groups = self.groups.iter_mut();
        let found = groups.find(|it| it.recipients.group == group);
        found.ok_or(SettlementError::UnknownGroup)
    }

    /// The entry zipper requests messages again.
    ///
    /// # Errors
    /// [`SettlementError`].
    pub fn handle_resend(&mut self, request: ResendRequest) -> Result<(), SettlementError> {
        let ResendRequest {
            group,
            token,
            ranges: mut rest,
            from,
            bytes,
        } = request;
        self.group(group, &rest)?;
        let is_unsent = rest.last().is_some_and(|last| last >= self.sent);
        let from = from.unwrap_or(self.sent);
        if is_unsent || from > self.sent {
            return Err(SettlementError::OutOfRange);
        }
        rest.insert(from..self.sent);
        self.resends.retain(|it| it.group != group);
        self.resends.push_back(Resending {
            group,
            token,
            rest,
            bytes,
            is_begun: false,
        });
        Ok(())
    }

    /// The length of the payload that [`poll_message`](Self::poll_message) would return, if there is a
    /// message to be sent; 0 for the end of an answer.
    #[inline]
    pub fn next_len(&mut self) -> Option<usize> {
        let base = self.base;
        if let Some(resending) = self.resends.front_mut() {
            // What is settled meanwhile needs no answer.
            resending.rest.remove_below(base);
            let at = resending.rest.first().map(|it| (it - base) as usize);
            return Some(at.and_then(|at| self.log.payload_len(at)).unwrap_or(0));
        }
        let len = self.log.payload_len((self.sent - base) as usize)?;
        let has_window =
            self.sent_bytes == 0 || self.sent_bytes + cost_of(len) <= self.limits.window;
        (self.is_open && has_window).then_some(len)
    }

    /// Empties the log, because no zipper will settle its messages. Calls `unsent` with the number, the
    /// flags and the payload of each message that was never sent. Returns how many others there were, which
    /// may or may not have been processed.
    pub fn give_up(&mut self, mut unsent: impl FnMut(u64, u8, LoggedPayload<'_>)) -> u64 {
        let (base, next) = (self.base, self.next());
        let sent = self.sent_max.max(base);
        for sequence in sent..next {
            if let Some((payload, flags)) = self.log.get((sequence - base) as usize) {
                unsent(sequence, flags, payload);
            }
        }
        self.log.remove_first((next - base) as usize);
        (self.base, self.routed, self.sent_max) = (next, next, next);
        (self.sent, self.sent_bytes, self.is_open) = (next, 0, false);
        self.resends.clear();
        self.advance();
        sent - base
    }

    /// The next message for the entry zipper, if its payload has at most `room` bytes. What was requested
    /// goes first: behind the end of an answer, no message may arrive that belongs to it.
    #[inline]
    pub fn poll_message(&mut self, room: usize) -> Option<SourceMessage<'_>> {
        if !self.resends.is_empty() {
            return self.poll_resent(room);
        }
        let at = (self.sent - self.base) as usize;
        let len = self.log.cost(at)?;
        let has_window = self.sent_bytes == 0 || self.sent_bytes + len <= self.limits.window;
        if !self.is_open || !has_window || len > cost_of(room) {
            return None;
        }
        let sequence = self.sent;
        self.sent += 1;
        self.sent_max = self.sent_max.max(self.sent);
        self.sent_bytes += len;
        let (payload, flags) = self.log.get(at)?;
        Some(SourceMessage::Live {
            sequence,
            flags,
            payload,
        })
    }

    fn poll_resent(&mut self, room: usize) -> Option<SourceMessage<'_>> {
        let base = self.base;
        let resending = self.resends.front_mut()?;
        let (group, token) = (resending.group, resending.token);
        // What is settled meanwhile needs no answer.
        resending.rest.remove_below(base);
        let sequence = resending.rest.first();
        let at = sequence.map(|it| (it - base) as usize);
        let len = at.and_then(|at| self.log.cost(at));
        let (Some(sequence), Some(at), Some(len)) = (sequence, at, len) else {
            self.resends.pop_front();
            return Some(SourceMessage::ResendEnd { group, token, base });
        };
        if resending.is_begun && len > resending.bytes {
            self.resends.pop_front();
            return Some(SourceMessage::ResendEnd { group, token, base });
        }
        if len > cost_of(room) {
            return None;
        }
        resending.rest.remove_below(sequence + 1);
        resending.bytes = resending.bytes.saturating_sub(len);
        resending.is_begun = true;
        let (payload, flags) = self.log.get(at)?;
        Some(SourceMessage::Resent {
            group,
            token,
            sequence,
            flags,
            payload,
        })
    }

    /// Removes what every group has from the log.
    fn advance(&mut self) {
        while let Some((end, what)) = self.next_done() {
            let count = end - self.base;
            let is_observed = self.groups.iter().any(|it| it.receives(self.base));
            let counter = match (is_observed, what) {
                (false, _) => &mut self.outcome.unobserved,
                (true, None) => &mut self.outcome.settled,
                (true, Some(AbandonReason::NoSubscriber)) => &mut self.outcome.no_subscriber,
                (true, Some(AbandonReason::InstanceLost)) => &mut self.outcome.instance_lost,
            };
            *counter += count;
            self.sent_bytes -= self.log.remove_first(count as usize);
            self.base = end;
        }
        let base = self.base;
        let is_over = |it: &GroupProgress| it.recipients.until.is_some_and(|until| until <= base);
        self.groups.retain(|group| !is_over(group));
        for group in &mut self.groups {
            group.done.remove_below(base);
            group.unsubscribed.remove_below(base);
            group.lost.remove_below(base);
        }
    }

    /// The end of the messages from `base` on that are done and have one outcome, and why they were
    /// abandoned, if a group has abandoned them.
    fn next_done(&self) -> Option<(u64, Option<AbandonReason>)> {
        let base = self.base;
        let mut end = self.routed;
        let mut why = None;
        for group in &self.groups {
            if !group.receives(base) {
                // Until it does.
                let from = group.recipients.from;
                end = if from > base { end.min(from) } else { end };
                continue;
            }
            end = end.min(group.recipients.until.unwrap_or(end));
            if self.settles_when_routed {
                continue;
            }
            end = end.min(group.done.first_missing(base));
            for (reason, set) in [
                (AbandonReason::NoSubscriber, &group.unsubscribed),
                (AbandonReason::InstanceLost, &group.lost),
            ] {
                let abandoned = set.first_missing(base);
                if abandoned > base {
                    why = why.max(Some(reason));
                    end = end.min(abandoned);
                } else {
                    end = end.min(set.first_from(base).unwrap_or(end));
                }
            }
        }
        (end > base).then_some((end, why))
    }
}

impl GroupProgress {
    fn new(recipients: RecipientGroup) -> Self {
        Self {
            recipients,
            done: SequenceSet::default(),
            unsubscribed: SequenceSet::default(),
            lost: SequenceSet::default(),
        }
    }

    fn receives(&self, sequence: u64) -> bool {
        let RecipientGroup { from, until, .. } = self.recipients;
        from <= sequence && until.is_none_or(|until| sequence < until)
    }

    /// What is presented to another entry zipper.
    fn offer(&self, base: u64, sent_max: u64) -> GroupOffer {
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
