//! One flow at its entry zipper.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use selvedge_client::settlement::{
    FlowOffer, GroupId, InstanceId, RANGES_MAX, ReceivingReport, RouteEpoch, SequenceSet,
};
use selvedge_hub::Instant;

use super::group::{GroupFlow, GroupIdentity};
use super::member::{Member, MemberRemoval, MemberWay};
use super::offer::{InvalidOffer, is_valid};
use super::outputs::{FLOOR_STEP, MemberDelivery};
use super::settings::{EntrySettings, PackedSettings};
use super::timers::{Leftover, SourceProbe};

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
    /// Instances that receive no new messages at present. Those that have been members still receive what
    /// they were assigned.
    pub others: Vec<InstanceId>,
}

type GroupKey<'a> = (&'a str, Option<InstanceId>);

/// The entry zipper's state of one flow.
///
/// Call a method for each event. [`handle_live`](Self::handle_live) and
/// [`handle_resent`](Self::handle_resent) return where a message goes to. What is to be sent to the source and
/// to instances otherwise is state: [`poll_source_output`](Self::poll_source_output) and
/// [`poll_instance_output`](Self::poll_instance_output) return it when there is room for it. `now` must not go
/// backwards.
#[derive(Debug)]
pub struct EntryFlow {
    pub(super) settings: PackedSettings,
    attachment: u32,
    /// How many routes were bound.
    routes: u32,
    /// Behind the last message that an earlier entry zipper may have forwarded.
    sent_before: u64,
    /// The number of the next live message.
    pub(super) arrived: u64,
    /// What was sent as routed.
    pub(super) routed: u64,
    /// The first message in the log of the source.
    pub(super) base: u64,
    pub(super) groups: Vec<GroupFlow>,
    next_group: u32,
    /// The version of the last announcement, and the last one that the source has confirmed.
    pub(super) announced: u32,
    pub(super) confirmed: u32,
    /// Whether the recipients have changed since the last announcement.
    pub(super) is_changed: bool,
    /// Whether the source removes what is routed from its log: then a message is routed once it is on its way.
    pub(super) settles_when_routed: bool,
    /// No group before has something for the source, or for an instance.
    pub(super) active_from: usize,
    pub(super) instances_from: usize,
    pub(super) probe: SourceProbe,
    /// When silent members are looked for next.
    pub(super) check_at: Instant,
    pub(super) leftover: Option<Box<Leftover>>,
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
            mut groups,
        } = offer;
        groups.sort_by_key(|it| it.recipients.group);
        let groups = groups.into_iter();
        Ok(Self {
            settings: PackedSettings::new(settings),
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
            is_changed: false,
            settles_when_routed: false,
            active_from: 0,
            instances_from: 0,
            probe: SourceProbe::default(),
            check_at: now + settings.silence_max,
            leftover: None,
        })
    }

    /// Whether a message of the source belongs to the attachment of this flow.
    #[must_use]
    pub const fn is_current(&self, attachment: u32) -> bool {
        self.attachment == attachment
    }

    /// How often the source had attached the flow when it attached it here.
    #[must_use]
    pub const fn attachment(&self) -> u32 {
        self.attachment
    }

    /// The groups that observe the flow have changed, or the flow is new. Every group is listed. For each new
    /// instance, [`handle_route`](Self::handle_route) follows if there is a way to it.
    ///
    /// A group whose name is listed with another policy ends: its members receive what they have been
    /// assigned. An instance that is a group of its own and is not listed may return within its lease.
    pub fn set_groups(&mut self, now: Instant, specs: &[GroupSpec]) {
        self.close_blocks();
        self.permit();
        self.is_changed |= self.announced == 0;
        let mut selected: BTreeMap<GroupKey<'_>, BTreeSet<InstanceId>> = BTreeMap::new();
        let mut listed: BTreeMap<GroupKey<'_>, BTreeSet<InstanceId>> = BTreeMap::new();
        let mut names: BTreeMap<&str, BTreeSet<InstanceId>> = BTreeMap::new();
        for spec in specs {
            let key = (&*spec.name, spec.only);
            selected.entry(key).or_default().extend(&spec.members);
            let all = || spec.members.iter().chain(&spec.others);
            listed.entry(key).or_default().extend(all());
            names.entry(&spec.name).or_default().extend(all());
        }
        if let Some(leftover) = &mut self.leftover {
            leftover.absent.retain_mut(|it| {
                let members = selected.get(&(it.name.as_str(), it.only));
                it.is_listed = members.is_some_and(|members| members.contains(&it.instance));
                it.is_listed || it.until.is_some()
            });
        }
        for group in &mut self.groups {
            let name = group.recipients.name.clone();
            let members = listed.get(&(&*name, group.recipients.only));
            let of_name = names.get(&*name);
            let is_replaced = match group.recipients.only {
                None => of_name.is_some() && members.is_none(),
                Some(_) => listed.contains_key(&(&*name, None)),
            };
            if group.recipients.until.is_none() && is_replaced {
                self.is_changed = true;
                group.close(self.arrived);
            }
            let selected = selected.get(&(&*name, group.recipients.only));
            let (members, selected) = match group.recipients.until {
                None => (members, selected),
                Some(_) => (of_name, of_name),
            };
            let is_in = |set: Option<&BTreeSet<_>>, instance| {
                set.is_some_and(|set: &BTreeSet<InstanceId>| set.contains(&instance))
            };
            group.list(
                now,
                |instance| is_in(members, instance),
                |instance| is_in(selected, instance),
            );
        }
        self.add_listed(now, specs);
        for at in 0..self.groups.len() {
            self.proceed(at);
        }
    }

    /// Adds groups and members that are new.
    fn add_listed(&mut self, now: Instant, specs: &[GroupSpec]) {
        let known = self.groups.iter().enumerate();
        let known = known.filter(|(_, it)| it.recipients.until.is_none());
        let known: BTreeMap<_, _> = known.map(|(at, it)| (it.key(), at)).collect();
        let places: Vec<_> = specs
            .iter()
            .map(|spec| known.get(&(spec.name.as_str(), spec.only)).copied())
            .collect();
        for (spec, place) in specs.iter().zip(places) {
            let is_absent = |instance: InstanceId| {
                let mut absent = self.leftover.iter().flat_map(|it| &it.absent);
                absent.any(|it| it.instance == instance && it.is_in(&spec.name, spec.only))
            };
            let present = spec.members.iter().filter(|&&it| !is_absent(it));
            let present: Vec<_> = present.copied().collect();
            let at = match place {
                Some(at) => at,
                None if spec.only.is_some() && present.is_empty() => continue,
                None => self.add_group(now, spec.name.clone(), spec.only),
            };
            self.groups[at].redelivers = spec.redelivers;
            let members = self.groups[at].members.iter();
            let members: BTreeSet<_> = members.map(|it| it.instance).collect();
            for instance in present.into_iter().filter(|it| !members.contains(it)) {
                self.add_member(now, at, instance);
            }
        }
    }

    pub(super) fn add_group(
        &mut self,
        now: Instant,
        name: String,
        only: Option<InstanceId>,
    ) -> usize {
        let earlier = self.groups.iter().filter(|it| it.precedes(&name, only));
        let behind = earlier.filter_map(|it| it.recipients.until).max();
        let recipients = GroupIdentity {
            group: GroupId(self.next_group),
            name: name.into_boxed_str(),
            only,
            // An earlier group may have had messages from an earlier entry zipper that have not arrived.
            from: self.arrived.max(behind.unwrap_or(0)),
            until: None,
            uncertain_below: 0,
        };
        self.next_group += 1;
        self.is_changed = true;
        self.groups.reserve_exact(1);
        self.groups.push(GroupFlow::new(now, recipients));
        self.groups.len() - 1
    }

    pub(super) fn add_member(&mut self, now: Instant, at: usize, instance: InstanceId) {
        let mut members = self.groups.iter().flat_map(|it| &it.members);
        let has_route = members.any(|it| it.instance == instance && it.has_way());
        self.is_changed = true;
        let group = &mut self.groups[at];
        group.empty_since = Instant::FAR_FUTURE;
        group.members.reserve_exact(1);
        let member = Member::new(now, instance, self.announced + 1);
        group.members.push(member);
        if has_route {
            self.bind(now, at, instance);
        }
    }

    /// The source has confirmed an announcement.
    pub fn handle_confirmed(&mut self, version: u64) {
        self.close_blocks();
        self.confirmed = self.confirmed.max(
            u32::try_from(version)
                .unwrap_or(u32::MAX)
                .min(self.announced),
        );
        for at in 0..self.groups.len() {
            self.proceed(at);
        }
    }

    /// There is a way to an instance, or another one than before. What was in flight is lost.
    pub fn handle_route(&mut self, now: Instant, instance: InstanceId) {
        self.close_blocks();
        let mut absent = Vec::new();
        if let Some(leftover) = &mut self.leftover {
            let concerned = leftover.absent.extract_if(.., |it| {
                it.has_route |= it.instance == instance;
                it.instance == instance && it.until.is_none()
            });
            absent.extend(concerned);
        }
        for absent in absent {
            self.take_back(now, absent);
        }
        for at in 0..self.groups.len() {
            if let Some(member) = self.groups[at].member(instance) {
                member.has_new_way();
                self.bind(now, at, instance);
            }
        }
    }

    /// The way to an instance is the one that was reported before. The instance may have become a member of a
    /// group since, or may have lost its lease before it was one.
    pub fn keep_route(&mut self, now: Instant, instance: InstanceId) {
        let mut absent = self.leftover.iter().flat_map(|it| &it.absent);
        if absent.any(|it| it.instance == instance && !it.has_route) {
            return self.handle_route(now, instance);
        }
        for at in 0..self.groups.len() {
            let mut member = self.groups[at].member(instance);
            if let Some(member) = member.take_if(|it| !it.has_way()) {
                member.has_new_way();
                self.close_blocks();
                self.bind(now, at, instance);
            }
        }
    }

    /// Binds a member to another route. What was in flight is lost.
    pub(super) fn bind(&mut self, now: Instant, at: usize, instance: InstanceId) {
        self.routes += 1;
        let epoch = RouteEpoch {
            attachment: self.attachment,
            route: self.routes,
        };
        if let Some(member) = self.groups[at].lose_route(instance) {
            member.bind(now, epoch, self.settings.get().bind_max);
        }
        self.instances_from = 0;
        self.proceed(at);
    }

    /// There is no way to an instance any more. What was in flight is lost.
    pub fn handle_route_lost(&mut self, now: Instant, instance: InstanceId) {
        self.close_blocks();
        let absent = self.leftover.iter_mut().flat_map(|it| &mut it.absent);
        let concerned = absent.filter(|it| it.instance == instance);
        concerned.for_each(|it| it.has_route = false);
        for at in 0..self.groups.len() {
            if let Some(member) = self.groups[at].lose_route(instance) {
                member.way = MemberWay::None;
                member.lose_route(now);
                self.proceed(at);
            }
        }
        self.instances_from = 0;
    }

    /// Something that was sent to an instance under an epoch is lost, for want of room or not, and there may still be a
    /// way to it. It is bound again, at once or after a pause.
    pub fn handle_loss(
        &mut self,
        now: Instant,
        (group, instance): (GroupId, InstanceId),
        epoch: RouteEpoch,
        lacks_room: bool,
    ) {
        let Some(at) = self.find(group) else { return };
        let is_present = |it: &mut Member| it.has_epoch(epoch);
        if !self.groups[at].member(instance).is_some_and(is_present) {
            return;
        }
        if let Some(member) = self.groups[at].lose_route(instance) {
            member.note_loss(lacks_room);
            member.retry_later(now);
            if member.route_timeout().is_some_and(|at| now >= at) {
                self.bind(now, at, instance);
            }
        }
        self.instances_from = 0;
        self.proceed(at);
    }

    /// The process of an instance is known to have ended.
    pub fn handle_death(&mut self, now: Instant, instance: InstanceId) {
        self.remove_instance(now, instance, MemberRemoval::Lost);
    }

    /// An instance has left in order: it has reported everything that it has processed, and processes
    /// nothing more.
    pub fn handle_leave(&mut self, now: Instant, instance: InstanceId) {
        self.remove_instance(now, instance, MemberRemoval::Left);
    }

    fn remove_instance(&mut self, now: Instant, instance: InstanceId, why: MemberRemoval) {
        self.close_blocks();
        if let Some(leftover) = &mut self.leftover {
            leftover.absent.retain(|it| it.instance != instance);
        }
        for at in 0..self.groups.len() {
            self.remove_member(now, at, instance, why);
        }
    }

    pub(super) fn remove_member(
        &mut self,
        now: Instant,
        at: usize,
        instance: InstanceId,
        why: MemberRemoval,
    ) -> Option<Member> {
        let group = &mut self.groups[at];
        let mut member = group.remove(now, instance, why)?;
        self.is_changed = true;
        if let Some(epoch) = member.lose_route(now) {
            let number = group.recipients.group;
            self.leftover().ended.push((number, instance, epoch));
        }
        let group = &mut self.groups[at];
        if group.recipients.only.is_some() {
            group.end(self.arrived, group.lost_reason());
        }
        self.proceed(at);
        Some(member)
    }

    /// The source has removed everything below from its log.
    pub fn handle_base(&mut self, base: u64) {
        let base = base.min(self.arrived);
        if base <= self.base {
            return;
        }
        self.close_blocks();
        let is_step = base / FLOOR_STEP > self.base / FLOOR_STEP;
        self.base = base;
        for group in &mut self.groups {
            group.raise_floor(base);
        }
        if is_step {
            self.instances_from = 0;
            for member in self.groups.iter_mut().flat_map(|it| &mut it.members) {
                member.is_floor_due = true;
            }
        }
    }

    /// A live message has arrived: `deliver` is called for each instance that it goes to. Returns false if
    /// it is not the expected one.
    ///
    /// A message that there is no room for is reported by [`handle_refused`](Self::handle_refused): then
    /// nothing may be sent to that instance until [`handle_room`](Self::handle_room).
    #[inline]
    pub fn handle_live(&mut self, sequence: u64, mut deliver: impl FnMut(MemberDelivery)) -> bool {
        if sequence != self.arrived {
            return false;
        }
        for group in &mut self.groups {
            if let Some(delivery) = group.assign(sequence, self.confirmed) {
                deliver(delivery);
            }
        }
        self.arrived = sequence + 1;
        true
    }

    /// The number of the next live message.
    #[must_use]
    pub const fn expected(&self) -> u64 {
        self.arrived
    }

    /// Whether any group receives the messages that arrive now.
    #[must_use]
    pub fn is_observed(&self) -> bool {
        self.groups.iter().any(|it| it.receives(self.arrived))
    }

    /// A fast path for a burst of live messages: calls `deliver` for each instance that the next messages
    /// go to, with the first of them, and returns how many of them go to these instances, at most `max`. The
    /// caller sends some of them, and calls [`advance`](Self::advance). 0 if messages must be passed to
    /// [`handle_live`](Self::handle_live) one by one.
    pub fn live_block(&mut self, max: u64, mut deliver: impl FnMut(MemberDelivery)) -> u64 {
        let (next, confirmed) = (self.arrived, self.confirmed);
        let mut end = next + max;
        for group in &mut self.groups {
            if group.receives(next) {
                match group.open_block(next, confirmed) {
                    Some((_, block_end)) => end = end.min(block_end),
                    None => return 0,
                }
            } else if group.recipients.from > next {
                end = end.min(group.recipients.from);
            }
        }
        for group in &mut self.groups {
            if let Some((Some(delivery), _)) = group.open_block(next, confirmed) {
                deliver(delivery);
            }
        }
        end - next
    }

    /// Live messages of a [block](Self::live_block) have arrived: as many as were returned, or fewer.
    pub fn advance(&mut self, count: u64) {
        self.arrived += count;
    }

    /// There was no room for messages that were to be sent to an instance. They are missing there, and
    /// nothing is assigned to the instance or requested for it until there is [room](Self::handle_room).
    /// Other instances are not concerned.
    pub fn handle_refused(&mut self, group: GroupId, instance: InstanceId, messages: Range<u64>) {
        let Some(at) = self.find(group) else { return };
        let group = &mut self.groups[at];
        group.close_block(self.arrived);
        group.refuse(instance, messages);
        self.proceed(at);
    }

    /// There is room for so many bytes on the way to an instance: what it misses is requested, in parts of
    /// as many bytes, in units of 64.
    pub fn handle_room(&mut self, group: GroupId, instance: InstanceId, bytes: u64) {
        let Some(at) = self.find(group) else { return };
        let group = &mut self.groups[at];
        group.close_block(self.arrived);
        if let Some(member) = group.member(instance) {
            member.handle_room(bytes);
        }
        self.proceed(at);
    }

    /// A message that was requested for a group has arrived. Returns where it goes to.
    pub fn handle_resent(
        &mut self,
        group: GroupId,
        token: u32,
        sequence: u64,
    ) -> Option<MemberDelivery> {
        let at = self.find(group)?;
        let group = &mut self.groups[at];
        group.close_block(self.arrived);
        group.assign_resent(token, sequence)
    }

    /// The answer to a request has ended. The log of the source begins at `base`, and what was requested below
    /// `complete_below` and has not arrived was settled before.
    pub fn handle_resend_end(
        &mut self,
        group: GroupId,
        token: u32,
        base: u64,
        complete_below: u64,
    ) {
        self.handle_base(base);
        if let Some(at) = self.find(group) {
            self.groups[at].close_block(self.arrived);
            self.groups[at].end_resend(token, complete_below);
            self.proceed(at);
        }
    }

    /// An instance reports: in answer to a bind, or because it has processed messages, or to keep its
    /// lease. A report that cannot be true is ignored.
    pub fn handle_report(
        &mut self,
        now: Instant,
        group: GroupId,
        instance: InstanceId,
        report: &ReceivingReport,
    ) {
        // An instance cannot have what no entry zipper has had.
        let end = self.arrived.max(self.sent_before);
        let sets = [&report.processed, &report.held];
        let is_true = |set: &&SequenceSet| {
            set.last().is_none_or(|last| last < end) && set.ranges().len() <= RANGES_MAX
        };
        if report.end > end || !sets.iter().all(is_true) {
            return;
        }
        let Some(at) = self.find(group) else { return };
        let group = &mut self.groups[at];
        group.close_block(self.arrived);
        if group.member(instance).is_none() {
            return;
        }
        group.handle_report(instance, report);
        self.look_at_answer(now, at, instance);
        let lease = self.settings.get().lease;
        let is_due = |it: &mut Member| it.is_listed() && it.lease.is_due(lease);
        self.probe.is_wanted |= self.groups[at].member(instance).is_some_and(is_due);
        self.proceed(at);
    }

    fn find(&self, group: GroupId) -> Option<usize> {
        let found = self
            .groups
            .binary_search_by_key(&group, |it| it.recipients.group);
        found.ok()
    }

    pub(super) fn close_blocks(&mut self) {
        for group in &mut self.groups {
            group.close_block(self.arrived);
        }
    }

    /// Assigns what waits.
    pub(super) fn proceed(&mut self, at: usize) {
        let is_forbidden = self.is_forbidden();
        let group = &mut self.groups[at];
        group.abandon_uncertain();
        if is_forbidden {
            group.abandon_unsent();
        }
        group.assign_waiting(self.confirmed);
        group.is_active = true;
        self.active_from = self.active_from.min(at);
    }
}
