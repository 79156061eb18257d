//! Limits the rate at which a listener accepts connections. Pure: time is a parameter.

use std::num::NonZeroU32;
use std::time::Duration;

use selvedge_transport::Instant;

/// The share of the rate that may be used at once.
const BURST: Duration = Duration::from_millis(100);

/// A leaky bucket, represented by the time at which it will be empty (the generic cell rate algorithm).
#[derive(Debug)]
pub(crate) struct AcceptRate {
    interval: Duration,
    empty_at: Option<Instant>,
}

impl AcceptRate {
    pub(crate) fn new(per_second: NonZeroU32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.get(),
            empty_at: None,
        }
    }

    /// Until when nothing is to be accepted; `None` if a connection may be accepted now.
    pub(crate) fn pause(&self, now: Instant) -> Option<Instant> {
        let empty_at = self.empty_at?;
        (empty_at > now + BURST).then(|| empty_at - BURST)
    }

    /// Counts accepted connections. If they exceed the rate, the pause is longer.
    pub(crate) fn accepted(&mut self, now: Instant, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let from = self.empty_at.map_or(now, |at| at.max(now));
        self.empty_at = Some(from + self.interval * count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_do_not_exceed_the_rate_and_one_burst() {
        let begin = Instant::now();
        let mut rate = AcceptRate::new(NonZeroU32::new(1000).unwrap());
        let (mut now, mut accepted) = (begin, 0);
        while now < begin + Duration::from_secs(10) {
            match rate.pause(now) {
                Some(until) => {
                    assert!(until > now);
                    now = until;
                }
                None => {
                    rate.accepted(now, 32);
                    accepted += 32;
                }
            }
        }
        // 10 s at the rate, a burst of 0.1 s, and the last batch, which may exceed it.
        assert!((10_000..=10_132).contains(&accepted), "{accepted}");
    }

    #[test]
    fn an_unused_rate_does_not_accumulate() {
        let begin = Instant::now();
        let mut rate = AcceptRate::new(NonZeroU32::new(1000).unwrap());
        rate.accepted(begin, 1);
        let later = begin + Duration::from_secs(3600);
        let at_once = (0..5000).take_while(|_| {
            let may = rate.pause(later).is_none();
            rate.accepted(later, 1);
            may
        });
        assert_eq!(at_once.count(), 101);
    }
}
