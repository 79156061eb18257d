//! A batch: the first unread messages of a connection, routed, and sent to each recipient under one
//! lock of its send buffer.
//!
//! The messages stay in the queue of the endpoint that received them until every copy has found room;
//! a batch holds indices and headers only. A full recipient blocks the next batch of a client, so the other
//! recipients are at most one batch ahead. It does not block a neighbour: copies of relayed messages that
//! find no room are dropped, since all that other sources write for other recipients is behind them.

mod fan_out;
mod fast_path;
mod shared_payload;

pub(super) use fan_out::log_send_error;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use selvedge_hub::Incoming;

use crate::broker::Broker;
use crate::broker::batch::fan_out::{FanOut, QueuedMessage, WhenFull};
use crate::broker::plans::{ResolvedHop, ResolvedPlan};
use crate::broker::shards::ShardSet;
use crate::permissions::Access;
use crate::router::{FlowKey, NextHop};
use crate::settlement::InvalidOffer;
use crate::stats::add;
use selvedge_client::lanes::{DATA, HOPS_MAX};
use selvedge_client::tag::Tag;
use selvedge_client::wire::{
    self, Data, MessageHeader, NodeKey, Origin, PlainMessage, WireError, WireMessage, settlement,
};

/// A batch ends with the message that reaches one of these limits, so that the lock of a recipient is
/// held for some microseconds only, and a full recipient soon blocks the others.
const MESSAGES_MAX: usize = 256;
const BYTES_MAX: usize = 256 * 1024;

/// The largest number of plans that a connection caches. One source uses few tags and targets.
const PLANS_PER_BATCH_MAX: usize = 64;

/// The largest number of tags that one notice of missing permissions names.
const FORBIDDEN_MAX: usize = 16;

