//! Throttles the log of failed dials: each reason is a warning once, until the peer was up.

use std::collections::BTreeMap;

use selvedge_driver::NodeId;

use crate::mesh::Dial;

/// The reason that was logged last for each address of each peer.
#[derive(Debug, Default)]
pub(crate) struct DialErrorLog(BTreeMap<Dial, String>);

impl DialErrorLog {
    /// Whether this reason is another one than the last for this address.
    pub(crate) fn is_new(&mut self, dial: Dial, reason: &str) -> bool {
        let logged = self.0.entry(dial).or_default();
        let is_new = logged != reason;
        if is_new {
            reason.clone_into(logged);
        }
        is_new
    }

    /// Forgets the reasons of a peer that is up.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        self.0.retain(|dial, _| dial.peer != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_new_once_until_the_peer_was_up() {
        let peer = |number| NodeId::new([number; 32]);
        let dial = |number, address| Dial {
            peer: peer(number),
            address,
        };
        let mut log = DialErrorLog::default();
        for (number, address, reason, is_new) in [
            (1, 0, "refused", true),
            (1, 0, "refused", false),
            (1, 1, "refused", true),
            (2, 0, "refused", true),
            (1, 0, "another key", true),
            (1, 0, "another key", false),
        ] {
            assert_eq!(log.is_new(dial(number, address), reason), is_new);
        }
        log.forget(peer(1));
        assert!(log.is_new(dial(1, 1), "refused"));
        assert!(!log.is_new(dial(2, 0), "refused"));
    }
}
