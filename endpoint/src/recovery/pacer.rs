//! Paces a congestion window over a round trip (RFC 9002, section 7.7), so that no burst overflows the
//! queue of a link.

use std::time::Duration;

use selvedge_transport::Instant;

use super::congestion::SEGMENT;

/// The burst size: the bytes that the rate permits in 2 ms, the tick of a worker that sleeps in
/// `epoll_wait` (whole milliseconds), within these bounds.
const BURST: Duration = Duration::from_millis(2);
const BURST_MIN: u64 = 10 * SEGMENT;
const BURST_MAX: u64 = 256 * SEGMENT;

/// A token bucket that is refilled at 1.25 windows per round trip.
#[derive(Debug)]
pub(super) struct Pacer {
    tokens: u64,
    refilled_at: Instant,
}

impl Pacer {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            tokens: BURST_MIN,
            refilled_at: now,
        }
    }

    /// When the next packet may be sent; `None` if it may be sent now.
    pub(super) fn next_send(
        &mut self,
        now: Instant,
        window: u64,
        rtt: Duration,
    ) -> Option<Instant> {
        let rate = 1.25 * window as f64 / rtt.as_secs_f64().max(1e-6);
        let burst = ((rate * BURST.as_secs_f64()) as u64).clamp(BURST_MIN, BURST_MAX);
        let elapsed = now.saturating_duration_since(self.refilled_at);
        let refill = (rate * elapsed.as_secs_f64()) as u64;
        if refill >= SEGMENT || self.tokens + refill >= burst {
            self.tokens = (self.tokens + refill).min(burst);
            self.refilled_at = now;
        }
        if self.tokens >= SEGMENT {
            return None;
        }
        let missing = (burst / 2).max(SEGMENT) - self.tokens;
        Some(self.refilled_at + Duration::from_secs_f64(missing as f64 / rate))
    }

    pub(super) const fn sent(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_spread_over_most_of_a_round_trip() {
        let (window, rtt) = (1000 * SEGMENT, Duration::from_millis(100));
        let begin = Instant::from_origin(Duration::from_secs(1));
        let (mut now, mut pacer) = (begin, Pacer::new(begin));
        for _ in 0..1000 {
            while let Some(at) = pacer.next_send(now, window, rtt) {
                assert!(at > now);
                now = at;
            }
            pacer.sent(SEGMENT);
        }
        let elapsed = now - begin;
        assert!(elapsed > Duration::from_millis(75), "{elapsed:?}");
        assert!(elapsed <= Duration::from_millis(82), "{elapsed:?}");
    }

    #[test]
    fn unused_capacity_does_not_accumulate() {
        let (window, rtt) = (1000 * SEGMENT, Duration::from_millis(100));
        let begin = Instant::from_origin(Duration::from_secs(1));
        let mut pacer = Pacer::new(begin);
        let now = begin + Duration::from_secs(60);
        let at_once = (0..10_000).take_while(|_| {
            let is_sent = pacer.next_send(now, window, rtt).is_none();
            pacer.sent(SEGMENT);
            is_sent
        });
        assert_eq!(at_once.count(), 25, "2 ms of 12.5 segments a ms");
    }
}
