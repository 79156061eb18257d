//! Finds the nearest of several zippers: the first to answer. Pure: time, randomness and answers are inputs.

use std::time::Duration;

use selvedge_hub::{Address, Instant, NodeId};

/// How much later than the first a better address of a zipper may answer and still be preferred.
const SPREAD: Duration = Duration::from_millis(250);

/// The pause before an address that has failed is dialed again. It doubles with each failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause, and so the longest time until a zipper that has started is found.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The zipper that answered first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) node: NodeId,
    /// The place of the best of its addresses that has answered.
    pub(super) address: usize,
}

/// A search. The caller dials the addresses that are due and reports each outcome; an address that fails is
/// dialed again until the search ends.
#[derive(Debug)]
pub(super) struct Search {
    targets: Vec<SearchTarget>,
    /// `None` for a search without a limit.
    deadline: Option<Instant>,
    /// The zipper that has answered first, and until when better addresses are awaited.
    first: Option<(NodeId, Instant)>,
    /// The only zipper that the client accepts. Its hub dials it; nothing has to be found.
    pinned: Option<PinnedZipper>,
}

#[derive(Debug)]
struct PinnedZipper {
    node: NodeId,
    /// When the next attempt is due.
    at: Instant,
    failures: u32,
}

#[derive(Debug)]
struct SearchTarget {
    address: Address,
    state: TargetState,
    failures: u32,
    /// The reason of the last failure.
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetState {
    /// To be dialed at that time.
    Waiting(Instant),
    Dialing,
    Answered(NodeId),
    /// It failed, and a retry does not help.
    Hopeless,
}

/// Why a dial failed.
#[derive(Debug, Clone)]
pub(super) struct SearchFailure {
    pub(super) reason: String,
    pub(super) retry_helps: bool,
}

impl SearchTarget {
    fn fail(&mut self, now: Instant, failure: SearchFailure, random: f64) {
        self.reason = Some(failure.reason);
        self.state = match failure.retry_helps {
            true => TargetState::Waiting(now + pause(self.failures, random)),
            false => TargetState::Hopeless,
        };
        self.failures = self.failures.saturating_add(1);
    }
}

/// Drawn from its upper half by `random` (0 to 1), so that many clients do not dial at once.
fn pause(failures: u32, random: f64) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(1 << failures.min(16));
    doubled.min(PAUSE_MAX).mul_f64(random.mul_add(0.5, 0.5))
}

impl Search {
    pub(super) fn new(now: Instant, addresses: &[Address], deadline: Option<Instant>) -> Self {
        let target = |address: &Address| SearchTarget {
            address: address.clone(),
            state: TargetState::Waiting(now),
            failures: 0,
            reason: None,
        };
        Self {
            targets: addresses.iter().map(target).collect(),
            deadline,
            first: None,
            pinned: None,
        }
    }

