//! The clock of a driver: the system's, or the virtual one of a simulation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use selvedge_transport::Instant;

/// The wall-clock time at which each simulation begins: 2026-01-01 00:00:00 UTC. It is fixed, so that
/// equal seeds yield equal timestamps.
const SIMULATION_BEGINS: Duration = Duration::from_secs(1_767_225_600);

/// Provides monotonic and wall-clock time: [`Driver::clock`](crate::Driver::clock). Code that is meant to
/// run in a [`Simulation`](crate::Simulation) reads the time here only.
///
/// Cheap to clone. It does not keep its driver alive. All methods may be called from any thread and do
/// not block.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<VirtualTime>>);

/// The time of a simulation.
#[derive(Debug)]
struct VirtualTime {
    began: Instant,
    /// Nanoseconds since `began`.
    elapsed: AtomicU64,
}

impl Clock {
    /// The clock of the operating system.
    #[must_use]
    pub const fn system() -> Self {
        Self(None)
    }

    /// A virtual clock, which stands still until [`advance_to`](Self::advance_to).
    pub(crate) fn simulated() -> Self {
        Self(Some(Arc::new(VirtualTime {
            began: Instant::now(),
            elapsed: AtomicU64::new(0),
        })))
    }

    /// The monotonic time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.as_ref().map_or_else(Instant::now, |virtual_time| {
            virtual_time.began + virtual_time.elapsed()
        })
    }

    /// The wall-clock time in microseconds since 1970-01-01 00:00:00 UTC; 0 if the system's clock is set
    /// to an earlier time.
    #[must_use]
    pub fn unix_micros(&self) -> u64 {
        let since_1970 = match &self.0 {
            Some(virtual_time) => SIMULATION_BEGINS + virtual_time.elapsed(),
            None => SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        };
        u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
    }

    /// Sets a virtual clock to `now`, unless it is later already; the system's clock is left alone.
    pub(crate) fn advance_to(&self, now: Instant) {
        if let Some(virtual_time) = &self.0 {
            let elapsed = now.saturating_duration_since(virtual_time.began).as_nanos();
            let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
            virtual_time.elapsed.fetch_max(elapsed, Ordering::AcqRel);
        }
    }
}

impl VirtualTime {
    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_clock_moves_only_when_it_is_advanced() {
        let clock = Clock::simulated();
        let (begin, wall_clock) = (clock.now(), clock.unix_micros());
        assert_eq!(wall_clock, 1_767_225_600_000_000);
        assert_eq!(clock.now(), begin);
        clock.advance_to(begin + Duration::from_millis(3));
        clock.advance_to(begin + Duration::from_millis(1));
        assert_eq!(clock.now(), begin + Duration::from_millis(3));
        assert_eq!(clock.unix_micros(), wall_clock + 3000);
    }

    #[test]
    fn the_system_clock_agrees_with_the_standard_library() {
        let (clock, before) = (Clock::system(), Instant::now());
        clock.advance_to(before + Duration::from_secs(3600));
        let now = clock.now();
        assert!((before..=Instant::now()).contains(&now));
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = since.unwrap().as_micros() as u64;
        assert!(clock.unix_micros().abs_diff(micros) < 60_000_000);
    }
}
