//! What a broker does once a second.

use std::sync::Arc;

use selvedge_hub::{Actor, Instant, Next};

use crate::broker::settling::Occasion;
use crate::broker::{AWAY_MAX, Broker, BrokerState, INTRODUCTION_TIMEOUT, TICK, lock, remote};
use crate::router::Presence;

impl Broker {
    /// Gives up peers that stay disconnected, and closes clients that do not introduce themselves.
    pub(super) fn tick(&self, now: Instant) {
        let mut state = self.lock();
        let BrokerState {
            router,
            known,
            changed_peers,
            ..
        } = &mut *state;
        for (node, known) in known.iter_mut() {
            let away = known.away_since.is_some_and(|at| now >= at + AWAY_MAX);
            if away && !std::mem::replace(&mut known.is_gone, true) {
                let (peer, name) = (known.endpoint.peer(), &known.name);
                tracing::warn!(%peer, name, "disconnected for 30 s; other peers receive its messages");
                // Senders that wait for room there are resumed.
                changed_peers.insert_node(node);
                router.begin_presence(*node, Presence::Gone);
            }
            // The hub ends a guest that was never admitted.
            let has_restarted = known.role.is_none() && known.was_admitted();
            let expected = self.settings.mesh.contains(node);
            if has_restarted && !expected && now >= known.since + INTRODUCTION_TIMEOUT {
                let (peer, remote) = (known.endpoint.peer(), remote(&known.endpoint));
                tracing::warn!(%peer, remote, "no introduction within 5 s; closing the connection");
                known.endpoint.close();
            }
        }
        // At most once a second: by then a function may have connected.
        let unmatched = state.unmatched_tags.take_unreported();
        if !unmatched.is_empty() {
            let tags = unmatched.join(", ");
            tracing::warn!(
                tags,
                "no function observes these tags; their messages are dropped"
            );
        }
        self.expire(&mut state);
        self.publish(&mut state);
        drop(state);
        // Also to neighbours whose send buffer had no room for the last part.
        self.settle(Occasion::Tick);
        lock(&self.watching).resume_all();
        self.liveness.note_check(now);
    }
}

/// Checks the timeouts of a broker.
pub(crate) struct BrokerTicker(pub(crate) Arc<Broker>);

/// Ends a [`BrokerTicker`].
#[derive(Debug)]
pub(crate) struct StopTicker;

impl Actor for BrokerTicker {
    type Command = StopTicker;

    fn handle(&mut self, now: Instant, command: Option<StopTicker>) -> Next {
        if command.is_some() {
            return Next::End;
        }
        self.0.tick(now);
        Next::At(now + TICK)
    }
}
