//! The flows and routes of the receiving side, behind one lock.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use selvedge_hub::{Endpoint, Instant};
use slab::Slab;

use super::delivery::ParkedMessage;
use super::inbound::{AcknowledgeMode, InstanceLossPolicy};
use super::inbound_flow::{InboundFlow, RouteBack};
use super::run::OpenRun;
use super::sessions::{SessionKey, Sessions};
use crate::lanes::CONTROL;
use crate::settlement::{GroupId, InstanceId, Receipt, RouteEpoch};
use crate::wire::DropPolicy;
use crate::wire::settlement::{
    FlowId, InstanceNotice, RouteBinding, RouteLossReason, RoutedMessage, SettlementMessage,
};

/// The largest number of flows. Beyond it, flows without a route are forgotten: first those of which the
/// source retains nothing, then the others that hold no message, of which a message may be repeated.
const FLOWS_MAX: usize = 65_536;

/// How often the time limits of flows with held messages are looked at.
const LIMITS_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of messages that wait for a lease. A flow that needs more is fenced: its messages come again.
const PARKED_MAX: usize = 16 << 20;

/// What an [`Inbound`](super::Inbound) knows.
#[derive(Debug)]
pub(super) struct InboundState {
    pub(super) instance: InstanceId,
    pub(super) acknowledge: AcknowledgeMode,
    pub(super) on_loss: InstanceLossPolicy,
    pub(super) sessions: Sessions,
    pub(super) flows: Slab<InboundFlow>,
    pub(super) ids: HashMap<(FlowId, GroupId), usize>,
    pub(super) routes: HashMap<(SessionKey, u32), InboundRoute>,
    /// The route of the last message.
    pub(super) recent: Option<((SessionKey, u32), InboundRoute)>,
    /// Distinguishes flows that have the same place in turn.
    pub(super) next_number: u64,
    /// Flows with something to report.
    pub(super) dirty: Vec<usize>,
    pub(super) unreported: u64,
    /// How many messages the user has processed.
    pub(super) progress: u64,
    /// When a reader without messages may report.
    pub(super) idle_report_at: Option<Instant>,
    /// When the actor reports.
    pub(super) report_at: Option<Instant>,
    /// Whether the actor is to be woken for the report.
    pub(super) is_armed: bool,
    /// Flows with held messages.
    pub(super) holding: Vec<usize>,
    pub(super) limits_at: Option<Instant>,
    /// Messages whose lease has come.
    pub(super) ready: VecDeque<ParkedMessage>,
    pub(super) parked_bytes: usize,
    /// The messages that a reader takes without the lock.
    pub(super) run: Option<OpenRun>,
    /// Whether the process leaves once the user has processed what it has read.
    pub(super) is_finishing: bool,
    pub(super) is_leaving: bool,
    /// Whether the process has stalled, and no user has read since: it is not introduced.
    pub(super) awaits_reader: bool,
    /// The session in which it is to be introduced then.
    pub(super) withheld: Option<(Endpoint, SessionKey)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InboundRoute {
    pub(super) at: usize,
    pub(super) number: u64,
    pub(super) epoch: RouteEpoch,
}

impl InboundState {
    pub(super) fn new(
        instance: InstanceId,
        acknowledge: AcknowledgeMode,
        on_loss: InstanceLossPolicy,
    ) -> Self {
        Self {
            instance,
            acknowledge,
            on_loss,
            sessions: Sessions::default(),
            flows: Slab::new(),
            ids: HashMap::new(),
            routes: HashMap::new(),
            recent: None,
            next_number: 0,
            dirty: Vec::new(),
            unreported: 0,
            progress: 0,
            idle_report_at: None,
            report_at: None,
            is_armed: false,
            holding: Vec::new(),
            limits_at: None,
            ready: VecDeque::new(),
            parked_bytes: 0,
            run: None,
            is_finishing: false,
            is_leaving: false,
            awaits_reader: false,
            withheld: None,
        }
    }