/// Why a message is refused. The peer has violated the protocol; a retry does not help.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error("only data is allowed on the data lane")]
    NotData,
    #[error("the tag is reserved for the system")]
    Reserved,
    #[error("the source has too many flows")]
    TooManyFlows,
    #[error("a message of a flow is not the next one")]
    OutOfOrder,
    #[error(transparent)]
    Flow(#[from] InvalidOffer),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// The plan for one tag and target.
struct CachedPlan {
    tag: Tag,
    /// The version of the tag.
    version: u64,
    target: Option<String>,
    /// Without permission, a plan without recipients.
    resolved: Arc<ResolvedPlan>,
    is_permitted: bool,
}

/// The messages of one connection, and the plans for them.
pub(super) struct RoutingBatch {
    broker: Arc<Broker>,
    from: NodeKey,
    /// The version up to which the cached plans have been checked.
    version: u64,
    plans: Vec<CachedPlan>,
    /// The index of the plan of the last message.
    last: usize,
    random: fastrand::Rng,
    /// The number of unread messages that belong to the batch.
    messages: usize,
    /// The tags of these messages, or the tag and the recipient of one that has found no room on the fast
    /// path.
    concerns: ShardSet,
    /// What the sender may write; unused for a neighbour.
    access: Arc<Access>,
    /// The first tags that the sender may not write, since they were last taken.
    forbidden: Vec<Tag>,
    fan_out: FanOut,
}

impl RoutingBatch {
    pub(super) fn new(broker: Arc<Broker>, from: NodeKey) -> Self {
        Self {
            random: broker.fork_random(),
            broker,
            from,
            version: 0,
            plans: Vec::new(),
            last: 0,
            messages: 0,
            concerns: ShardSet::default(),
            access: Arc::default(),
            forbidden: Vec::new(),
            fan_out: FanOut::default(),
        }
    }

    /// Whether every copy has been sent, so that the next batch can begin.
    pub(super) const fn is_done(&self) -> bool {
        self.messages == 0
    }

    /// Routes the first unread messages, up to one that is refused.
    pub(super) fn gather(
        &mut self,
        incoming: &Incoming<'_>,
        is_relayed: bool,
    ) -> Result<(), BatchError> {
        debug_assert!(self.is_done(), "one batch at a time");
        self.concerns = ShardSet::default();
        let (mut bytes, mut gathered) = (0, Ok(()));
        while self.messages < MESSAGES_MAX && bytes < BYTES_MAX {
            let message = incoming.get(DATA, self.messages);
            // Messages of flows and routes are not part of batches.
            let Some(message) = message.filter(|it| !settlement::is_settlement(&it.payload)) else {
                break;
            };
            gathered = if is_relayed {
                self.relay(&message.payload)
            } else {
                self.route(&message.payload)
            };
            if gathered.is_err() {
                break;
            }
            bytes += message.payload.len();
            self.messages += 1;
        }
        let counters = &self.broker.counters;
        let counter = if is_relayed {
            &counters.relayed
        } else {
            &counters.received
        };
        add(counter, self.messages);
        gathered
    }

    /// Sends copies, and drops the messages once no copy waits for room. Otherwise the task is woken when
    /// there may be room.
    pub(super) fn deliver(&mut self, cx: &Context<'_>, incoming: &mut Incoming<'_>) -> Poll<()> {
        if self
            .fan_out
            .deliver(cx, &self.broker, incoming)
            .is_pending()
        {
            return Poll::Pending;
        }
        incoming.drop_first(DATA, self.messages);
        self.clear();
        Poll::Ready(())
    }

    /// The tags and recipients of messages that have found no room.
    pub(super) fn concerns(&self) -> ShardSet {
        let mut concerns = self.concerns;
        self.fan_out
            .recipients()
            .for_each(|node| concerns.insert_node(node));
        concerns
    }

    /// Drops the batch without sending the remaining copies.
    pub(super) fn clear(&mut self) {
        self.messages = 0;
        self.fan_out.clear();
    }

    /// Routes a message of a client.
    fn route(&mut self, bytes: &Bytes) -> Result<(), BatchError> {
        if let Some(plain) = PlainMessage::read(bytes) {
            let header = MessageHeader {
                tag: plain.tag,
                origin: self.origin(plain.sequence),
                hops_left: HOPS_MAX,
                target: None,
                recipients: &[],
                trace: None,
            };
            return self.fan_out(header, bytes, plain.payload_at);
        }
        let mut data = decode(bytes)?;
        data.origin = self.origin(data.origin.sequence);
        data.hops_left = HOPS_MAX;
        data.recipients.clear();
        self.broker.append_trace_step(&mut data.trace);
        self.fan_out(data.header(), bytes, bytes.len() - data.payload.len())
    }

    /// The origin: the connection has authenticated the source, whatever the header contains.
    const fn origin(&self, sequence: u64) -> Origin {
        Origin {
            source: self.from,
            sequence,
        }
    }

    fn fan_out(
        &mut self,
        header: MessageHeader<'_>,
        bytes: &Bytes,
        payload_at: usize,
    ) -> Result<(), BatchError> {
        if header.tag.is_reserved() {
            return Err(BatchError::Reserved);
        }
        let plan_index = self.plan_index(header.tag, header.target);
        self.concerns.insert_tag(header.tag);
        if !self.plans[plan_index].is_permitted {
            self.forbid(header.tag);
            return Ok(());
        }
        let (resolved, counters) = (&self.plans[plan_index].resolved, &self.broker.counters);
        let plan = &resolved.plan;
        let message = QueuedMessage {
            message: self.messages,
            bytes,
            payload_at,
            copies: plan.copies_max(),
            when_full: WhenFull::Wait,
        };
        let (mut local, mut forward) = (None, BTreeMap::<_, (Vec<_>, WhenFull)>::new());
        let mut is_observed = false;
        for selected in plan.select(&self.from, &mut self.random) {
            is_observed = true;
            match (
                plan.next_hops()[selected.next_hop],
                &resolved.recipients[selected.next_hop],
            ) {
                (NextHop::Via(_), _) => {
                    let name = selected.name.to_owned();
                    let home = selected.node;
                    let new = || (Vec::new(), WhenFull::Drop);
                    let (recipients, when_full) =
                        forward.entry(selected.next_hop).or_insert_with(new);
                    recipients.push(wire::Recipient { name, home });
                    if !selected.drops {
                        *when_full = WhenFull::Wait;
                    }
                }
                (NextHop::Local(_), None) => add(&counters.unreachable, 1),
                (NextHop::Local(_), Some(to)) => {
                    let copy = local.get_or_insert_with(|| self.fan_out.encode(&message, header));
                    self.fan_out.enqueue(to, *copy);
                }
            }
        }
        if !is_observed {
            add(&counters.unobserved, 1);
        }
        if forward.is_empty() {
            return Ok(());
        }
        let resolved = Arc::clone(resolved);
        for (next_hop, (recipients, when_full)) in forward {
            let message = QueuedMessage {
                when_full,
                ..message
            };
            let to = resolved.recipients[next_hop].as_ref();
            self.forward(to, &message, header, &recipients);
        }
        Ok(())
    }

    /// The index of the plan for a tag and target.
    fn plan_index(&mut self, tag: Tag, target: Option<&str>) -> usize {
        let version = self.broker.version();
        if version != self.version {
            let broker = &self.broker;
            self.plans
                .retain(|plan| broker.tag_version(plan.tag) == plan.version);
            self.version = version;
            // A client that has left keeps what it had.
            if let Some(access) = self.broker.access_of(&self.from)
                && !Arc::ptr_eq(&access, &self.access)
            {
                self.access = access;
                self.plans.clear();
            }
        }
        let matches = |plan_index: &CachedPlan| {
            plan_index.tag == tag && plan_index.target.as_deref() == target
        };
        if self.plans.get(self.last).is_some_and(matches) {
            return self.last;
        }
        self.last = self.plans.iter().position(matches).unwrap_or_else(|| {
            if self.plans.len() >= PLANS_PER_BATCH_MAX {
                self.plans.clear();
            }
            let is_permitted = self.access.permissions.write.contains(tag);
            self.plans.push(CachedPlan {
                tag,
                version: self.broker.tag_version(tag),
                target: target.map(str::to_owned),
                resolved: match is_permitted {
                    true => self.broker.plan(self.from, tag, target),
                    false => Arc::default(),
                },
                is_permitted,
            });
            self.plans.len() - 1
        });
        self.last
    }

    /// Counts a message that the sender may not write.
    fn forbid(&mut self, tag: Tag) {
        add(&self.broker.counters.forbidden, 1);
        self.note_forbidden(tag);
    }

    /// The sender is to be notified that it may not write a tag.
    pub(super) fn note_forbidden(&mut self, tag: Tag) {
        if self.forbidden.len() < FORBIDDEN_MAX && !self.forbidden.contains(&tag) {
            self.forbidden.push(tag);
        }
    }

    /// Whether the sender has written without permission since that was last taken.
    pub(super) const fn has_forbidden(&self) -> bool {
        !self.forbidden.is_empty()
    }

    pub(super) fn take_forbidden(&mut self) -> Vec<Tag> {
        std::mem::take(&mut self.forbidden)
    }

    /// Routes a message of another zipper.
    fn relay(&mut self, bytes: &Bytes) -> Result<(), BatchError> {
        let mut data = decode(bytes)?;
        let (broker, recipients) = (&self.broker, std::mem::take(&mut data.recipients));
        let key = FlowKey {
            tag: data.tag,
            target: data.target.as_deref(),
            origin: data.origin,
        };
        self.concerns.insert_tag(data.tag);
        let routes = broker.lock().router.relay(self.from, key, recipients);
        let counters = &broker.counters;
        add(&counters.unreachable, routes.unreachable.len());
        if routes.is_empty() && routes.unreachable.is_empty() {
            add(&counters.unobserved, 1);
        }
        self.broker.append_trace_step(&mut data.trace);
        let message = QueuedMessage {
            message: self.messages,
            bytes,
            payload_at: bytes.len() - data.payload.len(),
            copies: routes.local.len(),
            when_full: WhenFull::Drop,
        };
        if !routes.local.is_empty() {
            let copy = self.fan_out.encode(&message, data.header());
            for node in routes.local {
                match broker.resolve(NextHop::Local(node)) {
                    Some(to) => self.fan_out.enqueue(&to, copy),
                    None => add(&counters.unreachable, 1),
                }
            }
        }
        if data.hops_left == 0 {
            add(&counters.hop_limit, routes.forward.len());
            return Ok(());
        }
        for (via, recipients) in routes.forward {
            let to = self.broker.resolve(NextHop::Via(via));
            self.forward(to.as_ref(), &message, data.header(), &recipients);
        }
        Ok(())
    }

    /// Adds a copy for the functions that a neighbour reaches.
    fn forward(
        &mut self,
        to: Option<&ResolvedHop>,
        message: &QueuedMessage<'_>,
        header: MessageHeader<'_>,
        recipients: &[wire::Recipient],
    ) {
        let Some(to) = to else {
            return add(&self.broker.counters.unreachable, 1);
        };
        let header = MessageHeader {
            hops_left: header.hops_left.saturating_sub(1),
            recipients,
            ..header
        };
        let alone = QueuedMessage {
            copies: 1,
            ..*message
        };
        let copy = self.fan_out.encode(&alone, header);
        self.fan_out.enqueue(to, copy);
    }
}

fn decode(bytes: &Bytes) -> Result<Data, BatchError> {
    match WireMessage::decode(bytes.clone())? {
        WireMessage::Data(data) => Ok(data),
        _ => Err(BatchError::NotData),
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::permissions::Permissions;
    use crate::router::FunctionSpec;
    use selvedge_client::wire::Policy;

    const T: Tag = Tag(0x10);

    fn function(name: &str, target: Option<&str>) -> FunctionSpec {
        FunctionSpec {
            instance: None,
            drops: None,
            name: name.into(),
            tags: vec![T],
            target: target.map(str::to_owned),
            policy: Policy::Nearest,
        }
    }

    fn batch() -> RoutingBatch {
        let broker = Broker::for_tests();
        permitted(broker, [2; 32])
    }

    fn permitted(broker: Arc<Broker>, from: NodeKey) -> RoutingBatch {
        let access = Access {
            permissions: Permissions::all(),
            ..Access::default()
        };
        RoutingBatch {
            access: access.into(),
            ..RoutingBatch::new(broker, from)
        }
    }

    #[test]
    fn a_tag_without_permission_has_no_recipients() {
        let mut batch = batch();
        let broker = Arc::clone(&batch.broker);
        broker.reroute(|router| router.add_function([3; 32], function("a", None)));
        assert_eq!(next_hops(&mut batch, None).len(), 1);
        batch.access = Arc::default();
        broker.reroute(|router| router.add_function([3; 32], function("b", None)));
        assert_eq!(next_hops(&mut batch, None), []);
        assert!(!batch.plans[0].is_permitted);
    }

    fn next_hops(batch: &mut RoutingBatch, target: Option<&str>) -> Vec<NextHop> {
        let plan_index = batch.plan_index(T, target);
        batch.plans[plan_index].resolved.plan.next_hops().to_vec()
    }

    #[test]
    fn a_function_that_leaves_between_two_messages_of_a_batch_receives_the_first_only() {
        let mut batch = batch();
        let broker = Arc::clone(&batch.broker);
        assert_eq!(next_hops(&mut batch, None), []);
        broker.reroute(|router| router.add_function([3; 32], function("a", None)));
        broker.reroute(|router| router.add_function([4; 32], function("b", Some("t"))));
        let (a, b) = (NextHop::Local([3; 32]), NextHop::Local([4; 32]));
        assert_eq!(next_hops(&mut batch, None), [a, b]);
        assert_eq!(next_hops(&mut batch, Some("t")), [b]);
        broker.reroute(|router| router.remove([4; 32]));
        assert_eq!(next_hops(&mut batch, Some("t")), []);
        assert_eq!(next_hops(&mut batch, None), [a]);
    }

    #[test]
    fn connections_share_the_rotation_of_a_name_and_cache_few_plans() {
        let mut batch = batch();
        let broker = Arc::clone(&batch.broker);
        for client in [3, 4] {
            broker.reroute(|router| router.add_function([client; 32], function("a", None)));
        }
        let mut other = permitted(broker, [5; 32]);
        let mut selected = Vec::new();
        for _ in 0..2 {
            for at in [&mut batch, &mut other] {
                let plan_index = at.plan_index(T, None);
                let plan = &at.plans[plan_index].resolved.plan;
                selected.extend(plan.select(&at.from, &mut at.random).map(|it| it.node[0]));
            }
        }
        assert_eq!(selected, [4, 3, 4, 3]);
        for n in 0..3 * PLANS_PER_BATCH_MAX {
            batch.plan_index(T, Some(&n.to_string()));
            assert!(batch.plans.len() <= PLANS_PER_BATCH_MAX);
        }
    }
}
