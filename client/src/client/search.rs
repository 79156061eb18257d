//! Finds the nearest of several zippers: the first to answer. Pure: time and answers are inputs.

use std::time::Duration;

use selvedge_hub::{Address, Instant, NodeId};

/// How much later than the first the other addresses of a zipper may answer and still be used.
const SPREAD: Duration = Duration::from_millis(250);

/// The zipper that answered first, and its addresses that answered in time, in the caller's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) node: NodeId,
    pub(super) addresses: Vec<Address>,
}

/// A search. The caller dials every address and reports each result.
#[derive(Debug)]
pub(super) struct Search {
    addresses: Vec<Address>,
    /// Brought forward once the first address has answered.
    deadline: Instant,
    first: Option<NodeId>,
    /// Indices of the addresses at which the first zipper has answered.
    answered: Vec<usize>,
    failures: Vec<String>,
    /// How many dials have not ended.
    pending: usize,
}

impl Search {
    pub(super) fn new(addresses: Vec<Address>, deadline: Instant) -> Self {
        Self {
            pending: addresses.len(),
            addresses,
            deadline,
            first: None,
            answered: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// The dial of the address with the index `at` has ended: with the key of a zipper, or an error.
    pub(super) fn dialed(&mut self, now: Instant, at: usize, result: Result<NodeId, String>) {
        self.pending = self.pending.saturating_sub(1);
        let address = &self.addresses[at];
        match result {
            Ok(node) if *self.first.get_or_insert(node) == node => {
                self.deadline = self.deadline.min(now + SPREAD);
                self.answered.push(at);
            }
            Ok(node) => {
                tracing::debug!(%address, peer = %node, "ignoring a zipper that has answered later")
            }
            Err(error) => self.failures.push(format!("{address}: {error}")),
        }
    }

    /// The result, once nothing more is awaited: the zipper, or why there is none.
    pub(super) fn result(&self, now: Instant) -> Option<Result<Found, String>> {
        if self.pending > 0 && now < self.deadline {
            return None;
        }
        let Some(node) = self.first else {
            let mut failures = self.failures.clone();
            if self.pending > 0 {
                failures.push("the other addresses did not answer in time".into());
            }
            return Some(Err(failures.join("; ")));
        };
        // The order is the caller's: the best first.
        let mut answered = self.answered.clone();
        answered.sort_unstable();
        let addresses = answered.into_iter().map(|at| self.addresses[at].clone());
        let addresses = addresses.collect();
        Some(Ok(Found { node, addresses }))
    }

    /// When [`result`](Self::result) yields something at the latest.
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: NodeId = NodeId::new([1; 32]);
    const FAR: NodeId = NodeId::new([2; 32]);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn address(port: usize) -> Address {
        format!("tcp://127.0.0.1:{port}").parse().expect("one")
    }

    /// A search among addresses with the ports from 1, for a second.
    fn search(count: usize) -> (Search, Instant) {
        let now = Instant::now();
        let addresses = (1..=count).map(address).collect();
        (Search::new(addresses, now + ms(1000)), now)
    }

    fn found(node: NodeId, ports: &[usize]) -> Option<Result<Found, String>> {
        let addresses = ports.iter().copied().map(address).collect();
        Some(Ok(Found { node, addresses }))
    }

    #[test]
    fn the_first_zipper_wins_with_all_its_addresses_that_answer_in_time() {
        let (mut search, begin) = search(5);
        search.dialed(begin + ms(20), 3, Ok(NEAR));
        assert_eq!(search.deadline(), begin + ms(270));
        search.dialed(begin + ms(30), 2, Ok(FAR));
        search.dialed(begin + ms(269), 0, Ok(NEAR));
        assert_eq!(search.deadline(), begin + ms(270));
        assert_eq!(search.result(begin + ms(269)), None);
        // In the order of the caller; the second and the fifth have not answered.
        assert_eq!(search.result(begin + ms(270)), found(NEAR, &[1, 4]));
    }

    #[test]
    fn a_search_ends_as_soon_as_every_dial_has_ended() {
        let (mut search, begin) = search(2);
        search.dialed(begin, 0, Err("refused".into()));
        assert_eq!(search.result(begin), None);
        search.dialed(begin + ms(5), 1, Ok(FAR));
        assert_eq!(search.result(begin + ms(5)), found(FAR, &[2]));
    }

    #[test]
    fn a_late_first_answer_does_not_extend_the_deadline() {
        let (mut search, begin) = search(2);
        search.dialed(begin + ms(900), 0, Ok(NEAR));
        assert_eq!(search.deadline(), begin + ms(1000));
        assert_eq!(search.result(begin + ms(999)), None);
        assert_eq!(search.result(begin + ms(1000)), found(NEAR, &[1]));
    }

    #[test]
    fn without_an_answer_every_failure_is_reported() {
        let (mut search, begin) = search(3);
        search.dialed(begin, 1, Err("refused".into()));
        search.dialed(begin, 0, Err("no route".into()));
        assert_eq!(search.result(begin + ms(999)), None);
        let expected = "tcp://127.0.0.1:2: refused; tcp://127.0.0.1:1: no route; \
                        the other addresses did not answer in time";
        assert_eq!(
            search.result(begin + ms(1000)),
            Some(Err(expected.to_owned()))
        );
        search.dialed(begin + ms(1000), 2, Err("reset".into()));
        let last = search.result(begin + ms(1000)).expect("it has ended");
        assert!(last.is_err_and(|it| it.ends_with("tcp://127.0.0.1:3: reset")));
    }
}
