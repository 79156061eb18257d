//! Instances that hold a flow back.

use std::time::Duration;

use selvedge_client::settlement::RouteEpoch;
use selvedge_client::wire::settlement::{SettlementMessage, StalledMessage};
use selvedge_hub::Instant;

use super::flow::{FlowState, SharedFlow};
use super::labels;
use crate::broker::Broker;
use crate::broker::slow::{HeldFlow, SlowConsumer};
use crate::settlement::{SlowMember, StalledNotice};

/// How often instances that hold a flow back are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

impl SharedFlow {
    /// Looks for instances that hold the flow back, if its source waits.
    pub(super) fn look_for_slow(&self, state: &mut FlowState, broker: &Broker, now: Instant) {
        let is_looked_at = state.machine.is_waited_for() || state.is_held;
        if !is_looked_at || now < state.look_at {
            return;
        }
        state.look_at = now + LOOK_INTERVAL;
        let slow = state.machine.slow_members(now);
        if slow.is_empty() && !state.is_held {
            return;
        }
        state.is_held = !slow.is_empty();
        let flow = HeldFlow {
            source: self.id.source,
            tag: self.id.tag,
            consumers: slow
                .into_iter()
                .map(|it| state.consumer(broker, it))
                .collect(),
        };
        self.slow.update(now, state.common_label, flow);
    }

    /// An instance has stalled: it is disconnected by its zipper.
    pub(super) fn end_stalled(
        &self,
        state: &FlowState,
        broker: &Broker,
        epoch: RouteEpoch,
        notice: StalledNotice,
    ) {
        let Some(route) = state.routes.iter().find(|it| it.epoch == epoch) else {
            return;
        };
        let stalled = StalledMessage {
            label: route.label,
            tag: self.id.tag,
            source: self.id.source,
            messages: notice.messages,
            millis: u64::try_from(notice.time.as_millis()).unwrap_or(u64::MAX),
        };
        match route.to.is_local {
            true => broker.end_stalled(&route.to, &stalled),
            false => {
                labels::send(&route.to.endpoint, &SettlementMessage::Stalled(stalled));
            }
        }
    }
}

impl FlowState {
    fn consumer(&self, broker: &Broker, member: SlowMember) -> SlowConsumer {
        let SlowMember {
            name,
            instance,
            since,
            messages,
            state,
        } = member;
        let mut instances = self.instances.iter();
        let found = instances.find(|it| it.instance == instance);
        SlowConsumer {
            name,
            instance,
            home: found.map_or(broker.settings.node, |it| it.home),
            client: found.filter(|it| it.to.is_local).map(|it| it.to.node),
            since,
            messages,
            state,
        }
    }
}
