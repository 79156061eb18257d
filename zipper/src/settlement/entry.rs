//! One flow at its entry zipper.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use selvedge_client::settlement::{
    AbandonReason, FlowOffer, GroupId, GroupOffer, InstanceId, ReceivingReport, RecipientGroup,
    Recipients, ResendRequest, RouteEpoch, SequenceSet,
};
use selvedge_hub::Instant;

use super::group::{Assignment, GroupFlow};
use super::member::MemberRoute;

/// A floor is sent when it has risen by so many messages.
const FLOOR_STEP: u64 = 1024;

/// The time limits of a flow.
#[derive(Debug, Clone, Copy)]
pub struct EntrySettings {
    /// How long an instance without a route keeps its messages. An instance must not process messages of
    /// an entry zipper that it has not received anything from for this long.
    pub lease: Duration,
    /// How long messages wait for the first instance of a group.
    pub await_max: Duration,
}

impl Default for EntrySettings {
    /// A lease of 30 s; 10 s for a group without instances.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            await_max: Duration::from_secs(10),
        }
    }
}

/// A group that observes a flow, as the router knows it.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// The name of its functions.
    pub name: String,
    /// The instance that is a group of its own, if each instance receives every message.
    pub only: Option<InstanceId>,
    /// Whether messages of an instance that died go to another one.
    pub redelivers: bool,
    /// The instances that messages are to go to. None if the group is awaited.
    pub members: Vec<InstanceId>,
}

/// The source has presented numbers that contradict each other, or are too large. A retry does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the source presents a flow that cannot exist")]
pub struct InvalidOffer;

/// Above these, counting on would overflow.
const SEQUENCE_MAX: u64 = 1 << 62;
const GROUP_MAX: u32 = 1 << 31;

fn is_valid(offer: &FlowOffer) -> bool {
    let FlowOffer {
        live_from,
        sent_max,
        groups_end,
        ..
    } = *offer;
    let mut numbers = BTreeSet::new();
    let is_valid_group = |it: &GroupOffer| {
        let RecipientGroup { group, from, .. } = it.recipients;
        let members: BTreeSet<_> = it.recipients.members.iter().collect();
        numbers.insert(group)
            && group.0 < groups_end
            && members.len() == it.recipients.members.len()
            && from <= sent_max
            && it.floor <= sent_max
            && it.recipients.uncertain_below <= sent_max
            && it.settled.last().is_none_or(|last| last < sent_max)
    };
    live_from <= sent_max
        && sent_max <= SEQUENCE_MAX
        && groups_end <= GROUP_MAX
        && offer.groups.iter().all(is_valid_group)
}

/// What a flow requires of its zipper, to be done in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryOutput {
    /// Bind an instance to a route under this epoch: it answers with a report.
    Bind {
        /// The group.
        group: GroupId,
        /// The instance.
        instance: InstanceId,
        /// The epoch.
        epoch: RouteEpoch,
    },
    /// Send the message that was passed in to an instance.
    Deliver {
        /// The group.
        group: GroupId,
        /// The instance.
        instance: InstanceId,
        /// The epoch of its route.
        epoch: RouteEpoch,
        /// The number of the message.
        sequence: u64,
        /// Whether another instance may have received it.
        is_redelivery: bool,
    },
    /// Inform an instance that nothing below is sent again.
    RaiseFloor {
        /// The instance.
        instance: InstanceId,
        /// The epoch of its route.
        epoch: RouteEpoch,
        /// The number of the first message in the log of the source.
        floor: u64,
    },
    /// Announce the recipients to the source, which confirms the version.
    Announce(Recipients),
    /// Inform the source that the recipient sets of messages below are fixed.
    Routed(u64),
    /// Inform the source that a group has messages.
    Settled {
        /// The group.
        group: GroupId,
        /// The messages.
        messages: SequenceSet,
    },
    /// Inform the source that a group does not receive messages.
    Abandoned {
        /// The group.
        group: GroupId,
        /// The messages.
        messages: SequenceSet,
        /// Why.
        reason: AbandonReason,
    },
    /// Request messages from the source.
    Resend(ResendRequest),
}

/// The entry zipper's state of one flow.
///
/// Call a method for each event, then do what [`poll_output`](Self::poll_output) returns. `now` must not
/// go backwards.
#[derive(Debug)]
pub struct EntryFlow {
    settings: EntrySettings,
    attachment: u32,
    /// How many routes were bound.
    routes: u32,
    /// Behind the last message that an earlier entry zipper may have forwarded.
    sent_before: u64,
    /// The number of the next live message.
    arrived: u64,
    /// What was sent as routed.
    routed: u64,
    /// The first message in the log of the source.
    base: u64,
    groups: Vec<GroupFlow>,
    next_group: u32,
    /// The version of the last announcement, and the last one that the source has confirmed.
    announced: u64,
    confirmed: u64,
    outputs: VecDeque<EntryOutput>,
}

