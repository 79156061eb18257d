//! Redials a lost peer without waking the mesh's actor first: the worker on which the connection
//! ended dials, and attaches the new connection. The mesh is informed by commands.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use selvedge_driver::NodeId;

use crate::mesh::Dial;

/// What a worker may do for each peer before the mesh decides. Shared by the workers and the mesh.
#[derive(Debug, Default)]
pub(crate) struct FastRedials(Mutex<BTreeMap<NodeId, FastRedial>>);

#[derive(Debug, Default, Clone, Copy)]
struct FastRedial {
    /// The address at which this side has dialed the peer, while the peer is up.
    address: Option<usize>,
    /// No address has answered yet, so the first connection is to be used, whichever it is.
    uses_first_answer: bool,
}

impl FastRedials {
    /// The peer is up, at that address if this side dialed.
    pub(crate) fn up(&self, peer: NodeId, address: Option<usize>) {
        let redial = FastRedial {
            address,
            uses_first_answer: false,
        };
        self.lock().insert(peer, redial);
    }

    /// The peer is down and being dialed: the first answer may be attached at once.
    pub(crate) fn use_first_answer(&self, peer: NodeId) {
        self.lock().entry(peer).or_default().uses_first_answer = true;
    }

    /// An address has answered. Returns whether its connection may be attached without asking the
    /// mesh: true for the first answer only.
    pub(crate) fn take_first_answer(&self, peer: NodeId) -> bool {
        let mut all = self.lock();
        all.get_mut(&peer)
            .is_some_and(|redial| std::mem::take(&mut redial.uses_first_answer))
    }

    /// The last connection has ended. Returns the dial to begin at once: once only, until the peer
    /// has been up again, and none if the peer had dialed.
    pub(crate) fn lost(&self, peer: NodeId) -> Option<Dial> {
        let mut all = self.lock();
        let redial = all.get_mut(&peer)?;
        let address = redial.address.take()?;
        redial.uses_first_answer = true;
        Some(Dial { peer, address })
    }

    /// Leaves all decisions about the peer to the mesh.
    pub(crate) fn forget(&self, peer: &NodeId) {
        self.lock().remove(peer);
    }

    /// Each operation leaves the map valid, so a poisoned lock is usable.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, FastRedial>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId::new([7; 32]);

    #[test]
    fn a_lost_peer_is_redialed_once_at_the_address_that_was_in_use() {
        let redials = FastRedials::default();
        assert_eq!(redials.lost(PEER), None, "the peer was never up");
        redials.up(PEER, Some(3));
        let address = redials.lost(PEER).map(|dial| dial.address);
        assert_eq!(address, Some(3));
        assert_eq!(redials.lost(PEER), None, "the peer was not up again");
        redials.up(PEER, None);
        assert_eq!(redials.lost(PEER), None, "the peer had dialed");
    }

    #[test]
    fn only_the_first_answer_is_attached_without_asking_the_mesh() {
        let redials = FastRedials::default();
        assert!(!redials.take_first_answer(PEER), "no dial is under way");
        redials.use_first_answer(PEER);
        assert!(redials.take_first_answer(PEER));
        assert!(!redials.take_first_answer(PEER), "it is the second answer");
        redials.up(PEER, Some(0));
        redials.lost(PEER);
        redials.up(PEER, None);
        assert!(
            !redials.take_first_answer(PEER),
            "the peer has dialed meanwhile"
        );
    }
}
