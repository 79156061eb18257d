//! One connection of a zipper: admits the peer, and forwards what the peer sends.

mod ending;
mod permissions;
mod settlement;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Sender;
use selvedge_hub::{Endpoint, Event, Inbox, Incoming, Instant, LaneId, Message, PeerNetwork};

use crate::broker::Broker;
use crate::broker::access::Granted;
use crate::broker::batch::{BatchError, RoutingBatch};
use crate::broker::flows::{EntryFlows, PeerRoutes, RelayTable};
use crate::broker::outlet::Outlet;
use crate::broker::shards::ShardSet;
use crate::router::Presence;
use crate::stats::add;
use selvedge_client::lanes::{BULK, CONTROL, DATA};
use selvedge_client::wire::{
    self, Handshake, Negotiated, NodeKey, Permission, Policy, Rejection, Role, VersionOffer,
    WireMessage,
};

/// How long a refused peer may take to receive the reason.
const REFUSAL_LINGER: Duration = Duration::from_secs(1);

/// Has the worker call a connection again when a recipient has room.
struct ResumeWaker(Endpoint);

impl Wake for ResumeWaker {
    fn wake(self: Arc<Self>) {
        self.0.resume();
    }
}

/// The inbox of one endpoint of a zipper.
///
/// The peer sends its versions and its handshake on the control lane. Until then its data waits in
/// the endpoint. Afterwards the worker that has read data forwards it in the same call.
pub(crate) struct Connection {
    broker: Arc<Broker>,
    endpoint: Endpoint,
    node: NodeKey,
    /// Distinguishes this connection from others of the same node.
    id: u64,
    /// The role of the peer, once it has been admitted.
    role: Option<Role>,
    /// The name of the peer, for logs.
    name: String,
    /// The last known address of the peer, for logs.
    remote: String,
    /// The network of that address.
    network: Option<PeerNetwork>,
    /// The versions that the peer has offered; its handshake follows.
    offer: Option<VersionOffer>,
    /// The features that the peer and this zipper use, as bits.
    features: u64,
    /// The handshake with which the peer was admitted. One that was sent to a former process of this
    /// zipper may arrive again; another one is refused.
    admitted: Option<Handshake>,
    /// Whether the peer wants no more data.
    is_leaving: bool,
    /// When the peer was last notified of messages that it may not write.
    denied_at: Option<Instant>,
    is_closed: bool,
    /// Control messages for which the send buffer had no room: answers to one message at the most, since
    /// the next one is read when they are sent.
    outgoing: VecDeque<(LaneId, Bytes)>,
    /// The first unread messages, on their way to their recipients.
    batch: RoutingBatch,
    /// The flows of a client, and the routes of a neighbour through this zipper.
    flows: EntryFlows,
    relays: RelayTable,
    /// The routes on which this zipper sends to the peer.
    routes: Arc<PeerRoutes>,
    /// For a function with a drop policy: what waits for room at it.
    outlet: Option<Arc<Outlet>>,
    /// The version of the routes at which this connection began to watch for a newer one, for its flows.
    watches_since: Option<(u64, ShardSet)>,
    /// The number of unread data messages. Their sender has an acknowledgement for them.
    unread: usize,
    /// The version of the plans at which this connection began to wait for a newer one, and what it waits
    /// for.
    waits_since: Option<(u64, ShardSet)>,
    waker: Waker,
    /// Whether this zipper has sent its own handshake to the zipper at the other end.
    has_introduced: bool,
    /// Held while the peer is a source, or may become one. Its drop reports that everything from that
    /// source has been forwarded.
    source: Option<Sender<Infallible>>,
}

