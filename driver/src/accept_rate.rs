//! How fast a listener lets connections in. Pure: time is a parameter.

use std::num::NonZeroU32;
use std::time::Duration;

use selvedge_transport::Instant;

/// So much of the rate may come at once.
const BURST: Duration = Duration::from_millis(100);

/// A leaky bucket, kept as the time at which it has leaked out (the generic cell rate algorithm).
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

    /// Until when nobody is to be let in; `None` if somebody may be now.
    pub(crate) fn pause(&self, now: Instant) -> Option<Instant> {
        let empty_at = self.empty_at?;
        (empty_at > now + BURST).then(|| empty_at - BURST)
    }

    /// So many have come in. They may be more than the rate allows: the pause is longer then.
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
    fn no_more_come_in_than_the_rate_and_one_burst() {
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
        // 10 s of it, a burst of 0.1 s, and the turn that went beyond.
        assert!((10_000..=10_132).contains(&accepted), "{accepted}");
    }

    #[test]
    fn what_was_not_used_does_not_pile_up() {
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
