//! Settling: applies changes of many routes in parts, and sends the neighbours the changes of their
//! interest tables.

use bytes::Bytes;
use selvedge_client::lanes::CONTROL;
use selvedge_client::wire::{INTEREST_DELTA_LEN_MAX, NodeKey, Role, WireMessage};
use selvedge_hub::SendError;

use super::{Broker, BrokerState, ConnectedPeer, remote};

/// With more routes, a neighbour that does not implement deltas is sent its table at the next tick only: a
/// whole table at each of many changes would cost their square.
const TABLE_AT_ONCE_MAX: usize = 256;

/// The largest number of routes that are refreshed under one lock, each in some microseconds.
const REFRESHED_MAX: usize = 128;

/// When so many bytes have been sent under one lock, the next neighbour is served under another.
const SENT_MAX: usize = INTEREST_DELTA_LEN_MAX / 2;

/// When tables are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Routes have changed.
    Change,
    /// A second has passed.
    Tick,
}

impl Broker {
    /// Refreshes the routes that are outdated, and sends each neighbour what has changed in its interest
    /// table. The lock is released between parts, each of which is limited.
    pub(super) fn settle(&self, occasion: Occasion) {
        if occasion == Occasion::Tick {
            self.lock().retry_unsent();
        }
        while self.settle_part(occasion) {}
    }

    /// Returns whether other parts may follow.
    fn settle_part(&self, occasion: Occasion) -> bool {
        let mut state = self.lock();
        let are_outdated = state.router.advance(REFRESHED_MAX);
        self.publish(&mut state);
        state.advertise_part(occasion) || are_outdated
    }
}

impl BrokerState {
    /// Sends again what had no room in the send buffer.
    fn retry_unsent(&mut self) {
        for peer in self.known.values_mut() {
            if let Some(bytes) = peer.unsent.take() {
                peer.send_interest(bytes);
            }
        }
    }

    /// Sends each neighbour the next part of what has changed. Returns whether anything was sent.
    fn advertise_part(&mut self, occasion: Occasion) -> bool {
        let nodes: Vec<NodeKey> = self.router.neighbours().collect();
        let (mut has_sent, mut sent_bytes) = (false, 0);
        for node in nodes {
            let Some(peer) = self.known.get_mut(&node) else {
                continue;
            };
            // Changes for a neighbour that is disconnected, or has no room, are coalesced.
            let is_blocked = peer.unsent.is_some() || peer.away_since.is_some();
            if peer.role != Some(Role::Zipper) || is_blocked {
                continue;
            }
            let message = if peer.has_deltas {
                let delta = self.router.next_delta(node, self.message_max);
                delta.map(WireMessage::InterestDelta)
            } else if occasion == Occasion::Tick || self.router.routes() <= TABLE_AT_ONCE_MAX {
                let table = self.router.next_table(node);
                table.map(|(generation, entries)| WireMessage::Interest {
                    generation,
                    entries,
                })
            } else {
                None
            };
            peer.note_full(self.router.is_table_full(node));
            match message.as_ref().map(WireMessage::encode) {
                None => {}
                Some(Ok(bytes)) => {
                    sent_bytes += bytes.len();
                    has_sent |= peer.send_interest(bytes);
                }
                Some(Err(error)) => {
                    let (peer, remote) = (peer.endpoint.peer(), remote(&peer.endpoint));
                    tracing::error!(%peer, remote, %error, "cannot encode an interest table");
                }
            }
            if has_sent && sent_bytes >= SENT_MAX {
                break;
            }
        }
        has_sent
    }
}

impl ConnectedPeer {
    /// Sends a part of the interest table, or keeps it until there is room. Returns whether it was sent.
    fn send_interest(&mut self, bytes: Bytes) -> bool {
        match self.endpoint.try_send(CONTROL, bytes) {
            Ok(()) => true,
            Err(error @ (SendError::Full(_) | SendError::Unreachable(_))) => {
                let (peer, remote) = (self.endpoint.peer(), remote(&self.endpoint));
                tracing::debug!(%peer, remote, "no room for a part of the interest table");
                self.unsent = Some(error.into_payload());
                false
            }
            // A peer that has left is removed.
            Err(SendError::Closed(_)) => false,
            Err(error) => {
                let (peer, remote) = (self.endpoint.peer(), remote(&self.endpoint));
                tracing::error!(%peer, remote, %error, "cannot send an interest table");
                false
            }
        }
    }

    /// Logs once that not all functions can be advertised.
    fn note_full(&mut self, is_full: bool) {
        if is_full && !self.is_table_full {
            let (peer, remote, name) = (self.endpoint.peer(), remote(&self.endpoint), &self.name);
            tracing::error!(
                %peer, remote, name,
                "too many functions for one interest table; the neighbour does not learn of some of them"
            );
        }
        self.is_table_full = is_full;
    }
}
