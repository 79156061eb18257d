//! The sending end of a flow, in the process of its source.

use std::collections::VecDeque;

use selvedge_hub::EncodedBatch;

use super::log::{LoggedPayload, MessageHead, MessageLog, cost_of};
use super::progress::{FlowOutcome, GroupProgress, ReasonSets};
use super::resending::Resending;
use super::{
    AbandonReason, DeclinedRange, FlowOffer, GroupId, Recipients, ResendRequest, SequenceSet,
};

mod done;

/// How many messages a log spans, with those that are settled behind one that is not. They cost some memory, at
/// the instances, too.
const SPAN_MAX: u64 = 1 << 23;

/// From so many messages on, the source counts as waiting: the entry zipper has time to end what holds it back.
const SPAN_WAITING: u64 = 1 << 20;

/// One flow of a source: its log of unsettled messages, and what is known of their recipients.
#[derive(Debug)]
pub struct SourceFlow {
    /// Messages that are not settled. Those below its base are.
    log: MessageLog,
    /// The next message to send for the first time to the present entry zipper.
    sent: u64,
    /// Behind the last message that was sent to any entry zipper.
    sent_max: u64,
    /// Behind the largest number of a group so far.
    groups_end: u32,
    /// Bytes of the log below `sent`.
    sent_bytes: u64,
    /// Whether the log has refused a message, and nothing has left it since.
    is_refusing: bool,
    limits: FlowLimits,
    /// Whether a message is settled once its recipient set is fixed.
    settles_when_routed: bool,
    attachment: u32,
    /// Whether the entry zipper has announced the recipients.
    is_open: bool,
    /// The recipient sets of messages below are fixed.
    routed: u64,
    groups: Vec<GroupProgress>,
    /// Messages that no group receives, by reason.
    declined: ReasonSets,
    /// The group that lacked messages when others were to be released.
    lacking: usize,
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
    /// A log of 16 MiB, of which 8 MiB are on their way. Measured over one hop and two hops of 8 KiB with two cores: with
    /// 4 MiB, 0.9 and 0.74 of the throughput, because processes then wait for each other; with 12 MiB no more.
    fn default() -> Self {
        Self {
            log_max: 16 << 20,
            window: 8 << 20,
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
        /// What was requested below is answered completely: the group has what was not sent.
        complete_below: u64,
    },
}

impl SourceFlow {
    /// A flow without messages. It sends once the source has [attached](Self::attach) it.
    #[must_use]
    pub fn new(limits: FlowLimits) -> Self {
        Self {
            log: MessageLog::default(),
            sent: 0,
            sent_max: 0,
            groups_end: 0,
            sent_bytes: 0,
            is_refusing: false,
            limits,
            settles_when_routed: false,
            attachment: 0,
            is_open: false,
            routed: 0,
            groups: Vec::new(),
            declined: ReasonSets::default(),
            lacking: 0,
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
        self.push_with(LoggedPayload::Copied(payload), flags, |_| None::<&[u8]>)
    }

    /// The same for a payload in one of several forms. If the message waits for others that are not sent, `head` returns
    /// what is to precede it, by its number, so that it can be sent in a [batch](Self::poll_batch).
    ///
    /// # Errors
    /// [`LogFull`].
    #[inline]
    pub fn push_with<H: AsRef<[u8]>>(
        &mut self,
        payload: LoggedPayload<'_>,
        flags: u8,
        head: impl FnOnce(u64) -> Option<H>,
    ) -> Result<u64, LogFull> {
        self.look_for_room(payload.len())?;
        let (sequence, attachment) = (self.next(), self.attachment);
        let head = if self.has_unsent() {
            head(sequence)
        } else {
            None
        };
        let head = head.as_ref().map(|head| MessageHead {
            attachment,
            bytes: head.as_ref(),
        });
        self.log.push(payload, flags, head);
        Ok(sequence)
    }

    /// Whether [`push`](Self::push) would accept a message of that length now. If not, the source counts as waiting.
    ///
    /// # Errors
    /// [`LogFull`].
    #[inline]
    pub fn look_for_room(&mut self, payload_len: usize) -> Result<(), LogFull> {
        let (bytes, max) = (self.log.bytes(), self.limits.log_max);
        let has_room = bytes + cost_of(payload_len) <= max && self.span() < SPAN_MAX;
        match has_room || self.log.is_empty() {
            true => Ok(()),
            false => {
                self.is_refusing = true;
                Err(LogFull { bytes, max })
            }
        }
    }

    /// How many messages there are from the first one in the log to the last one that was written.
    const fn span(&self) -> u64 {
        self.log.next() - self.log.base()
    }

    /// The number of the next message.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.log.next()
    }