impl Inbox for Connection {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        let version = self.broker.version();
        let mut polled = Poll::Ready(());
        if !self.broker.is_aborted() {
            polled = self.forward(incoming);
        }
        if polled.is_pending() {
            self.wait_for_change(version);
        }
        self.watch_flows(version);
        let unread = [DATA, BULK].map(|lane| incoming.len(lane));
        self.unread = unread.iter().sum();
        if self.broker.is_aborted() {
            self.batch.clear();
            incoming.drop_first(DATA, unread[0]);
            incoming.drop_first(BULK, unread[1]);
            self.count_unread();
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Attached { .. } | Event::Moved { .. } => self.on_attached(),
            Event::Detached { reason } => {
                let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
                if self.is_unknown() {
                    tracing::debug!(%peer, remote, %reason, "connection lost");
                } else {
                    tracing::warn!(%peer, remote, name, %reason, "connection lost");
                }
                self.broker.set_presence(self.node, Presence::Away);
            }
            Event::PeerRestarted { undelivered } => self.on_restarted(&undelivered),
            Event::Closed {
                reason,
                undelivered,
            } => {
                let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
                if self.is_unknown() {
                    tracing::debug!(%peer, remote, %reason, "connection closed");
                } else {
                    tracing::info!(%peer, remote, name, %reason, "connection closed");
                }
                self.count_undelivered(&undelivered);
                self.end_settlement();
                // Messages that the peer sent before are still forwarded.
                self.broker.remove(self.node, self.id);
            }
            _ => {}
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.waits_since.is_some() {
            self.broker.stop_waiting(self.id);
        }
        self.end_settlement();
        self.count_unread();
    }
}

impl Connection {
    pub(super) fn new(
        broker: Arc<Broker>,
        endpoint: Endpoint,
        id: u64,
        source: Option<Sender<Infallible>>,
        routes: Arc<PeerRoutes>,
    ) -> Self {
        let node = *endpoint.peer().as_bytes();
        let waker = Waker::from(Arc::new(ResumeWaker(endpoint.clone())));
        let batch = RoutingBatch::new(Arc::clone(&broker), node);
        let flows = EntryFlows::new(node, endpoint.clone());
        Self {
            broker,
            endpoint,
            node,
            id,
            role: None,
            name: String::new(),
            remote: String::new(),
            network: None,
            offer: None,
            features: 0,
            admitted: None,
            is_leaving: false,
            denied_at: None,
            is_closed: false,
            outgoing: VecDeque::new(),
            batch,
            flows,
            relays: RelayTable::default(),
            routes,
            outlet: None,
            watches_since: None,
            unread: 0,
            waits_since: None,
            waker,
            has_introduced: false,
            source,
        }
    }

    fn on_attached(&mut self) {
        let transport = self.endpoint.transport();
        let scheme = transport.as_ref().map_or("", |it| it.scheme);
        if let Some(remote) = transport.as_ref().and_then(|it| it.remote.as_ref()) {
            self.remote = remote.to_string();
            self.network = PeerNetwork::of(remote);
        }
        let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
        if self.is_unknown() {
            tracing::debug!(%peer, remote, scheme, "connected");
        } else {
            tracing::info!(%peer, remote, name, scheme, "connected");
        }
        self.broker.set_presence(self.node, Presence::Up);
        // Not before: an introduction to an absent neighbour would delay the shutdown.
        if !self.has_introduced && self.is_in_mesh() {
            self.introduce();
        }
    }

    fn on_restarted(&mut self, undelivered: &[Message]) {
        let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
        tracing::warn!(%peer, remote, name, "peer restarted");
        self.count_undelivered(undelivered);
        (self.role, self.offer, self.features) = (None, None, 0);
        self.admitted = None;
        self.is_leaving = false;
        // Answers to the former process.
        self.outgoing.clear();
        self.end_settlement();
        self.broker
            .set_role(self.node, None, &self.name, Negotiated::WITHOUT_NEGOTIATION);
        self.broker.forget_function(&self.node);
        self.broker.withdraw(self.node);
        if self.is_in_mesh() {
            self.introduce();
        }
    }

    /// Whether the peer was never admitted. Strangers may connect as often as they like, and so may a
    /// neighbour that is refused: only the refusal is logged, with the address.
    const fn is_unknown(&self) -> bool {
        self.name.is_empty()
    }