impl EntryFlow {
    /// A flow that a source has attached.
    ///
    /// # Errors
    /// [`InvalidOffer`].
    pub fn new(
        now: Instant,
        settings: EntrySettings,
        offer: FlowOffer,
    ) -> Result<Self, InvalidOffer> {
        if !is_valid(&offer) {
            return Err(InvalidOffer);
        }
        let FlowOffer {
            attachment,
            live_from,
            sent_max,
            groups_end,
            groups,
        } = offer;
        let groups = groups.into_iter();
        Ok(Self {
            settings,
            attachment,
            routes: 0,
            sent_before: sent_max,
            arrived: live_from,
            routed: live_from,
            base: 0,
            groups: groups
                .map(|group| GroupFlow::recover(now, group, live_from, sent_max))
                .collect(),
            next_group: groups_end,
            announced: 0,
            confirmed: 0,
            outputs: VecDeque::new(),
        })
    }

    /// The next requirement.
    pub fn poll_output(&mut self) -> Option<EntryOutput> {
        self.outputs.pop_front()
    }

    /// The groups that observe the flow have changed, or the flow is new. Every group is listed.
    pub fn set_groups(&mut self, now: Instant, specs: &[GroupSpec]) {
        let mut has_changed = self.announced == 0;
        for spec in specs {
            let at = match self.groups.iter().position(|it| it.is_for(spec)) {
                Some(at) => at,
                None => {
                    has_changed = true;
                    self.groups.push(self.new_group(now, spec));
                    self.next_group += 1;
                    self.groups.len() - 1
                }
            };
            let group = &mut self.groups[at];
            group.redelivers = spec.redelivers;
            for &instance in &spec.members {
                if let Some(member) = group.member(instance) {
                    member.is_listed = true;
                } else {
                    has_changed = true;
                    group.empty_since = None;
                    let announced_in = self.announced + 1;
                    let member = super::member::Member::new(now, instance, announced_in);
                    group.members.push(member);
                }
            }
        }
        if has_changed {
            self.announce();
        }
        self.proceed();
    }

    fn new_group(&self, now: Instant, spec: &GroupSpec) -> GroupFlow {
        let recipients = RecipientGroup {
            group: GroupId(self.next_group),
            name: spec.name.clone(),
            only: spec.only,
            from: self.arrived,
            until: None,
            members: Vec::new(),
            uncertain_below: 0,
        };
        GroupFlow::new(now, recipients)
    }

    fn announce(&mut self) {
        self.announced += 1;
        let groups = self.groups.iter().map(GroupFlow::announcement);
        self.outputs.push_back(EntryOutput::Announce(Recipients {
            version: self.announced,
            groups: groups.collect(),
        }));
    }

    /// The source has confirmed an announcement.
    pub fn handle_confirmed(&mut self, version: u64) {
        self.confirmed = self.confirmed.max(version.min(self.announced));
        self.proceed();
    }

    /// There is a route to an instance, or another one than before. What was in flight is lost.
    pub fn handle_route(&mut self, now: Instant, instance: InstanceId) {
        for group in &mut self.groups {
            if group.member(instance).is_none() {
                continue;
            }
            group.lose_route(now, instance);
            self.routes += 1;
            let epoch = RouteEpoch {
                attachment: self.attachment,
                route: self.routes,
            };
            if let Some(member) = group.member(instance) {
                member.route = MemberRoute::Binding(epoch);
            }
            self.outputs.push_back(EntryOutput::Bind {
                group: group.recipients.group,
                instance,
                epoch,
            });
        }
    }

    /// There is no route to an instance any more. What was in flight is lost.
    pub fn handle_route_lost(&mut self, now: Instant, instance: InstanceId) {
        for group in &mut self.groups {
            group.lose_route(now, instance);
        }
        self.proceed();
    }

    /// The process of an instance is known to have ended.
    pub fn handle_death(&mut self, now: Instant, instance: InstanceId) {
        self.remove_member(now, instance, false);
    }

    /// An instance has left in order: it has reported everything that it has processed, and processes
    /// nothing more.
    pub fn handle_leave(&mut self, now: Instant, instance: InstanceId) {
        self.remove_member(now, instance, true);
    }

    fn remove_member(&mut self, now: Instant, instance: InstanceId, is_orderly: bool) {
        let mut has_changed = false;
        for at in 0..self.groups.len() {
            let group = &mut self.groups[at];
            if group.member(instance).is_none() {
                continue;
            }
            has_changed = true;
            group.remove(now, instance, is_orderly);
            let lost = match group.recipients.only {
                Some(_) if group.recipients.until.is_none() => group.end(self.arrived),
                _ => group.abandon_uncertain(),
            };
            self.push_abandoned(at, lost, AbandonReason::InstanceLost);
        }
        if has_changed {
            self.announce();
        }
        self.proceed();
    }

    /// The source has removed everything below from its log.
    pub fn handle_base(&mut self, base: u64) {
        self.base = self.base.max(base.min(self.arrived));
    }

    fn push_abandoned(&mut self, at: usize, messages: SequenceSet, reason: AbandonReason) {
        if !messages.is_empty() {
            let group = self.groups[at].recipients.group;
            self.outputs.push_back(EntryOutput::Abandoned {
                group,
                messages,
                reason,
            });
        }
    }

