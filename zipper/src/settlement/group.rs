//! One group of a flow: which of its members receives which message.

use selvedge_client::settlement::{
    AbandonReason, GroupId, GroupOffer, InstanceId, ReceivingReport, RecipientGroup, SequenceSet,
};
use selvedge_hub::Instant;

mod assign;

use super::member::{Listing, Member, MemberRemoval};
use super::rare::RareSet;

/// A group of a flow at its entry zipper.
#[derive(Debug)]
pub(super) struct GroupFlow {
    pub(super) recipients: GroupIdentity,
    pub(super) members: Vec<Member>,
    /// Whether messages of an instance that died go to another one.
    pub(super) redelivers: bool,
    /// Every message of the group below is settled.
    pub(super) floor: u64,
    /// Further messages that are settled.
    pub(super) settled: SequenceSet,
    /// Messages that have arrived, and have no member.
    pub(super) unassigned: SequenceSet,
    /// Messages without a member that an instance which is gone may have received. They may not have
    /// arrived yet.
    uncertain: RareSet,
    /// Behind the last message that an earlier entry zipper may have forwarded.
    sent_before: u64,
    /// The member whose turn it is, and for how many messages.
    turn: (u32, u32),
    block: assign::OpenBlock,
    /// The member whose request the source has not answered, and the number of the last request.
    request: Option<InstanceId>,
    token: u32,
    /// Since when it has had no members; the far future if it has some, or is given up.
    pub(super) empty_since: Instant,
    /// Settled messages that the source has not been informed of.
    pub(super) news: SequenceSet,
    /// Abandoned messages that the source has not been informed of.
    pub(super) abandoned: Option<Box<AbandonedNews>>,
    /// Whether there may be something for the source.
    pub(super) is_active: bool,
    /// Whether the source knows the group.
    pub(super) is_announced: bool,
    /// Whether the member that was removed last had stalled.
    has_stalled: bool,
}

/// What is announced of a group beside its members.
#[derive(Debug)]
pub(super) struct GroupIdentity {
    pub(super) group: GroupId,
    pub(super) name: Box<str>,
    pub(super) only: Option<InstanceId>,
    pub(super) from: u64,
    pub(super) until: Option<u64>,
    pub(super) uncertain_below: u64,
}

/// Messages that a group does not receive, by reason.
#[derive(Debug, Default)]
pub(super) struct AbandonedNews(pub(super) Vec<(AbandonReason, SequenceSet)>);

impl GroupFlow {
    /// A group that receives the messages from `from` on.
    pub(super) fn new(now: Instant, recipients: GroupIdentity) -> Self {
        Self {
            floor: recipients.from,
            recipients,
            members: Vec::new(),
            redelivers: true,
            settled: SequenceSet::default(),
            unassigned: SequenceSet::default(),
            uncertain: RareSet::default(),
            sent_before: 0,
            turn: (0, 0),
            block: assign::NO_BLOCK,
            request: None,
            token: 0,
            empty_since: now,
            news: SequenceSet::default(),
            abandoned: None,
            is_active: true,
            is_announced: false,
            has_stalled: false,
        }
    }

    /// A group that the source knows from another entry zipper. Its members report before anything is
    /// assigned.
    pub(super) fn recover(now: Instant, offer: GroupOffer, live_from: u64, sent_max: u64) -> Self {
        let GroupOffer {
            recipients,
            floor,
            settled,
        } = offer;
        let uncertain_below = recipients.uncertain_below;
        let members = recipients.members.into_iter();
        let recipients = GroupIdentity {
            group: recipients.group,
            name: recipients.name.into_boxed_str(),
            only: recipients.only,
            from: recipients.from,
            until: recipients.until,
            uncertain_below,
        };
        let members: Vec<_> = members
            .map(|instance| Member {
                is_awaited: true,
                listing: Listing::Unlisted,
                ..Member::new(now, instance, 0)
            })
            .collect();
        let floor = floor.max(recipients.from);
        let end = recipients.until.unwrap_or(live_from).min(live_from);
        Self {
            floor,
            unassigned: settled.missing_from(floor..end.max(floor)),
            uncertain: settled
                .missing_from(floor..uncertain_below.max(floor))
                .into(),
            settled,
            empty_since: match members.is_empty() {
                true => now,
                false => Instant::FAR_FUTURE,
            },
            members,
            sent_before: sent_max,
            is_announced: true,
            ..Self::new(now, recipients)
        }
    }

