//! Decides when a client moves to another zipper, and to which. Pure: time is an input.

use std::time::Duration;

use selvedge_hub::{Instant, NodeId};

use crate::client::search::Found;

/// How long a lost zipper may take to return before the client moves to another one. A move costs the
/// session, and so the certainty about unacknowledged messages; most lost connections return within
/// milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The zipper of a client, and the others that have answered while it could not be reached.
#[derive(Debug, Default)]
pub(super) struct Failover {
    away: Option<Away>,
}

#[derive(Debug)]
struct Away {
    /// Until when the client waits for its zipper.
    until: Instant,
    /// The first to answer first.
    others: Vec<Found>,
}

impl Failover {
    /// The zipper is connected.
    pub(super) fn up(&mut self) {
        self.away = None;
    }

    /// The connection to the zipper is lost.
    pub(super) fn down(&mut self, now: Instant) {
        self.away.get_or_insert_with(|| Away {
            until: now + PATIENCE,
            others: Vec::new(),
        });
    }

    /// The zipper has closed the connection: it is shutting down, or does not want this client.
    pub(super) fn left(&mut self, now: Instant) {
        self.down(now);
        if let Some(away) = &mut self.away {
            away.until = away.until.min(now);
        }
    }

    /// Another zipper has answered.
    pub(super) fn found(&mut self, found: Found) {
        if let Some(away) = &mut self.away
            && away.others.iter().all(|it| it.node != found.node)
        {
            away.others.push(found);
        }
    }

    /// Another zipper has not admitted the client. It is a candidate again once it answers again.
    pub(super) fn not_admitted(&mut self, node: NodeId) {
        if let Some(away) = &mut self.away {
            away.others.retain(|it| it.node != node);
        }
    }

    /// The zipper to move to now, if there is one.
    pub(super) fn candidate(&self, now: Instant) -> Option<&Found> {
        let away = self.away.as_ref()?;
        away.others.first().filter(|_| now >= away.until)
    }

    /// When to call [`candidate`](Self::candidate) again at the latest.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let away = self.away.as_ref()?;
        (!away.others.is_empty() && now < away.until).then_some(away.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(number: u8) -> Found {
        Found {
            node: NodeId::new([number; 32]),
            address: number as usize,
        }
    }

    #[test]
    fn a_client_moves_to_the_zipper_that_answered_first_once_its_own_was_away_for_long() {
        let (mut failover, begin) = (Failover::default(), Instant::now());
        failover.down(begin);
        assert_eq!(failover.poll_timeout(begin), None, "nothing has answered");
        for number in [2, 1, 2] {
            failover.found(found(number));
        }
        assert_eq!(failover.candidate(begin), None);
        let until = begin + PATIENCE;
        assert_eq!(failover.poll_timeout(begin), Some(until));
        failover.down(begin + PATIENCE / 2);
        assert_eq!(failover.candidate(until), Some(&found(2)));
        assert_eq!(failover.poll_timeout(until), None);
    }

    #[test]
    fn a_zipper_that_returns_in_time_keeps_its_client() {
        let (mut failover, begin) = (Failover::default(), Instant::now());
        failover.down(begin);
        failover.found(found(1));
        failover.up();
        assert_eq!(failover.candidate(begin + PATIENCE), None);
        // What was found before counts no more.
        failover.down(begin + PATIENCE);
        assert_eq!(failover.candidate(begin + 2 * PATIENCE), None);
    }

    #[test]
    fn a_client_that_is_closed_by_its_zipper_moves_at_once() {
        let (mut failover, begin) = (Failover::default(), Instant::now());
        failover.left(begin);
        failover.found(found(1));
        assert_eq!(failover.candidate(begin), Some(&found(1)));
        let mut failover = Failover::default();
        failover.down(begin);
        failover.found(found(1));
        failover.left(begin);
        assert_eq!(failover.candidate(begin), Some(&found(1)));
    }

    #[test]
    fn a_zipper_that_does_not_admit_the_client_is_followed_by_the_next() {
        let (mut failover, begin) = (Failover::default(), Instant::now());
        failover.left(begin);
        failover.found(found(1));
        failover.found(found(2));
        failover.not_admitted(found(1).node);
        assert_eq!(failover.candidate(begin), Some(&found(2)));
        failover.not_admitted(found(2).node);
        assert_eq!(failover.candidate(begin), None);
        failover.found(found(1));
        assert_eq!(failover.candidate(begin), Some(&found(1)));
    }
}
