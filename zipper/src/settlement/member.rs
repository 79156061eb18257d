//! One instance of a group: the messages assigned to it, and the route to it.

use selvedge_client::settlement::{InstanceId, ReceivingReport, RouteEpoch, SequenceSet};
use selvedge_hub::Instant;

/// An instance of a group, as the entry zipper of a flow knows it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: InstanceId,
    /// The announcement that first named it: it may receive messages once the source has confirmed that.
    pub(super) announced_in: u64,
    pub(super) route: MemberRoute,
    /// Messages that it has to process.
    pub(super) assigned: SequenceSet,
    /// Assigned messages that may not reach it on the present route.
    pub(super) missing: SequenceSet,
    /// Assigned messages that another instance may have received.
    pub(super) redelivered: SequenceSet,
    /// Behind the highest message that it may have received.
    pub(super) end: u64,
    /// The floor that was sent to it last.
    pub(super) floor_sent: u64,
    /// Whether it is known from the source, and has not reported yet.
    pub(super) is_awaited: bool,
    /// Whether the router lists it. A source may name any instance: such a one is asked, and receives nothing.
    pub(super) is_listed: bool,
}

/// The route to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberRoute {
    /// There is none since that time.
    Down { since: Instant },
    /// The instance was asked to report under this epoch.
    Binding(RouteEpoch),
    /// It has reported: messages may be sent.
    Bound(RouteEpoch),
}

impl Member {
    pub(super) fn new(now: Instant, instance: InstanceId, announced_in: u64) -> Self {
        Self {
            instance,
            announced_in,
            route: MemberRoute::Down { since: now },
            assigned: SequenceSet::default(),
            missing: SequenceSet::default(),
            redelivered: SequenceSet::default(),
            end: 0,
            floor_sent: 0,
            is_awaited: false,
            is_listed: true,
        }
    }

    /// Whether messages may be assigned to it.
    pub(super) fn is_eligible(&self, confirmed: u64) -> bool {
        self.is_bound() && self.is_listed && self.announced_in <= confirmed
    }

    pub(super) const fn is_bound(&self) -> bool {
        matches!(self.route, MemberRoute::Bound(_))
    }

    /// Whether live messages may be sent to it.
    pub(super) fn is_live(&self, confirmed: u64) -> bool {
        self.is_eligible(confirmed) && self.missing.is_empty()
    }

    /// The route has ended: what is in flight is lost.
    pub(super) fn lose_route(&mut self, now: Instant) {
        if !matches!(self.route, MemberRoute::Down { .. }) {
            self.route = MemberRoute::Down { since: now };
        }
    }

    /// It reports under the epoch that it was bound with. Returns whether that is so.
    pub(super) fn bound(&mut self, report: &ReceivingReport) -> bool {
        if self.route != MemberRoute::Binding(report.epoch) {
            return false;
        }
        self.route = MemberRoute::Bound(report.epoch);
        self.is_awaited = false;
        self.end = self.end.max(report.end);
        self.assigned.insert_all(&report.held);
        self.missing = self.assigned.clone();
        self.missing.remove_all(&report.held);
        self.missing.remove_all(&report.processed);
        true
    }

    /// These messages are settled.
    pub(super) fn settle(&mut self, settled: &SequenceSet) {
        self.assigned.remove_all(settled);
        self.missing.remove_all(settled);
        self.redelivered.remove_all(settled);
    }
}