    /// Its name, and the instance that is a group of its own.
    pub(super) fn key(&self) -> (&str, Option<InstanceId>) {
        (&self.recipients.name, self.recipients.only)
    }

    /// Only these members may receive messages, and only selected ones new messages. Others lose their lease.
    pub(super) fn list(
        &mut self,
        now: Instant,
        is_listed: impl Fn(InstanceId) -> bool,
        is_selected: impl Fn(InstanceId) -> bool,
    ) {
        for member in &mut self.members {
            let was_listed = member.is_listed();
            let instance = member.instance;
            member.listing = match (is_listed(instance), is_selected(instance)) {
                (false, _) => Listing::Unlisted,
                (true, false) => Listing::Listed,
                (true, true) => Listing::Selected,
            };
            if was_listed && !member.is_listed() && member.is_bound() {
                member.silent_since = now;
            }
        }
    }

    pub(super) const fn has_block(&self) -> bool {
        self.block.end > 0
    }

    /// The group for an announcement.
    pub(super) fn announce(&mut self) -> RecipientGroup {
        self.is_announced = true;
        RecipientGroup {
            group: self.recipients.group,
            name: self.recipients.name.to_string(),
            only: self.recipients.only,
            from: self.recipients.from,
            until: self.recipients.until,
            members: self.members.iter().map(|it| it.instance).collect(),
            uncertain_below: self.recipients.uncertain_below,
        }
    }

    /// The first message that is not on its way to a member.
    pub(super) fn first_unsent(&self) -> Option<u64> {
        let missing = self.members.iter().filter_map(|it| it.missing.first());
        missing.chain(self.unassigned.first()).min()
    }

