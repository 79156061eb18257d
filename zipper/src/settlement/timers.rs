//! What happens in a flow as time passes: leases end, binds are repeated, empty groups are given up.

use selvedge_client::settlement::{GroupId, InstanceId, RouteEpoch};
use selvedge_hub::Instant;

use super::declining::DeclinedMessages;
use super::entry::EntryFlow;
use super::group::GroupFlow;
use super::member::{Member, MemberRemoval, ReportQuestion};
use super::stalled::{StalledMember, WaitingSource};

/// The question whether the source is still attached to this zipper.
#[derive(Debug, Default)]
pub(super) struct SourceProbe {
    number: u32,
    /// Whether the source has not answered yet.
    is_sent: bool,
    /// Whether a lease should be renewed.
    pub(super) is_wanted: bool,
}

/// What a member requires when a time limit is reached.
enum Due {
    Expire(InstanceId),
    Bind(InstanceId),
}

impl EntryFlow {
    /// The next time limit. To be asked for once a second or more often.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let await_max = self.settings.get().await_max;
        let groups = self.groups.iter().filter(|it| it.is_awaiting());
        let empty = groups.map(|it| it.empty_since + await_max);
        let members = self.groups.iter().flat_map(|it| {
            let has_block = it.has_block();
            it.members.iter().map(move |member| (member, has_block))
        });
        let limits = members.filter_map(|(it, has_block)| {
            let lease = it
                .lease_start()
                .map(|since| since + self.settings.get().lease);
            let waits = it.is_bound() && (has_block || !it.assigned.is_empty());
            let check = waits.then_some(self.check_at);
            [lease, it.route_timeout(), check]
                .into_iter()
                .flatten()
                .min()
        });
        let absent = self.leftover.iter().flat_map(|it| &it.absent);
        let absent = absent.filter_map(|it| it.until);
        empty
            .chain(limits)
            .chain(absent)
            .chain(self.look_at())
            .min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.close_blocks();
        if now >= self.check_at {
            self.check_at = now + self.settings.get().silence_max;
            self.check_silence(now);
        }
        self.look_for_stalled(now);
        self.return_stalled(now);
        for at in 0..self.groups.len() {
            let members = self.groups[at].members.iter();
            let due: Vec<_> = members.filter_map(|it| self.due(it, now)).collect();
            for what in due {
                match what {
                    Due::Expire(instance) => self.expire(now, at, instance),
                    Due::Bind(instance) => self.bind(now, at, instance),
                }
            }
            let group = &mut self.groups[at];
            let limit = group.empty_since + self.settings.get().await_max;
            if group.is_awaiting() && now >= limit {
                group.end(self.arrived, group.awaited_reason());
                group.empty_since = Instant::FAR_FUTURE;
                self.is_changed = true;
                self.proceed(at);
            }
        }
    }

    fn due(&self, member: &Member, now: Instant) -> Option<Due> {
        let lease = self.settings.get().lease;
        if member
            .lease_start()
            .is_some_and(|since| now >= since + lease)
        {
            return Some(Due::Expire(member.instance));
        }
        let is_due = member.route_timeout().is_some_and(|at| now >= at);
        is_due.then_some(Due::Bind(member.instance))
    }

    /// A member with messages that reports nothing, although it is asked, may have lost what was sent to it: it is
    /// bound again. Any report on its route proves that nothing was lost before: a route delivers nothing behind a loss.
    fn check_silence(&mut self, now: Instant) {
        for at in 0..self.groups.len() {
            let mut silent = Vec::new();
            for member in &mut self.groups[at].members {
                let waits = member.is_bound() && !member.assigned.is_empty();
                if waits && member.question != ReportQuestion::None {
                    silent.push(member.instance);
                }
                member.question = match waits {
                    true => ReportQuestion::Due,
                    false => ReportQuestion::None,
                };
            }
            for instance in silent {
                self.bind(now, at, instance);
            }
            self.instances_from = 0;
        }
    }

    /// A member has lost its lease.
    fn expire(&mut self, now: Instant, at: usize, instance: InstanceId) {
        let group = &self.groups[at];
        let only = group.recipients.only;
        let is_open = group.recipients.until.is_none();
        let absent = AbsentMember::new(group, instance);
        let Some(member) = self.remove_member(now, at, instance, MemberRemoval::Lost) else {
            return;
        };
        if !member.is_selected() || !is_open {
            return;
        }
        if member.has_way() && only.is_none() {
            self.add_member(now, at, instance);
            self.bind(now, at, instance);
            return;
        }
        self.leftover().absent.push(absent);
    }

    /// An instance that has lost its lease is a member again. Returns the place of the group.
    pub(super) fn take_back(&mut self, now: Instant, absent: AbsentMember) -> usize {
        let mut groups = self.groups.iter();
        let known = groups.position(|it| {
            it.recipients.until.is_none() && absent.is_in(&it.recipients.name, it.recipients.only)
        });
        let at = match known {
            Some(at) => at,
            None => self.add_group(now, absent.name, absent.only),
        };
        self.groups[at].redelivers = absent.redelivers;
        if self.groups[at].member(absent.instance).is_none() {
            self.add_member(now, at, absent.instance);
        }
        at
    }

    pub(super) fn leftover(&mut self) -> &mut Leftover {
        self.leftover.get_or_insert_default()
    }

    /// What is to be sent to the source to learn whether it is alive.
    pub(super) fn poll_probe(&mut self) -> Option<u32> {
        if !self.probe.is_wanted || self.probe.is_sent {
            return None;
        }
        self.probe = SourceProbe {
            number: self.probe.number.wrapping_add(1),
            is_sent: true,
            is_wanted: false,
        };
        for member in self.groups.iter_mut().flat_map(|it| &mut it.members) {
            member.lease.probed = member.lease.received;
        }
        Some(self.probe.number)
    }

    /// The source has answered a [`Probe`](super::SourceOutput::Probe) on the present attachment.
    pub fn handle_alive(&mut self, number: u32) {
        if !self.probe.is_sent || self.probe.number != number {
            return;
        }
        self.probe.is_sent = false;
        let lease = self.settings.get().lease;
        for member in self.groups.iter_mut().flat_map(|it| &mut it.members) {
            let is_listed = member.is_listed();
            let stamps = &mut member.lease;
            if is_listed && stamps.probed > stamps.renewed {
                stamps.renewed = stamps.probed;
                member.is_renewed = true;
            }
            self.probe.is_wanted |= is_listed && stamps.is_due(lease);
        }
        self.instances_from = 0;
    }
}

