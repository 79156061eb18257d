//! Consumers that hold sources back, and the end of those that have stalled.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use selvedge_client::lanes::CONTROL;
use selvedge_client::settlement::InstanceId;
use selvedge_client::tag::Tag;
use selvedge_client::wire::settlement::StalledMessage;
use selvedge_client::wire::{NodeKey, Rejection, WireMessage};
use selvedge_hub::{Instant, NodeId};

use super::plans::ResolvedHop;
use super::{Broker, lock, remote};
use crate::settlement::SlowState;
use crate::stats::add;

/// How long a consumer that has stalled may take to receive the reason.
const STALLED_LINGER: Duration = Duration::from_secs(1);

/// A consumer is logged once in this time, and its end if its beginning was.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The most consumers whose log lines are remembered. Others are not logged.
const LOGGED_MAX: usize = 1024;

/// A consumer that holds a flow back.
#[derive(Debug, Clone)]
pub(super) struct SlowConsumer {
    /// The name of the function.
    pub(super) name: String,
    pub(super) instance: InstanceId,
    /// The zipper to which it is connected, and its key if that is this zipper.
    pub(super) home: NodeKey,
    pub(super) client: Option<NodeKey>,
    pub(super) since: Instant,
    pub(super) messages: u64,
    pub(super) state: SlowState,
}

/// A flow that is held back.
#[derive(Debug, Clone)]
pub(super) struct HeldFlow {
    pub(super) source: NodeKey,
    pub(super) tag: Tag,
    pub(super) consumers: Vec<SlowConsumer>,
}

/// A consumer that holds flows with one tag back.
#[derive(Debug, Clone)]
pub(super) struct SlowSummary {
    pub(super) consumer: SlowConsumer,
    pub(super) tag: Tag,
    /// The first of its sources, and how many there are.
    pub(super) source: NodeKey,
    pub(super) sources: u64,
}

/// The flows that consumers hold back, each with a number of its own.
#[derive(Debug, Default)]
pub(super) struct SlowConsumers(Mutex<HeldFlows>);

#[derive(Debug, Default)]
struct HeldFlows {
    flows: BTreeMap<u32, HeldFlow>,
    logged: HashMap<InstanceId, LoggedConsumer>,
}

#[derive(Debug)]
struct LoggedConsumer {
    at: Instant,
    is_slow: bool,
}

impl SlowConsumers {
    /// The number of flows that are held back.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).flows.len()
    }

    /// The consumers that hold flows back, each with one tag, those that do so for longest first.
    pub(super) fn by_consumer(&self) -> Vec<SlowSummary> {
        let mut found: BTreeMap<(InstanceId, Tag, String), SlowSummary> = BTreeMap::new();
        for flow in lock(&self.0).flows.values() {
            for consumer in &flow.consumers {
                let key = (consumer.instance, flow.tag, consumer.name.clone());
                let new = || SlowSummary {
                    consumer: SlowConsumer {
                        messages: 0,
                        ..consumer.clone()
                    },
                    tag: flow.tag,
                    source: flow.source,
                    sources: 0,
                };
                let summary = found.entry(key).or_insert_with(new);
                summary.sources += 1;
                summary.consumer.messages += consumer.messages;
                summary.consumer.since = summary.consumer.since.min(consumer.since);
            }
        }
        let mut found: Vec<_> = found.into_values().collect();
        found.sort_by_key(|it| it.consumer.since);
        found
    }

    /// The consumers that hold a flow back have changed, or how much waits for them.
    pub(super) fn update(&self, now: Instant, number: u32, flow: HeldFlow) {
        let mut state = lock(&self.0);
        for consumer in &flow.consumers {
            state.log_slow(now, &flow, consumer);
        }
        let former = match flow.consumers.is_empty() {
            true => state.flows.remove(&number),
            false => state.flows.insert(number, flow),
        };
        state.log_ended(former);
    }

    /// A flow has ended.
    pub(super) fn remove(&self, number: u32) {
        let mut state = lock(&self.0);
        let former = state.flows.remove(&number);
        state.log_ended(former);
    }
}

impl HeldFlows {
    fn log_slow(&mut self, now: Instant, flow: &HeldFlow, consumer: &SlowConsumer) {
        let is_full = self.logged.len() >= LOGGED_MAX;
        if is_full && !self.logged.contains_key(&consumer.instance) {
            self.logged.retain(|_, it| it.is_slow);
            if self.logged.len() >= LOGGED_MAX {
                return;
            }
        }
        let is_due = |it: &LoggedConsumer| !it.is_slow && now >= it.at + LOG_INTERVAL;
        if !self.logged.get(&consumer.instance).is_none_or(is_due) {
            return;
        }
        let logged = LoggedConsumer {
            at: now,
            is_slow: true,
        };
        self.logged.insert(consumer.instance, logged);
        let (source, home) = (NodeId::new(flow.source), NodeId::new(consumer.home));
        let (name, tag, messages) = (&consumer.name, flow.tag, consumer.messages);
        let (instance, state) = (consumer.instance.0, consumer.state);
        let peer = consumer.client.map(NodeId::new);
        tracing::warn!(
            name, peer = peer.map(tracing::field::display), %home, instance, %tag, %source, messages, ?state,
            "a slow consumer holds a source back"
        );
    }

    /// Logs the end of consumers that hold no flow back any more.
    fn log_ended(&mut self, former: Option<HeldFlow>) {
        let Some(former) = former else { return };
        for consumer in former.consumers {
            let mut others = self.flows.values().flat_map(|it| &it.consumers);
            if others.any(|it| it.instance == consumer.instance) {
                continue;
            }
            let Some(logged) = self.logged.get_mut(&consumer.instance) else {
                continue;
            };
            if std::mem::take(&mut logged.is_slow) {
                let (name, instance, tag) = (&consumer.name, consumer.instance.0, former.tag);
                tracing::warn!(name, instance, %tag, "a slow consumer holds no source back any more");
            }
        }
    }
}

impl Broker {
    /// The number of flows that consumers hold back.
    pub(crate) fn held_flows(&self) -> usize {
        self.slow.len()
    }

    /// A function of this zipper has stalled: it is disconnected, with the reason.
    pub(super) fn end_stalled(&self, to: &ResolvedHop, stalled: &StalledMessage) {
        let mut state = self.lock();
        let known = state.known.get_mut(&to.node);
        let Some(known) = known.filter(|it| it.connection == to.connection && !it.is_stalled)
        else {
            return;
        };
        known.is_stalled = true;
        let (peer, remote, name) = (to.endpoint.peer(), remote(&to.endpoint), &known.name);
        let source = NodeId::new(stalled.source);
        let (tag, messages, millis) = (stalled.tag, stalled.messages, stalled.millis);
        tracing::warn!(
            %peer, remote, name, %tag, %source, messages, millis,
            "disconnecting a consumer that has stalled: it has held a source back for too long"
        );
        let why = format!(
            "it has processed nothing for {} s, and {messages} messages of tag {tag} waited for it",
            millis / 1000
        );
        let rejected = WireMessage::Rejected {
            code: Rejection::Stalled as u16,
            message: why,
        };
        if let Ok(bytes) = rejected.encode() {
            // Without room, it learns of its end by that of the connection.
            let _is_sent = to.endpoint.try_send(CONTROL, bytes);
        }
        to.endpoint.close_within(STALLED_LINGER);
        add(&self.counters.stalled, 1);
    }
}
