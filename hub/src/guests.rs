//! Guests: nodes that are admitted without being wanted peers, and forgotten when they stay away.

use std::collections::BTreeMap;
use std::time::Duration;

use selvedge_driver::{Instant, NodeId};

/// How long a guest may be disconnected before its endpoint ends. Messages for it wait that long. A
/// client that lost its network returns in time: the longest pause between two dials is 10 s.
pub(crate) const AWAY_MAX: Duration = Duration::from_secs(30);

/// The guests. Pure: time is a parameter.
#[derive(Debug)]
pub(crate) struct Guests {
    max: usize,
    /// Since when each guest is disconnected; none if it is connected.
    away_since: BTreeMap<NodeId, Option<Instant>>,
}

impl Guests {
    pub(crate) const fn new(max: usize) -> Self {
        Self {
            max,
            away_since: BTreeMap::new(),
        }
    }

    /// Admits a node that is no guest yet. Returns whether there is room.
    pub(crate) fn admit(&mut self, now: Instant, guest: NodeId) -> bool {
        if self.away_since.len() >= self.max {
            return false;
        }
        // Disconnected until its session is up, so that a guest which never gets there is forgotten.
        self.away_since.insert(guest, Some(now));
        true
    }

    pub(crate) fn is_guest(&self, peer: &NodeId) -> bool {
        self.away_since.contains_key(peer)
    }

    pub(crate) fn up(&mut self, guest: NodeId) {
        self.away_since
            .entry(guest)
            .and_modify(|since| *since = None);
    }

    pub(crate) fn down(&mut self, now: Instant, guest: NodeId) {
        self.away_since
            .entry(guest)
            .and_modify(|since| *since = Some(now));
    }

    pub(crate) fn remove(&mut self, guest: &NodeId) {
        self.away_since.remove(guest);
    }

    /// Removes and returns a guest that has been disconnected for too long.
    pub(crate) fn poll_expired(&mut self, now: Instant) -> Option<NodeId> {
        let expired = |since: &Option<Instant>| since.is_some_and(|at| at + AWAY_MAX <= now);
        let (&guest, _) = self.away_since.iter().find(|(_, since)| expired(since))?;
        self.away_since.remove(&guest);
        Some(guest)
    }

    /// When to poll again at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let since = self.away_since.values().flatten().min()?;
        Some(*since + AWAY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: NodeId = NodeId::new([1; 32]);

    #[test]
    fn guests_are_admitted_up_to_the_maximum_and_leaving_makes_room() {
        let (mut guests, now) = (Guests::new(1), Instant::now());
        assert!(guests.admit(now, GUEST));
        assert!(!guests.admit(now, NodeId::new([2; 32])));
        guests.remove(&GUEST);
        assert!(guests.admit(now, NodeId::new([2; 32])));
    }

    #[test]
    fn a_guest_that_stays_away_is_forgotten_and_one_that_returns_is_not() {
        let (mut guests, now) = (Guests::new(1), Instant::now());
        guests.admit(now, GUEST);
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
