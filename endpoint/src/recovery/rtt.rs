//! Estimates the round trip time: RFC 9002, section 5.

use std::time::Duration;

/// The estimate before the first sample (RFC 9002, section 6.2.2).
const INITIAL_RTT: Duration = Duration::from_millis(333);

/// The assumed granularity of timers (RFC 9002, section 6.1.2).
pub(super) const GRANULARITY: Duration = Duration::from_millis(1);

/// How long a peer may delay its acknowledgement of packets. Both sides of a session use the same
/// limit.
pub(super) const PACKET_ACK_DELAY_MAX: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Rtt {
    sample: Option<RttSample>,
}

#[derive(Debug, Clone, Copy)]
struct RttSample {
    latest: Duration,
    smoothed: Duration,
    variation: Duration,
    min: Duration,
}

impl Rtt {
    /// A packet was acknowledged `latest` after it was sent; the peer delayed its acknowledgement by
    /// `delay`.
    pub(super) fn update(&mut self, latest: Duration, delay: Duration) {
        let Some(sample) = &mut self.sample else {
            self.sample = Some(RttSample {
                latest,
                smoothed: latest,
                variation: latest / 2,
                min: latest,
            });
            return;
        };
        sample.latest = latest;
        sample.min = sample.min.min(latest);
        let delay = delay.min(PACKET_ACK_DELAY_MAX);
        let adjusted = if latest >= sample.min + delay {
            latest - delay
        } else {
            latest
        };
        sample.variation = (sample.variation * 3 + sample.smoothed.abs_diff(adjusted)) / 4;
        sample.smoothed = (sample.smoothed * 7 + adjusted) / 8;
    }

    pub(super) fn smoothed(&self) -> Duration {
        self.sample.map_or(INITIAL_RTT, |sample| sample.smoothed)
    }

    /// How long to wait for an acknowledgement before a probe is sent (RFC 9002, section 6.2.1).
    pub(super) fn probe_timeout(&self) -> Duration {
        let variation = self
            .sample
            .map_or(INITIAL_RTT / 2, |sample| sample.variation);
        self.smoothed() + (variation * 4).max(GRANULARITY) + PACKET_ACK_DELAY_MAX
    }

    /// A packet sent this long before an acknowledged one is lost (RFC 9002, section 6.1.2).
    pub(super) fn loss_delay(&self) -> Duration {
        let latest = self.sample.map_or(INITIAL_RTT, |sample| sample.latest);
        (latest.max(self.smoothed()) * 9 / 8).max(GRANULARITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn on_a_steady_path_the_estimate_is_exact_and_the_variation_falls() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.probe_timeout(), ms(333) + ms(333) * 2 + ms(20));
        for _ in 0..50 {
            rtt.update(ms(80), ms(0));
        }
        assert_eq!(rtt.smoothed(), ms(80));
        assert_eq!(rtt.probe_timeout(), ms(101));
        assert_eq!(rtt.loss_delay(), ms(90));
    }

    #[test]
    fn the_reported_delay_is_subtracted_but_never_below_the_minimum() {
        let mut rtt = Rtt::default();
        rtt.update(ms(80), ms(0));
        rtt.update(ms(96), ms(16));
        assert_eq!(rtt.smoothed(), ms(80));
        rtt.update(ms(80), ms(16));
        assert_eq!(rtt.smoothed(), ms(80));
        rtt.update(ms(200), ms(1000));
        assert_eq!(rtt.smoothed(), (ms(80) * 7 + ms(180)) / 8);
    }
}
