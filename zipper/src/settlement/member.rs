//! One instance of a group: the messages assigned to it, and the route to it.

use std::time::Duration;

use selvedge_client::settlement::{
    InstanceId, ReceivingReport, ReportKind, RouteEpoch, SequenceSet,
};
use selvedge_hub::Instant;

use super::rare::RareSet;

/// The unit of the room of a member, in bytes.
const ROOM_UNIT: u64 = 64;

/// How many bytes a member may request at once.
const REQUEST_MAX: u64 = 256 << 10;

/// The same in units.
const ROOM_MAX: u16 = (REQUEST_MAX / ROOM_UNIT) as u16;

/// An instance of a group, as the entry zipper of a flow knows it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: InstanceId,
    /// The announcement that first named it: it may receive messages once the source has confirmed that.
    pub(super) announced_in: u32,
    pub(super) route: MemberRoute,
    /// Since when it is not bound, or not listed. It has lost its lease a while later.
    pub(super) silent_since: Instant,
    /// Messages that it has to process.
    pub(super) assigned: SequenceSet,
    /// Assigned messages that may not reach it on the present route.
    pub(super) missing: SequenceSet,
    /// Assigned messages that another instance may have received.
    pub(super) redelivered: RareSet,
    /// Behind the highest message that it may have received.
    pub(super) end: u64,
    /// How much it may request at once, in units of 64 bytes; 0 if the way to it has no room.
    pub(super) room: u16,
    pub(super) lease: LeaseStamps,
    /// A route that was bound before, and is of no use any more.
    pub(super) unbind: Option<RouteEpoch>,
    /// The parts of its answer to a bind so far.
    pub(super) answer: Option<Box<PartialAnswer>>,
    /// How often it was bound without success.
    pub(super) failures: u8,
    /// What is known of the way to it.
    pub(super) way: MemberWay,
    /// Whether it is known from the source, and has not reported yet.
    pub(super) is_awaited: bool,
    /// What the router knows of it.
    pub(super) listing: Listing,
    /// Whether a stamp is to be returned to it.
    pub(super) is_renewed: bool,
    /// Whether a floor is to be sent to it.
    pub(super) is_floor_due: bool,
    /// Whether it is asked for a report.
    pub(super) question: ReportQuestion,
    /// How long it has not proceeded while the source waits, in tenths of a second; `PROCEEDED` if it has reported
    /// something new since the last look.
    pub(super) unmoved: u16,
    /// How much of that time does not count, in tenths of a second: there was no route to it, or it has processed
    /// messages of other flows since.
    pub(super) excused: u16,
    /// How long it has not reported while the source waits, in tenths of a second.
    pub(super) silence: u8,
    /// How many messages its process has processed, of all flows, as it has reported: the lowest bits.
    pub(super) progress: u16,
}

/// The stamps of an instance's reports, in microseconds of its clock; 0 if there is none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LeaseStamps {
    /// The newest one.
    pub(super) received: u64,
    /// The newest one that was received before the present probe.
    pub(super) probed: u64,
    /// The newest one that the source has answered a later probe for.
    pub(super) renewed: u64,
}

impl LeaseStamps {
    /// Whether the lease should be renewed.
    pub(super) fn is_due(&self, lease: Duration) -> bool {
        let age = self.received.saturating_sub(self.renewed);
        age > 0 && (self.renewed == 0 || u128::from(age) >= (lease / 6).as_micros())
    }
}

#[derive(Debug, Default)]
pub(super) struct PartialAnswer {
    processed: SequenceSet,
    held: SequenceSet,
}

/// Why a member is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberRemoval {
    /// It has left in order, and processes nothing more.
    Left,
    /// It is dead, or has lost its lease.
    Lost,
    /// It has stalled.
    Stalled,
}

/// What the router knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    /// Nothing. A source may name any instance: such a one is asked, and receives nothing.
    Unlisted,
    /// It receives only what it was assigned.
    Listed,
    /// It receives new messages.
    Selected,
}