    /// The number of the first message in the log. Those below are never sent again.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.log.base()
    }

    /// Whether recipients hold the source back: messages wait for the window, the log has refused one, or many
    /// were written since the first one that is not settled. The entry zipper is to be informed once a second
    /// while this lasts.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        let next = self.log.cost(self.sent);
        let has_no_window = next.is_some_and(|cost| !self.has_window(cost));
        has_no_window || self.is_refusing || self.span() >= SPAN_WAITING
    }

    #[inline]
    const fn has_window(&self, cost: u64) -> bool {
        self.sent_bytes == 0 || self.sent_bytes + cost <= self.limits.window
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

    /// Whether the recipient sets of all messages that were sent are fixed. To attach the flow anew to the same
    /// zipper then repeats no message at a function that does not settle, and withholds none from it.
    #[must_use]
    pub const fn is_routed(&self) -> bool {
        self.routed >= self.sent
    }

    /// How often the source has attached the flow.
    #[must_use]
    pub const fn attachment(&self) -> u32 {
        self.attachment
    }

    /// Whether messages wait to be sent, for the first time or again after a new attachment.
    #[must_use]
    #[inline]
    pub const fn has_unsent(&self) -> bool {
        self.sent < self.log.next()
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
        self.sent_bytes = self.log.bytes_below(self.sent);
        let groups = self.groups.iter();
        let groups = groups.map(|group| group.offer(self.base(), self.sent_max));
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
        self.release(self.base()..self.routed);
        recipients.version
    }

    /// The recipient sets of all messages below `routed` are fixed: no group receives those among them that were
    /// declined.
    ///
    /// # Errors
    /// [`SettlementError::OutOfRange`].
    pub fn handle_routed(
        &mut self,
        routed: u64,
        declined: &[DeclinedRange],
    ) -> Result<(), SettlementError> {
        // They belong to the recipient sets that are fixed now.
        let is_new = |it: &DeclinedRange| {
            it.messages.first() >= Some(self.routed) && it.messages.last() < Some(routed)
        };
        if routed > self.sent || !declined.iter().all(is_new) {
            return Err(SettlementError::OutOfRange);
        }
        declined.iter().for_each(|it| self.decline(it));
        let before = self.routed;
        self.routed = before.max(routed);
        self.advance();
        self.release(before..self.routed);
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
        let Some(progress) = self.group(group, settled)? else {
            return Ok(());
        };
        progress.done.insert_all(settled);
        self.advance();
        self.release_all(settled);
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
        let Some(progress) = self.group(group, abandoned)? else {
            return Ok(());
        };
        let mut news = abandoned.clone();
        // The entry zipper may know less than the source, if that could not present all that it knows.
        news.remove_all(&progress.done);
        progress.abandoned.insert_all(reason, &news);
        progress.done.insert_all(&news);
        self.advance();
        self.release_all(&news);
        Ok(())
    }

    /// The group with that number, if it can have these messages. `None` if its last message has left the log: with
    /// the level `accepted` the entry zipper may not know that yet.
    fn group(
        &mut self,
        group: GroupId,
        messages: &SequenceSet,
    ) -> Result<Option<&mut GroupProgress>, SettlementError> {
        // Not `sent`: an earlier entry zipper may have had more than this one.
        if messages.last().is_some_and(|last| last >= self.sent_max) {
            return Err(SettlementError::OutOfRange);
        }
        let mut groups = self.groups.iter_mut();
        let found = groups.find(|it| it.recipients.group == group);
        match found {
            None if group.0 >= self.groups_end => Err(SettlementError::UnknownGroup),
            found => Ok(found),
        }
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
        let has_group = self.group(group, &rest)?.is_some();
        let is_unsent = rest.last().is_some_and(|last| last >= self.sent);
        let from = from.unwrap_or(self.sent);
        if is_unsent || from > self.sent {
            return Err(SettlementError::OutOfRange);
        }
        match has_group {
            true => rest.insert(from..self.sent),
            // There is nothing to send: the end of the answer states the base.
            false => rest = SequenceSet::default(),
        }
        self.resends.retain(|it| it.group != group);
        self.resends.push_back(Resending {
            group,
            token,
            end: rest.last().map_or(0, |last| last + 1),
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
        if let Some(resending) = self.resends.front_mut() {
            let next = resending.next(&self.log);
            return Some(next.and_then(|it| self.log.payload_len(it)).unwrap_or(0));
        }
        let len = self.log.payload_len(self.sent)?;
        (self.is_open && self.has_window(cost_of(len))).then_some(len)
    }

    /// Empties the log, because no zipper will settle its messages. Calls `unsent` with the number, the
    /// flags and the payload of each message that was never sent. Returns how many others there were, which
    /// may or may not have been processed.
    pub fn give_up(&mut self, mut unsent: impl FnMut(u64, u8, LoggedPayload<'_>)) -> u64 {
        let (base, next) = (self.base(), self.next());
        let sent = self.sent_max.max(base);
        for sequence in sent..next {
            if let Some((payload, flags)) = self.log.get(sequence) {
                unsent(sequence, flags, payload);
            }
        }
        let uncertain = self.count_released(base, sent);
        self.log.remove_below(next);
        (self.routed, self.sent_max) = (next, next);
        (self.sent, self.sent_bytes, self.is_open) = (next, 0, false);
        self.is_refusing = false;
        self.resends.clear();
        self.advance();
        uncertain
    }

    /// The next messages for the entry zipper, with the heads that they were written with, if all of them can be sent
    /// at once and `has_room` for their bytes. What was requested goes first, by [`poll_message`](Self::poll_message).
    #[inline]
    pub fn poll_batch(&mut self, has_room: impl FnOnce(usize) -> bool) -> Option<EncodedBatch> {
        let found = self.log.batch(self.sent, self.attachment)?;
        let sent_bytes = self.sent_bytes + found.cost;
        let has_window = sent_bytes <= self.limits.window;
        let is_next = self.is_open && self.resends.is_empty() && has_window;
        if !is_next || !has_room(found.batch.len()) {
            return None;
        }
        let batch = found.batch.clone();
        self.sent += found.len;
        self.sent_max = self.sent_max.max(self.sent);
        self.sent_bytes = sent_bytes;
        Some(batch)
    }

    /// The next message for the entry zipper, if its payload has at most `room` bytes. What was requested
    /// goes first: behind the end of an answer, no message may arrive that belongs to it.
    #[inline]
    pub fn poll_message(&mut self, room: usize) -> Option<SourceMessage<'_>> {
        if !self.resends.is_empty() {
            return self.poll_resent(room);
        }
        let sequence = self.sent;
        let (payload, flags) = self.log.get(sequence)?;
        let cost = cost_of(payload.len());
        if !self.is_open || !self.has_window(cost) || cost > cost_of(room) {
            return None;
        }
        self.sent += 1;
        self.sent_max = self.sent_max.max(self.sent);
        self.sent_bytes += cost;
        Some(SourceMessage::Live {
            sequence,
            flags,
            payload,
        })
    }

    fn poll_resent(&mut self, room: usize) -> Option<SourceMessage<'_>> {
        let base = self.base();
        let resending = self.resends.front_mut()?;
        let (group, token) = (resending.group, resending.token);
        let next = resending.next(&self.log);
        let cost = next.and_then(|it| self.log.cost(it));
        let is_cut = resending.is_begun && cost.is_some_and(|cost| cost > resending.bytes);
        let (Some(sequence), Some(cost), false) = (next, cost, is_cut) else {
            let complete_below = next.unwrap_or(resending.end);
            self.resends.pop_front();
            return Some(SourceMessage::ResendEnd {
                group,
                token,
                base,
                complete_below,
            });
        };
        if cost > cost_of(room) {
            return None;
        }
        resending.rest.remove_below(sequence + 1);
        resending.bytes = resending.bytes.saturating_sub(cost);
        resending.is_begun = true;
        let (payload, flags) = self.log.get(sequence)?;
        Some(SourceMessage::Resent {
            group,
            token,
            sequence,
            flags,
            payload,
        })
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
