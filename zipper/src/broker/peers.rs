//! What a broker reports about its peers.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use selvedge_client::wire::{NodeKey, Role};
use selvedge_hub::{Endpoint, Instant};

use super::Broker;
use crate::snapshot::PeerSnapshot;

/// A peer as it was at one time, with its endpoint.
pub(super) struct KnownPeer {
    pub(super) node: NodeKey,
    pub(super) endpoint: Endpoint,
    pub(super) role: Option<Role>,
    pub(super) name: String,
    /// When it connected, or introduced itself.
    pub(super) since: Instant,
    pub(super) away_since: Option<Instant>,
    /// How many messages were dropped for want of room at the peer.
    pub(super) dropped: u64,
}

impl Broker {
    /// At most `max` peers behind a key, in the order of their keys. Endpoints are to be asked afterwards,
    /// without the lock of the broker: each has a lock of its own.
    pub(super) fn views(&self, after: Option<NodeKey>, max: usize) -> Vec<KnownPeer> {
        let state = self.lock();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let known = state.known.range((start, Bound::Unbounded)).take(max);
        let view = |(&node, it): (&NodeKey, &super::ConnectedPeer)| KnownPeer {
            node,
            endpoint: it.endpoint.clone(),
            role: it.role,
            name: it.name.clone(),
            since: it.since,
            away_since: it.away_since,
            dropped: it.dropped.load(Ordering::Relaxed),
        };
        known.map(view).collect()
    }

    /// The peers with their backlog, in the order of their keys.
    pub(crate) fn peers(&self) -> Vec<PeerSnapshot> {
        let views = self.views(None, usize::MAX).into_iter();
        let peers = views.map(|it| PeerSnapshot {
            node: it.endpoint.peer(),
            role: it.role,
            name: it.name,
            is_connected: it.away_since.is_none(),
            backlog: it.endpoint.send_backlog(),
            dropped: it.dropped,
        });
        peers.collect()
    }

    /// The names and keys of the peers, disconnected ones first.
    pub(crate) fn connections(&self) -> Vec<String> {
        let state = self.lock();
        let mut known: Vec<_> = state.known.values().collect();
        known.sort_by_key(|it| it.away_since.is_none());
        let shown = known.into_iter().map(|it| {
            let (name, peer) = (&it.name, it.endpoint.peer());
            let away = it.away_since.map_or("", |_| ", away");
            format!("{name} ({peer:#}{away})")
        });
        shown.collect()
    }

    /// Whether the broker has checked its timeouts recently. Never blocks.
    pub(crate) fn is_live(&self) -> bool {
        self.liveness.is_live(self.settings.clock.now())
    }
}