/// A member with messages is asked for a report now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReportQuestion {
    /// It has reported since the last check.
    None,
    /// It is to be asked.
    Due,
    /// It was asked.
    Sent,
}

/// What the router knows of the way to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberWay {
    /// There is none.
    None,
    /// There is one.
    Known,
    /// The last route was lost for want of room on the way.
    Full,
}

/// The route to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberRoute {
    /// There is none. If there is a way, it is bound at that time.
    Down { retry_at: Option<Instant> },
    /// The instance was asked to report under this epoch, or is to be asked.
    Binding {
        epoch: RouteEpoch,
        is_sent: bool,
        until: Instant,
    },
    /// It has reported: messages may be sent.
    Bound(RouteEpoch),
}

impl Member {
    pub(super) fn new(now: Instant, instance: InstanceId, announced_in: u32) -> Self {
        Self {
            instance,
            announced_in,
            route: MemberRoute::Down { retry_at: None },
            silent_since: now,
            assigned: SequenceSet::default(),
            missing: SequenceSet::default(),
            redelivered: RareSet::default(),
            end: 0,
            room: ROOM_MAX,
            lease: LeaseStamps::default(),
            unbind: None,
            answer: None,
            failures: 0,
            way: MemberWay::None,
            is_awaited: false,
            listing: Listing::Selected,
            is_renewed: false,
            is_floor_due: false,
            question: ReportQuestion::None,
            unmoved: 0,
            excused: 0,
            silence: 0,
            progress: 0,
        }
    }

    /// Whether messages may be sent to it.
    pub(super) fn is_eligible(&self, confirmed: u32) -> bool {
        self.is_bound() && self.is_listed() && !self.is_full() && self.announced_in <= confirmed
    }

    pub(super) const fn is_bound(&self) -> bool {
        matches!(self.route, MemberRoute::Bound(_))
    }

    /// Whether live messages may be sent to it.
    pub(super) fn is_live(&self, confirmed: u32) -> bool {
        self.is_eligible(confirmed) && self.is_selected() && self.missing.is_empty()
    }

    /// The epoch of its route, and whether the instance may know it.
    const fn epoch(&self) -> Option<(RouteEpoch, bool)> {
        match self.route {
            MemberRoute::Down { .. } => None,
            MemberRoute::Binding { epoch, is_sent, .. } => Some((epoch, is_sent)),
            MemberRoute::Bound(epoch) => Some((epoch, true)),
        }
    }

    pub(super) fn has_epoch(&self, epoch: RouteEpoch) -> bool {
        self.epoch().is_some_and(|it| it.0 == epoch)
    }

    /// The route has ended: what is in flight is lost. Returns the route that is to be unbound.
    pub(super) fn lose_route(&mut self, now: Instant) -> Option<RouteEpoch> {
        if self.is_bound() && self.is_listed() {
            self.silent_since = now;
        }
        if let Some((epoch, true)) = self.epoch() {
            self.unbind = Some(epoch);
        }
        self.route = MemberRoute::Down { retry_at: None };
        self.answer = None;
        self.is_renewed = false;
        self.question = ReportQuestion::None;
        self.room = ROOM_MAX;
        self.unbind
    }

    /// Binds it to another route. The time limit doubles with each failure.
    pub(super) fn bind(&mut self, now: Instant, epoch: RouteEpoch, limit: Duration) {
        self.lose_route(now);
        self.route = MemberRoute::Binding {
            epoch,
            is_sent: false,
            until: now + limit * (1 << self.failures.min(3)),
        };
        self.failures = self.failures.saturating_add(1);
    }

    /// The way to it has lost something: it is bound again, at once for the first time.
    pub(super) fn retry_later(&mut self, now: Instant) {
        self.lose_route(now);
        let pause = match self.failures {
            0 | 1 => Duration::ZERO,
            failures => Duration::from_millis(10 << failures.min(8)),
        };
        self.failures = self.failures.saturating_add(1);
        self.route = MemberRoute::Down {
            retry_at: Some(now + pause),
        };
    }

