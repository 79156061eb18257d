//! What a flow requires of its zipper.

use selvedge_client::settlement::{
    AbandonReason, DeclinedRange, GroupId, InstanceId, RANGES_MAX, Recipients, ResendRequest,
    RouteEpoch, SequenceSet,
};

use super::entry::EntryFlow;
use super::group::GroupFlow;
use super::member::{Member, MemberRoute, ReportQuestion};
use super::stalled::StalledNotice;

/// A floor is sent when it has risen by so many messages.
pub(super) const FLOOR_STEP: u64 = 1024;

/// A message that is to be sent to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberDelivery {
    /// The group.
    pub group: GroupId,
    /// The instance.
    pub instance: InstanceId,
    /// The epoch of its route.
    pub epoch: RouteEpoch,
    /// The number of the message.
    pub sequence: u64,
    /// Whether another instance may have received it.
    pub is_redelivery: bool,
}

/// What is to be sent to the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceOutput {
    /// The recipients have changed. The source confirms the version.
    Announce(Recipients),
    /// The recipient sets of messages below are fixed.
    Routed {
        /// The end of these messages.
        routed: u64,
        /// Those among them that no group receives although groups may observe them.
        declined: Vec<DeclinedRange>,
    },
    /// A group has messages.
    Settled {
        /// The group.
        group: GroupId,
        /// The messages, in at most [`RANGES_MAX`] ranges.
        messages: SequenceSet,
    },
    /// A group does not receive messages.
    Abandoned {
        /// The group.
        group: GroupId,
        /// The messages, in at most [`RANGES_MAX`] ranges.
        messages: SequenceSet,
        /// Why.
        reason: AbandonReason,
    },
    /// Messages are requested again.
    Resend(ResendRequest),
    /// The source answers with the number if the flow is still attached to this zipper.
    Probe(u32),
}

/// What is to be sent to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceOutput {
    /// The group.
    pub group: GroupId,
    /// The instance.
    pub instance: InstanceId,
    /// The epoch of the route that it belongs to.
    pub epoch: RouteEpoch,
    /// What it is.
    pub kind: InstanceOutputKind,
}

/// What an [`InstanceOutput`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceOutputKind {
    /// Bind the instance to a new route: it answers with a report.
    Bind,
    /// The route is of no use any more.
    Unbind,
    /// It is to report, with or without news.
    Ask,
    /// Nothing below is sent again.
    RaiseFloor(u64),
    /// The source is alive: returns the stamp of a report, which extends the lease.
    Renew(u64),
    /// It has stalled, and was removed: its zipper is to disconnect it.
    Stalled(StalledNotice),
}

impl EntryFlow {
    /// Level `accepted`: the source removes messages from its log once they are routed, and cannot send them
    /// again. Those that wait for an instance, or for room on the way to one, are not routed yet.
    #[must_use]
    pub const fn settling_when_routed(mut self) -> Self {
        self.settles_when_routed = true;
        self
    }

    /// What is to be sent to the source next. To be called when it has room: what has changed several
    /// times is one output. Once returned, an output must arrive, in order, as long as the source is
    /// attached.
    pub fn poll_source_output(&mut self) -> Option<SourceOutput> {
        if self.is_changed {
            // What a member has reported before it left must not be lost if its end arrives.
            let mut known = self.groups.iter_mut().filter(|it| it.is_announced);
            let news = known.find_map(GroupFlow::poll_news);
            return Some(news.unwrap_or_else(|| self.announce()));
        }
        if let Some(output) = self.poll_group() {
            return Some(output);
        }
        let routed = match self.settles_when_routed {
            false => self.arrived,
            true => self.sent_below(),
        };
        if self.routed < routed {
            let (routed, declined) = self.take_declined(routed);
            self.routed = routed;
            return Some(SourceOutput::Routed { routed, declined });
        }
        self.poll_probe().map(SourceOutput::Probe)
    }

    /// Every group has been sent, or does not receive, all messages below.
    fn sent_below(&mut self) -> u64 {
        self.close_blocks();
        let unsent = self.groups.iter().filter_map(GroupFlow::first_unsent);
        unsent.min().unwrap_or(self.arrived).min(self.arrived)
    }

    fn announce(&mut self) -> SourceOutput {
        self.is_changed = false;
        self.announced += 1;
        let groups = self.groups.iter_mut().map(GroupFlow::announce);
        SourceOutput::Announce(Recipients {
            version: u64::from(self.announced),
            groups: groups.collect(),
        })
    }

    fn poll_group(&mut self) -> Option<SourceOutput> {
        let mut is_any_over = false;
        while let Some(group) = self.groups.get_mut(self.active_from) {
            if group.is_active {
                group.close_block(self.arrived);
                let uncertain_below = group.recipients.uncertain_below;
                let output = group.poll_output(self.confirmed, self.arrived);
                self.is_changed |= group.recipients.uncertain_below != uncertain_below;
                if output.is_some() {
                    return output;
                }
                group.is_active = false;
                is_any_over |= group.is_over() && group.recipients.until <= Some(self.arrived);
            }
            self.active_from += 1;
        }
        if is_any_over {
            self.remove_groups();
        }
        None
    }

