//! The log of refused and forgotten guests: strangers cause these lines, so each kind is a summary of at most
//! one line a second.

use selvedge_driver::{Instant, LogThrottle, NodeId};

/// One throttle for each kind of line.
#[derive(Debug, Default)]
pub(crate) struct AdmissionLog {
    refused: LogThrottle,
    replaced: LogThrottle,
    not_admitted: LogThrottle,
}

impl AdmissionLog {
    pub(crate) fn refused(&mut self, now: Instant, peer: NodeId, remote: &str) {
        if let Some(count) = self.refused.record(now) {
            tracing::warn!(%peer, remote, count, "refused a guest: the hub has its maximum of guests");
        }
    }

    pub(crate) fn replaced(&mut self, now: Instant, peer: NodeId, remote: &str) {
        if let Some(count) = self.replaced.record(now) {
            tracing::warn!(
                %peer,
                remote,
                count,
                "closed a guest that was not admitted yet: too many of its network wait"
            );
        }
    }

    pub(crate) fn not_admitted(&mut self, now: Instant, peer: NodeId, remote: &str) {
        if let Some(count) = self.not_admitted.record(now) {
            tracing::warn!(%peer, remote, count, "closed a guest that was not admitted in time");
        }
    }
}