    fn is_in_mesh(&self) -> bool {
        self.broker.settings.mesh.contains(&self.node)
    }

    /// Has the worker call the connection again when a change concerns the messages without room.
    fn wait_for_change(&mut self, version: u64) {
        let concerns = self.batch.concerns();
        let is_covered = self
            .waits_since
            .is_some_and(|(since, covered)| since == version && covered.contains(&concerns));
        if !is_covered {
            self.waits_since = Some((version, concerns));
            self.broker
                .resume_when_changed(version, self.id, &self.endpoint, concerns);
        }
    }

    /// Handles control messages and forwards data. Pending if a recipient has no room: the worker calls
    /// the connection again when there may be some.
    fn forward(&mut self, incoming: &mut Incoming<'_>) -> Poll<()> {
        self.flush();
        self.send_backlog();
        while self.outgoing.is_empty()
            && let Some(message) = incoming.take(CONTROL)
        {
            // The first handshake of a connection decides: those behind a rejection are dropped.
            if !self.is_closed {
                self.on_control(message.payload);
            }
        }
        self.proceed_flows();
        // Data waits until the peer has been admitted.
        if self.role.is_none() && !self.is_closed {
            return Poll::Ready(());
        }
        // A lane that waits for room does not hold back the other one.
        let data = self.forward_data(incoming);
        match self.forward_bulk(incoming) {
            Poll::Ready(()) => data,
            Poll::Pending => Poll::Pending,
        }
    }

