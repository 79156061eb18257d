//! One connection of a zipper: lets its peer in, and hands on what it sends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use crossbeam_channel::Sender;
use selvedge_hub::{Endpoint, Event, Inbox, Incoming, LaneId};
use subtle::ConstantTimeEq;

use crate::broker::Broker;
use crate::broker::batch::RoutingBatch;
use crate::router::{FunctionSpec, Node, Presence};
use crate::stats::add;
use selvedge_client::lanes::{CONTROL, DATA};
use selvedge_client::wire::{self, Handshake, Policy, Rejection, Role, VERSION, WireMessage};

/// Calls a door again when a recipient has room.
struct Resume(Endpoint);

impl Wake for Resume {
    fn wake(self: Arc<Self>) {
        self.0.resume();
    }
}

pub(crate) struct Door {
    broker: Arc<Broker>,
    endpoint: Endpoint,
    node: Node,
    number: u64,
    role: Option<Role>,
    /// For logs: the name that it introduced itself by.
    name: String,
    is_closed: bool,
    /// What this zipper says and there was no room for.
    outgoing: VecDeque<(LaneId, Bytes)>,
    /// What is left to do for the first messages that wait.
    batch: RoutingBatch,
    /// How many messages wait. Their sender was told that they are here.
    left: usize,
    /// Since which version of the plans it has been waiting for the next.
    waits_since: Option<u64>,
    waker: Waker,
    /// Whether the zipper at the other end was told who this one is.
    has_introduced: bool,
    /// If it is that of a source, or may become one: its end tells that all is handed on.
    source: Option<Sender<Infallible>>,
}

impl Inbox for Door {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        let version = self.broker.version();
        let mut polled = Poll::Ready(());
        if !self.broker.is_aborted() {
            polled = self.hand_on(incoming);
        }
        if polled.is_pending() && self.waits_since != Some(version) {
            self.waits_since = Some(version);
            self.broker.resume_when_changed(version, &self.endpoint);
        }
        self.left = incoming.len(DATA);
        if self.broker.is_aborted() {
            self.batch.clear();
            incoming.drop_first(DATA, self.left);
            self.note_left();
        }
    }

    fn on_event(&mut self, event: Event) {
        let (broker, node) = (&self.broker, self.node);
        match event {
            Event::Attached { .. } | Event::Moved { .. } => {
                let over = self.endpoint.transport();
                let over = over.map_or("a connection that is gone", |info| info.scheme);
                tracing::info!(peer = %self.endpoint.peer(), name = self.name, over, "connected");
                broker.set_presence(node, Presence::Up);
                // Not before: an introduction that waits for nobody would hold up the end.
                if !self.has_introduced && self.broker.settings.mesh.contains(&node) {
                    self.introduce();
                }
            }
            Event::Detached { reason } => {
                tracing::warn!(peer = %self.endpoint.peer(), name = self.name, %reason, "connection lost");
                broker.set_presence(node, Presence::Away);
            }
            Event::PeerRestarted { undelivered } => {
                tracing::warn!(peer = %self.endpoint.peer(), name = self.name, "it has restarted");
                self.note_undelivered(&undelivered);
                self.role = None;
                self.broker.set_role(node, None, &self.name);
                self.broker.reroute(|router| router.remove(node));
                if self.broker.settings.mesh.contains(&node) {
                    self.introduce();
                }
            }
            Event::Closed {
                reason,
                undelivered,
            } => {
                tracing::info!(peer = %self.endpoint.peer(), name = self.name, %reason, "left");
                self.note_undelivered(&undelivered);
                // What it sent before is still handed on.
                self.broker.remove(node, self.number);
            }
            _ => {}
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.note_left();
    }
}

impl Door {
    pub(crate) fn new(
        broker: Arc<Broker>,
        endpoint: Endpoint,
        number: u64,
        source: Option<Sender<Infallible>>,
    ) -> Self {
        let node = *endpoint.peer().as_bytes();
        let waker = Waker::from(Arc::new(Resume(endpoint.clone())));
        let batch = RoutingBatch::new(Arc::clone(&broker), node);
        Self {
            broker,
            endpoint,
            node,
            number,
            role: None,
            name: String::new(),
            is_closed: false,
            outgoing: VecDeque::new(),
            batch,
            left: 0,
            waits_since: None,
            waker,
            has_introduced: false,
            source,
        }
    }

