//! The labels of routes on one connection, and their owners.

use std::collections::HashMap;
use std::sync::{Mutex, Weak};

use bytes::Bytes;
use selvedge_client::lanes::CONTROL;
use selvedge_client::settlement::{GroupId, InstanceId};
use selvedge_client::wire::settlement::{RouteLossReason, SettlementMessage};
use selvedge_hub::Endpoint;

use super::flow::SharedFlow;
use crate::broker::{Broker, lock};

/// The largest number of routes to one peer.
const ROUTES_MAX: usize = 65_536;

/// The routes on which this zipper sends to one peer, by label: what the peer answers belongs to their
/// owners. Locked when a route begins or ends, and for each report.
#[derive(Debug, Default)]
pub(in crate::broker) struct PeerRoutes(Mutex<HashMap<u32, RouteOwner>>);

/// The sender on a route.
#[derive(Debug, Clone)]
pub(in crate::broker) enum RouteOwner {
    /// A flow of a source of this zipper, to an instance.
    Flow(Weak<SharedFlow>, (GroupId, InstanceId)),
    /// Another zipper, which uses its own label on its connection.
    Relay {
        /// The connection of that zipper.
        upstream: Endpoint,
        /// Its label.
        label: u32,
    },
}

impl PeerRoutes {
    /// Registers a route. Returns false if its label is in use, or there are too many routes.
    pub(super) fn insert(&self, label: u32, owner: RouteOwner) -> bool {
        let mut routes = lock(&self.0);
        if routes.len() >= ROUTES_MAX || routes.contains_key(&label) {
            return false;
        }
        routes.insert(label, owner);
        true
    }

    pub(super) fn remove(&self, label: u32) -> Option<RouteOwner> {
        lock(&self.0).remove(&label)
    }

    pub(super) fn owner(&self, label: u32) -> Option<RouteOwner> {
        lock(&self.0).get(&label).cloned()
    }

    /// The peer has lost all routes: their owners are notified.
    pub(in crate::broker) fn end(&self, broker: &Broker) {
        let routes = std::mem::take(&mut *lock(&self.0));
        for (label, owner) in routes {
            owner.lost(broker, label, RouteLossReason::NoPath);
        }
    }
}

impl RouteOwner {
    /// The route with that label on the connection of the peer has ended.
    pub(super) fn lost(&self, broker: &Broker, at: u32, reason: RouteLossReason) {
        match self {
            Self::Flow(flow, member) => {
                if let Some(flow) = flow.upgrade() {
                    flow.handle_route_lost(broker, *member, at, reason);
                }
            }
            Self::Relay { upstream, label } => {
                send(
                    upstream,
                    &SettlementMessage::RouteLost {
                        label: *label,
                        reason,
                    },
                );
            }
        }
    }
}

/// Sends a control message if there is room. What is lost here is noticed by the time limits of the flow.
pub(super) fn send(to: &Endpoint, message: &SettlementMessage) -> bool {
    match message.encode() {
        Ok(bytes) => send_bytes(to, bytes),
        Err(error) => {
            tracing::error!(peer = %to.peer(), %error, "cannot encode a message of settlement");
            false
        }
    }
}

pub(super) fn send_bytes(to: &Endpoint, bytes: Bytes) -> bool {
    let sent = to.try_send(CONTROL, bytes);
    if let Err(error) = &sent {
        tracing::debug!(peer = %to.peer(), %error, "a message of settlement is not sent");
    }
    sent.is_ok()
}

/// The bytes of a control message under another label.
pub(super) fn relabelled(bytes: &[u8], label: u32) -> Option<Bytes> {
    let (&[kind, _, _, _, _], rest) = bytes.split_first_chunk()?;
    let mut out = Vec::with_capacity(bytes.len());
    out.push(kind);
    out.extend_from_slice(&label.to_be_bytes());
    out.extend_from_slice(rest);
    Some(out.into())
}
