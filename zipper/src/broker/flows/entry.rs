//! The flows of one source, at its zipper.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use selvedge_client::tag::Tag;
use selvedge_client::wire::settlement::{
    FlowOpening, OPEN_FLOWS_MAX, RoutedMessage, SettlementMessage,
};
use selvedge_client::wire::{NodeKey, settlement};
use selvedge_hub::{Endpoint, Incoming, Instant, LaneId};

use super::delivery::Forwarding;
use super::flow::SharedFlow;
use crate::broker::shards::ShardSet;
use crate::broker::{Broker, batch::BatchError};
use crate::stats::add;

/// The largest length of the encoded openings of all flows of one source, in bytes: what it presents stays in
/// memory, and one opening may be as long as a message. Usual ones have some hundred bytes.
const OPENINGS_LEN_MAX: usize = 16 << 20;

/// How often the timeouts of flows are checked. A zipper resumes connections with flows once a second.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The flows that a source has opened, by its labels. Owned by its connection.
#[derive(Debug)]
pub(in crate::broker) struct EntryFlows {
    source: NodeKey,
    endpoint: Endpoint,
    flows: HashMap<u32, Arc<SharedFlow>>,
    /// The tags of the flows, and of some that are closed.
    concerns: ShardSet,
    /// Whether a flow has something for the source that had no room.
    wants_turn: Arc<AtomicBool>,
    /// When the timeouts of the flows are checked.
    next_check: Option<Instant>,
    /// The version of the routes at the last look.
    version: u64,
    /// Whether something waits for room: the connection is called again then.
    is_blocked: bool,
    /// A tag that the source has written and may not write, since that was last taken.
    forbidden: Option<Tag>,
}

impl EntryFlows {
    pub(in crate::broker) fn new(source: NodeKey, endpoint: Endpoint) -> Self {
        Self {
            source,
            endpoint,
            flows: HashMap::new(),
            concerns: ShardSet::default(),
            wants_turn: Arc::default(),
            next_check: None,
            version: 0,
            is_blocked: false,
            forbidden: None,
        }
    }

    /// A tag that the source has written without permission, once.
    pub(in crate::broker) const fn take_forbidden(&mut self) -> Option<Tag> {
        self.forbidden.take()
    }

    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// The tags of the flows, and maybe others.
    pub(in crate::broker) const fn concerns(&self) -> ShardSet {
        self.concerns
    }

    /// To be called before messages are forwarded: routes may have changed, time may have passed, and
    /// there may be room.
    pub(in crate::broker) fn proceed(&mut self, broker: &Broker, now: Instant, cx: &Context<'_>) {
        let version = broker.version();
        let is_changed = std::mem::replace(&mut self.version, version) != version;
        let is_due = self.next_check.is_none_or(|at| now >= at);
        let has_output = self.wants_turn.swap(false, Ordering::AcqRel);
        if !(is_changed || is_due || has_output || self.is_blocked) {
            return;
        }
        if is_due {
            self.next_check = Some(now + CHECK_INTERVAL);
        }
        let was_blocked = std::mem::take(&mut self.is_blocked);
        for flow in self.flows.values() {
            if is_changed {
                flow.refresh(broker, now);
            }
            self.is_blocked |= flow.proceed(broker, now, cx, was_blocked).is_pending();
        }
    }

    /// Handles the first unread messages of a lane, as far as they belong to flows. Pending if one of them waits for
    /// room at a function that does not settle.
    pub(in crate::broker) fn forward(
        &mut self,
        broker: &Broker,
        (now, lane): (Instant, LaneId),
        cx: &Context<'_>,
        incoming: &mut Incoming<'_>,
    ) -> Result<Poll<()>, BatchError> {
        loop {
            let mut first = None;
            incoming.take_bytes_while(lane, |bytes| {
                let read = || RoutedMessage::read(bytes).map(|read| (read, bytes.len()));
                first = settlement::is_settlement(bytes).then(read);
                false
            });
            let Some(first) = first else {
                return Ok(Poll::Ready(()));
            };
            let Some(message) = first else {
                self.handle_data_control(broker, (now, lane), incoming)?;
                continue;
            };
            let Some(flow) = self.on_lane(message.0.label, lane) else {
                // It was sent to the former process of this zipper, or its flow was closed.
                incoming.drop_first(lane, 1);
                add(&broker.counters.received, 1);
                add(&broker.counters.discarded, 1);
                continue;
            };
            match flow.forward(broker, now, cx, message, incoming)? {
                Forwarding::Done => {}
                Forwarding::Dropped => self.is_blocked = true,
                Forwarding::Waiting => return Ok(Poll::Pending),
                Forwarding::Forbidden => self.forbidden = Some(flow.id.tag),
            }
        }
    }

