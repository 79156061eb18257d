//! Handles the control messages of settlement on the worker, whether or not the user reads.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use selvedge_hub::{Endpoint, FilterAction, LaneFilter};

use super::inbound::Inbound;
use super::sessions::SessionKey;
use crate::client::shared::ClientShared;
use crate::lanes::CONTROL;
use crate::wire::settlement::{FEATURE_SETTLEMENT, SettlementMessage, is_settlement};
use crate::wire::{Negotiated, Rejection, VersionOffer, WireMessage};

/// Handles the control messages of settlement of all endpoints of a client.
#[derive(Debug)]
pub(in crate::client) struct ControlHandler {
    /// The client, once a zipper has admitted it. Weak: workers hold the filters, and the client holds
    /// endpoints on these workers.
    client: OnceLock<Weak<ClientShared>>,
    /// Of a function.
    inbound: Option<Arc<Inbound>>,
}

impl ControlHandler {
    pub(in crate::client) fn new(inbound: Option<Arc<Inbound>>) -> Arc<Self> {
        Arc::new(Self {
            client: OnceLock::new(),
            inbound,
        })
    }

    pub(in crate::client) fn inbound(&self) -> Option<Arc<Inbound>> {
        self.inbound.clone()
    }

    /// A zipper has admitted the client.
    pub(in crate::client) fn set_client(&self, client: &Arc<ClientShared>) {
        let is_first = self.client.set(Arc::downgrade(client)).is_ok();
        debug_assert!(is_first, "a client is admitted for the first time once");
    }

    /// The filter of an endpoint.
    pub(in crate::client) fn filter(self: &Arc<Self>, endpoint: &Endpoint) -> LaneFilter {
        let (handler, endpoint) = (Arc::clone(self), endpoint.clone());
        let mut session = SessionKey::NONE;
        LaneFilter::new(CONTROL, move |payload| {
            handler.filter_message(&endpoint, &mut session, payload)
        })
    }

    fn filter_message(
        &self,
        endpoint: &Endpoint,
        session: &mut SessionKey,
        payload: &Bytes,
    ) -> FilterAction {
        if !is_settlement(payload) {
            match WireMessage::decode(payload.clone()) {
                Ok(WireMessage::HandshakeAck { negotiated, .. }) => {
                    self.note_ack(endpoint, session, negotiated);
                }
                Ok(WireMessage::Rejected { code, message }) => {
                    self.note_rejection(endpoint, code, &message);
                }
                _ => {}
            }
            return FilterAction::Queue;
        }
        match SettlementMessage::decode(payload.clone()) {
            Ok(message) => self.handle(endpoint, *session, message),
            Err(error) => {
                self.violated(&format!("the zipper has sent a malformed message: {error}"));
                FilterAction::Consume
            }
        }
    }

    /// The zipper admits the client: for the first time, or after its process or the endpoint was replaced.
    fn note_ack(
        &self,
        endpoint: &Endpoint,
        session: &mut SessionKey,
        negotiated: Option<Negotiated>,
    ) {
        // What is not acceptable ends the client when it is read.
        let Ok(protocol) = VersionOffer::OWN.accept(negotiated) else {
            return;
        };
        if let Some(inbound) = &self.inbound {
            *session = inbound.begin_session(endpoint, settles(protocol));
        }
        if let Some(client) = self.client() {
            client.connect_flows(endpoint, settles(protocol));
        }
    }

    /// The zipper ends the connection. If this process has held a source back, its messages go to other ones.
    fn note_rejection(&self, endpoint: &Endpoint, code: u16, message: &str) {
        let Some(inbound) = self
            .inbound
            .as_ref()
            .filter(|_| code == Rejection::Stalled as u16)
        else {
            return;
        };
        let remote = self.client().map(|it| it.remote());
        tracing::warn!(
            peer = %endpoint.peer(), remote, message,
            "the zipper has disconnected this function, which has stalled; its messages go to other \
             instances, and it returns once it reads again"
        );
        inbound.end_stalled();
    }

    fn client(&self) -> Option<Arc<ClientShared>> {
        self.client.get()?.upgrade()
    }

    fn handle(
        &self,
        endpoint: &Endpoint,
        session: SessionKey,
        message: SettlementMessage,
    ) -> FilterAction {
        match (message, &self.inbound) {
            (SettlementMessage::Bind(binding), Some(inbound)) => {
                inbound.bind(endpoint, session, &binding);
            }
            (SettlementMessage::Unbind { label }, Some(inbound)) => inbound.unbind(session, label),
            (SettlementMessage::RaiseFloor { label, floor }, Some(inbound)) => {
                inbound.raise_floor(session, label, floor);
            }
            (SettlementMessage::Ask { label }, Some(inbound)) => inbound.handle_ask(session, label),
            (SettlementMessage::Renew { label, stamp }, Some(inbound)) => {
                if inbound.renew(session, label, stamp) {
                    // Queued, it wakes a reader, which finds the messages that have waited for the lease.
                    return FilterAction::Queue;
                }
            }
            (message, _) => {
                if let Some(client) = self.client()
                    && let Err(error) = client.handle_flow(endpoint, message)
                {
                    self.violated(&error.to_string());
                }
            }
        }
        FilterAction::Consume
    }

    fn violated(&self, why: &str) {
        tracing::error!(why, "the zipper has violated the protocol; the client ends");
        if let Some(client) = self.client() {
            client.stop(why);
        }
    }
}

/// Whether a zipper settles messages.
pub(in crate::client) const fn settles(protocol: Negotiated) -> bool {
    protocol.has(FEATURE_SETTLEMENT)
}
