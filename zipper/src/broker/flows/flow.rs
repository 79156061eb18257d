//! One flow at the zipper of its source: carries what its [`EntryFlow`] decides.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll};

use selvedge_client::lanes::HOPS_MAX;
use selvedge_client::settlement::{GroupId, InstanceId, RouteEpoch};
use selvedge_client::wire::NodeKey;
use selvedge_client::wire::settlement::{
    FlowId, FlowOpening, ReportMessage, RouteBinding, RouteLossReason, SettlementLevel,
    SettlementMessage,
};
use selvedge_hub::{Endpoint, Instant, LaneId};

use super::labels::{self, RouteOwner};
use super::recipients::FoundInstance;
use super::source_control;
use crate::broker::batch::BatchError;
use crate::broker::plans::{ResolvedHop, ResolvedPlan};
use crate::broker::slow::SlowConsumers;
use crate::broker::{Broker, lock};
use crate::settlement::{
    EntryFlow, EntrySettings, InstanceOutput, InstanceOutputKind, MemberDelivery,
};

/// With room for so many bytes at an instance that had none, messages are requested for it again.
pub(super) const ROOM_MIN: NonZeroUsize = NonZeroUsize::new(256 * 1024).unwrap();

/// One flow of a source. The connection of the source forwards its messages; those of instances and
/// neighbours bring reports.
#[derive(Debug)]
pub(in crate::broker) struct SharedFlow {
    pub(super) source: Endpoint,
    /// Set before the connection of the source is resumed: the flow has something for the source.
    pub(super) wants_turn: Arc<AtomicBool>,
    /// The lane of its messages, here and on all routes.
    pub(super) lane: LaneId,
    /// On the connection of the source.
    pub(super) label: u32,
    pub(super) id: FlowId,
    level: SettlementLevel,
    pub(super) attachment: u32,
    /// The length of its encoded opening.
    pub(super) opening_len: usize,
    /// A former zipper of the source may have forwarded the messages below.
    pub(super) sent_before: u64,
    pub(super) slow: Arc<SlowConsumers>,
    own: Weak<Self>,
    state: Mutex<FlowState>,
}

/// What is known of a flow.
#[derive(Debug)]
pub(super) struct FlowState {
    pub(super) machine: EntryFlow,
    /// The known instances.
    pub(super) instances: Vec<FoundInstance>,
    /// The routes to instances that are bound.
    pub(super) routes: Vec<FlowRoute>,
    /// The versions of the tag and of the source for which the groups were looked up.
    version: Option<(u64, u64)>,
    /// The functions that do not settle.
    pub(super) unsettled: Option<Arc<ResolvedPlan>>,
    /// Whether the source may not write the tag.
    pub(super) is_forbidden: bool,
    /// Whether messages were dropped that had passed too many functions.
    pub(super) is_cut: bool,
    /// Selects among them.
    pub(super) random: fastrand::Rng,
    /// The label of the first route on each connection: equal headers are encoded once. And these
    /// connections.
    pub(super) common_label: u32,
    labelled: BTreeSet<u64>,
    /// The recipient sets of messages below are fixed, as the source knows.
    pub(super) routed: u64,
    /// Behind a progress that was made before it.
    pub(super) held_output: Option<SettlementMessage>,
    /// For the recipients of the present messages.
    pub(super) deliveries: Vec<MemberDelivery>,
    /// Whether consumers hold it back, and when they are looked for next.
    pub(super) is_held: bool,
    pub(super) look_at: Instant,
    is_closed: bool,
}

/// A route to an instance.
#[derive(Debug)]
pub(super) struct FlowRoute {
    pub(super) group: GroupId,
    pub(super) instance: InstanceId,
    pub(super) epoch: RouteEpoch,
    pub(super) label: u32,
    pub(super) to: ResolvedHop,
    /// If a message found no room: how much it needs.
    pub(super) awaits_room: Option<NonZeroUsize>,
}

