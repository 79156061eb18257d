//! Nodes that nobody has asked for: let in while there is room, forgotten when they stay away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use selvedge_driver::NodeId;

/// How long a guest may stay away before its endpoint ends. A client that lost its network is back
/// within it (10 s is the longest pause between two dials); messages for it wait so long.
pub(crate) const AWAY_MAX: Duration = Duration::from_secs(30);

/// Who is here, and since when who is away. Pure.
#[derive(Debug)]
pub(crate) struct Guests {
    max: usize,
    away: BTreeMap<NodeId, Option<Instant>>,
}

impl Guests {
    pub(crate) const fn new(max: usize) -> Self {
        Self {
            max,
            away: BTreeMap::new(),
        }
    }

    /// A node that is no guest yet comes. Returns whether there is room.
    pub(crate) fn let_in(&mut self, now: Instant, guest: NodeId) -> bool {
        if self.away.len() >= self.max {
            return false;
        }
        // Away until its connection is up: one that never gets there is forgotten too.
        self.away.insert(guest, Some(now));
        true
    }

    pub(crate) fn is_guest(&self, peer: &NodeId) -> bool {
        self.away.contains_key(peer)
    }

    pub(crate) fn up(&mut self, guest: NodeId) {
        self.away.entry(guest).and_modify(|away| *away = None);
    }

    pub(crate) fn down(&mut self, now: Instant, guest: NodeId) {
        self.away.entry(guest).and_modify(|away| *away = Some(now));
    }

    pub(crate) fn remove(&mut self, guest: &NodeId) {
        self.away.remove(guest);
    }

    /// The next guest that has been away for too long; it is no guest any more.
    pub(crate) fn poll_expired(&mut self, now: Instant) -> Option<NodeId> {
        let expired = |since: &Option<Instant>| since.is_some_and(|at| at + AWAY_MAX <= now);
        let (&guest, _) = self.away.iter().find(|(_, since)| expired(since))?;
        self.away.remove(&guest);
        Some(guest)
    }

    /// When to poll again at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let since = self.away.values().flatten().min()?;
        Some(*since + AWAY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: NodeId = NodeId::new([1; 32]);

    #[test]
    fn there_is_room_for_so_many_and_leaving_makes_room() {
        let (mut guests, now) = (Guests::new(1), Instant::now());
        assert!(guests.let_in(now, GUEST));
        assert!(!guests.let_in(now, NodeId::new([2; 32])));
        guests.remove(&GUEST);
        assert!(guests.let_in(now, NodeId::new([2; 32])));
    }

    #[test]
    fn a_guest_that_stays_away_is_forgotten_and_one_that_returns_is_not() {
        let (mut guests, now) = (Guests::new(1), Instant::now());
        guests.let_in(now, GUEST);
        guests.up(GUEST);
        assert_eq!(guests.poll_timeout(), None);
        guests.down(now, GUEST);
        assert_eq!(guests.poll_timeout(), Some(now + AWAY_MAX));
        guests.up(GUEST);
        assert_eq!(guests.poll_expired(now + AWAY_MAX), None);
        guests.down(now, GUEST);
        assert_eq!(guests.poll_expired(now + AWAY_MAX), Some(GUEST));
        assert!(!guests.is_guest(&GUEST));
    }
}
