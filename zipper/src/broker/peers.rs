//! What a broker reports about its peers.

use super::Broker;
use crate::snapshot::PeerSnapshot;

impl Broker {
    /// The peers with their backlog, in the order of their keys.
    pub(crate) fn peers(&self) -> Vec<PeerSnapshot> {
        let known: Vec<_> = {
            let state = self.lock();
            let known = state.known.values();
            known
                .map(|it| {
                    let is_connected = it.away_since.is_none();
                    (it.endpoint.clone(), it.role, it.name.clone(), is_connected)
                })
                .collect()
        };
        // Without the lock of the broker: each backlog takes the lock of an endpoint.
        let peers = known.into_iter();
        let peers = peers.map(|(endpoint, role, name, is_connected)| PeerSnapshot {
            node: endpoint.peer(),
            role,
            name,
            is_connected,
            backlog: endpoint.send_backlog(),
        });
        peers.collect()
    }

    /// Whether the broker has checked its timeouts recently. Never blocks.
    pub(crate) fn is_live(&self) -> bool {
        self.liveness.is_live(self.settings.clock.now())
    }
}
