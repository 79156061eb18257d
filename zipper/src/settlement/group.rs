//! One group of a flow: which of its members receives which message.

use std::ops::Range;

use selvedge_client::settlement::{
    AbandonReason, GroupId, GroupOffer, InstanceId, RANGES_MAX, ReceivingReport, RecipientGroup,
    ResendRequest, RouteEpoch, SequenceSet,
};
use selvedge_hub::Instant;

use super::member::{Member, MemberRoute};
use super::outputs::MemberDelivery;

/// How many consecutive messages one member receives before it is the turn of another.
const BLOCK_LEN: u32 = 256;

/// The same if there is no other.
const LONE_BLOCK_LEN: u32 = 1 << 20;

/// A group of a flow at its entry zipper.
#[derive(Debug)]
pub(super) struct GroupFlow {
    /// Without the members.
    pub(super) recipients: RecipientGroup,
    pub(super) members: Vec<Member>,
    /// Whether messages of an instance that died go to another one.
    pub(super) redelivers: bool,
    /// Every message of the group below is settled.
    pub(super) floor: u64,
    /// Further messages that are settled.
    pub(super) settled: SequenceSet,
    /// Messages that have arrived, and have no member.
    unassigned: SequenceSet,
    /// Messages without a member that an instance which is gone may have received. They may not have
    /// arrived yet.
    uncertain: SequenceSet,
    /// Behind the last message that an earlier entry zipper may have forwarded.
    sent_before: u64,
    /// The member whose turn it is, and for how many messages.
    turn: (usize, u32),
    block: Option<OpenBlock>,
    request: Option<PendingResend>,
    next_token: u32,
    /// Since when it has had no members.
    pub(super) empty_since: Option<Instant>,
    /// Settled messages that the source has not been informed of.
    pub(super) news: SequenceSet,
    /// Abandoned messages that the source has not been informed of.
    pub(super) abandoned: Vec<(AbandonReason, SequenceSet)>,
    /// Whether there may be something for the source.
    pub(super) is_active: bool,
}

/// A request to the source that has not been answered.
#[derive(Debug)]
struct PendingResend {
    token: u32,
    member: InstanceId,
}

/// Live messages that one member receives without further checks. They are assigned when the block is
/// closed, which is before anything else happens to the group.
#[derive(Debug, Clone, Copy)]
struct OpenBlock {
    start: u64,
    end: u64,
    member: usize,
    instance: InstanceId,
    epoch: RouteEpoch,
}

impl GroupFlow {
    /// A group that receives the messages from `from` on.
    pub(super) fn new(now: Instant, recipients: RecipientGroup) -> Self {
        Self {
            floor: recipients.from,
            recipients,
            members: Vec::new(),
            redelivers: true,
            settled: SequenceSet::default(),
            unassigned: SequenceSet::default(),
            uncertain: SequenceSet::default(),
            sent_before: 0,
            turn: (0, 0),
            block: None,
            request: None,
            next_token: 0,
            empty_since: Some(now),
            news: SequenceSet::default(),
            abandoned: Vec::new(),
            is_active: true,
        }
    }

    /// A group that the source knows from another entry zipper. Its members report before anything is
    /// assigned.
    pub(super) fn recover(now: Instant, offer: GroupOffer, live_from: u64, sent_max: u64) -> Self {
        let GroupOffer {
            mut recipients,
            floor,
            settled,
        } = offer;
        let uncertain_below = recipients.uncertain_below;
        let members = std::mem::take(&mut recipients.members).into_iter();
        let members: Vec<_> = members
            .map(|instance| Member {
                is_awaited: true,
                is_listed: false,
                ..Member::new(now, instance, 0)
            })
            .collect();
        let floor = floor.max(recipients.from);
        let end = recipients.until.unwrap_or(live_from).min(live_from);
        Self {
            floor,
            unassigned: settled.missing_from(floor..end.max(floor)),
            uncertain: settled.missing_from(floor..uncertain_below.max(floor)),
            settled,
            empty_since: members.is_empty().then_some(now),
            members,
            sent_before: sent_max,
            ..Self::new(now, recipients)
        }
    }

