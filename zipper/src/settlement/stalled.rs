//! Instances that hold the source back.
//!
//! A source that waits for settlement reports so once a second. As long as it does, the flow looks which
//! members do not proceed: messages are assigned to them, and they report nothing new. One that has not
//! proceeded for [`stalled_max`](super::EntrySettings::stalled_max), while the source has waited as long, is
//! *stalled*: it is removed as if its lease had ended, and its zipper is to disconnect it. A member on which no
//! source waits is never removed, however slow it is. Neither is one that is silent: it is suspended, or the way to
//! it is interrupted, and it has its lease to return; the time without a route does not count, unless
//! the routes end for want of room on the way. Neither is one that
//! processes messages of other flows, behind which these wait. A process whose handler is blocked answers when it is
//! asked for a report.
//!
//! An instance that is stalled may be suspended, and may still have a lease when it continues. It is therefore
//! taken back a lease later at the earliest, if it is listed under the same number.

use std::time::Duration;

use selvedge_client::settlement::{GroupId, InstanceId, RouteEpoch};
use selvedge_hub::Instant;

use super::entry::EntryFlow;
use super::group::GroupFlow;
use super::member::{Member, MemberRemoval, MemberWay};
use super::timers::AbsentMember;

/// The source does not wait any more if it has not reported for so long.
const WAITING_MAX: Duration = Duration::from_secs(3);

/// How often members are looked at while the source waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The time of a member that has proceeded since the last look.
const PROCEEDED: u16 = u16::MAX;

/// A member with messages is asked for a report every five seconds; it is silent if it has not reported for so long. In
/// tenths of a second.
const SILENT_AFTER: u8 = 70;

/// In which the time is counted that a member does not proceed.
const UNIT: Duration = Duration::from_millis(100);

/// A member that does not proceed for so long is reported as holding the source back.
const HELD_MIN: Duration = Duration::from_secs(1);

/// The most members that one flow reports.
const REPORTED_MAX: usize = 64;

/// The source has reported that it waits.
#[derive(Debug)]
pub(super) struct WaitingSource {
    reported_at: Instant,
    /// When members were looked at for the last time.
    looked_at: Instant,
}

/// A member that was removed because it had stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StalledMember {
    pub(super) group: GroupId,
    pub(super) instance: InstanceId,
    pub(super) epoch: RouteEpoch,
    pub(super) notice: StalledNotice,
}

/// What is known of an instance that has stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StalledNotice {
    /// How many messages are assigned to it.
    pub messages: u64,
    /// How long it has not proceeded.
    pub time: Duration,
}

/// A member that holds the source back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowMember {
    /// The name of its functions.
    pub name: String,
    /// The instance.
    pub instance: InstanceId,
    /// Since when it has not proceeded.
    pub since: Instant,
    /// How many messages are assigned to it.
    pub messages: u64,
    /// Why it does not proceed, as far as is known.
    pub state: SlowState,
}

/// Why a member does not proceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowState {
    /// The way to it has no room.
    Full,
    /// It reports nothing.
    Silent,
    /// It has messages, and reports nothing new.
    Stuck,
    /// It does not answer to a bind.
    Unbound,
}

impl SlowState {
    /// As it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Silent => "silent",
            Self::Stuck => "stuck",
            Self::Unbound => "unbound",
        }
    }
}

impl EntryFlow {
    /// The source waits for settlement.
    pub fn handle_waiting(&mut self, now: Instant) {
        let waiting = &mut self.leftover().waiting;
        if let Some(waiting) = waiting {
            waiting.reported_at = now;
            return;
        }
        *waiting = Some(WaitingSource {
            reported_at: now,
            looked_at: now,
        });
        self.members_mut().for_each(Member::proceeded);
    }

