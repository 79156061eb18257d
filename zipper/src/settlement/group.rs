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
    /// Unassigned messages that an instance which died may have received.
    orphaned: SequenceSet,
    /// Behind the last message that an earlier entry zipper may have forwarded.
    sent_before: u64,
    /// An instance may have received anything below from an earlier entry zipper, and is gone.
    uncertain_below: u64,
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
            orphaned: SequenceSet::default(),
            sent_before: 0,
            uncertain_below: 0,
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
            uncertain_below,
        } = offer;
        let members = std::mem::take(&mut recipients.members).into_iter();
        let members: Vec<_> = members
            .map(|instance| Member {
                is_awaited: true,
                ..Member::new(now, instance, 0)
            })
            .collect();
        let floor = floor.max(recipients.from);
        let end = recipients.until.unwrap_or(live_from).min(live_from);
        Self {
            floor,
            unassigned: settled.missing_from(floor..end.max(floor)),
            settled,
            empty_since: members.is_empty().then_some(now),
            members,
            sent_before: sent_max,
            uncertain_below,
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
        let is_uncertain = sequence < self.uncertain_below;
        let member = &mut self.members[at];
        if is_uncertain {
            member.redelivered.insert(sequence..sequence + 1);
        }
        member.assigned.insert(sequence..sequence + 1);
        member.end = sequence + 1;
        member.assignment(sequence)
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
        let is_any_down = self.members.iter().any(|it| !it.is_bound());
        let requesting = self.request.as_ref().map(|it| it.member);
        let able = self.members.iter_mut().filter(|it| {
            it.is_bound() && it.announced_in <= confirmed && Some(it.instance) != requesting
        });
        // The one that may take most of them in order.
        let Some(member) = able.min_by_key(|it| it.end) else {
            return;
        };
        let mut taken = self.unassigned.clone();
        taken.remove_below(member.end);
        for range in self.orphaned.ranges() {
            taken.insert(range);
        }
        if !is_any_down {
            // Nobody is left that could take the rest in order.
            taken = self.unassigned.clone();
        }
        let mut late = taken.clone();
        late.remove(member.end..u64::MAX);
        late.insert_all(&taken.within(0..self.uncertain_below));
        member.redelivered.insert_all(&late);
        for range in self.orphaned.ranges() {
            member.redelivered.insert(range);
        }
        member.assigned.insert_all(&taken);
        member.missing.insert_all(&taken);
        member.end = member.end.max(taken.last().map_or(0, |last| last + 1));
        self.unassigned.remove_all(&taken);
        self.orphaned = SequenceSet::default();
    }

    /// Requests what a member misses, if no request is under way. Everything below `arrived` has arrived.
    pub(super) fn request(&mut self, confirmed: u64, arrived: u64) -> Option<ResendRequest> {
        if self.request.is_some() || self.is_recovering() {
            return None;
        }
        let misses =
            |it: &&Member| it.is_bound() && it.announced_in <= confirmed && !it.missing.is_empty();
        let member = self.members.iter().find(misses)?;
        self.next_token += 1;
        let token = self.next_token;
        let mut ranges = member.missing.clone();
        // What has not arrived will.
        ranges.remove(arrived..u64::MAX);
        if ranges.is_empty() {
            return None;
        }
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
            if sequence < self.uncertain_below || self.orphaned.contains(sequence) {
                member.redelivered.insert(one.clone());
                self.orphaned.remove(one.clone());
            }
            self.unassigned.remove(one.clone());
            member.assigned.insert(one);
            member.end = sequence + 1;
        } else if member.missing.contains(sequence) {
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
        self.orphaned.remove_all(done);
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
            self.orphaned.remove_all(&held);
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
    pub(super) fn remove(
        &mut self,
        now: Instant,
        instance: InstanceId,
        is_orderly: bool,
    ) -> SequenceSet {
        self.request.take_if(|it| it.member == instance);
        let Some(at) = self.members.iter().position(|it| it.instance == instance) else {
            return SequenceSet::default();
        };
        let member = self.members.remove(at);
        self.turn = (0, 0);
        if self.members.is_empty() {
            self.empty_since = Some(now);
        }
        let lost = member.assigned;
        if member.is_awaited {
            // It may have received anything that an earlier entry zipper has forwarded.
            self.uncertain_below = self.sent_before;
        }
        if self.redelivers && self.recipients.only.is_none() {
            self.unassigned.insert_all(&lost);
            if !is_orderly {
                self.orphaned.insert_all(&lost);
            }
            return SequenceSet::default();
        }
        self.finish(&lost);
        lost
    }

    /// Messages that an instance which is gone may have received, if they go to no other one.
    pub(super) fn abandon_uncertain(&mut self) -> SequenceSet {
        if self.redelivers || self.uncertain_below <= self.floor || self.is_recovering() {
            return SequenceSet::default();
        }
        let mut lost = self.settled.missing_from(self.floor..self.uncertain_below);
        for member in &self.members {
            lost.remove_all(&member.assigned);
        }
        self.uncertain_below = 0;
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
        self.uncertain_below = 0;
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
            if floor < it.floor_sent + step {
                return None;
            }
            it.floor_sent = floor;
            Some((it.instance, epoch))
        })
    }
}

impl Member {
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