    /// Its name, and the instance that is a group of its own.
    pub(super) fn key(&self) -> (&str, Option<InstanceId>) {
        (&self.recipients.name, self.recipients.only)
    }

    /// Only these members may receive messages. Others lose their lease.
    pub(super) fn list(&mut self, now: Instant, is_listed: impl Fn(InstanceId) -> bool) {
        for member in &mut self.members {
            let was_listed = std::mem::replace(&mut member.is_listed, is_listed(member.instance));
            if was_listed && !member.is_listed && member.is_bound() {
                member.silent_since = now;
            }
        }
    }

    pub(super) const fn has_block(&self) -> bool {
        self.block.is_some()
    }

    /// The group for an announcement.
    pub(super) fn announcement(&self) -> RecipientGroup {
        RecipientGroup {
            members: self.members.iter().map(|it| it.instance).collect(),
            ..self.recipients.clone()
        }
    }

    pub(super) fn receives(&self, sequence: u64) -> bool {
        let RecipientGroup { from, until, .. } = self.recipients;
        from <= sequence && until.is_none_or(|until| sequence < until)
    }

    pub(super) fn member(&mut self, instance: InstanceId) -> Option<&mut Member> {
        self.members.iter_mut().find(|it| it.instance == instance)
    }

    /// Whether a member that the source knows has not reported yet.
    pub(super) fn is_recovering(&self) -> bool {
        self.members.iter().any(|it| it.is_awaited)
    }

    /// Whether every message up to the last one is settled.
    pub(super) fn is_over(&self) -> bool {
        self.recipients
            .until
            .is_some_and(|until| self.floor >= until)
    }

    /// Whether it may share messages with a group, so that one must end where the other begins.
    pub(super) fn precedes(&self, name: &str, only: Option<InstanceId>) -> bool {
        let (own_name, own) = self.key();
        own_name == name && (own == only || own.is_none() || only.is_none())
    }

    /// A live message has arrived. Returns where it goes to now, if there is a member for it.
    #[inline]
    pub(super) fn assign(&mut self, sequence: u64, confirmed: u64) -> Option<MemberDelivery> {
        match &self.block {
            Some(block) if sequence < block.end => Some(self.block_delivery(block, sequence)),
            _ => self.assign_anew(sequence, confirmed),
        }
    }

    #[inline]
    fn block_delivery(&self, block: &OpenBlock, sequence: u64) -> MemberDelivery {
        MemberDelivery {
            group: self.recipients.group,
            instance: block.instance,
            epoch: block.epoch,
            sequence,
            is_redelivery: false,
        }
    }

    #[inline(never)]
    fn assign_anew(&mut self, sequence: u64, confirmed: u64) -> Option<MemberDelivery> {
        self.close_block(sequence);
        if !self.receives(sequence) {
            return None;
        }
        if let Some((delivery, _)) = self.open_block(sequence, confirmed) {
            return Some(delivery);
        }
        if sequence < self.floor || self.settled.contains(sequence) {
            return None;
        }
        let is_assigned = |it: &Member| sequence < it.end && it.assigned.contains(sequence);
        if self.members.iter().any(is_assigned) {
            return None;
        }
        let at = match self.is_recovering() {
            true => None,
            false => self.next_live(sequence, confirmed),
        };
        let Some(at) = at else {
            self.unassigned.insert(sequence..sequence + 1);
            return None;
        };
        self.turn.1 -= 1;
        let assignment = self.members[at].take_next(sequence, &mut self.uncertain);
        assignment.map(|it| it.delivery(self.recipients.group, sequence))
    }

