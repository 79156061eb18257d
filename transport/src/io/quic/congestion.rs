//! CUBIC (RFC 9438) of quinn-proto, with a minimum window that allows two datagrams in flight.
//!
//! RFC 9002, section 7.2, sets the minimum window to two datagrams, but quinn-proto sends only
//! while less than the window is in flight: with two full datagrams that is one. A receiver
//! acknowledges every second packet at once and a single one after up to 25 ms (RFC 9000, sections
//! 13.2.1 and 13.2.2), so the sender waits that long for each. On a path with an MTU of 8952 bytes
//! a connection starts in this state, because the initial window is 12,000 bytes: the first 16
//! messages of 1 KiB through a zipper took 26 ms in 8 of 20 starts and 0.8 ms in the others. With
//! two datagrams in flight they took 0.7 ms in all.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{
    Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig,
};

/// Creates the congestion controllers of connections.
#[derive(Debug, Default)]
pub(super) struct CubicFactory {
    cubic: Arc<CubicConfig>,
}

impl ControllerFactory for CubicFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(FlooredCubic {
            cubic: Cubic::new(Arc::clone(&self.cubic), now, current_mtu),
            mtu: current_mtu,
        })
    }
}

#[derive(Debug, Clone)]
struct FlooredCubic {
    cubic: Cubic,
    mtu: u16,
}

impl Controller for FlooredCubic {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.cubic
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().max(2 * u64::from(self.mtu) + 1)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether quinn-proto sends a second full datagram while one is in flight.
    fn sends_a_second(controller: &dyn Controller, mtu: u16) -> bool {
        2 * u64::from(mtu) < controller.window()
    }

    #[test]
    fn two_datagrams_may_be_in_flight_at_any_mtu_and_loss() {
        let now = Instant::now();
        let mut controller = Arc::new(CubicFactory::default()).build(now, 1200);
        for mtu in [1200, 5076, 8952, 65_527, 1200] {
            controller.on_mtu_update(mtu);
            assert!(sends_a_second(controller.as_ref(), mtu), "{mtu}");
            controller.on_congestion_event(now, now, true, 100_000);
            assert!(
                sends_a_second(controller.as_ref(), mtu),
                "{mtu} after losses"
            );
        }
    }

    #[test]
    fn a_window_above_the_minimum_is_that_of_cubic() {
        let now = Instant::now();
        let config = Arc::new(CubicConfig::default());
        let cubic = Cubic::new(config, now, 1200);
        let controller = Arc::new(CubicFactory::default()).build(now, 1200);
        assert_eq!(controller.window(), cubic.window());
    }
}