    /// A live message has arrived. Returns false if it is not the expected one.
    pub fn handle_live(&mut self, sequence: u64) -> bool {
        if sequence != self.arrived {
            return false;
        }
        self.arrived += 1;
        for group in &mut self.groups {
            if group.receives(sequence)
                && let Some(assignment) = group.assign(sequence, self.confirmed)
            {
                let group = group.recipients.group;
                self.outputs.push_back(deliver(group, sequence, assignment));
            }
        }
        true
    }

    /// A message that was requested for a group has arrived.
    pub fn handle_resent(&mut self, group: GroupId, token: u32, sequence: u64) {
        let mut groups = self.groups.iter_mut();
        let found = groups.find(|it| it.recipients.group == group);
        if let Some(assignment) = found.and_then(|it| it.assign_resent(token, sequence)) {
            self.outputs.push_back(deliver(group, sequence, assignment));
        }
    }

    /// The answer to a request is complete.
    pub fn handle_resend_end(&mut self, group: GroupId, token: u32) {
        let mut groups = self.groups.iter_mut();
        if let Some(found) = groups.find(|it| it.recipients.group == group) {
            found.end_resend(token);
        }
        self.proceed();
    }

    /// An instance reports: in answer to [`EntryOutput::Bind`], or because it has processed messages.
    pub fn handle_report(&mut self, instance: InstanceId, report: &ReceivingReport) {
        // An instance cannot have what no entry zipper has had.
        let end = self.arrived.max(self.sent_before);
        let last = [&report.processed, &report.held].map(SequenceSet::last);
        if report.end > end || last.into_iter().flatten().any(|last| last >= end) {
            return;
        }
        for group in &mut self.groups {
            let Some(member) = group.member(instance) else {
                continue;
            };
            let settled = match member.route {
                MemberRoute::Binding(_) => group.bound(instance, report),
                _ => group.settle(&report.processed),
            };
            if !settled.is_empty() {
                self.outputs.push_back(EntryOutput::Settled {
                    group: group.recipients.group,
                    messages: settled,
                });
            }
        }
        self.proceed();
    }

    /// The next time limit.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let EntrySettings { lease, await_max } = self.settings;
        let groups = self
            .groups
            .iter()
            .filter(|it| it.recipients.until.is_none());
        let empty = groups.filter_map(|it| it.empty_since.map(|since| since + await_max));
        let members = self.groups.iter().flat_map(|it| &it.members);
        let leases = members.filter_map(|it| match it.route {
            MemberRoute::Down { since } => Some(since + lease),
            _ => None,
        });
        empty.chain(leases).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let EntrySettings { lease, await_max } = self.settings;
        let members = self.groups.iter().flat_map(|it| &it.members);
        let expired = members.filter(|it| match it.route {
            MemberRoute::Down { since } => now >= since + lease,
            _ => false,
        });
        let expired: Vec<_> = expired.map(|it| it.instance).collect();
        for instance in expired {
            self.handle_death(now, instance);
        }
        let mut has_changed = false;
        for at in 0..self.groups.len() {
            let group = &mut self.groups[at];
            let is_empty = group
                .empty_since
                .is_some_and(|since| now >= since + await_max);
            if is_empty && group.recipients.until.is_none() {
                has_changed = true;
                let lost = group.end(self.arrived);
                self.push_abandoned(at, lost, AbandonReason::NoSubscriber);
            }
        }
        if has_changed {
            self.announce();
        }
        self.proceed();
    }

    /// Informs the source and the instances of what has changed since the last call. To be called after a
    /// batch of events.
    pub fn report(&mut self) {
        self.proceed();
        if self.routed < self.arrived {
            self.routed = self.arrived;
            self.outputs.push_back(EntryOutput::Routed(self.routed));
        }
        let floor = self.base;
        for group in &mut self.groups {
            for (instance, epoch) in group.floors(floor, FLOOR_STEP) {
                self.outputs.push_back(EntryOutput::RaiseFloor {
                    instance,
                    epoch,
                    floor,
                });
            }
        }
        self.groups.retain(|group| !group.is_over());
    }

    /// Assigns what waits, and requests what is missing.
    fn proceed(&mut self) {
        for at in 0..self.groups.len() {
            let lost = self.groups[at].abandon_uncertain();
            self.push_abandoned(at, lost, AbandonReason::InstanceLost);
            let group = &mut self.groups[at];
            group.assign_waiting(self.confirmed);
            if let Some(request) = group.request(self.confirmed, self.arrived) {
                self.outputs.push_back(EntryOutput::Resend(request));
            }
        }
    }
}

fn deliver(group: GroupId, sequence: u64, assignment: Assignment) -> EntryOutput {
    let Assignment {
        instance,
        epoch,
        is_redelivery,
    } = assignment;
    EntryOutput::Deliver {
        group,
        instance,
        epoch,
        sequence,
        is_redelivery,
    }
}