    /// Begins a block with a message, if the messages from it on are new to every member. Returns where
    /// they go to, and the end of the block.
    pub(super) fn open_block(
        &mut self,
        sequence: u64,
        confirmed: u64,
    ) -> Option<(MemberDelivery, u64)> {
        if let Some(block) = &self.block
            && sequence < block.end
        {
            return Some((self.block_delivery(block, sequence), block.end));
        }
        self.close_block(sequence);
        let is_new = sequence >= self.floor && self.members.iter().all(|it| it.end <= sequence);
        if !is_new || !self.receives(sequence) || self.is_recovering() {
            return None;
        }
        let next = [&self.settled, &self.uncertain].map(|set| set.first_from(sequence));
        let limit = next
            .into_iter()
            .flatten()
            .chain(self.recipients.until)
            .min();
        if limit == Some(sequence) {
            return None;
        }
        let member = self.next_live(sequence, confirmed)?;
        let MemberRoute::Bound(epoch) = self.members[member].route else {
            return None;
        };
        let end = sequence + u64::from(self.turn.1);
        let block = OpenBlock {
            start: sequence,
            end: end.min(limit.unwrap_or(end)),
            member,
            instance: self.members[member].instance,
            epoch,
        };
        self.block = Some(block);
        Some((self.block_delivery(&block, sequence), block.end))
    }

    /// Assigns the messages of the block that have arrived. Everything below `arrived` has.
    #[inline]
    pub(super) fn close_block(&mut self, arrived: u64) {
        let Some(block) = self.block.take() else {
            return;
        };
        let sent = block.start..block.end.min(arrived);
        self.turn.1 -= (sent.end - sent.start) as u32;
        if let Some(member) = self.members.get_mut(block.member)
            && !sent.is_empty()
        {
            member.end = sent.end;
            member.assigned.insert(sent);
        }
    }

    /// Whether live messages may be sent to a member. The answer to a request covers what arrives before it.
    fn is_live(&self, member: &Member, confirmed: u64) -> bool {
        let request = self.request.as_ref();
        member.is_live(confirmed) && request.is_none_or(|it| it.member != member.instance)
    }

    /// The member whose turn it is, among those that may receive a live message in order.
    fn next_live(&mut self, sequence: u64, confirmed: u64) -> Option<usize> {
        let (at, left) = self.turn;
        let is_live = |at: usize| {
            let member = self.members.get(at);
            member.is_some_and(|it| it.end <= sequence && self.is_live(it, confirmed))
        };
        if left > 0 && is_live(at) {
            return Some(at);
        }
        let len = self.members.len();
        let next = (at + 1..=at + len)
            .map(|it| it % len)
            .find(|&it| is_live(it))?;
        let block_len = if len == 1 { LONE_BLOCK_LEN } else { BLOCK_LEN };
        self.turn = (next, block_len);
        Some(next)
    }

    /// Gives messages without a member to one that may receive messages.
    pub(super) fn assign_waiting(&mut self, confirmed: u64) {
        if self.unassigned.is_empty() || self.is_recovering() {
            return;
        }
        let requesting = self.request.as_ref().map(|it| it.member);
        let is_able = |it: &Member| it.is_eligible(confirmed) && Some(it.instance) != requesting;
        // What one of the others can take in order later waits for it.
        let others = self.members.iter().filter(|it| !is_able(it));
        let waits_from = others.map(|it| it.end).min().unwrap_or(u64::MAX);
        let able = self.members.iter_mut().filter(|it| is_able(it));
        // The one that may take most of them in order.
        let Some(member) = able.min_by_key(|it| it.end) else {
            return;
        };
        let mut taken = self.unassigned.clone();
        taken.remove(waits_from..member.end);
        // Messages that are not delivered in order to anyone anyway wait for nobody.
        let mut flagged = self.unassigned.common(&self.uncertain);
        taken.insert_all(&flagged);
        flagged.insert_all(&taken.within(0..member.end));
        self.uncertain.remove_all(&flagged);
        member.redelivered.insert_all(&flagged);
        member.assigned.insert_all(&taken);
        member.missing.insert_all(&taken);
        member.end = member.end.max(taken.last().map_or(0, |last| last + 1));
        self.unassigned.remove_all(&taken);
    }