    /// A search for the zipper with that key, which is found at once.
    pub(super) fn pinned(
        now: Instant,
        node: NodeId,
        addresses: &[Address],
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            pinned: Some(PinnedZipper {
                node,
                at: now,
                failures: 0,
            }),
            ..Self::new(now, addresses, deadline)
        }
    }

    /// The place of an address to dial now, if one is due.
    pub(super) fn poll_dial(&mut self, now: Instant) -> Option<usize> {
        if self.first.is_some() || self.pinned.is_some() {
            return None;
        }
        let is_due =
            |target: &SearchTarget| matches!(target.state, TargetState::Waiting(at) if at <= now);
        let at = self.targets.iter().position(is_due)?;
        self.targets[at].state = TargetState::Dialing;
        Some(at)
    }

    /// The dial of the address at that place has ended: with the key of a zipper, or an error.
    pub(super) fn dialed(
        &mut self,
        now: Instant,
        at: usize,
        result: Result<NodeId, SearchFailure>,
        random: f64,
    ) {
        let target = &mut self.targets[at];
        match result {
            Ok(node) => {
                target.state = TargetState::Answered(node);
                let until = now + SPREAD;
                let until = self.deadline.map_or(until, |deadline| until.min(deadline));
                let (first, _) = *self.first.get_or_insert((node, until));
                if first != node {
                    let address = &target.address;
                    tracing::debug!(%address, peer = %node, "another zipper has answered later");
                }
            }
            Err(failure) => target.fail(now, failure, random),
        }
    }

    /// The zipper that was found has not admitted the client: the search goes on, and its addresses are
    /// dialed again after a pause.
    pub(super) fn not_admitted(&mut self, now: Instant, node: NodeId, reason: &str, random: f64) {
        self.first = None;
        if let Some(pinned) = &mut self.pinned {
            pinned.at = now + pause(pinned.failures, random);
            pinned.failures = pinned.failures.saturating_add(1);
        }
        for target in &mut self.targets {
            match target.state {
                TargetState::Answered(found) if found == node => {
                    let failure = SearchFailure {
                        reason: reason.to_owned(),
                        retry_helps: true,
                    };
                    target.fail(now, failure, random);
                }
                TargetState::Answered(_) => target.state = TargetState::Waiting(now),
                _ => {}
            }
        }
    }

    /// The result, once it is known: a zipper, or why there is none.
    pub(super) fn result(&self, now: Instant) -> Option<Result<Found, String>> {
        let mut states = self.targets.iter().map(|target| target.state);
        if let Some((node, until)) = self.first {
            let is_over = now >= until || !states.any(|state| state == TargetState::Dialing);
            let answer = TargetState::Answered(node);
            let address = self.targets.iter().position(|it| it.state == answer)?;
            return is_over.then_some(Ok(Found { node, address }));
        }
        let is_over = self.deadline.is_some_and(|deadline| now >= deadline);
        if let Some(pinned) = &self.pinned {
            let (node, address) = (pinned.node, 0);
            let found = (now >= pinned.at).then_some(Ok(Found { node, address }));
            return found.or_else(|| is_over.then(|| Err(self.failures())));
        }
        let is_hopeless = states.all(|state| state == TargetState::Hopeless);
        (is_over || is_hopeless).then(|| Err(self.failures()))
    }

    /// Why no address has answered.
    pub(super) fn failures(&self) -> String {
        let reason = |target: &SearchTarget| {
            let reason = target.reason.as_deref().unwrap_or("no answer yet");
            format!("{}: {reason}", target.address)
        };
        let reasons: Vec<String> = self.targets.iter().map(reason).collect();
        reasons.join("; ")
    }

    /// Whether every address has failed at least once, and no zipper is found.
    pub(super) fn has_failed_everywhere(&self) -> bool {
        self.first.is_none() && self.targets.iter().all(|target| target.failures > 0)
    }

    /// When to call [`poll_dial`](Self::poll_dial) and [`result`](Self::result) again at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if let Some((_, until)) = self.first {
            return Some(until);
        }
        if let Some(pinned) = &self.pinned {
            return self.deadline.into_iter().chain([pinned.at]).min();
        }
        let waiting = |target: &SearchTarget| match target.state {
            TargetState::Waiting(at) => Some(at),
            _ => None,
        };
        let due = self.targets.iter().filter_map(waiting);
        due.chain(self.deadline).min()
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

    /// A search among addresses with the ports from 1, all of which are being dialed.
    fn search(count: usize, limit: Option<Duration>) -> (Search, Instant) {
        let now = Instant::now();
        let addresses: Vec<Address> = (1..=count).map(address).collect();
        let mut search = Search::new(now, &addresses, limit.map(|limit| now + limit));
        assert_eq!(due(&mut search, now), (0..count).collect::<Vec<_>>());
        (search, now)
    }

    fn due(search: &mut Search, now: Instant) -> Vec<usize> {
        std::iter::from_fn(|| search.poll_dial(now)).collect()
    }

    fn failure(reason: &str) -> Result<NodeId, SearchFailure> {
        Err(SearchFailure {
            reason: reason.to_owned(),
            retry_helps: true,
        })
    }

    fn found(node: NodeId, address: usize) -> Option<Result<Found, String>> {
        Some(Ok(Found { node, address }))
    }

    #[test]
    fn the_first_zipper_wins_and_the_best_of_its_addresses_that_answer_in_time_is_used() {
        let (mut search, begin) = search(5, Some(ms(1000)));
        search.dialed(begin + ms(20), 3, Ok(NEAR), 1.0);
        assert_eq!(search.poll_timeout(), Some(begin + ms(270)));
        search.dialed(begin + ms(30), 2, Ok(FAR), 1.0);
        search.dialed(begin + ms(269), 1, Ok(NEAR), 1.0);
        assert_eq!(search.poll_timeout(), Some(begin + ms(270)));
        assert_eq!(search.result(begin + ms(269)), None);
        assert_eq!(search.result(begin + ms(270)), found(NEAR, 1));
    }

    #[test]
    fn a_search_ends_as_soon_as_one_has_answered_and_no_dial_is_under_way() {
        let (mut search, begin) = search(2, Some(ms(1000)));
        search.dialed(begin, 0, failure("refused"), 1.0);
        assert_eq!(search.result(begin), None);
        search.dialed(begin + ms(5), 1, Ok(FAR), 1.0);
        assert_eq!(search.result(begin + ms(5)), found(FAR, 1));
    }

    #[test]
    fn a_late_first_answer_does_not_extend_the_deadline() {
        let (mut search, begin) = search(2, Some(ms(1000)));
        search.dialed(begin + ms(900), 0, Ok(NEAR), 1.0);
        assert_eq!(search.poll_timeout(), Some(begin + ms(1000)));
        assert_eq!(search.result(begin + ms(999)), None);
        assert_eq!(search.result(begin + ms(1000)), found(NEAR, 0));
    }

    #[test]
    fn without_an_answer_every_failure_is_reported() {
        let (mut search, begin) = search(3, Some(ms(1000)));
        search.dialed(begin, 1, failure("refused"), 1.0);
        search.dialed(begin, 0, failure("no route"), 1.0);
        assert_eq!(search.result(begin + ms(999)), None);
        let expected = "tcp://127.0.0.1:1: no route; tcp://127.0.0.1:2: refused; \
                        tcp://127.0.0.1:3: no answer yet";
        assert_eq!(
            search.result(begin + ms(1000)),
            Some(Err(expected.to_owned()))
        );
    }

    #[test]
    fn a_refused_address_is_dialed_again_after_growing_pauses_until_a_zipper_is_up() {
        for limit in [None, Some(Duration::from_secs(60))] {
            let (mut search, mut now) = search(1, limit);
            let mut pauses = Vec::new();
            for _ in 0..7 {
                search.dialed(now, 0, failure("refused"), 1.0);
                assert!(search.has_failed_everywhere());
                assert_eq!(search.result(now), None);
                assert_eq!(due(&mut search, now), [0; 0]);
                let later = search.poll_timeout().expect("it is dialed again");
                pauses.push((later - now).as_millis());
                now = later;
                assert_eq!(due(&mut search, now), [0]);
            }
            assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
            search.dialed(now, 0, Ok(NEAR), 1.0);
            assert_eq!(search.result(now), found(NEAR, 0));
        }
    }

    #[test]
    fn a_search_without_limit_does_not_end_without_a_zipper() {
        let (mut search, begin) = search(1, None);
        search.dialed(begin, 0, failure("refused"), 1.0);
        assert_eq!(search.result(begin + Duration::from_secs(1 << 20)), None);
    }

    #[test]
    fn a_search_ends_at_once_if_a_retry_helps_nowhere() {
        let (mut search, begin) = search(2, None);
        for at in 0..2 {
            let failure = SearchFailure {
                reason: "wrong kind of place".into(),
                retry_helps: false,
            };
            assert_eq!(search.result(begin), None);
            search.dialed(begin, at, Err(failure), 1.0);
        }
        assert!(search.result(begin).is_some_and(|result| result.is_err()));
    }

    #[test]
    fn a_zipper_that_is_given_by_its_key_is_not_searched_and_tried_again_after_a_pause() {
        let (now, addresses) = (Instant::now(), [address(1)]);
        let mut search = Search::pinned(now, FAR, &addresses, Some(now + ms(150)));
        assert_eq!(due(&mut search, now), [0; 0]);
        assert_eq!(search.result(now), found(FAR, 0));
        search.not_admitted(now, FAR, "full", 1.0);
        assert_eq!(search.result(now + ms(99)), None);
        assert_eq!(search.poll_timeout(), Some(now + ms(100)));
        assert_eq!(search.result(now + ms(100)), found(FAR, 0));
        search.not_admitted(now + ms(100), FAR, "full", 1.0);
        assert!(
            search
                .result(now + ms(150))
                .is_some_and(|result| result.is_err())
        );
    }

    #[test]
    fn another_zipper_is_used_if_the_first_does_not_admit_the_client() {
        let (mut search, begin) = search(2, None);
        search.dialed(begin, 0, Ok(NEAR), 1.0);
        search.dialed(begin, 1, Ok(FAR), 1.0);
        assert_eq!(search.result(begin), found(NEAR, 0));
        search.not_admitted(begin, NEAR, "full", 1.0);
        assert_eq!(due(&mut search, begin), [1], "the other one, at once");
        search.dialed(begin + ms(1), 1, Ok(FAR), 1.0);
        assert_eq!(search.result(begin + ms(1)), found(FAR, 1));
        search.not_admitted(begin + ms(1), FAR, "full", 1.0);
        assert_eq!(due(&mut search, begin + ms(100)), [0], "after its pause");
        assert!(search.failures().contains("tcp://127.0.0.1:2: full"));
    }
}