impl SharedFlow {
    /// A source attaches a flow on a lane.
    pub(super) fn open(
        broker: &Broker,
        now: Instant,
        (source, endpoint, lane): (NodeKey, Endpoint, LaneId),
        wants_turn: &Arc<AtomicBool>,
        (opening, opening_len): (FlowOpening, usize),
    ) -> Result<Arc<Self>, BatchError> {
        let FlowOpening {
            label,
            process,
            tag,
            target,
            level,
            offer,
        } = opening;
        let (attachment, sent_before) = (offer.attachment, offer.sent_max);
        let settings = EntrySettings {
            stalled_max: broker.settings.stalled_max,
            ..EntrySettings::default()
        };
        let machine = EntryFlow::new(now, settings, offer)?;
        let machine = match level {
            SettlementLevel::Accepted => machine.settling_when_routed(),
            SettlementLevel::Received | SettlementLevel::Processed => machine,
        };
        let id = FlowId {
            source,
            process,
            tag,
            target,
        };
        let flow = Arc::new_cyclic(|own| Self {
            source: endpoint,
            wants_turn: Arc::clone(wants_turn),
            lane,
            label,
            id,
            level,
            attachment,
            opening_len,
            sent_before,
            slow: Arc::clone(&broker.slow),
            own: Weak::clone(own),
            state: Mutex::new(FlowState {
                machine,
                instances: Vec::new(),
                routes: Vec::new(),
                version: None,
                unsettled: None,
                is_forbidden: false,
                is_cut: false,
                random: broker.fork_random(),
                common_label: broker.next_label(),
                labelled: BTreeSet::new(),
                routed: 0,
                held_output: None,
                deliveries: Vec::new(),
                is_held: false,
                look_at: now,
                is_closed: false,
            }),
        });
        flow.refresh(broker, now);
        Ok(flow)
    }