    /// Requests what a member misses, if no request is under way. Everything below `arrived` has arrived.
    pub(super) fn request(&mut self, confirmed: u64, arrived: u64) -> Option<ResendRequest> {
        if self.request.is_some() || self.is_recovering() {
            return None;
        }
        // Messages that have arrived since belong to the request.
        self.assign_waiting(confirmed);
        // What has not arrived will.
        let misses = |it: &&Member| {
            let has_arrived = it.missing.first().is_some_and(|first| first < arrived);
            it.is_eligible(confirmed) && has_arrived
        };
        let member = self.members.iter().find(misses)?;
        self.next_token += 1;
        let token = self.next_token;
        let mut rest = member.missing.clone();
        rest.remove(arrived..u64::MAX);
        let ranges = rest.take_ranges(RANGES_MAX);
        self.request = Some(PendingResend {
            token,
            member: member.instance,
        });
        Some(ResendRequest {
            group: self.recipients.group,
            token,
            ranges,
            // Later ones follow all that it misses.
            from: rest.is_empty().then_some(arrived),
            bytes: member.room,
        })
    }

    /// A message that was requested has arrived. Returns where it goes to.
    pub(super) fn assign_resent(&mut self, token: u32, sequence: u64) -> Option<MemberDelivery> {
        let request = self.request.as_ref().filter(|it| it.token == token)?;
        let instance = request.member;
        let member = self.members.iter_mut().find(|it| it.instance == instance)?;
        let one = sequence..sequence + 1;
        let assignment = if member.missing.contains(sequence) {
            member.missing.remove(one);
            member.assignment(sequence)
        } else if self.unassigned.contains(sequence) && sequence >= member.end {
            self.unassigned.remove(one);
            member.take_next(sequence, &mut self.uncertain)
        } else {
            None
        };
        assignment.map(|it| it.delivery(self.recipients.group, sequence))
    }

    /// There was no room for messages that were to be sent to a member.
    pub(super) fn refuse(&mut self, instance: InstanceId, messages: Range<u64>) {
        let Some(member) = self.member(instance) else {
            return;
        };
        let refused = member.assigned.within(messages);
        member.missing.insert_all(&refused);
        member.is_full = true;
        self.request.take_if(|it| it.member == instance);
    }

    /// The answer to a request is complete.
    pub(super) fn end_resend(&mut self, token: u32) {
        self.request.take_if(|it| it.token == token);
    }

    /// An instance reports what it has processed.
    pub(super) fn settle(&mut self, processed: &SequenceSet) {
        let mut news = processed.clone();
        news.remove_below(self.floor);
        if let Some(until) = self.recipients.until {
            news.remove(until..u64::MAX);
        }
        news.remove_all(&self.settled);
        self.finish(&news);
        self.news.insert_all(&news);
    }

    /// The source has removed everything below `base` from its log.
    pub(super) fn raise_floor(&mut self, base: u64) {
        let base = base.min(self.recipients.until.unwrap_or(base));
        if base > self.floor {
            self.finish(&SequenceSet::from(self.floor..base));
        }
    }

    fn finish(&mut self, done: &SequenceSet) {
        if done.is_empty() {
            return;
        }
        self.settled.insert_all(done);
        self.unassigned.remove_all(done);
        self.uncertain.remove_all(done);
        for member in &mut self.members {
            member.settle(done);
        }
        self.floor = self.settled.first_missing(self.floor);
        self.settled.remove_below(self.floor);
    }

    /// An instance reports.
    pub(super) fn handle_report(&mut self, instance: InstanceId, report: &ReceivingReport) {
        self.settle(&report.processed);
        let floor = self.floor;
        let Some(member) = self.member(instance) else {
            return;
        };
        member.handle_news(report);
        if let Some(held) = member.handle_answer(report) {
            // What the group has needs no care.
            member.assigned.remove_below(floor);
            member.missing.remove_below(floor);
            let settled = self.settled.clone();
            self.unassigned.remove_all(&held);
            self.uncertain.remove_all(&held);
            if let Some(member) = self.member(instance) {
                member.settle(&settled);
            }
        }
    }

    /// The route to a member is lost, with everything on it.
    pub(super) fn lose_route(&mut self, instance: InstanceId) -> Option<&mut Member> {
        self.request.take_if(|it| it.member == instance);
        self.member(instance)
    }

