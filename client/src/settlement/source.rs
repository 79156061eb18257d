//! The sending end of a flow, in the process of its source.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{GroupId, InstanceId, SequenceSet};

/// One flow of a source: its log of unsettled messages, and what is known of their recipients.
#[derive(Debug)]
pub struct SourceFlow {
    /// Messages from `base` on.
    log: VecDeque<Bytes>,
    /// The first message that is not settled.
    base: u64,
    /// The next message to send for the first time to the present entry zipper.
    sent: u64,
    /// Behind the last message that was sent to any entry zipper.
    sent_max: u64,
    /// Behind the largest number of a group so far.
    groups_end: u32,
    /// Bytes in the log.
    bytes: u64,
    /// Bytes of the log below `sent`.
    sent_bytes: u64,
    limits: FlowLimits,
    attachment: u32,
    /// Whether the entry zipper has announced the recipients.
    is_open: bool,
    /// The recipient sets of messages below are fixed.
    routed: u64,
    groups: Vec<GroupProgress>,
    resends: VecDeque<Resending>,
    outcome: FlowOutcome,
}

/// What a message costs in a log beside its payload, so that empty messages fill it, too.
const MESSAGE_COST: u64 = 64;

fn cost(payload: &Bytes) -> u64 {
    payload.len() as u64 + MESSAGE_COST
}

/// How much a flow may hold, in bytes: each message counts its payload and 64 more.
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

/// A group of recipients, as the entry zipper announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientGroup {
    /// The group.
    pub group: GroupId,
    /// The name of its functions.
    pub name: String,
    /// The instance that is a group of its own, if each instance receives every message.
    pub only: Option<InstanceId>,
    /// The first message that the group receives.
    pub from: u64,
    /// Behind the last message that the group receives, once it has left.
    pub until: Option<u64>,
    /// The instances that may receive messages.
    pub members: Vec<InstanceId>,
    /// An instance that is gone may have received messages below.
    pub uncertain_below: u64,
}

/// The recipients of a flow. They replace those announced before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipients {
    /// Increases with each announcement of an entry zipper.
    pub version: u64,
    /// The groups.
    pub groups: Vec<RecipientGroup>,
}

/// What a source presents to an entry zipper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowOffer {
    /// How often the source has attached the flow.
    pub attachment: u32,
    /// The first message that the source will send. The recipient sets of those below are fixed.
    pub live_from: u64,
    /// Behind the last message that an earlier entry zipper may have forwarded.
    pub sent_max: u64,
    /// The number of a new group must not be smaller.
    pub groups_end: u32,
    /// The groups with unsettled messages, or that receive further ones.
    pub groups: Vec<GroupOffer>,
}

/// A group of a [`FlowOffer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffer {
    /// The group, and the instances that may have messages.
    pub recipients: RecipientGroup,
    /// The group has every message below.
    pub floor: u64,
    /// Further messages that the group has.
    pub settled: SequenceSet,
}

/// The entry zipper requests messages again, for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResendRequest {
    /// The group.
    pub group: GroupId,
    /// Identifies the request.
    pub token: u32,
    /// The messages.
    pub ranges: SequenceSet,
    /// Requests every message from this one on, up to those that have been sent.
    pub from: u64,
}

/// Why a message is not delivered to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AbandonReason {
    /// No instance of the group has connected in time.
    NoSubscriber,
    /// An instance that may have received it died, and its group does not want a redelivery.
    InstanceLost,
}

/// What a source sends for a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceMessage {
    /// A message for every group.
    Live {
        /// Its number.
        sequence: u64,
        /// Its payload.
        payload: Bytes,
    },
    /// A message that the entry zipper requested for one group.
    Resent {
        /// The group.
        group: GroupId,
        /// The request.
        token: u32,
        /// Its number.
        sequence: u64,
        /// Its payload.
        payload: Bytes,
    },
    /// The request is answered.
    ResendEnd {
        /// The group.
        group: GroupId,
        /// The request.
        token: u32,
        /// Live messages of this number and later ones follow.
        live_from: u64,
    },
}

/// What became of the messages of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowOutcome {
    /// Messages that every group of their recipient set has.
    pub settled: u64,
    /// Messages whose recipient set was empty.
    pub unobserved: u64,
    /// Messages that at least one group does not receive.
    pub abandoned: u64,
}

/// What is known of one group.
#[derive(Debug)]
struct GroupProgress {
    recipients: RecipientGroup,
    /// Messages that need no further care, abandoned ones among them.
    done: SequenceSet,
    abandoned: SequenceSet,
}

#[derive(Debug)]
struct Resending {
    group: GroupId,
    token: u32,
    rest: SequenceSet,
    live_from: u64,
}

impl SourceFlow {
    /// A flow without messages. It sends once the source has [attached](Self::attach) it.
    #[must_use]
    pub fn new(limits: FlowLimits) -> Self {
        Self {
            log: VecDeque::new(),
            base: 0,
            sent: 0,
            sent_max: 0,
            groups_end: 0,
            bytes: 0,
            sent_bytes: 0,
            limits,
            attachment: 0,
            is_open: false,
            routed: 0,
            groups: Vec::new(),
            resends: VecDeque::new(),
            outcome: FlowOutcome::default(),
        }
    }