    /// Whether the source waits for settlement.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.waiting().is_some()
    }

    fn waiting(&self) -> Option<&WaitingSource> {
        self.leftover.as_ref()?.waiting.as_ref()
    }

    /// The members that hold the source back for more than a second, the first ones.
    #[must_use]
    pub fn slow_members(&self, now: Instant) -> Vec<SlowMember> {
        if !self.is_waited_for() {
            return Vec::new();
        }
        let slow = self.groups.iter().flat_map(|group| {
            let members = group.members.iter().filter(|it| it.unmoved() >= HELD_MIN);
            members.map(|member| SlowMember {
                name: group.recipients.name.to_string(),
                instance: member.instance,
                since: now.checked_sub(member.unmoved()).unwrap_or(now),
                messages: member.assigned_len(),
                state: member.slow_state(),
            })
        });
        slow.take(REPORTED_MAX).collect()
    }

    /// When members are looked at next.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.waiting().map(|it| it.looked_at + LOOK_INTERVAL)
    }

    /// Looks at the members, and removes those that have stalled.
    pub(super) fn look_for_stalled(&mut self, now: Instant) {
        let max = self.settings.get().stalled_max;
        let leftover = self.leftover.as_mut();
        let Some(waiting) = leftover.and_then(|it| it.waiting.as_mut()) else {
            return;
        };
        if now >= waiting.reported_at + WAITING_MAX {
            self.leftover().waiting = None;
            self.members_mut().for_each(Member::proceeded);
            return;
        }
        if now < waiting.looked_at + LOOK_INTERVAL {
            return;
        }
        let passed = now.duration_since(waiting.looked_at);
        // Without what is not counted.
        let passed = u16::try_from(passed.as_millis() / UNIT.as_millis()).unwrap_or(u16::MAX);
        waiting.looked_at += UNIT * u32::from(passed);
        for at in 0..self.groups.len() {
            let group = &mut self.groups[at];
            let mut stalled = Vec::new();
            for member in &mut group.members {
                member.look(passed);
                if member.has_stalled_for(max) {
                    stalled.push(member.instance);
                }
            }
            for instance in stalled {
                self.end_stalled(now, at, instance);
            }
        }
    }

    /// A member has reported. If it loses each route for want of room, it is bound for moments only, and is judged as soon as
    /// it is: one that is not bound could not be informed of its end.
    pub(super) fn look_at_answer(&mut self, now: Instant, at: usize, instance: InstanceId) {
        let max = self.settings.get().stalled_max;
        let is_waited_for = self.is_waited_for();
        let has_stalled = |it: &mut Member| it.way == MemberWay::Full && it.has_stalled_for(max);
        if is_waited_for && self.groups[at].member(instance).is_some_and(has_stalled) {
            self.end_stalled(now, at, instance);
        }
    }

    fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.groups.iter_mut().flat_map(|it| &mut it.members)
    }

    fn end_stalled(&mut self, now: Instant, at: usize, instance: InstanceId) {
        let group = &self.groups[at];
        let number = group.recipients.group;
        let is_open = group.recipients.until.is_none();
        let mut absent = AbsentMember::new(group, instance);
        let Some(member) = self.remove_member(now, at, instance, MemberRemoval::Stalled) else {
            return;
        };
        if let Some(epoch) = member.sent_epoch() {
            let notice = StalledNotice {
                messages: member.assigned_len(),
                time: member.unmoved(),
            };
            self.leftover().stalled.push(StalledMember {
                group: number,
                instance,
                epoch,
                notice,
            });
            self.instances_from = 0;
        }
        if is_open && member.is_listed() {
            absent.until = Some(now + self.settings.get().lease);
            absent.has_route = member.has_way();
            self.leftover().absent.push(absent);
        }
    }

    /// Takes back members that had stalled a lease ago, if they are still listed.
    pub(super) fn return_stalled(&mut self, now: Instant) {
        let Some(leftover) = &mut self.leftover else {
            return;
        };
        let is_due = |it: &mut AbsentMember| it.until.is_some_and(|until| now >= until);
        let due: Vec<_> = leftover.absent.extract_if(.., is_due).collect();
        for absent in due.into_iter().filter(|it| it.is_listed) {
            let (instance, has_route) = (absent.instance, absent.has_route);
            let at = self.take_back(now, absent);
            if has_route && let Some(member) = self.groups[at].member(instance) {
                member.has_new_way();
                self.bind(now, at, instance);
            }
        }
    }
}

impl GroupFlow {
    /// A member has reported messages that no other one had reported.
    pub(super) fn note_proceeded(&mut self, instance: InstanceId) {
        if let Some(member) = self.member(instance) {
            member.unmoved = PROCEEDED;
        }
    }
}

impl Member {
    fn proceeded(&mut self) {
        (self.unmoved, self.excused, self.silence) = (0, 0, 0);
    }

    /// Whether it has not proceeded for so long although there was a route to it, if only for moments because the way has
    /// no room. While there is none, it has its lease to return: it could not be informed of its end either, and would go
    /// on with what it has.
    fn has_stalled_for(&self, max: Duration) -> bool {
        let counts = self.unmoved() >= max + UNIT * u32::from(self.excused);
        self.is_bound() && !self.is_silent() && counts
    }

    /// How long it has not proceeded while the source waits: not longer than the source has waited.
    fn unmoved(&self) -> Duration {
        match self.unmoved {
            PROCEEDED => Duration::ZERO,
            unmoved => UNIT * u32::from(unmoved),
        }
    }

    /// Time has passed while the source waits, in tenths of a second.
    fn look(&mut self, passed: u16) {
        if self.unmoved == PROCEEDED || !self.holds_back() {
            self.proceeded();
            return;
        }
        let silence = u16::from(self.silence).saturating_add(passed);
        self.silence = u8::try_from(silence).unwrap_or(u8::MAX);
        self.unmoved = self.unmoved.saturating_add(passed).min(PROCEEDED - 1);
        if !self.is_bound() && self.way != MemberWay::Full {
            self.excused = self.excused.saturating_add(passed);
        }
    }

    /// Whether the source waits for it, if it does not proceed. What it misses is requested in turn, for which
    /// it is not to blame.
    fn holds_back(&self) -> bool {
        let is_to_receive = !self.is_bound() || self.is_full() || self.missing != self.assigned;
        !self.assigned.is_empty() && is_to_receive
    }

    /// It has reported on its present route. If it was silent, or has processed messages of other flows, it has its
    /// time again.
    pub(super) fn note_report(&mut self, progress: u64) {
        let progress = progress as u16;
        let has_progress = std::mem::replace(&mut self.progress, progress) != progress;
        if has_progress || self.is_silent() {
            self.excused = self.unmoved;
        }
        self.silence = 0;
    }

    const fn is_silent(&self) -> bool {
        self.silence > SILENT_AFTER
    }

    /// How many messages it has to process.
    pub(super) fn assigned_len(&self) -> u64 {
        self.assigned.ranges().map(|it| it.end - it.start).sum()
    }

    fn slow_state(&self) -> SlowState {
        match (self.is_bound(), self.is_silent(), self.is_full()) {
            (false, _, _) => SlowState::Unbound,
            (true, true, _) => SlowState::Silent,
            (true, false, true) => SlowState::Full,
            (true, false, false) => SlowState::Stuck,
        }
    }
}