/// An instance that is listed, has lost its lease, and cannot be reached, or has stalled.
#[derive(Debug)]
pub(super) struct AbsentMember {
    pub(super) name: String,
    pub(super) only: Option<InstanceId>,
    pub(super) redelivers: bool,
    pub(super) instance: InstanceId,
    /// If it has stalled: until when it may still have a lease.
    pub(super) until: Option<Instant>,
    /// Whether the router lists it, and knows a way to it.
    pub(super) is_listed: bool,
    pub(super) has_route: bool,
}

impl AbsentMember {
    pub(super) fn new(group: &GroupFlow, instance: InstanceId) -> Self {
        Self {
            name: group.recipients.name.to_string(),
            only: group.recipients.only,
            redelivers: group.redelivers,
            instance,
            until: None,
            is_listed: true,
            has_route: false,
        }
    }

    /// Whether it belongs to a group.
    pub(super) fn is_in(&self, name: &str, only: Option<InstanceId>) -> bool {
        self.name == name && self.only == only
    }
}

/// What few flows have.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    pub(super) absent: Vec<AbsentMember>,
    pub(super) stalled: Vec<StalledMember>,
    pub(super) waiting: Option<WaitingSource>,
    pub(super) ended: Vec<EndedRoute>,
    pub(super) declined: DeclinedMessages,
}

/// A route that an instance may know, and that is of no use any more.
pub(super) type EndedRoute = (GroupId, InstanceId, RouteEpoch);
