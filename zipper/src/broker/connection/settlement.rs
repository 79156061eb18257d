//! The messages of settlement on a connection.

use std::task::{Context, Poll};

use bytes::Bytes;
use selvedge_client::lanes::BULK;
use selvedge_client::wire::settlement::{FEATURE_SETTLEMENT, SettlementMessage};
use selvedge_client::wire::{Rejection, Role};
use selvedge_hub::{Incoming, LaneId};

use super::Connection;
use crate::broker::batch::BatchError;
use crate::stats::add;

impl Connection {
    /// Whether the peer and this zipper settle.
    pub(super) const fn has_settlement(&self) -> bool {
        self.features & FEATURE_SETTLEMENT != 0
    }

    /// Handles a message of settlement on the lane CONTROL.
    pub(super) fn on_settlement(&mut self, payload: &Bytes) {
        let message = match SettlementMessage::decode(payload.clone()) {
            Ok(message) => message,
            Err(error) => return self.reject(Rejection::Malformed, &error.to_string()),
        };
        let Some(role) = self.role.filter(|_| self.has_settlement()) else {
            // It was sent to the former process of this zipper, or the peer breaks the protocol: then it is
            // never admitted.
            let peer = self.endpoint.peer();
            return tracing::debug!(%peer, "ignored a message of settlement before the introduction");
        };
        let now = self.broker.settings.clock.now();
        let is_allowed = match (role, message) {
            (Role::Zipper, SettlementMessage::Bind(binding)) => {
                self.relays.bind(&self.broker, &self.endpoint, binding);
                true
            }
            (Role::Zipper, SettlementMessage::Unbind { label }) => {
                self.relays.unbind(label);
                true
            }
            (
                Role::Zipper,
                SettlementMessage::Ask { label }
                | SettlementMessage::RaiseFloor { label, .. }
                | SettlementMessage::Renew { label, .. },
            ) => {
                self.relays.pass_on(label, payload);
                true
            }
            (Role::Zipper, SettlementMessage::Stalled(stalled)) => {
                self.relays.end_stalled(&self.broker, &stalled, payload);
                true
            }
            (Role::StreamFunction, SettlementMessage::Instance(notice)) => {
                self.broker.set_instance(self.node, notice);
                true
            }
            (Role::StreamFunction, SettlementMessage::Observer(policy)) => {
                let waker = self.waker.clone();
                self.outlet = self.broker.set_observer(self.node, policy, waker);
                true
            }
            (
                Role::Zipper | Role::StreamFunction,
                message @ (SettlementMessage::Report(_) | SettlementMessage::RouteLost { .. }),
            ) => {
                self.broker.handle_answer(&self.routes, message, payload);
                true
            }
            (Role::Zipper, _) => false,
            (_, message) => self.flows.handle_control(&self.broker, now, &message),
        };
        if !is_allowed {
            let why = "this message of settlement is not allowed for this role";
            self.reject(Rejection::Malformed, why);
        }
    }

    /// The peer is a zipper that has introduced itself.
    pub(super) fn add_neighbour(&self) {
        let (node, settles) = (self.node, self.has_settlement());
        self.broker.reroute(|router| match settles {
            true => router.add_settling_neighbour(node),
            false => router.add_neighbour(node),
        });
    }

    /// Lets time pass for the flows of the peer.
    pub(super) fn proceed_flows(&mut self) {
        if !self.flows.is_empty() {
            let cx = Context::from_waker(&self.waker);
            let now = self.broker.settings.clock.now();
            self.flows.proceed(&self.broker, now, &cx);
        }
    }

    /// Forwards the messages of the lane BULK. Pending if one of them waits for room.
    pub(super) fn forward_bulk(&mut self, incoming: &mut Incoming<'_>) -> Poll<()> {
        let polled = self.forward_settled(BULK, incoming);
        if polled.is_pending() {
            return polled;
        }
        let rest = incoming.len(BULK);
        if rest > 0 {
            // Behind a rejection, or no message of a flow or route.
            if !self.is_closed {
                self.reject(Rejection::Malformed, &BatchError::NotData.to_string());
            }
            add(&self.broker.counters.malformed, rest);
            incoming.drop_first(BULK, rest);
        }
        Poll::Ready(())
    }

    /// Forwards the first unread messages of a lane, as far as they belong to flows or routes. Pending if one of
    /// them waits for room.
    pub(super) fn forward_settled(
        &mut self,
        lane: LaneId,
        incoming: &mut Incoming<'_>,
    ) -> Poll<()> {
        if !self.has_settlement() || self.is_closed {
            return Poll::Ready(());
        }
        if self.role == Some(Role::Zipper) {
            self.relays
                .forward(&self.broker, &self.endpoint, lane, incoming);
            return Poll::Ready(());
        }
        let cx = Context::from_waker(&self.waker);
        let now = self.broker.settings.clock.now();
        let forwarded = self.flows.forward(&self.broker, (now, lane), &cx, incoming);
        if let Some(tag) = self.flows.take_forbidden() {
            self.batch.note_forbidden(tag);
            self.deny_writes();
        }
        match forwarded {
            Ok(polled) => polled,
            Err(error) => {
                self.reject(Rejection::Malformed, &error.to_string());
                Poll::Ready(())
            }
        }
    }

    /// Has the worker call the connection again when a change concerns its flows, and at each tick.
    pub(super) fn watch_flows(&mut self, version: u64) {
        if self.flows.is_empty() {
            if self.watches_since.take().is_some() {
                self.broker.stop_watching(self.id);
            }
            return;
        }
        let concerns = self.flows.concerns();
        if self.watches_since != Some((version, concerns)) {
            self.watches_since = Some((version, concerns));
            self.broker
                .resume_flows(version, self.id, &self.endpoint, concerns);
        }
    }

    /// The peer has restarted, or the connection has ended: what it knew of flows and routes is lost, and what
    /// waits for it.
    pub(super) fn end_settlement(&mut self) {
        self.end_outlet();
        self.flows.clear();
        self.relays.clear();
        self.routes.end(&self.broker);
        if self.watches_since.take().is_some() {
            self.broker.stop_watching(self.id);
        }
    }
}
