//! How a peer that is lost is reached again without waking the mesh's thread first: on the worker on
//! which the connection has ended, which then brings in the new one as well. The mesh hears of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use selvedge_driver::NodeId;

use crate::mesh::Dial;

/// What may be done for each peer before the mesh is asked.
#[derive(Debug, Default)]
pub(crate) struct Redials(Mutex<BTreeMap<NodeId, Redial>>);

#[derive(Debug, Default, Clone, Copy)]
struct Redial {
    /// By which way this side has reached the peer, while it is up.
    way: Option<usize>,
    /// Nothing has answered yet: whatever does first is of use.
    is_awaited: bool,
}

impl Redials {
    /// The peer is up, over that way if this side has dialed it.
    pub(crate) fn up(&self, peer: NodeId, way: Option<usize>) {
        let is_awaited = false;
        self.lock().insert(peer, Redial { way, is_awaited });
    }

    /// The peer is away, and dialed: the first answer may be brought in at once.
    pub(crate) fn await_answer(&self, peer: NodeId) {
        self.lock().entry(peer).or_default().is_awaited = true;
    }

    /// Something has answered. Returns whether it is the first.
    pub(crate) fn answered(&self, peer: NodeId) -> bool {
        let mut all = self.lock();
        all.get_mut(&peer)
            .is_some_and(|it| std::mem::take(&mut it.is_awaited))
    }

    /// The last connection has ended. Returns what to dial at once, if anything is known: once, until
    /// the peer has been up again.
    pub(crate) fn lost(&self, peer: NodeId) -> Option<Dial> {
        let mut all = self.lock();
        let known = all.get_mut(&peer)?;
        let way = known.way.take()?;
        known.is_awaited = true;
        Some(Dial { peer, way })
    }

    /// The mesh decides alone from here on.
    pub(crate) fn forget(&self, peer: &NodeId) {
        self.lock().remove(peer);
    }

    /// The map is whole at each step, whoever panicked while holding it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Redial>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId::new([7; 32]);

    #[test]
    fn a_lost_peer_is_dialed_once_by_the_way_that_worked() {
        let redials = Redials::default();
        assert_eq!(redials.lost(PEER), None, "it was never up");
        redials.up(PEER, Some(3));
        let way = redials.lost(PEER).map(|dial| dial.way);
        assert_eq!(way, Some(3));
        assert_eq!(redials.lost(PEER), None, "it was not up again");
        redials.up(PEER, None);
        assert_eq!(redials.lost(PEER), None, "it had dialed itself");
    }

    #[test]
    fn only_the_first_answer_is_brought_in_without_asking() {
        let redials = Redials::default();
        assert!(!redials.answered(PEER), "nobody is awaited");
        redials.await_answer(PEER);
        assert!(redials.answered(PEER));
        assert!(!redials.answered(PEER), "the second asks");
        redials.up(PEER, Some(0));
        redials.lost(PEER);
        redials.up(PEER, None);
        assert!(!redials.answered(PEER), "it has dialed itself meanwhile");
    }
}