    /// Removes groups that need no further care.
    fn remove_groups(&mut self) {
        let mut ended = Vec::new();
        self.groups.retain(|group| {
            // Until then, another group of that name must not begin earlier.
            let has_arrived = group.recipients.until <= Some(self.arrived);
            let is_over = !group.is_active && group.is_over() && has_arrived;
            if is_over {
                let members = group.members.iter();
                let epochs = members.filter_map(|it| Some((it.instance, it.sent_epoch()?)));
                let number = group.recipients.group;
                ended.extend(epochs.map(|(instance, epoch)| (number, instance, epoch)));
            }
            !is_over
        });
        self.active_from = self.groups.len();
        self.instances_from = 0;
        if !ended.is_empty() {
            self.leftover().ended.append(&mut ended);
        }
    }

    /// What is to be sent to an instance next. If there is no room on the way to it, everything may be
    /// discarded but a `Bind`: for a `Bind`, call [`handle_loss`](Self::handle_loss).
    pub fn poll_instance_output(&mut self) -> Option<InstanceOutput> {
        let stalled = self.leftover.as_mut().and_then(|it| it.stalled.pop());
        if let Some(stalled) = stalled {
            return Some(InstanceOutput {
                group: stalled.group,
                instance: stalled.instance,
                epoch: stalled.epoch,
                kind: InstanceOutputKind::Stalled(stalled.notice),
            });
        }
        let ended = self.leftover.as_mut().and_then(|it| it.ended.pop());
        if let Some((group, instance, epoch)) = ended {
            return Some(InstanceOutput {
                group,
                instance,
                epoch,
                kind: InstanceOutputKind::Unbind,
            });
        }
        while let Some(group) = self.groups.get_mut(self.instances_from) {
            let number = group.recipients.group;
            let mut members = group.members.iter_mut();
            let found = members.find_map(|it| it.poll_output(number, self.base));
            if found.is_some() {
                return found;
            }
            self.instances_from += 1;
        }
        None
    }
}

impl GroupFlow {
    fn poll_output(&mut self, confirmed: u32, arrived: u64) -> Option<SourceOutput> {
        if let Some(news) = self.poll_news() {
            return Some(news);
        }
        let request = self.request(confirmed, arrived);
        request.map(SourceOutput::Resend)
    }

    /// What the group has, or does not receive.
    fn poll_news(&mut self) -> Option<SourceOutput> {
        let group = self.recipients.group;
        let abandoned = self.abandoned.iter_mut().flat_map(|news| &mut news.0);
        for (reason, messages) in abandoned {
            let messages = messages.take_ranges(RANGES_MAX);
            if !messages.is_empty() {
                return Some(SourceOutput::Abandoned {
                    group,
                    messages,
                    reason: *reason,
                });
            }
        }
        self.end_uncertainty();
        let messages = self.news.take_ranges(RANGES_MAX);
        if !messages.is_empty() {
            return Some(SourceOutput::Settled { group, messages });
        }
        None
    }
}

impl Member {
    /// The epoch that the instance may know.
    pub(super) fn sent_epoch(&self) -> Option<RouteEpoch> {
        match self.route {
            MemberRoute::Bound(epoch) => Some(epoch),
            MemberRoute::Binding {
                epoch,
                is_sent: true,
                ..
            } => Some(epoch),
            _ => self.unbind,
        }
    }

    fn poll_output(&mut self, group: GroupId, floor: u64) -> Option<InstanceOutput> {
        let (epoch, kind) = self.poll_kind(floor)?;
        Some(InstanceOutput {
            group,
            instance: self.instance,
            epoch,
            kind,
        })
    }

    fn poll_kind(&mut self, floor: u64) -> Option<(RouteEpoch, InstanceOutputKind)> {
        if let Some(epoch) = self.unbind.take() {
            return Some((epoch, InstanceOutputKind::Unbind));
        }
        match &mut self.route {
            MemberRoute::Binding { epoch, is_sent, .. } if !*is_sent => {
                *is_sent = true;
                Some((*epoch, InstanceOutputKind::Bind))
            }
            MemberRoute::Bound(epoch) if std::mem::take(&mut self.is_renewed) => {
                Some((*epoch, InstanceOutputKind::Renew(self.lease.renewed)))
            }
            MemberRoute::Bound(epoch) if self.question == ReportQuestion::Due => {
                self.question = ReportQuestion::Sent;
                Some((*epoch, InstanceOutputKind::Ask))
            }
            MemberRoute::Bound(epoch) if std::mem::take(&mut self.is_floor_due) => {
                Some((*epoch, InstanceOutputKind::RaiseFloor(floor)))
            }
            _ => None,
        }
    }
}
