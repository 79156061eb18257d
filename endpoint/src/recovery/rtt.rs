//! How long a round trip takes: RFC 9002, section 5.

use std::time::Duration;

/// What is assumed before the first sample (RFC 9002, section 6.2.2).
const INITIAL: Duration = Duration::from_millis(333);

/// Timers are not trusted to be finer than this (RFC 9002, section 6.1.2).
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
    /// A packet was seen `latest` after it was sent; the peer held its answer back for `delay`.
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
        self.sample.map_or(INITIAL, |sample| sample.smoothed)
    }

    /// After so long without an answer something is asked for (RFC 9002, section 6.2.1).
    pub(super) fn probe_timeout(&self) -> Duration {
        let variation = self.sample.map_or(INITIAL / 2, |sample| sample.variation);
        self.smoothed() + (variation * 4).max(GRANULARITY) + PACKET_ACK_DELAY_MAX
    }

    /// A packet sent so long before one that was seen is lost (RFC 9002, section 6.1.2).
    pub(super) fn loss_delay(&self) -> Duration {
        let latest = self.sample.map_or(INITIAL, |sample| sample.latest);
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
    fn a_steady_path_gives_its_round_trip_and_a_falling_variation() {
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
    fn the_delay_that_the_peer_tells_is_taken_off_but_never_below_the_shortest() {
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
