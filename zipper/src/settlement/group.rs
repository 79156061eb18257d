//! One group of a flow: which of its members receives which message.

use selvedge_client::settlement::{
    AbandonReason, GroupId, GroupOffer, InstanceId, ReceivingReport, RecipientGroup, SequenceSet,
};
use selvedge_hub::Instant;

mod assign;

use super::member::Member;
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
    unassigned: SequenceSet,
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
                is_listed: false,
                is_selected: false,
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
            member.is_selected = is_selected(member.instance);
            let was_listed = std::mem::replace(&mut member.is_listed, is_listed(member.instance));
            if was_listed && !member.is_listed && member.is_bound() {
                member.silent_since = now;
            }
        }
    }

    pub(super) const fn has_block(&self) -> bool {
        self.block.end > 0
    }

    /// The group for an announcement.
    pub(super) fn announcement(&self) -> RecipientGroup {
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
        self.request.take_if(|it| *it == instance);
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
        self.request.take_if(|it| *it == instance);
        let at = self.members.iter().position(|it| it.instance == instance)?;
        let member = self.members.remove(at);
        self.turn = (0, 0);
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
        let lost = self.uncertain.take();
        self.abandon(lost, AbandonReason::InstanceLost);
    }

    fn abandon(&mut self, messages: SequenceSet, reason: AbandonReason) {
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
