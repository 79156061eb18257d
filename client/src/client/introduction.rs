//! Connects a client to one zipper, and introduces it there.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use selvedge_hub::{
    Clock, CloseReason, Dialers, Driver, Endpoint, Hub, HubEvent, Identity, MailboxSender,
    SessionConfig, dialers,
};

use crate::client::connector::ClientCommand;
use crate::client::depth::OutputDepth;
use crate::client::flows::{ControlHandler, Inbound, Outbound};
use crate::client::search::Found;
use crate::client::settling::SettledWrites;
use crate::client::shared::ClientShared;
use crate::client::{ClientOptions, ConnectError};
use crate::lanes::{CONTROL, session_config};
use crate::settlement::InstanceId;
use crate::wire::{
    Data, Handshake, Negotiated, Rejection, Role, VersionError, VersionOffer, WireError,
    WireMessage,
};

/// The messages with which a client introduces itself, to be sent in this order.
#[derive(Debug, Clone)]
pub(super) struct IntroductionMessages([Bytes; 2]);

/// The number of a hub of a client, which distinguishes the events of the one that is left from those of the
/// one that is entered.
pub(super) type HubNumber = u64;

/// Connects to zippers, and introduces the client to each.
pub(super) struct Introducer {
    pub(super) mail: MailboxSender<ClientCommand>,
    /// One for all polls: an endpoint would register each other one, too, and wake the actor for each.
    waker: Waker,
    pub(super) options: ClientOptions,
    identity: Identity,
    messages: IntroductionMessages,
    /// Identifies the process of the client, as a source and as an instance of a function.
    process: u64,
    control: Arc<ControlHandler>,
    next: HubNumber,
}

impl Introducer {
    pub(super) fn new(
        mail: MailboxSender<ClientCommand>,
        options: ClientOptions,
        identity: Identity,
        messages: IntroductionMessages,
        (process, clock): (u64, Clock),
    ) -> Self {
        let waker = Waker::from(Arc::new(WakeActor(mail.clone())));
        let inbound = (options.role == Role::StreamFunction).then(|| {
            Arc::new(Inbound::new(
                InstanceId(process),
                options.acknowledge,
                options.on_instance_loss,
                options.slow_consumer.drop_policy(),
                clock,
                waker.clone(),
            ))
        });
        Self {
            mail,
            waker,
            options,
            identity,
            messages,
            process,
            control: ControlHandler::new(inbound),
            next: 0,
        }
    }

    /// The state of a client that a zipper has admitted for the first time.
    pub(super) fn share(&self, introduced: Introduced) -> Arc<ClientShared> {
        let settled = self.options.level.map(|level| {
            let outbound = Outbound::new(level, self.options.flow_limits, self.process);
            Box::new(SettledWrites::new(outbound, self.waker()))
        });
        let (messages, inbound) = (self.messages.clone(), self.control.inbound());
        let depth = OutputDepth::new(&self.options);
        let shared = ClientShared::new(introduced, messages, settled, inbound, depth);
        let shared = Arc::new(shared);
        self.control.set_client(&shared);
        shared
    }

    /// The dialers of the client for a search.
    pub(super) fn dialers(&self) -> Dialers {
        let own = self.options.dialers.iter();
        own.chain(dialers(&self.identity).iter()).cloned().collect()
    }

    /// A waker of the actor, for polls of endpoints.
    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Makes a hub whose only peer is the zipper, and sends the introduction.
    pub(super) fn begin(
        &mut self,
        driver: Arc<Driver>,
        found: &Found,
    ) -> Result<ClientIntroduction, ConnectError> {
        let number = self.next;
        self.next += 1;
        let send_buffer = SessionConfig::default().send_buffer;
        let mail = self.mail.clone();
        let mut builder = Hub::builder(self.identity.clone())
            .driver(driver)
            .session(session_config(send_buffer, self.options.message_max))
            .dial_first(found.node, found.address)
            .on_event(move |event| mail.send(ClientCommand::Hub(number, event)));
        if self.options.level.is_some() || self.control.inbound().is_some() {
            let control = Arc::clone(&self.control);
            builder = builder.lane_filter(move |endpoint| control.filter(endpoint));
        }
        if self.options.node.is_none() {
            builder = builder.report_other_nodes();
        }
        for dialer in &self.options.dialers {
            builder = builder.dialer(Arc::clone(dialer));
        }
        // Every address remains a target: one that does not answer now may be the only one later.
        let addresses = self.options.zippers.clone();
        let hub = Arc::new(builder.peer_at(found.node, addresses)?.start()?);
        let endpoint = hub.endpoint(found.node).ok_or(ConnectError::NoAddress)?;
        self.messages.send(&endpoint);
        Ok(ClientIntroduction {
            number,
            messages: self.messages.clone(),
            hub,
            endpoint,
            early: VecDeque::new(),
            refusal: None,
        })
    }
}