    /// Pending if there is no room; the door is called again when there may be some.
    fn hand_on(&mut self, incoming: &mut Incoming<'_>) -> Poll<()> {
        self.flush();
        while let Some(message) = incoming.take(CONTROL) {
            self.control(message.payload);
        }
        // Before the introduction data waits; after the end it is of no use.
        while self.role.is_some() || self.is_closed {
            if self.batch.is_done() {
                let is_client = !self.is_closed && self.role != Some(Role::Zipper);
                let cx = Context::from_waker(&self.waker);
                if is_client && self.batch.deliver_fast(&cx, incoming).is_pending() {
                    return Poll::Pending;
                }
                if !self.begin(incoming) {
                    return Poll::Ready(());
                }
            }
            let cx = Context::from_waker(&self.waker);
            if self.batch.deliver(&cx, incoming).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// What waits is given up.
    fn note_left(&mut self) {
        let (peer, name, count) = (self.endpoint.peer(), &self.name, self.left);
        if count > 0 {
            tracing::warn!(%peer, name, count, "messages from it were not handed on before the end");
            add(&self.broker.counters.undelivered, count);
        }
        self.left = 0;
    }

    fn note_undelivered(&self, undelivered: &[selvedge_hub::Message]) {
        // The word that ends the data of a function that finishes is on this lane, too.
        let is_data = |it: &&selvedge_hub::Message| it.lane == DATA && wire::is_data(&it.payload);
        let count = undelivered.iter().filter(is_data).count();
        if count > 0 {
            tracing::warn!(peer = %self.endpoint.peer(), name = self.name, count, "messages for it may be lost");
            add(&self.broker.counters.undelivered, count);
        }
    }

    /// Says to a zipper who this one is.
    fn introduce(&mut self) {
        self.has_introduced = true;
        let settings = &self.broker.settings;
        let handshake = WireMessage::Handshake(Handshake {
            version: VERSION,
            role: Role::Zipper,
            name: settings.name.clone(),
            token: settings.token.clone(),
            tags: Vec::new(),
            target: None,
            policy: Policy::Nearest,
        });
        self.say(&handshake);
    }

    fn say(&mut self, message: &WireMessage) {
        self.say_on(CONTROL, message);
    }

    fn say_on(&mut self, lane: LaneId, message: &WireMessage) {
        match message.encode() {
            Ok(bytes) => self.outgoing.push_back((lane, bytes)),
            Err(error) => tracing::error!(%error, "a message cannot be written"),
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

    fn control(&mut self, payload: Bytes) {
        let name = &self.name;
        match WireMessage::decode(payload) {
            Ok(WireMessage::Handshake(handshake)) => self.let_in(handshake),
            Ok(WireMessage::Interest { entries, .. }) if self.role == Some(Role::Zipper) => {
                let node = self.node;
                self.broker.reroute(|router| router.learn(node, entries));
            }
            Ok(WireMessage::HandshakeAck { name: of, .. }) => {
                tracing::debug!(zipper = of, "lets this one in");
            }
            Ok(WireMessage::Rejected { code, message }) => {
                tracing::error!(peer = %self.endpoint.peer(), code, message, "the zipper refuses this one");
            }
            Ok(WireMessage::Goaway { message }) => {
                tracing::info!(name, message, "goes away");
                if self.role == Some(Role::StreamFunction) {
                    let node = self.node;
                    self.broker.reroute(|router| router.remove(node));
                    // On the lane of the data, so that it comes behind the last.
                    self.say_on(DATA, &WireMessage::Goaway { message });
                }
            }
            Ok(WireMessage::Interest { .. } | WireMessage::Data(_)) => {
                self.reject(Rejection::Malformed, "that message does not belong here");
            }
            Err(error) => self.reject(Rejection::Malformed, &error.to_string()),
        }
    }

    fn let_in(&mut self, handshake: Handshake) {
        if let Err((rejection, why)) = self.check(&handshake) {
            return self.reject(rejection, &why);
        }
        let Handshake {
            role,
            name,
            tags,
            target,
            policy,
            ..
        } = handshake;
        tracing::info!(peer = %self.endpoint.peer(), name, ?role, ?tags, "introduced");
        self.name.clone_from(&name);
        self.role = Some(role);
        let settings = &self.broker.settings;
        let acknowledgement = WireMessage::HandshakeAck {
            name: settings.name.clone(),
            node: settings.node,
        };
        self.say(&acknowledgement);
        if role == Role::Zipper && !self.has_introduced {
            self.introduce();
        }
        let node = self.node;
        self.broker.set_role(node, Some(role), &name);
        if role != Role::Source {
            self.source = None;
        }
        self.broker.reroute(|router| match role {
            Role::Source => {}
            Role::StreamFunction => router.add_function(
                node,
                FunctionSpec {
                    name,
                    tags,
                    target,
                    policy,
                },
            ),
            Role::Zipper => router.add_neighbour(node),
        });
    }

    fn check(&self, handshake: &Handshake) -> Result<(), (Rejection, String)> {
        let settings = &self.broker.settings;
        if handshake.version != VERSION {
            let why = format!(
                "this zipper speaks version {VERSION}, not {}",
                handshake.version
            );
            return Err((Rejection::Version, why));
        }
        let is_known = handshake.role == Role::Zipper && settings.mesh.contains(&self.node);
        if let Some(token) = &settings.token
            && !is_known
        {
            let shown = handshake.token.as_deref().unwrap_or_default();
            if !bool::from(shown.as_bytes().ct_eq(token.as_bytes())) {
                let why = if handshake.token.is_some() {
                    "the token is wrong"
                } else {
                    "this zipper asks for a token"
                };
                return Err((Rejection::Unauthorized, why.into()));
            }
        }
        if handshake.name.is_empty() {
            return Err((Rejection::Malformed, "a name is needed".into()));
        }
        if handshake.role == Role::StreamFunction && handshake.tags.is_empty() {
            let why = "a function observes at least one tag".into();
            return Err((Rejection::Malformed, why));
        }
        if let Some(tag) = handshake.tags.iter().find(|tag| tag.is_reserved()) {
            let why = format!("tag {tag} is kept for the system");
            return Err((Rejection::Malformed, why));
        }
        Ok(())
    }

    fn reject(&mut self, rejection: Rejection, why: &str) {
        tracing::warn!(peer = %self.endpoint.peer(), name = self.name, why, "refused");
        let message = WireMessage::Rejected {
            code: rejection as u16,
            message: why.to_owned(),
        };
        self.say(&message);
        self.is_closed = true;
        self.endpoint.close();
    }

    /// Begins with the next messages that wait. Returns whether there are any.
    fn begin(&mut self, incoming: &mut Incoming<'_>) -> bool {
        if incoming.peek(DATA).is_none() {
            return false;
        }
        if self.is_closed {
            add(&self.broker.counters.malformed, 1);
            incoming.take(DATA);
            return true;
        }
        let is_relayed = self.role == Some(Role::Zipper);
        if let Err(refused) = self.batch.gather(incoming, is_relayed) {
            // What came before is still handed on.
            self.reject(Rejection::Malformed, &refused.to_string());
        }
        true
    }
}
