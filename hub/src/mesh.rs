//! Decides which peer to dial, when, and at which of its addresses. Pure: time and randomness are
//! parameters.

mod peer;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use selvedge_driver::{Instant, NodeId};

use crate::mesh::peer::PeerDialing;

/// An address of a peer to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dial {
    pub(crate) peer: NodeId,
    /// Its index in the peer's list of addresses.
    pub(crate) address: usize,
}

/// The dialing of all wanted peers. Every method ignores a peer that is not wanted.
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    /// Whether a standby path is kept to each peer that this side has dialed.
    keeps_standby: bool,
    peers: BTreeMap<NodeId, PeerDialing>,
}

impl Mesh {
    /// A mesh without peers.
    pub(crate) fn new(keeps_standby: bool) -> Self {
        Self {
            keeps_standby,
            ..Self::default()
        }
    }

    /// Wants a peer with that many addresses, and begins with the address `first`. A peer without
    /// addresses is expected to dial.
    pub(crate) fn add(&mut self, now: Instant, peer: NodeId, address_count: usize, first: usize) {
        let dialing = PeerDialing::new(now, address_count, first, self.keeps_standby);
        self.peers.insert(peer, dialing);
    }

    /// A peer is not wanted any more.
    pub(crate) fn remove(&mut self, peer: &NodeId) {
        self.peers.remove(peer);
    }

    /// An address answered. Returns whether its connection is to be used.
    pub(crate) fn answered(&mut self, now: Instant, dial: Dial) -> bool {
        let peer = self.peers.get_mut(&dial.peer);
        peer.is_some_and(|peer| peer.answered(now, dial.address))
    }

    /// The peer closed a connection before it introduced itself.
    pub(crate) fn refused(&mut self, now: Instant, peer: NodeId, random: f64) {
        self.with(peer, |peer| peer.refused(now, random));
    }

    /// A dial failed.
    pub(crate) fn dial_failed(&mut self, now: Instant, dial: Dial, random: f64) {
        self.with(dial.peer, |peer| {
            peer.dial_failed(now, dial.address, random);
        });
    }

    /// Another node has answered at an address: it is not tried while the peer is up.
    pub(crate) fn answered_by_other(&mut self, dial: Dial) {
        self.with(dial.peer, |peer| peer.answered_by_other(dial.address));
    }

    /// The peer has become reachable, or its messages have moved to another connection.
    pub(crate) fn up(&mut self, now: Instant, peer: NodeId) {
        self.with(peer, |peer| peer.up(now));
    }

    /// A standby path to the peer was attached, or has ended.
    pub(crate) fn standby_changed(&mut self, now: Instant, peer: NodeId, is_attached: bool) {
        self.with(peer, |peer| peer.standby_changed(now, is_attached));
    }

    /// The last connection to the peer has ended: dial at once.
    pub(crate) fn down(&mut self, now: Instant, peer: NodeId) {
        self.with(peer, |peer| peer.down(now));
    }

    /// The peer is down, and the address that was in use is being dialed again.
    pub(crate) fn redialing(&mut self, now: Instant, dial: Dial) {
        self.with(dial.peer, |peer| peer.redialing(now, dial.address));
    }

    /// The peer closed its endpoint: dial after a pause, since it may be shutting down.
    pub(crate) fn closed(&mut self, now: Instant, peer: NodeId, random: f64) {
        self.with(peer, |peer| peer.closed(now, random));
    }

    /// The address in use, if the peer is up and this side dialed.
    pub(crate) fn address_in_use(&self, peer: &NodeId) -> Option<usize> {
        self.peers.get(peer)?.address_in_use()
    }

    /// Whether the peer is being dialed and no address has answered yet.
    pub(crate) fn is_dialing(&self, peer: &NodeId) -> bool {
        self.peers.get(peer).is_some_and(PeerDialing::is_dialing)
    }

    /// The next dial that is due.
    pub(crate) fn poll_dial(&mut self, now: Instant) -> Option<Dial> {
        let mut peers = self.peers.iter_mut();
        peers.find_map(|(&id, peer)| {
            Some(Dial {
                peer: id,
                address: peer.poll_dial(now)?,
            })
        })
    }

    /// When to poll again at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = self.peers.values().filter_map(PeerDialing::poll_timeout);
        timeouts.min()
    }

    fn with(&mut self, peer: NodeId, apply: impl FnOnce(&mut PeerDialing)) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            apply(peer);
        }
    }
}