    /// Forwards the messages of the lane DATA. Data behind a rejection is dropped. Pending if one of them waits for
    /// room.
    fn forward_data(&mut self, incoming: &mut Incoming<'_>) -> Poll<()> {
        loop {
            if self.batch.is_done() {
                if self.forward_settled(DATA, incoming).is_pending() {
                    return Poll::Pending;
                }
                let is_client = !self.is_closed && self.role != Some(Role::Zipper);
                let cx = Context::from_waker(&self.waker);
                if is_client && self.batch.deliver_fast(&cx, incoming).is_pending() {
                    return Poll::Pending;
                }
                if !self.begin_batch(incoming) {
                    return Poll::Ready(());
                }
            }
            let cx = Context::from_waker(&self.waker);
            if self.batch.deliver(&cx, incoming).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Introduces this zipper to the zipper at the other end.
    fn introduce(&mut self) {
        self.has_introduced = true;
        let settings = &self.broker.settings;
        let handshake = WireMessage::Handshake(Handshake {
            version: settings.offer.min,
            role: Role::Zipper,
            name: settings.name.clone(),
            token: settings.token.clone(),
            tags: Vec::new(),
            target: None,
            policy: Policy::Nearest,
        });
        let offer = WireMessage::VersionOffer(settings.offer);
        self.send(&offer);
        self.send(&handshake);
    }

    fn send(&mut self, message: &WireMessage) {
        self.send_on(CONTROL, message);
    }

    fn send_on(&mut self, lane: LaneId, message: &WireMessage) {
        match message.encode() {
            Ok(bytes) => self.outgoing.push_back((lane, bytes)),
            Err(error) => {
                let (peer, remote) = (self.endpoint.peer(), &self.remote);
                tracing::error!(%peer, remote, %error, "cannot encode a control message");
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        while let Some((lane, bytes)) = self.outgoing.front() {
            let cx = Context::from_waker(&self.waker);
            if self.endpoint.poll_send(&cx, *lane, bytes).is_pending() {
                return;
            }
            self.outgoing.pop_front();
        }
    }

    fn on_control(&mut self, payload: Bytes) {
        if wire::settlement::is_settlement(&payload) {
            return self.on_settlement(&payload);
        }
        let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
        match WireMessage::decode(payload) {
            Ok(WireMessage::VersionOffer(offer)) => self.offer = Some(offer),
            Ok(WireMessage::Handshake(handshake)) => self.admit(handshake),
            Ok(WireMessage::Interest { entries, .. }) if self.role == Some(Role::Zipper) => {
                let node = self.node;
                self.broker
                    .reroute(|router| router.begin_learning(node, entries));
            }
            Ok(WireMessage::InterestDelta(delta)) if self.role == Some(Role::Zipper) => {
                let node = self.node;
                let learned = self
                    .broker
                    .reroute(|router| router.learn_delta(node, delta));
                if let Err(error) = learned {
                    self.reject(Rejection::Malformed, &error.to_string());
                }
            }
            Ok(WireMessage::InterestDelta(delta))
                if self.role.is_none() && self.is_in_mesh() && delta.number > 1 =>
            {
                // It waited for the previous process of this zipper. A new table follows the introduction.
                tracing::debug!(%peer, remote, name, "ignored a delta from before the introduction");
            }
            Ok(WireMessage::HandshakeAck {
                name, negotiated, ..
            }) if self.is_in_mesh() => match self.broker.settings.offer.accept(negotiated) {
                Ok(protocol) => {
                    tracing::debug!(%peer, remote, name, %protocol, "admitted by the neighbour");
                }
                Err(error) => self.reject(Rejection::from(&error), &error.to_string()),
            },
            Ok(WireMessage::Rejected { code, message }) if self.is_in_mesh() => {
                tracing::error!(%peer, remote, name, code, message, "refused by the neighbour");
            }
            Ok(WireMessage::AdminRequest(request)) => self.answer(&request),
            Ok(WireMessage::Goaway { message }) => self.on_goaway(message),
            Ok(
                WireMessage::Interest { .. }
                | WireMessage::InterestDelta(_)
                | WireMessage::Data(_)
                | WireMessage::AdminReply(_)
                | WireMessage::Denial(_)
                | WireMessage::HandshakeAck { .. }
                | WireMessage::Rejected { .. },
            ) => {
                let why = "this message is not allowed on the control lane for this role";
                self.reject(Rejection::Malformed, why);
            }
            Err(error) => self.reject(Rejection::Malformed, &error.to_string()),
        }
    }

    /// Admits the peer if its handshake is acceptable, and registers it with the router.
    fn admit(&mut self, handshake: Handshake) {
        let protocol = match self.check(&handshake) {
            Ok(protocol) => protocol,
            Err((rejection, why)) => return self.reject(rejection, &why),
        };
        if self.admitted.is_some() {
            return self.acknowledge(protocol);
        }
        let granted = match handshake.role {
            Role::Zipper => Granted::default(),
            _ => match self.admit_client(&handshake) {
                Ok(granted) => granted,
                Err((rejection, why)) => return self.reject(rejection, &why),
            },
        };
        if handshake.role != Role::Zipper && !self.broker.make_room(self.node) {
            let max = self.broker.settings.clients_max;
            let why = format!("this zipper has its maximum of {max} clients");
            return self.reject(Rejection::Full, &why);
        }
        if handshake.role == Role::StreamFunction
            && let Err(exceeded) = self.broker.reserve_tags(self.node, &handshake)
        {
            return self.reject(Rejection::Full, &exceeded.to_string());
        }
        self.admitted = Some(handshake.clone());
        let Handshake {
            role, name, tags, ..
        } = handshake;
        let (peer, remote, by) = (self.endpoint.peer(), &self.remote, granted.by);
        let observed = join(&tags);
        tracing::info!(%peer, remote, name, %role, tags = observed, by, %protocol, "admitted");
        self.name.clone_from(&name);
        self.role = Some(role);
        self.features = protocol.features;
        // Control messages of clients stay within the admission buffer: the longest handshake fits.
        self.endpoint.admit(DATA);
        if self.has_settlement() {
            // Its own reports, and confirmations for its flows.
            self.endpoint.admit(CONTROL);
            self.endpoint.admit(BULK);
        }
        self.acknowledge(protocol);
        if !granted.forbidden_tags.is_empty() {
            let count = granted.forbidden_tags.len();
            add(&self.broker.counters.forbidden_tags, count);
            self.deny(Permission::Observe, granted.forbidden_tags);
        }
        if role == Role::Zipper && !self.has_introduced {
            self.introduce();
        }
        let node = self.node;
        self.broker.set_role(node, Some(role), &name, protocol);
        if role != Role::Source {
            self.source = None;
        }
        match role {
            Role::Source => {}
            // It introduces its process before messages are routed to it.
            Role::StreamFunction if self.has_settlement() => {}
            Role::StreamFunction => self.broker.add_function(node),
            Role::Zipper => self.add_neighbour(),
        }
    }

    fn acknowledge(&mut self, protocol: Negotiated) {
        let settings = &self.broker.settings;
        let acknowledgement = WireMessage::HandshakeAck {
            name: settings.name.clone(),
            node: settings.node,
            // A peer without an offer would refuse the additional bytes.
            negotiated: self.offer.take().map(|_| protocol),
        };
        self.send(&acknowledgement);
    }

    /// The version to use with the peer, or why the peer is not admitted.
    fn check(&self, handshake: &Handshake) -> Result<Negotiated, (Rejection, String)> {
        let settings = &self.broker.settings;
        if self.admitted.as_ref().is_some_and(|it| it != handshake) {
            let why = "another handshake after the peer was admitted";
            return Err((Rejection::Malformed, why.into()));
        }
        let peer = match self.offer {
            Some(offer) => offer,
            None => VersionOffer::without_negotiation(handshake.version),
        };
        let protocol = settings
            .offer
            .select(&peer)
            .map_err(|error| (Rejection::from(&error), error.to_string()))?;
        if handshake.role == Role::Zipper {
            // Before the token is looked at: the answer must not depend on it.
            if !self.is_in_mesh() {
                let why = "this zipper does not have the key of the peer in its mesh; a token is for \
                           clients only";
                return Err((Rejection::Forbidden, why.into()));
            }
        }
        let malformed = |why: String| Err((Rejection::Malformed, why));
        if handshake.name.is_empty() {
            return malformed("the name is empty".into());
        }
        if handshake.role == Role::StreamFunction && handshake.tags.is_empty() {
            return malformed("a function must observe at least one tag".into());
        }
        if let Some(tag) = handshake.tags.iter().find(|tag| tag.is_reserved()) {
            return malformed(format!("tag {tag} is reserved for the system"));
        }
        Ok(protocol)
    }

    /// Ends the connection. A stranger has little time to take the reason, and holds its slot no longer.
    fn reject(&mut self, rejection: Rejection, why: &str) {
        let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
        let code = rejection as u16;
        if let Some(count) = self.broker.record_refusal() {
            tracing::warn!(%peer, remote, name, code, why, count, "peer refused");
        } else {
            tracing::debug!(%peer, remote, name, code, why, "peer refused");
        }
        let message = WireMessage::Rejected {
            code,
            message: why.to_owned(),
        };
        self.send(&message);
        self.is_closed = true;
        if self.role.is_none() {
            self.endpoint.close_within(REFUSAL_LINGER);
        } else {
            self.endpoint.close();
        }
    }

    /// Gathers the first unread messages. Returns whether there are any.
    fn begin_batch(&mut self, incoming: &mut Incoming<'_>) -> bool {
        let Some(first) = incoming.peek(DATA) else {
            return false;
        };
        if wire::settlement::is_settlement(&first.payload) && !self.is_closed {
            // What flows and routes did not take.
            self.reject(Rejection::Malformed, &BatchError::NotData.to_string());
        }
        if self.is_closed {
            add(&self.broker.counters.malformed, 1);
            incoming.take(DATA);
            return true;
        }
        let is_relayed = self.role == Some(Role::Zipper);
        if let Err(refused) = self.batch.gather(incoming, is_relayed) {
            // The messages before the refused one are still forwarded.
            self.reject(Rejection::Malformed, &refused.to_string());
        }
        if self.batch.has_forbidden() {
            self.deny_writes();
        }
        true
    }
}

/// A list for logs: `0x0010, 0x0011`.
fn join<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(", ")
}
