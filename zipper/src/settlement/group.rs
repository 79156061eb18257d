//! One group of a flow: which of its members receives which message.

use selvedge_client::settlement::{
    GroupOffer, InstanceId, ReceivingReport, RecipientGroup, ResendRequest, RouteEpoch, SequenceSet,
};
use selvedge_hub::Instant;

use super::entry::GroupSpec;
use super::member::{Member, MemberRoute};

/// How many consecutive messages one member receives before it is the turn of another.
const BLOCK_LEN: u32 = 256;

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
    /// The member of the present block, and how much is left of it.
    turn: (usize, u32),
    request: Option<PendingResend>,
    next_token: u32,
    /// Since when it has had no members.
    pub(super) empty_since: Option<Instant>,
}

/// A request to the source that has not been answered.
#[derive(Debug)]
struct PendingResend {
    token: u32,
    member: InstanceId,
    from: u64,
}

/// A message on its way to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) instance: InstanceId,
    pub(super) epoch: RouteEpoch,
    pub(super) is_redelivery: bool,
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
            request: None,
            next_token: 0,
            empty_since: Some(now),
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

    pub(super) fn is_for(&self, spec: &GroupSpec) -> bool {
        self.recipients.until.is_none()
            && self.recipients.name == spec.name
            && self.recipients.only == spec.only
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
    fn is_recovering(&self) -> bool {
        self.members.iter().any(|it| it.is_awaited)
    }

    /// Whether every message up to the last one is settled.
    pub(super) fn is_over(&self) -> bool {
        self.recipients
            .until
            .is_some_and(|until| self.floor >= until)
    }

    /// A live message has arrived. Returns the member that it goes to now, if there is one.
    #[inline]
    pub(super) fn assign(&mut self, sequence: u64, confirmed: u64) -> Option<Assignment> {
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
        self.members[at].take_next(sequence, &mut self.uncertain)
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
        self.turn = (next, BLOCK_LEN);
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
        // What has not arrived will.
        let misses = |it: &&Member| {
            let has_arrived = it.missing.first().is_some_and(|first| first < arrived);
            it.is_eligible(confirmed) && has_arrived
        };
        let member = self.members.iter().find(misses)?;
        self.next_token += 1;
        let token = self.next_token;
        let mut ranges = member.missing.clone();
        ranges.remove(arrived..u64::MAX);
        self.request = Some(PendingResend {
            token,
            member: member.instance,
            from: arrived,
        });
        Some(ResendRequest {
            group: self.recipients.group,
            token,
            ranges,
            from: arrived,
        })
    }

    /// A message that was requested has arrived. Returns the member that it goes to.
    pub(super) fn assign_resent(&mut self, token: u32, sequence: u64) -> Option<Assignment> {
        let request = self.request.as_ref().filter(|it| it.token == token)?;
        let is_new = sequence >= request.from && self.unassigned.contains(sequence);
        let instance = request.member;
        let member = self.members.iter_mut().find(|it| it.instance == instance)?;
        let one = sequence..sequence + 1;
        if is_new && sequence >= member.end {
            self.unassigned.remove(one);
            return member.take_next(sequence, &mut self.uncertain);
        }
        if member.missing.contains(sequence) {
            member.missing.remove(one);
        } else {
            return None;
        }
        member.assignment(sequence)
    }

    /// The answer to a request is complete.
    pub(super) fn end_resend(&mut self, token: u32) {
        self.request.take_if(|it| it.token == token);
    }

    /// An instance reports what it has processed. Returns what is settled because of that.
    pub(super) fn settle(&mut self, processed: &SequenceSet) -> SequenceSet {
        let mut news = processed.clone();
        news.remove_below(self.floor);
        if let Some(until) = self.recipients.until {
            news.remove(until..u64::MAX);
        }
        news.remove_all(&self.settled);
        self.finish(&news);
        news
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

    /// An instance reports under the epoch that it was bound with. Returns what is settled.
    pub(super) fn bound(&mut self, instance: InstanceId, report: &ReceivingReport) -> SequenceSet {
        let news = self.settle(&report.processed);
        let floor = self.floor;
        let Some(member) = self.member(instance) else {
            return news;
        };
        if member.bound(report) {
            // What the group has needs no care.
            member.assigned.remove_below(floor);
            member.missing.remove_below(floor);
            let (held, settled) = (report.held.clone(), self.settled.clone());
            self.unassigned.remove_all(&held);
            self.uncertain.remove_all(&held);
            if let Some(member) = self.member(instance) {
                member.settle(&settled);
            }
        }
        news
    }

    /// The route to a member is lost, with everything on it.
    pub(super) fn lose_route(&mut self, now: Instant, instance: InstanceId) {
        self.request.take_if(|it| it.member == instance);
        if let Some(member) = self.member(instance) {
            member.lose_route(now);
        }
    }

    /// A member has left, or is dead, or has lost its lease: then it may have received what is assigned to
    /// it. Returns the messages that no other one receives.
    pub(super) fn remove(&mut self, now: Instant, instance: InstanceId, is_orderly: bool) {
        self.request.take_if(|it| it.member == instance);
        let Some(at) = self.members.iter().position(|it| it.instance == instance) else {
            return;
        };
        let member = self.members.remove(at);
        self.turn = (0, 0);
        if self.members.is_empty() {
            self.empty_since = Some(now);
        }
        if self.recipients.only.is_some() {
            // The caller ends the group, with everything that it has not received.
            return;
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
    }

    /// Messages that an instance which is gone may have received, if they go to no other one.
    pub(super) fn abandon_uncertain(&mut self) -> SequenceSet {
        if self.redelivers || self.is_recovering() {
            return SequenceSet::default();
        }
        self.recipients.uncertain_below = 0;
        let lost = std::mem::take(&mut self.uncertain);
        self.finish(&lost);
        lost
    }

    /// The group has ended: it receives none of the messages that have not arrived. Returns what it will
    /// not receive.
    pub(super) fn end(&mut self, arrived: u64) -> SequenceSet {
        // An instance may have had later ones from an earlier entry zipper.
        let done = self.settled.last().map_or(self.floor, |last| last + 1);
        let until = arrived.max(done);
        self.recipients.until = Some(until);
        let lost = self.settled.missing_from(self.floor..until);
        self.finish(&lost);
        self.members.clear();
        self.request = None;
        lost
    }

    /// Members to which a newer floor must be sent, with their routes.
    pub(super) fn floors(
        &mut self,
        floor: u64,
        step: u64,
    ) -> impl Iterator<Item = (InstanceId, RouteEpoch)> {
        self.members.iter_mut().filter_map(move |it| {
            let MemberRoute::Bound(epoch) = it.route else {
                return None;
            };
            if floor.saturating_sub(it.floor_sent) < step {
                return None;
            }
            it.floor_sent = floor;
            Some((it.instance, epoch))
        })
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
