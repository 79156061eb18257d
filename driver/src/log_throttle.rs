//! Limits how often an event that unauthenticated peers can cause is logged. Pure: time is a parameter.

use std::time::Duration;

use selvedge_transport::Instant;

const PERIOD: Duration = Duration::from_secs(1);

/// Counts an event and permits one log line a second.
#[derive(Debug, Default)]
pub struct LogThrottle {
    count: u64,
    logged_at: Option<Instant>,
}

impl LogThrottle {
    /// Counts one occurrence. Returns the total if it is to be logged now.
    pub fn record(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.logged_at.is_some_and(|at| now < at + PERIOD) {
            return None;
        }
        self.logged_at = Some(now);
        Some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_occurrence_is_logged_at_once_and_later_ones_with_their_count() {
        let (begin, mut throttle) = (Instant::now(), LogThrottle::default());
        let after = |millis| begin + Duration::from_millis(millis);
        let logged = [0, 0, 999, 1000, 1001, 5000].map(|millis| throttle.record(after(millis)));
        assert_eq!(logged, [Some(1), None, None, Some(4), None, Some(6)]);
    }
}
