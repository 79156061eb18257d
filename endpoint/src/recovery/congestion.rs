//! Congestion control: CUBIC (RFC 9438), with the loss and recovery rules of RFC 9002.

use std::time::Duration;

use selvedge_transport::Instant;

/// The unit of the window: a full datagram, in bytes.
pub(super) const SEGMENT: u64 = 1200;

/// The initial and the minimum window: RFC 9002, section 7.2.
const INITIAL_WINDOW: u64 = 10 * SEGMENT;
const MIN_WINDOW: u64 = 2 * SEGMENT;

/// RFC 9438, sections 4.1 and 4.6: the growth factor, and the window's share that remains after a loss.
const C: f64 = 0.4;
const BETA: f64 = 0.7;
/// RFC 9438, section 4.3: with this increase the window equals that of Reno on average.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// The congestion window of one path, in bytes.
///
/// ```text
///              loss                     no new loss
///  SlowStart ────────▶ (× 0.7) Recovery ─────────────▶ Avoidance ──┐
///     window < threshold         ▲                                 │ loss
///                                └─────────────────────────────────┘
/// ```
/// Losses of packets that were sent before the last reduction do not reduce it again.
#[derive(Debug)]
pub(super) struct Congestion {
    window: f64,
    /// The slow start threshold: below it the window doubles each round trip.
    threshold: f64,
    /// The window before the last reductions.
    max: f64,
    /// The window that Reno would have.
    estimate: f64,
    /// The time of the last reduction: packets sent before it are in recovery.
    reduced_at: Option<Instant>,
    /// When congestion avoidance began after the last reduction.
    epoch: Option<Instant>,
}

impl Congestion {
    pub(super) const fn new() -> Self {
        Self {
            window: INITIAL_WINDOW as f64,
            threshold: f64::INFINITY,
            max: 0.0,
            estimate: 0.0,
            reduced_at: None,
            epoch: None,
        }
    }

    pub(super) const fn window(&self) -> u64 {
        self.window as u64
    }

    fn is_in_recovery(&self, sent_at: Instant) -> bool {
        self.reduced_at.is_some_and(|reduced| sent_at <= reduced)
    }

    /// A packet of `bytes` was acknowledged.
    pub(super) fn acked(&mut self, now: Instant, sent_at: Instant, bytes: u64, rtt: Duration) {
        if self.is_in_recovery(sent_at) {
            return;
        }
        let bytes = bytes as f64;
        if self.window < self.threshold {
            self.window += bytes;
            return;
        }
        let segment = SEGMENT as f64;
        let epoch = *self.epoch.get_or_insert(now);
        let elapsed = now.saturating_duration_since(epoch);
        self.estimate += ALPHA * segment * bytes / self.window;
        let cubic = |after: Duration| {
            let to_max = ((self.max - self.threshold) / segment / C).max(0.0).cbrt();
            C * segment * (after.as_secs_f64() - to_max).powi(3) + self.max
        };
        if cubic(elapsed) < self.estimate {
            self.window = self.window.max(self.estimate);
        } else {
            // Not `clamp`: its panic formats numbers, which alone is 8 KB of a wasm32 module after gzip.
            let target = cubic(elapsed + rtt).max(self.window).min(1.5 * self.window);
            self.window += (target - self.window) * bytes / self.window;
        }
    }

    /// A packet was lost.
    pub(super) fn lost(&mut self, now: Instant, sent_at: Instant) {
        if self.is_in_recovery(sent_at) {
            return;
        }
        self.reduced_at = Some(now);
        self.epoch = None;
        // Fast convergence (RFC 9438, section 4.7): leave room for new connections.
        self.max = if self.window < self.max {
            self.window * (1.0 + BETA) / 2.0
        } else {
            self.window
        };
        self.window = (self.window * BETA).max(MIN_WINDOW as f64);
        self.threshold = self.window;
        self.estimate = self.window;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    /// One round trip without loss.
    fn round(congestion: &mut Congestion, now: &mut Instant) {
        let sent_at = *now;
        *now += RTT;
        for _ in 0..congestion.window() / SEGMENT {
            congestion.acked(*now, sent_at, SEGMENT, RTT);
        }
    }

    #[test]
    fn the_window_doubles_until_the_first_loss() {
        let (mut congestion, mut now) = (
            Congestion::new(),
            Instant::from_origin(Duration::from_secs(1)),
        );
        for doublings in 1..5 {
            round(&mut congestion, &mut now);
            assert_eq!(congestion.window(), INITIAL_WINDOW << doublings);
        }
        congestion.lost(now, now);
        assert_eq!(congestion.window(), (INITIAL_WINDOW << 4) * 7 / 10);
    }

    #[test]
    fn losses_of_one_round_trip_count_once() {
        let (mut congestion, mut now) = (
            Congestion::new(),
            Instant::from_origin(Duration::from_secs(1)),
        );
        round(&mut congestion, &mut now);
        let sent_at = now;
        now += RTT;
        congestion.lost(now, sent_at);
        let reduced = congestion.window();
        congestion.lost(now + RTT / 2, sent_at);
        assert_eq!(congestion.window(), reduced);
        congestion.lost(now + RTT, now + RTT / 2);
        assert!(congestion.window() < reduced);
    }

    #[test]
    fn the_window_recovers_to_its_size_before_the_loss_and_exceeds_it() {
        let (mut congestion, mut now) = (
            Congestion::new(),
            Instant::from_origin(Duration::from_secs(1)),
        );
        for _ in 0..6 {
            round(&mut congestion, &mut now);
        }
        let before = congestion.window();
        congestion.lost(now, now);
        now += Duration::from_millis(1);
        let mut windows = Vec::new();
        for _ in 0..200 {
            round(&mut congestion, &mut now);
            windows.push(congestion.window());
        }
        assert!(windows.is_sorted());
        let recovered = windows.iter().position(|&window| window >= before);
        // K = cbrt(0.3 * 640 / 0.4) = 7.8 s, or 156 round trips; Reno's estimate is slower here.
        assert!(
            recovered.is_some_and(|rounds| (100..190).contains(&rounds)),
            "{recovered:?}"
        );
    }

    #[test]
    fn the_window_never_falls_below_two_segments() {
        let (mut congestion, mut now) = (
            Congestion::new(),
            Instant::from_origin(Duration::from_secs(1)),
        );
        for _ in 0..100 {
            congestion.lost(now, now);
            now += RTT;
        }
        assert_eq!(congestion.window(), MIN_WINDOW);
    }
}
