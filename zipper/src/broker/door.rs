//! One connection of a zipper: lets its peer in, and hands on what it sends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use selvedge_hub::{Endpoint, Event, Inbox, Incoming, SendError};
use subtle::ConstantTimeEq;

use crate::broker::{Broker, CONTROL, DATA, HOPS_MAX};
use crate::router::{Function, Key, Node, Presence, Routes};
use crate::stats::add;
use crate::wire::{Data, Handshake, Message, Policy, Rejection, Role, TRACE_MAX, VERSION};

/// Calls a door again when a recipient has room.
struct Resume(Endpoint);

impl Wake for Resume {
    fn wake(self: Arc<Self>) {
        self.0.resume();
    }
}

/// A copy on its way.
struct Copy {
    to: Node,
    endpoint: Endpoint,
    bytes: Bytes,
    is_local: bool,
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
    /// Control that waits for room.
    outgoing: VecDeque<Bytes>,
    /// What is left to do for the first message that waits.
    copies: Option<Vec<Copy>>,
    waker: Waker,
    /// Whether the zipper at the other end was told who this one is.
    has_introduced: bool,
}

impl Inbox for Door {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        self.flush();
        while let Some(message) = incoming.take(CONTROL) {
            self.control(message.payload);
        }
        // Before the introduction data waits; after the end it is of no use.
        while self.role.is_some() || self.is_closed {
            let Some(message) = incoming.peek(DATA) else {
                return;
            };
            if self.is_closed {
                add(&self.broker.counters.malformed, 1);
            } else {
                let copies = match self.copies.take() {
                    Some(copies) => copies,
                    None => self.route(message.payload.clone()),
                };
                let waiting = self.hand_on(copies);
                if !waiting.is_empty() {
                    self.copies = Some(waiting);
                    return;
                }
            }
            incoming.take(DATA);
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
                self.broker.set_role(node, None);
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

impl Door {
    pub(crate) fn new(broker: Arc<Broker>, endpoint: Endpoint, number: u64) -> Self {
        let node = *endpoint.peer().as_bytes();
        let waker = Waker::from(Arc::new(Resume(endpoint.clone())));
        Self {
            broker,
            endpoint,
            node,
            number,
            role: None,
            name: String::new(),
            is_closed: false,
            outgoing: VecDeque::new(),
            copies: None,
            waker,
            has_introduced: false,
        }
    }

    fn note_undelivered(&self, undelivered: &[selvedge_hub::Message]) {
        let count = undelivered.iter().filter(|it| it.lane == DATA).count();
        if count > 0 {
            tracing::warn!(peer = %self.endpoint.peer(), name = self.name, count, "messages for it may be lost");
            add(&self.broker.counters.undelivered, count);
        }
    }

    /// Says to a zipper who this one is.
    fn introduce(&mut self) {
        self.has_introduced = true;
        let settings = &self.broker.settings;
        let handshake = Message::Handshake(Handshake {
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

    fn say(&mut self, message: &Message) {
        match message.encode() {
            Ok(bytes) => self.outgoing.push_back(bytes),
            Err(error) => tracing::error!(%error, "a message cannot be written"),
        }
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(bytes) = self.outgoing.front() {
            let cx = Context::from_waker(&self.waker);
            if self.endpoint.poll_send(&cx, CONTROL, bytes).is_pending() {
                return;
            }
            self.outgoing.pop_front();
        }
    }

    fn control(&mut self, payload: Bytes) {
        let name = &self.name;
        match Message::decode(payload) {
            Ok(Message::Handshake(handshake)) => self.let_in(handshake),
            Ok(Message::Interest { entries, .. }) if self.role == Some(Role::Zipper) => {
                let node = self.node;
                self.broker.reroute(|router| router.learn(node, entries));
            }
            Ok(Message::HandshakeAck { name: of, .. }) => {
                tracing::debug!(zipper = of, "lets this one in");
            }
            Ok(Message::Rejected { code, message }) => {
                tracing::error!(peer = %self.endpoint.peer(), code, message, "the zipper refuses this one");
            }
            Ok(Message::Goaway { message }) => tracing::info!(name, message, "goes away"),
            Ok(Message::Interest { .. } | Message::Data(_)) => {
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
        let acknowledgement = Message::HandshakeAck {
            name: settings.name.clone(),
            node: settings.node,
        };
        self.say(&acknowledgement);
        if role == Role::Zipper && !self.has_introduced {
            self.introduce();
        }
        let node = self.node;
        self.broker.set_role(node, Some(role));
        self.broker.reroute(|router| match role {
            Role::Source => {}
            Role::StreamFunction => router.add_function(
                node,
                Function {
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
        let message = Message::Rejected {
            code: rejection as u16,
            message: why.to_owned(),
        };
        self.say(&message);
        self.is_closed = true;
        self.endpoint.close();
    }

    /// Where copies of a message go.
    fn route(&mut self, payload: Bytes) -> Vec<Copy> {
        let mut data = match Message::decode(payload) {
            Ok(Message::Data(data)) => data,
            Ok(_) => return self.refuse_data("only data belongs on this lane"),
            Err(error) => return self.refuse_data(&error.to_string()),
        };
        let (counters, is_relayed) = (&self.broker.counters, self.role == Some(Role::Zipper));
        if !is_relayed {
            if data.tag.is_reserved() {
                return self.refuse_data("the tag is kept for the system");
            }
            data.origin.source = self.node;
            data.hops_left = HOPS_MAX;
        }
        add(
            if is_relayed {
                &counters.relayed
            } else {
                &counters.received
            },
            1,
        );
        let recipients = std::mem::take(&mut data.recipients);
        let key = Key {
            tag: data.tag,
            target: data.target.as_deref(),
            origin: data.origin,
        };
        let mut state = self.broker.lock();
        let routes = if is_relayed {
            state.router.relay(self.node, key, recipients)
        } else {
            state.router.route(key)
        };
        drop(state);
        add(&counters.unreachable, routes.unreachable.len());
        if routes.is_empty() && routes.unreachable.is_empty() {
            add(&counters.unobserved, 1);
        }
        self.copy(data, routes)
    }

    fn refuse_data(&mut self, why: &str) -> Vec<Copy> {
        add(&self.broker.counters.malformed, 1);
        self.reject(Rejection::Malformed, why);
        Vec::new()
    }

    fn copy(&self, mut data: Data, routes: Routes) -> Vec<Copy> {
        if let Some(trace) = &mut data.trace
            && trace.len() < TRACE_MAX
        {
            trace.push((self.broker.settings.name.clone(), now_micros()));
        }
        let mut copies = Vec::with_capacity(routes.local.len() + routes.forward.len());
        let mut add_copy = |to: Node, data: &Data, known: &mut Option<Bytes>, is_local| {
            let bytes = match known {
                Some(bytes) => bytes.clone(),
                None => match data.encode() {
                    Ok(bytes) => known.insert(bytes).clone(),
                    Err(error) => return tracing::error!(%error, "a message cannot be passed on"),
                },
            };
            match self.broker.endpoint(&to) {
                Some(endpoint) => copies.push(Copy {
                    to,
                    endpoint,
                    bytes,
                    is_local,
                }),
                None => add(&self.broker.counters.unreachable, 1),
            }
        };
        let mut known = None;
        for to in routes.local {
            add_copy(to, &data, &mut known, true);
        }
        if !routes.forward.is_empty() && data.hops_left == 0 {
            add(&self.broker.counters.hop_limit, routes.forward.len());
            return copies;
        }
        data.hops_left = data.hops_left.saturating_sub(1);
        for (to, recipients) in routes.forward {
            data.recipients = recipients;
            add_copy(to, &data, &mut None, false);
        }
        copies
    }

    /// Hands copies on. Returns those for which there is no room yet.
    fn hand_on(&self, copies: Vec<Copy>) -> Vec<Copy> {
        let (mut waiting, counters) = (Vec::new(), &self.broker.counters);
        for copy in copies {
            let cx = Context::from_waker(&self.waker);
            match copy.endpoint.poll_send(&cx, DATA, &copy.bytes) {
                Poll::Ready(Ok(())) if copy.is_local => add(&counters.delivered, 1),
                Poll::Ready(Ok(())) => add(&counters.forwarded, 1),
                Poll::Ready(Err(SendError::Closed(_))) => add(&counters.unreachable, 1),
                Poll::Ready(Err(error)) => {
                    tracing::error!(%error, "a message cannot be passed on");
                    add(&counters.unreachable, 1);
                }
                Poll::Pending if self.broker.is_gone(&copy.to) => add(&counters.unreachable, 1),
                Poll::Pending => waiting.push(copy),
            }
        }
        waiting
    }
}

/// The time of day in microseconds since 1970: traces compare it between machines, as well as
/// their clocks agree.
pub(crate) fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}