    /// Accepts a message. Returns its number.
    ///
    /// # Errors
    /// [`LogFull`]; no number is used up. An empty log accepts a message of any length.
    pub fn push(&mut self, payload: Bytes) -> Result<u64, LogFull> {
        let (bytes, max) = (self.bytes, self.limits.log_max);
        let len = cost(&payload);
        if !self.log.is_empty() && bytes + len > max {
            return Err(LogFull { bytes, max });
        }
        self.bytes += len;
        self.log.push_back(payload);
        Ok(self.next() - 1)
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

    /// Whether every message is settled, abandoned or without recipients.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.log.is_empty()
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
        let sent = self.log.iter().take((self.sent - self.base) as usize);
        self.sent_bytes = sent.map(cost).sum();
        let groups = self.groups.iter().map(|group| {
            let floor = group
                .done
                .first_missing(self.base.max(group.recipients.from));
            let mut settled = group.done.clone();
            settled.remove_below(floor);
            GroupOffer {
                recipients: group.recipients.clone(),
                floor,
                settled,
            }
        });
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
    ) -> Result<(), SettlementError> {
        let progress = self.group(group, abandoned)?;
        progress.abandoned.insert_all(abandoned);
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
        } = request;
        self.group(group, &rest)?;
        let is_unsent = rest.last().is_some_and(|last| last >= self.sent);
        if is_unsent || from > self.sent {
            return Err(SettlementError::OutOfRange);
        }
        // What is settled meanwhile needs no answer.
        rest.remove_below(self.base);
        rest.insert(from.max(self.base)..self.sent);
        self.resends.retain(|it| it.group != group);
        self.resends.push_back(Resending {
            group,
            token,
            rest,
            live_from: self.sent,
        });
        Ok(())
    }

    /// The next message for the entry zipper. What was requested goes first: behind the end of an
    /// answer, no message may arrive that belongs to it.
    pub fn poll_message(&mut self) -> Option<SourceMessage> {
        if let Some(resending) = self.resends.front_mut() {
            let (group, token) = (resending.group, resending.token);
            // What is settled meanwhile needs no answer.
            resending.rest.remove_below(self.base);
            let Some(sequence) = resending.rest.first() else {
                let live_from = resending.live_from;
                self.resends.pop_front();
                return Some(SourceMessage::ResendEnd {
                    group,
                    token,
                    live_from,
                });
            };
            resending.rest.remove_below(sequence + 1);
            let at = sequence - self.base;
            return Some(SourceMessage::Resent {
                group,
                token,
                sequence,
                payload: self.log[at as usize].clone(),
            });
        }
        let payload = self.log.get((self.sent - self.base) as usize)?;
        let len = cost(payload);
        let has_window = self.sent_bytes == 0 || self.sent_bytes + len <= self.limits.window;
        if !self.is_open || !has_window {
            return None;
        }
        let (sequence, payload) = (self.sent, payload.clone());
        self.sent += 1;
        self.sent_max = self.sent_max.max(self.sent);
        self.sent_bytes += len;
        Some(SourceMessage::Live { sequence, payload })
    }

    /// Removes what every group has from the log.
    fn advance(&mut self) {
        while let Some((end, abandoned)) = self.next_done() {
            let count = end - self.base;
            let is_observed = self.groups.iter().any(|it| it.receives(self.base));
            match (is_observed, abandoned) {
                (false, _) => self.outcome.unobserved += count,
                (true, true) => self.outcome.abandoned += count,
                (true, false) => self.outcome.settled += count,
            }
            for payload in self.log.drain(..count as usize) {
                self.bytes -= cost(&payload);
                self.sent_bytes -= cost(&payload);
            }
            self.base = end;
        }
        let base = self.base;
        let is_over = |it: &GroupProgress| it.recipients.until.is_some_and(|until| until <= base);
        self.groups.retain(|group| !is_over(group));
        for group in &mut self.groups {
            group.done.remove_below(base);
            group.abandoned.remove_below(base);
        }
    }

    /// The end of the messages from `base` on that are done and have one outcome, and whether a group has
    /// abandoned them.
    fn next_done(&self) -> Option<(u64, bool)> {
        let base = self.base;
        let mut end = self.routed;
        let mut is_abandoned = false;
        for group in &self.groups {
            if !group.receives(base) {
                // Until it does.
                let from = group.recipients.from;
                end = if from > base { end.min(from) } else { end };
                continue;
            }
            end = end.min(group.done.first_missing(base));
            end = end.min(group.recipients.until.unwrap_or(end));
            let abandoned = group.abandoned.first_missing(base);
            match abandoned > base {
                true => {
                    is_abandoned = true;
                    end = end.min(abandoned);
                }
                false => {
                    let next = group.abandoned.first_from(base);
                    end = end.min(next.unwrap_or(end));
                }
            }
        }
        (end > base).then_some((end, is_abandoned))
    }
}

impl GroupProgress {
    fn new(recipients: RecipientGroup) -> Self {
        Self {
            recipients,
            done: SequenceSet::default(),
            abandoned: SequenceSet::default(),
        }
    }

    fn receives(&self, sequence: u64) -> bool {
        let RecipientGroup { from, until, .. } = self.recipients;
        from <= sequence && until.is_none_or(|until| sequence < until)
    }
}