    pub(super) fn receives(&self, sequence: u64) -> bool {
        let GroupIdentity { from, until, .. } = self.recipients;
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

    /// Whether messages wait for its first member.
    pub(super) fn is_awaiting(&self) -> bool {
        self.empty_since < Instant::FAR_FUTURE && !self.is_over()
    }

    /// Whether it may share messages with a group, so that one must end where the other begins.
    pub(super) fn precedes(&self, name: &str, only: Option<InstanceId>) -> bool {
        let (own_name, own) = self.key();
        own_name == name && (own == only || own.is_none() || only.is_none())
    }

    /// An instance reports what it has processed. Returns whether some of it is new.
    fn settle(&mut self, processed: &SequenceSet) -> bool {
        let mut news = processed.clone();
        news.remove_below(self.floor);
        if let Some(until) = self.recipients.until {
            news.remove(until..u64::MAX);
        }
        news.remove_all(&self.settled);
        self.finish(&news);
        self.news.insert_all(&news);
        !news.is_empty()
    }

    /// The source has removed everything below `base` from its log.
    pub(super) fn raise_floor(&mut self, base: u64) {
        let base = base.min(self.recipients.until.unwrap_or(base));
        if base > self.floor {
            self.finish(&SequenceSet::from(self.floor..base));
        }
    }

    pub(super) fn finish(&mut self, done: &SequenceSet) {
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
        if self.settle(&report.processed) {
            self.note_proceeded(instance);
        }
        let floor = self.floor;
        let Some(member) = self.member(instance) else {
            return;
        };
        member.handle_news(report);
        if let Some(held) = member.handle_answer(report) {
            // What the group has needs no care.
            member.assigned.remove_below(floor);
            member.missing.remove_below(floor);
            self.unassigned.remove_all(&held);
            let mut redelivered = self.uncertain.common(&held);
            self.uncertain.remove_all(&held);
            redelivered.insert_all(&self.share(&held, Some(instance)));
            let settled = self.settled.clone();
            if let Some(member) = self.member(instance) {
                // If it drops them, they are sent to it again.
                member.redelivered.insert_all(&redelivered);
                member.settle(&settled);
            }
        }
    }

    /// An instance may have received these messages. Returns those that are assigned to others, too: if they
    /// are sent again, they are redeliveries.
    fn share(&mut self, received: &SequenceSet, by: Option<InstanceId>) -> SequenceSet {
        let mut shared = SequenceSet::default();
        for other in &mut self.members {
            if Some(other.instance) != by {
                let common = other.assigned.common(received);
                other.redelivered.insert_all(&common);
                shared.insert_all(&common);
            }
        }
        shared
    }

    /// The route to a member is lost, with everything on it.
    pub(super) fn lose_route(&mut self, instance: InstanceId) -> Option<&mut Member> {
        self.request.take_if(|it| *it == instance);
        self.member(instance)
    }

    /// A member has left, or is dead, or has lost its lease: then it may have received what is assigned to
    /// it. Returns it.
    pub(super) fn remove(
        &mut self,
        now: Instant,
        instance: InstanceId,
        why: MemberRemoval,
    ) -> Option<Member> {
        self.request.take_if(|it| *it == instance);
        let at = self.members.iter().position(|it| it.instance == instance)?;
        let member = self.members.remove(at);
        self.turn = (0, 0);
        self.has_stalled = why == MemberRemoval::Stalled;
        if self.members.is_empty() {
            self.empty_since = now;
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
        }
        if why != MemberRemoval::Left {
            let below = received.last().map_or(0, |last| last + 1);
            let known = &mut self.recipients.uncertain_below;
            *known = below.max(*known);
            received.remove_all(&self.share(&received, None));
            self.uncertain.insert_all(&received);
        }
        if self.redelivers {
            // Another one may have received them before it.
            self.uncertain
                .insert_all(&member.redelivered.common(&member.assigned));
        }
        // What others have been assigned, too, stays theirs.
        let mut unassigned = member.assigned.clone();
        for other in &self.members {
            unassigned.remove_all(&other.assigned);
        }
        self.unassigned.insert_all(&unassigned);
        Some(member)
    }

    /// Abandons messages that an instance which is gone may have received, if they go to no other one.
    pub(super) fn abandon_uncertain(&mut self) {
        if self.redelivers || self.is_recovering() {
            return;
        }
        let lost = self.uncertain.take();
        self.abandon(lost, self.lost_reason());
    }

    /// Why the group does not receive what the member may have received that was removed last.
    pub(super) const fn lost_reason(&self) -> AbandonReason {
        match self.has_stalled {
            true => AbandonReason::InstanceStalled,
            false => AbandonReason::InstanceLost,
        }
    }

    /// Why the group does not receive what has waited for an instance.
    pub(super) const fn awaited_reason(&self) -> AbandonReason {
        match self.has_stalled {
            true => AbandonReason::InstanceStalled,
            false => AbandonReason::NoSubscriber,
        }
    }

    /// The source is informed of everything that is abandoned: nothing is uncertain any more, and not before.
    /// Otherwise another entry zipper might take it for messages that no instance has had.
    pub(super) fn end_uncertainty(&mut self) {
        self.abandoned = None;
        if !self.redelivers && !self.is_recovering() && self.uncertain.is_empty() {
            self.recipients.uncertain_below = 0;
        }
    }

    pub(super) fn abandon(&mut self, messages: SequenceSet, reason: AbandonReason) {
        if messages.is_empty() {
            return;
        }
        self.finish(&messages);
        let AbandonedNews(news) = &mut **self.abandoned.get_or_insert_default();
        match news.iter_mut().find(|it| it.0 == reason) {
            Some((_, known)) => known.insert_all(&messages),
            None => news.push((reason, messages)),
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
