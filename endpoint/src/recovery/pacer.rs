//! Spreads a window over its round trip (RFC 9002, section 7.7), so that no burst drowns a link.

use std::time::Duration;

use selvedge_transport::Instant;

use super::congestion::SEGMENT;

/// What may leave at once: what the rate gives in 2 ms, the tick of a worker that sleeps in
/// `epoll_wait` (whole milliseconds), within these bounds.
const BURST: Duration = Duration::from_millis(2);
const BURST_MIN: u64 = 10 * SEGMENT;
const BURST_MAX: u64 = 256 * SEGMENT;

/// A bucket that fills at 1.25 windows a round trip.
#[derive(Debug)]
pub(super) struct Pacer {
    tokens: u64,
    filled_at: Instant,
}

impl Pacer {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            tokens: BURST_MIN,
            filled_at: now,
        }
    }

    /// When the next packet may leave; `None` for now.
    pub(super) fn wait(&mut self, now: Instant, window: u64, rtt: Duration) -> Option<Instant> {
        let rate = 1.25 * window as f64 / rtt.as_secs_f64().max(1e-6);
        let burst = ((rate * BURST.as_secs_f64()) as u64).clamp(BURST_MIN, BURST_MAX);
        let elapsed = now.saturating_duration_since(self.filled_at);
        let grown = (rate * elapsed.as_secs_f64()) as u64;
        if grown >= SEGMENT || self.tokens + grown >= burst {
            self.tokens = (self.tokens + grown).min(burst);
            self.filled_at = now;
        }
        if self.tokens >= SEGMENT {
            return None;
        }
        let missing = (burst / 2).max(SEGMENT) - self.tokens;
        Some(self.filled_at + Duration::from_secs_f64(missing as f64 / rate))
    }

    pub(super) const fn sent(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_most_of_its_round_trip() {
        let (window, rtt) = (1000 * SEGMENT, Duration::from_millis(100));
        let begin = Instant::from_origin(Duration::from_secs(1));
        let (mut now, mut pacer) = (begin, Pacer::new(begin));
        for _ in 0..1000 {
            while let Some(at) = pacer.wait(now, window, rtt) {
                assert!(at > now);
                now = at;
            }
            pacer.sent(SEGMENT);
        }
        let taken = now - begin;
        assert!(taken > Duration::from_millis(75), "{taken:?}");
        assert!(taken <= Duration::from_millis(82), "{taken:?}");
    }

    #[test]
    fn what_was_not_used_does_not_pile_up() {
        let (window, rtt) = (1000 * SEGMENT, Duration::from_millis(100));
        let begin = Instant::from_origin(Duration::from_secs(1));
        let mut pacer = Pacer::new(begin);
        let now = begin + Duration::from_secs(60);
        let at_once = (0..10_000).take_while(|_| {
            let goes = pacer.wait(now, window, rtt).is_none();
            pacer.sent(SEGMENT);
            goes
        });
        assert_eq!(at_once.count(), 25, "2 ms of 12.5 segments a ms");
    }
}