    /// Handles the first message, which has no payload.
    fn handle_data_control(
        &mut self,
        broker: &Broker,
        (now, lane): (Instant, LaneId),
        incoming: &mut Incoming<'_>,
    ) -> Result<(), BatchError> {
        let Some(message) = incoming.take(lane) else {
            return Ok(());
        };
        let len = message.payload.len();
        if len > OPENINGS_LEN_MAX {
            return Err(BatchError::TooManyFlows);
        }
        match SettlementMessage::decode(message.payload)? {
            SettlementMessage::FlowOpen(opening) => self.open(broker, (now, lane), (opening, len)),
            SettlementMessage::FlowClose { label } => {
                if self.on_lane(label, lane).is_some() {
                    self.close(label);
                }
                Ok(())
            }
            SettlementMessage::ResendEnd {
                label,
                group,
                token,
                base,
                complete_below,
            } => {
                if let Some(flow) = self.on_lane(label, lane) {
                    flow.handle_resend_end(group, token, base, complete_below);
                }
                Ok(())
            }
            _ => Err(BatchError::NotData),
        }
    }

    /// Handles an opening, and its length.
    fn open(
        &mut self,
        broker: &Broker,
        (now, lane): (Instant, LaneId),
        (opening, len): (FlowOpening, usize),
    ) -> Result<(), BatchError> {
        if opening.tag.is_reserved() {
            return Err(BatchError::Reserved);
        }
        let label = opening.label;
        // The same flow may have been opened under another label: on the other lane, or for the former process
        // of this zipper, whose unsent messages came to this one.
        let mut known = self.flows.iter();
        let former = known.find(|(_, flow)| flow.is_of(&opening));
        if let Some((&former, flow)) = former {
            if flow.attachment > opening.offer.attachment {
                // The lanes have no common order: the source has attached the flow anew since.
                return Ok(());
            }
            self.close(former);
        }
        self.close(label);
        let lens = self.flows.values().map(|flow| flow.opening_len);
        if self.flows.len() >= OPEN_FLOWS_MAX || len + lens.sum::<usize>() > OPENINGS_LEN_MAX {
            return Err(BatchError::TooManyFlows);
        }
        let source = (self.source, self.endpoint.clone(), lane);
        self.concerns.insert_tag(opening.tag);
        let flow = SharedFlow::open(broker, now, source, &self.wants_turn, (opening, len))?;
        self.flows.insert(label, flow);
        Ok(())
    }

    /// The flow with that label, if it was opened on that lane. Otherwise the message was for a former process.
    fn on_lane(&self, label: u32, lane: LaneId) -> Option<&Arc<SharedFlow>> {
        self.flows.get(&label).filter(|flow| flow.lane == lane)
    }

    fn close(&mut self, label: u32) {
        if let Some(flow) = self.flows.remove(&label) {
            flow.close();
        }
    }

    /// Handles a message of the lane CONTROL. Returns false if a source may not send it.
    pub(in crate::broker) fn handle_control(
        &mut self,
        broker: &Broker,
        now: Instant,
        message: &SettlementMessage,
    ) -> bool {
        let label = match *message {
            SettlementMessage::Confirm { label, .. }
            | SettlementMessage::Base { label, .. }
            | SettlementMessage::Alive { label, .. }
            | SettlementMessage::Waiting { label, .. } => label,
            SettlementMessage::FlowClose { label } => {
                self.close(label);
                return true;
            }
            _ => return false,
        };
        if let Some(flow) = self.flows.get(&label) {
            flow.handle_control(broker, now, message);
        }
        true
    }

    /// Ends all flows: the source has restarted, or its connection has ended.
    pub(in crate::broker) fn clear(&mut self) {
        self.flows.drain().for_each(|(_, flow)| flow.close());
        self.concerns = ShardSet::default();
    }
}

impl Drop for EntryFlows {
    fn drop(&mut self) {
        self.clear();
    }
}