    /// A member has left, or is dead, or has lost its lease: then it may have received what is assigned to
    /// it. Returns it.
    pub(super) fn remove(
        &mut self,
        now: Instant,
        instance: InstanceId,
        is_orderly: bool,
    ) -> Option<Member> {
        self.request.take_if(|it| it.member == instance);
        let at = self.members.iter().position(|it| it.instance == instance)?;
        let member = self.members.remove(at);
        self.turn = (0, 0);
        if self.members.is_empty() {
            self.empty_since = Some(now);
        }
        if self.recipients.only.is_some() {
            // The caller ends the group, with everything that it has not received.
            return Some(member);
        }
        // It may have received what is assigned and not missing; before it has reported, anything that
        // an earlier entry zipper has forwarded.
        let mut received = member.assigned.clone();
        received.remove_all(&member.missing);
        if member.is_awaited {
            received = self.settled.missing_from(self.floor..self.sent_before);
            for other in &self.members {
                received.remove_all(&other.assigned);
            }
        }
        if !is_orderly {
            let below = received.last().map_or(0, |last| last + 1);
            let known = &mut self.recipients.uncertain_below;
            *known = below.max(*known);
            self.uncertain.insert_all(&received);
        }
        if self.redelivers {
            // Another one may have received them before it.
            self.uncertain
                .insert_all(&member.redelivered.common(&member.assigned));
        }
        self.unassigned.insert_all(&member.assigned);
        Some(member)
    }

    /// Abandons messages that an instance which is gone may have received, if they go to no other one.
    pub(super) fn abandon_uncertain(&mut self) {
        if self.redelivers || self.is_recovering() {
            return;
        }
        self.recipients.uncertain_below = 0;
        let lost = std::mem::take(&mut self.uncertain);
        self.abandon(lost, AbandonReason::InstanceLost);
    }

    fn abandon(&mut self, messages: SequenceSet, reason: AbandonReason) {
        if messages.is_empty() {
            return;
        }
        self.finish(&messages);
        let mut known = self.abandoned.iter_mut();
        match known.find(|it| it.0 == reason) {
            Some((_, known)) => known.insert_all(&messages),
            None => self.abandoned.push((reason, messages)),
        }
    }

    /// The group receives no further messages.
    pub(super) fn close(&mut self, arrived: u64) {
        // An instance may have had later ones from an earlier entry zipper.
        let end = arrived.max(self.sent_before).max(self.recipients.from);
        let until = &mut self.recipients.until;
        *until = until.or(Some(end));
    }

    /// The group has ended: it receives no further messages, and abandons those that it does not have.
    pub(super) fn end(&mut self, arrived: u64, reason: AbandonReason) {
        self.close(arrived);
        let until = self.recipients.until.unwrap_or(arrived);
        let lost = self.settled.missing_from(self.floor..until.max(self.floor));
        self.abandon(lost, reason);
        self.members.clear();
        self.request = None;
    }
}

/// A message on its way to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Assignment {
    instance: InstanceId,
    epoch: RouteEpoch,
    is_redelivery: bool,
}

impl Assignment {
    const fn delivery(self, group: GroupId, sequence: u64) -> MemberDelivery {
        MemberDelivery {
            group,
            instance: self.instance,
            epoch: self.epoch,
            sequence,
            is_redelivery: self.is_redelivery,
        }
    }
}

impl Member {
    /// It receives a message that follows all that it has received.
    fn take_next(&mut self, sequence: u64, uncertain: &mut SequenceSet) -> Option<Assignment> {
        let one = sequence..sequence + 1;
        if uncertain.contains(sequence) {
            uncertain.remove(one.clone());
            self.redelivered.insert(one.clone());
        }
        self.assigned.insert(one);
        self.end = sequence + 1;
        self.assignment(sequence)
    }

    /// A message that is assigned to it, and can be sent.
    fn assignment(&self, sequence: u64) -> Option<Assignment> {
        let MemberRoute::Bound(epoch) = self.route else {
            return None;
        };
        Some(Assignment {
            instance: self.instance,
            epoch,
            is_redelivery: self.redelivered.contains(sequence),
        })
    }
}
