//! Delays further attempts after a wrong token. Pure: time is a parameter.

use std::collections::BTreeMap;
use std::time::Duration;

use selvedge_hub::{Instant, PeerNetwork};

/// The delay after the first wrong token. It is not noticed after a typing mistake.
const DELAY_MIN: Duration = Duration::from_millis(250);

/// The longest delay: 8,640 attempts a day. Longer ones would protect weak tokens better, but keep the
/// other clients of a network away because of one client with a wrong token.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// After so long without a wrong token, the delays of a network begin anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// How many networks are remembered: 300 KiB.
const NETWORKS_MAX: usize = 4096;

/// The wrong tokens of each network. Those of the own host are not counted: behind a local proxy, every
/// client seems to be on it.
#[derive(Debug, Default)]
pub(crate) struct TokenThrottle(BTreeMap<PeerNetwork, WrongTokens>);

#[derive(Debug, Clone, Copy)]
struct WrongTokens {
    count: u32,
    /// Until when attempts are refused.
    until: Instant,
}

impl TokenThrottle {
    /// How long attempts from that network are still refused.
    pub(crate) fn delay(&self, now: Instant, network: PeerNetwork) -> Option<Duration> {
        let until = self.0.get(&network)?.until;
        (until > now).then(|| until.saturating_duration_since(now))
    }

    /// A wrong token was presented.
    pub(crate) fn failed(&mut self, now: Instant, network: PeerNetwork) {
        if network.is_loopback() {
            return;
        }
        if self.0.len() >= NETWORKS_MAX && !self.0.contains_key(&network) {
            let oldest = self.0.iter().min_by_key(|(_, it)| it.until);
            if let Some((&oldest, _)) = oldest {
                self.0.remove(&oldest);
            }
        }
        let wrong = self.0.entry(network).or_insert(WrongTokens {
            count: 0,
            until: now,
        });
        if now >= wrong.until + FORGOTTEN_AFTER {
            wrong.count = 0;
        }
        let delay = DELAY_MIN.saturating_mul(1 << wrong.count.min(16));
        wrong.count += 1;
        wrong.until = now + delay.min(DELAY_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn network(number: u32) -> PeerNetwork {
        IpAddr::from(number.to_be_bytes()).into()
    }

    #[test]
    fn the_delay_doubles_up_to_the_longest_and_begins_anew_after_a_while() {
        let (mut throttle, mut now) = (TokenThrottle::default(), Instant::now());
        let stranger = network(1);
        assert_eq!(throttle.delay(now, stranger), None);
        for millis in [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000] {
            throttle.failed(now, stranger);
            let delay = Duration::from_millis(millis);
            assert_eq!(throttle.delay(now, stranger), Some(delay));
            assert_eq!(throttle.delay(now, network(2)), None);
            now += delay;
            assert_eq!(throttle.delay(now, stranger), None);
        }
        now += FORGOTTEN_AFTER;
        throttle.failed(now, stranger);
        assert_eq!(throttle.delay(now, stranger), Some(DELAY_MIN));
    }

    #[test]
    fn the_own_host_is_not_delayed() {
        let (mut throttle, now) = (TokenThrottle::default(), Instant::now());
        let own = IpAddr::from([127, 0, 0, 1]).into();
        throttle.failed(now, own);
        assert_eq!(throttle.delay(now, own), None);
    }

    #[test]
    fn the_number_of_remembered_networks_is_bounded_and_the_oldest_is_forgotten() {
        let (mut throttle, mut now) = (TokenThrottle::default(), Instant::now());
        for number in 1..=NETWORKS_MAX as u32 + 10 {
            throttle.failed(now, network(number));
            now += Duration::from_millis(1);
        }
        assert_eq!(throttle.0.len(), NETWORKS_MAX);
        assert!(!throttle.0.contains_key(&network(10)));
        assert!(throttle.0.contains_key(&network(11)));
    }
}