    /// Whether it is the flow that a source opens.
    pub(super) fn is_of(&self, opening: &FlowOpening) -> bool {
        let FlowId {
            process,
            tag,
            target,
            ..
        } = &self.id;
        *process == opening.process && *tag == opening.tag && *target == opening.target
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, FlowState> {
        lock(&self.state)
    }

    /// Looks up the groups, the ways to their instances and the permission of the source, if they may have changed.
    pub(super) fn refresh(&self, broker: &Broker, now: Instant) {
        let mut state = self.lock();
        // Before the lookup: a change during it is noticed next time.
        let of_source = broker.node_version(&self.id.source);
        let version = (broker.tag_version(self.id.tag), of_source);
        if state.version == Some(version) || state.is_closed {
            return;
        }
        state.version = Some(version);
        let found = broker.flow_recipients(&self.id);
        match found.is_forbidden {
            true => state.machine.forbid(now),
            false => state.machine.set_groups(now, &found.groups),
        }
        if let Some(unsettled) = &found.unsettled {
            let listed: BTreeSet<_> = found.groups.iter().flat_map(|it| &it.members).collect();
            let names = unsettled.plan.names();
            state
                .machine
                .close_groups(names, |instance| listed.contains(&instance));
        }
        state.unsettled = found.unsettled;
        state.is_forbidden = found.is_forbidden;
        state.update_instances(now, found.instances);
        self.drain(&mut state, broker, now);
    }

    /// Lets time pass, and uses the room that there is now. Pending if something waits for room.
    pub(super) fn proceed(
        &self,
        broker: &Broker,
        now: Instant,
        cx: &Context<'_>,
        may_have_room: bool,
    ) -> Poll<()> {
        let mut state = self.lock();
        if state.is_closed {
            return Poll::Ready(());
        }
        let mut polled = Poll::Ready(());
        if may_have_room {
            polled = state.use_room(self.lane, cx);
        }
        self.look_for_slow(&mut state, broker, now);
        if state.machine.poll_timeout().is_some_and(|at| at <= now) {
            state.machine.handle_timeout(now);
        }
        self.drain(&mut state, broker, now);
        match source_control::send(self, &mut state, Some(cx)) {
            Poll::Ready(()) => polled,
            Poll::Pending => Poll::Pending,
        }
    }

    /// The source has sent a control message.
    pub(super) fn handle_control(
        &self,
        broker: &Broker,
        now: Instant,
        message: &SettlementMessage,
    ) {
        let mut state = self.lock();
        let is_current = |attachment: u32| attachment == self.attachment;
        match *message {
            SettlementMessage::Confirm {
                attachment,
                version,
                ..
            } if is_current(attachment) => state.machine.handle_confirmed(version),
            SettlementMessage::Base { base, .. } => state.machine.handle_base(base),
            SettlementMessage::Alive {
                attachment, probe, ..
            } if is_current(attachment) => state.machine.handle_alive(probe),
            SettlementMessage::Waiting { attachment, .. } if is_current(attachment) => {
                state.machine.handle_waiting(now);
            }
            _ => {}
        }
        self.drain(&mut state, broker, now);
        // Without room for it, the connection of the source is called again.
        let _polled = source_control::send(self, &mut state, None);
    }

    /// The answer to a request is complete.
    pub(super) fn handle_resend_end(
        &self,
        group: GroupId,
        token: u32,
        base: u64,
        complete_below: u64,
    ) {
        let mut state = self.lock();
        let machine = &mut state.machine;
        machine.handle_resend_end(group, token, base, complete_below);
        let _polled = source_control::send(self, &mut state, None);
    }

    /// An instance reports.
    pub(super) fn handle_report(
        &self,
        broker: &Broker,
        (group, instance): (GroupId, InstanceId),
        message: &ReportMessage,
    ) {
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        let now = broker.settings.clock.now();
        state
            .machine
            .handle_report(now, group, instance, &message.report);
        if message.is_leaving {
            state.machine.handle_leave(now, instance);
        }
        self.drain(&mut state, broker, now);
        let _polled = source_control::send(self, &mut state, None);
    }

    /// The route with that label on the connection of an instance or neighbour has ended.
    pub(super) fn handle_route_lost(
        &self,
        broker: &Broker,
        (group, instance): (GroupId, InstanceId),
        label: u32,
        reason: RouteLossReason,
    ) {
        let mut state = self.lock();
        let is_lost =
            |it: &FlowRoute| it.group == group && it.instance == instance && it.label == label;
        let Some(at) = state.routes.iter().position(is_lost) else {
            return;
        };
        let lost = state.routes.swap_remove(at);
        tracing::debug!(
            peer = %lost.to.endpoint.peer(), tag = %self.id.tag, ?instance, ?reason,
            "a route has ended"
        );
        let now = broker.settings.clock.now();
        let lacks_room = reason == RouteLossReason::NoRoom;
        let member = (group, instance);
        state
            .machine
            .handle_loss(now, member, lost.epoch, lacks_room);
        self.drain(&mut state, broker, now);
        let _polled = source_control::send(self, &mut state, None);
    }

    /// The source has left, or has attached the flow anew.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        if state.is_held {
            self.slow.remove(state.common_label);
        }
        state.routes.drain(..).for_each(|route| route.end());
    }

    /// Sends what the machine has for instances.
    pub(super) fn drain(&self, state: &mut FlowState, broker: &Broker, now: Instant) {
        while let Some(output) = state.machine.poll_instance_output() {
            let InstanceOutput {
                group,
                instance,
                epoch,
                kind,
            } = output;
            match kind {
                InstanceOutputKind::Bind => {
                    if !self.bind(state, broker, output) {
                        let member = (group, instance);
                        state.machine.handle_loss(now, member, epoch, false);
                    }
                }
                InstanceOutputKind::Unbind => {
                    let at = state.routes.iter().position(|it| it.epoch == epoch);
                    if let Some(at) = at {
                        state.routes.swap_remove(at).end();
                    }
                }
                InstanceOutputKind::Ask => {
                    state.notify(epoch, |label| SettlementMessage::Ask { label });
                }
                InstanceOutputKind::RaiseFloor(floor) => state.notify(epoch, |label| {
                    SettlementMessage::RaiseFloor { label, floor }
                }),
                InstanceOutputKind::Stalled(notice) => {
                    self.end_stalled(state, broker, epoch, notice);
                }
                InstanceOutputKind::Renew(stamp) => {
                    state.notify(epoch, |label| SettlementMessage::Renew { label, stamp });
                }
            }
        }
    }

    /// Begins a route. Returns false if that is not possible now.
    fn bind(&self, state: &mut FlowState, broker: &Broker, output: InstanceOutput) -> bool {
        let InstanceOutput {
            group,
            instance,
            epoch,
            ..
        } = output;
        let former = |it: &FlowRoute| it.group == group && it.instance == instance;
        if let Some(at) = state.routes.iter().position(former) {
            state.routes.swap_remove(at).end();
        }
        let mut instances = state.instances.iter();
        let Some(found) = instances.find(|it| it.instance == instance) else {
            return false;
        };
        let owner = RouteOwner::Flow(self.own.clone(), (group, instance));
        let mut label = state.common_label;
        // A label is used once on a connection.
        let is_first = state.labelled.insert(found.to.connection);
        if !(is_first && found.to.routes.insert(label, owner.clone())) {
            label = broker.next_label();
            if !found.to.routes.insert(label, owner) {
                return false;
            }
        }
        let route = FlowRoute {
            group,
            instance,
            epoch,
            label,
            to: found.to.clone(),
            awaits_room: None,
        };
        let binding = SettlementMessage::Bind(RouteBinding {
            label,
            epoch,
            flow: self.id.clone(),
            group,
            level: self.level,
            instance,
            home: found.home,
            name: found.name.to_string(),
            hops_left: HOPS_MAX,
        });
        let is_sent = labels::send(&route.to.endpoint, &binding);
        match is_sent {
            true => state.routes.push(route),
            false => route.end(),
        }
        is_sent
    }
}