    /// Whether the router knows a way to it.
    pub(super) fn has_way(&self) -> bool {
        self.way != MemberWay::None
    }

    /// Its route was lost, for want of room or not.
    pub(super) fn note_loss(&mut self, lacks_room: bool) {
        if self.has_way() {
            self.way = match lacks_room {
                true => MemberWay::Full,
                false => MemberWay::Known,
            };
        }
    }

    /// The router knows a way to it, perhaps another one.
    pub(super) fn has_new_way(&mut self) {
        self.way = MemberWay::Known;
        self.failures = 0;
    }

    /// When the route needs care.
    pub(super) fn route_timeout(&self) -> Option<Instant> {
        match self.route {
            MemberRoute::Down { retry_at } => retry_at.filter(|_| self.has_way()),
            MemberRoute::Binding { until, .. } => Some(until),
            MemberRoute::Bound(_) => None,
        }
    }

    /// Since when its lease counts down, if it does.
    pub(super) fn lease_start(&self) -> Option<Instant> {
        (!self.is_bound() || !self.is_listed()).then_some(self.silent_since)
    }

    /// It has reported something new: what was in the way is over.
    pub(super) fn handle_news(&mut self, report: &ReceivingReport) {
        if self.has_epoch(report.epoch) {
            self.question = ReportQuestion::None;
            self.note_report(report.progress);
            self.lease.received = self.lease.received.max(report.stamp);
            if report.kind == ReportKind::News && !report.processed.is_empty() {
                self.failures = 0;
            }
        }
    }

    /// It answers to a bind. Returns whether the answer is complete, and which messages it holds.
    pub(super) fn handle_answer(&mut self, report: &ReceivingReport) -> Option<SequenceSet> {
        let is_expected =
            matches!(self.route, MemberRoute::Binding { epoch, .. } if epoch == report.epoch);
        if !is_expected {
            return None;
        }
        match report.kind {
            ReportKind::News => return None,
            ReportKind::Part => {
                let answer = self.answer.get_or_insert_default();
                answer.processed.insert_all(&report.processed);
                answer.held.insert_all(&report.held);
                return None;
            }
            ReportKind::Answer => {}
        }
        let mut answer = *self.answer.take().unwrap_or_default();
        answer.processed.insert_all(&report.processed);
        answer.held.insert_all(&report.held);
        self.route = MemberRoute::Bound(report.epoch);
        self.is_awaited = false;
        self.end = self.end.max(report.end);
        self.assigned.insert_all(&answer.held);
        self.missing = self.assigned.clone();
        self.missing.remove_all(&answer.held);
        self.missing.remove_all(&answer.processed);
        Some(answer.held)
    }

    /// These messages are settled.
    pub(super) fn settle(&mut self, settled: &SequenceSet) {
        self.assigned.remove_all(settled);
        self.missing.remove_all(settled);
        self.redelivered.remove_all(settled);
    }

    /// There is room on the way to it.
    pub(super) fn handle_room(&mut self, bytes: u64) {
        let units = u16::try_from(bytes / ROOM_UNIT).unwrap_or(ROOM_MAX);
        self.room = units.clamp(1, ROOM_MAX);
    }

    /// There is no room on the way to it.
    pub(super) const fn handle_full(&mut self) {
        self.room = 0;
    }

    /// Whether the way to it has no room.
    pub(super) const fn is_full(&self) -> bool {
        self.room == 0
    }

    /// How many bytes it may request at once.
    pub(super) fn room(&self) -> u64 {
        u64::from(self.room) * ROOM_UNIT
    }

    /// Whether the router lists it.
    pub(super) fn is_listed(&self) -> bool {
        self.listing != Listing::Unlisted
    }

    /// Whether new messages may be assigned to it.
    pub(super) fn is_selected(&self) -> bool {
        self.listing == Listing::Selected
    }
}