impl IntroductionMessages {
    /// The introduction of a client with these options.
    pub(super) fn new(options: &ClientOptions) -> Result<Self, WireError> {
        let handshake = WireMessage::Handshake(Handshake {
            version: VersionOffer::OWN.min,
            role: options.role,
            name: options.name.clone(),
            token: options.token.clone(),
            tags: options.tags.clone(),
            target: options.target.clone(),
            policy: options.policy,
        });
        Ok(Self([
            WireMessage::VersionOffer(VersionOffer::OWN).encode()?,
            handshake.encode()?,
        ]))
    }

    pub(super) fn send(&self, endpoint: &Endpoint) {
        for message in &self.0 {
            // The lane is never full: it carries introductions and goaways only.
            if let Err(error) = endpoint.try_send(CONTROL, message.clone()) {
                let peer = endpoint.peer();
                tracing::debug!(%peer, %error, "the connection ended before the introduction");
            }
        }
    }
}

/// An introduction that the zipper has not answered yet.
#[derive(Debug)]
pub(super) struct ClientIntroduction {
    pub(super) number: HubNumber,
    messages: IntroductionMessages,
    hub: Arc<Hub>,
    pub(super) endpoint: Endpoint,
    /// Data that arrived before the acknowledgement.
    early: VecDeque<Data>,
    /// Why a connection ended before the sessions were connected.
    refusal: Option<String>,
}

/// A zipper that has admitted the client.
#[derive(Debug)]
pub(super) struct Introduced {
    pub(super) number: HubNumber,
    pub(super) hub: Arc<Hub>,
    pub(super) endpoint: Endpoint,
    /// The name of the zipper.
    pub(super) name: String,
    pub(super) protocol: Negotiated,
    pub(super) early: VecDeque<Data>,
}

/// Why a zipper has not admitted the client.
#[derive(Debug)]
pub(super) struct NotAdmitted {
    pub(super) error: ConnectError,
    /// Whether the same zipper may admit the client later.
    pub(super) retry_helps: bool,
}

impl From<WireError> for NotAdmitted {
    fn from(error: WireError) -> Self {
        Self {
            error: error.into(),
            retry_helps: false,
        }
    }
}

impl From<VersionError> for NotAdmitted {
    fn from(error: VersionError) -> Self {
        Self {
            error: error.into(),
            retry_helps: false,
        }
    }
}

impl ClientIntroduction {
    /// Handles an event of the hub.
    pub(super) fn handle(&mut self, event: &HubEvent) {
        match event {
            HubEvent::Refused { reason, .. } => self.refusal = Some(reason.clone()),
            HubEvent::Up { .. } => self.refusal = None,
            HubEvent::Restarted { .. } => self.messages.send(&self.endpoint),
            _ => {}
        }
    }

    /// Reads up to the answer of the zipper.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Introduced, NotAdmitted>> {
        loop {
            let message = match ready!(pin!(self.endpoint.recv_async()).poll(cx)) {
                Ok(message) => message,
                Err(closed) => return Poll::Ready(Err(closed_early(&closed.0))),
            };
            match WireMessage::decode(message.payload) {
                Ok(WireMessage::HandshakeAck {
                    name, negotiated, ..
                }) => return Poll::Ready(self.introduced(name, negotiated)),
                Ok(WireMessage::Rejected { code, message }) => {
                    return Poll::Ready(Err(NotAdmitted {
                        retry_helps: Rejection::is_temporary(code),
                        error: ConnectError::Rejected { code, message },
                    }));
                }
                Ok(WireMessage::Data(data)) => self.early.push_back(data),
                Ok(other) => {
                    let (peer, kind) = (self.endpoint.peer(), other.kind());
                    tracing::debug!(%peer, kind, "unexpected message before the acknowledgement");
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn introduced(
        &mut self,
        name: String,
        negotiated: Option<Negotiated>,
    ) -> Result<Introduced, NotAdmitted> {
        Ok(Introduced {
            number: self.number,
            hub: Arc::clone(&self.hub),
            endpoint: self.endpoint.clone(),
            name,
            protocol: VersionOffer::OWN.accept(negotiated)?,
            early: std::mem::take(&mut self.early),
        })
    }

    /// Ends the connection at once.
    pub(super) fn abandon(self) {
        self.endpoint.abort();
    }

    /// The error if the zipper has not answered in time.
    pub(super) fn silence(&self) -> ConnectError {
        let node = self.endpoint.peer();
        if self.endpoint.transport().is_some() {
            return ConnectError::Silent(node);
        }
        ConnectError::Unreachable(match &self.refusal {
            Some(reason) => {
                format!("the node {node} accepts connections and ends them: {reason}")
            }
            None => format!("no node with the key {node} could be reached in time"),
        })
    }
}

fn closed_early(reason: &CloseReason) -> NotAdmitted {
    let is_final = matches!(reason, CloseReason::Incompatible(_) | CloseReason::Protocol);
    NotAdmitted {
        error: ConnectError::Unreachable(reason.to_string()),
        retry_helps: !is_final,
    }
}

/// Wakes the actor of a client when messages may have arrived.
struct WakeActor(MailboxSender<ClientCommand>);

impl Wake for WakeActor {
    fn wake(self: Arc<Self>) {
        self.0.send(ClientCommand::Readable);
    }
}