impl FlowState {
    /// Notifies the machine of new, changed and lost ways to instances.
    fn update_instances(&mut self, now: Instant, found: Vec<FoundInstance>) {
        let mut former = std::mem::take(&mut self.instances);
        for found in found {
            let instance = found.instance;
            let at = former.iter().position(|it| it.instance == instance);
            let known = at.map(|at| former.swap_remove(at));
            let is_same = known.is_some_and(|it| it.to.connection == found.to.connection);
            self.instances.push(found);
            if is_same {
                self.machine.keep_route(now, instance);
            } else {
                self.machine.handle_route(now, instance);
            }
        }
        for lost in former {
            self.machine.handle_route_lost(now, lost.instance);
        }
    }

    /// Looks for room where there was none.
    fn use_room(&mut self, lane: LaneId, cx: &Context<'_>) -> Poll<()> {
        let mut polled = Poll::Ready(());
        for route in &mut self.routes {
            let Some(room) = route.awaits_room else {
                continue;
            };
            let sending = route.to.endpoint.sending();
            if sending.poll_room(cx, lane, room.get()).is_pending() {
                polled = Poll::Pending;
                continue;
            }
            route.awaits_room = None;
            let room = ROOM_MIN.get() as u64;
            self.machine.handle_room(route.group, route.instance, room);
        }
        polled
    }

    /// The route of a delivery. `expected` is where it is looked for first.
    #[inline]
    pub(super) fn route_of(&self, delivery: &MemberDelivery, expected: usize) -> Option<usize> {
        let is_it = |it: &FlowRoute| it.epoch == delivery.epoch;
        match self.routes.get(expected).is_some_and(is_it) {
            true => Some(expected),
            false => self.routes.iter().position(is_it),
        }
    }

    fn notify(&self, epoch: RouteEpoch, message: impl FnOnce(u32) -> SettlementMessage) {
        if let Some(route) = self.routes.iter().find(|it| it.epoch == epoch) {
            labels::send(&route.to.endpoint, &message(route.label));
        }
    }
}

impl FlowRoute {
    /// The route is not used any more: the next hop forgets it.
    fn end(self) {
        if self.to.routes.remove(self.label).is_some() {
            let label = self.label;
            labels::send(&self.to.endpoint, &SettlementMessage::Unbind { label });
        }
    }
}