    /// Introduces the process to a zipper.
    pub(super) fn introduce(&self, endpoint: &Endpoint, drops: Option<DropPolicy>) {
        let notice = match drops {
            Some(policy) => SettlementMessage::Observer(policy),
            None => SettlementMessage::Instance(InstanceNotice {
                instance: self.instance,
                redelivers: self.on_loss == InstanceLossPolicy::Redeliver,
            }),
        };
        if let Ok(bytes) = notice.encode()
            && let Err(error) = endpoint.try_send(CONTROL, bytes)
        {
            let peer = endpoint.peer();
            tracing::debug!(%peer, %error, "the connection ended before the introduction");
        }
    }

    /// The process has stalled: it drops what it has, and has another number from now on.
    pub(super) fn end_stalled(&mut self) {
        self.fence();
        self.flows.clear();
        self.ids.clear();
        self.routes.clear();
        self.recent = None;
        self.dirty.clear();
        self.holding.clear();
        self.unreported = 0;
        // As random as the first one.
        let InstanceId(number) = self.instance;
        self.instance = InstanceId(number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1));
        self.awaits_reader = true;
        self.withheld = None;
    }

    /// Whether the user has processed everything that it has read, and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.flows.iter().all(|(_, flow)| flow.receiving.is_idle())
    }

    /// Drops what was not read, and receives nothing more.
    pub(super) fn fence(&mut self) {
        for (_, flow) in &mut self.flows {
            flow.receiving.fence();
            flow.parked.clear();
        }
        self.ready.clear();
        self.parked_bytes = 0;
    }

    /// Reports everything that was processed, and that the process leaves. Returns false if it has left before.
    pub(super) fn leave(&mut self, now: Instant) -> bool {
        if std::mem::replace(&mut self.is_leaving, true) {
            return false;
        }
        let progress = self.progress;
        let flows = self.flows.iter_mut();
        flows.for_each(|(_, flow)| flow.leave(now, progress));
        self.ready.clear();
        self.holding.clear();
        self.dirty.clear();
        (self.parked_bytes, self.unreported) = (0, 0);
        true
    }

    /// The flow at a place, unless another one has taken it.
    #[inline]
    pub(super) fn flow(&mut self, at: usize, number: u64) -> Option<&mut InboundFlow> {
        self.flows
            .get_mut(at)
            .filter(|flow| flow.origin.number == number)
    }

    #[inline]
    pub(super) fn route(&mut self, session: SessionKey, label: u32) -> Option<InboundRoute> {
        let key = (session, label);
        if let Some((recent, route)) = &self.recent
            && *recent == key
        {
            return Some(*route);
        }
        let route = *self.routes.get(&key)?;
        self.recent = Some((key, route));
        Some(route)
    }

    /// The flow of a binding, which is made if it is new.
    pub(super) fn flow_to_bind(
        &mut self,
        binding: &RouteBinding,
    ) -> Result<usize, RouteLossReason> {
        if self.is_finishing || self.is_leaving || binding.instance != self.instance {
            return Err(RouteLossReason::NoInstance);
        }
        let id = (binding.flow.clone(), binding.group);
        if let Some(&at) = self.ids.get(&id) {
            self.flows[at].level = binding.level;
            return Ok(at);
        }
        if self.flows.len() >= FLOWS_MAX {
            self.forget_flows();
        }
        if self.flows.len() >= FLOWS_MAX {
            return Err(RouteLossReason::Refused);
        }
        self.next_number += 1;
        let flow = InboundFlow::new(self.next_number, binding);
        let at = self.flows.insert(flow);
        self.ids.insert(id, at);
        Ok(at)
    }

    /// Forgets flows without a route: if possible only those of which the source retains nothing.
    fn forget_flows(&mut self) {
        let unbound = |flow: &InboundFlow| flow.route.is_none() && flow.receiving.is_idle();
        let flows = self.flows.iter().filter(|(_, flow)| unbound(flow));
        let (done, others): (Vec<_>, Vec<_>) =
            flows.partition(|(_, flow)| flow.receiving.is_forgettable());
        let forgotten = if done.is_empty() { others } else { done };
        let forgotten: Vec<usize> = forgotten.into_iter().map(|(at, _)| at).collect();
        for at in forgotten {
            let flow = self.flows.remove(at);
            self.ids.remove(&(flow.id, flow.group));
            self.dirty.retain(|dirty| *dirty != at);
            self.holding.retain(|holding| *holding != at);
        }
        self.recent = None;
    }

    pub(super) fn bind(&mut self, at: usize, epoch: RouteEpoch, back: RouteBack, now: Instant) {
        let flow = &mut self.flows[at];
        let Some(dropped) = flow.receiving.bind(now, epoch) else {
            // A later attachment of the source has bound the flow already.
            return;
        };
        let route = InboundRoute {
            at,
            number: flow.origin.number,
            epoch,
        };
        self.parked_bytes -= flow.drop_parked(&dropped);
        self.recent = None;
        self.routes.insert((back.session, back.label), route);
        flow.route = Some(back);
        self.report_flow(at, now);
    }

    pub(super) fn park(
        &mut self,
        route: InboundRoute,
        header: RoutedMessage,
        bytes: Bytes,
        now: Instant,
    ) {
        let flow = &mut self.flows[route.at];
        let is_full = self.parked_bytes + bytes.len() > PARKED_MAX;
        if is_full {
            let dropped = flow.receiving.fence();
            self.parked_bytes -= flow.drop_parked(&dropped);
        } else if flow.receiving.receive(route.epoch, header.sequence) == Receipt::New {
            self.parked_bytes += bytes.len();
            flow.parked.push_back(ParkedMessage {
                at: route.at,
                number: route.number,
                header,
                bytes,
            });
            self.hold(route.at);
        }
        // It asks for the lease.
        self.report_flow(route.at, now);
    }

    /// Messages of a flow that were ready wait for the lease again.
    pub(super) fn put_back(&mut self, at: usize) {
        let ready = std::mem::take(&mut self.ready);
        for parked in ready {
            match parked.at == at {
                true => self.flows[at].parked.push_back(parked),
                false => self.ready.push_back(parked),
            }
        }
    }

    /// The user has processed messages of a flow.
    pub(super) fn note_news(&mut self, at: usize, count: u64) {
        self.mark_dirty(at);
        self.unreported += count * self.flows[at].weight;
        self.progress += count;
    }

    fn mark_dirty(&mut self, at: usize) {
        if !std::mem::replace(&mut self.flows[at].is_dirty, true) {
            self.dirty.push(at);
        }
    }

    pub(super) fn report_flow(&mut self, at: usize, now: Instant) {
        let flow = &mut self.flows[at];
        flow.is_dirty = false;
        if !flow.report(now, self.progress) {
            self.mark_dirty(at);
        }
    }

    /// The flow holds messages. Returns whether none did before.
    pub(super) fn hold(&mut self, at: usize) -> bool {
        let is_first = self.holding.is_empty();
        if !std::mem::replace(&mut self.flows[at].is_holding, true) {
            self.holding.push(at);
        }
        is_first
    }

    /// Looks at the time limits of flows that hold messages.
    pub(super) fn handle_limits(&mut self, now: Instant) {
        if self.holding.is_empty() {
            self.limits_at = None;
            return;
        }
        if self.limits_at.is_some_and(|at| now < at) {
            return;
        }
        self.limits_at = Some(now + LIMITS_INTERVAL);
        for at in std::mem::take(&mut self.holding) {
            let flow = &mut self.flows[at];
            let dropped = flow.receiving.handle_timeout(now);
            // A flow that is fenced may have messages that were read: they are acknowledged later.
            flow.is_holding = !flow.receiving.is_idle();
            if flow.is_holding {
                self.holding.push(at);
            }
            self.parked_bytes -= flow.drop_parked(&dropped);
            self.report_flow(at, now);
        }
    }
}
