//! The process-wide clock behind [`Instant::now`], and the conversion from and to `std::time::Instant`.

use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant as StdInstant;

use crate::Instant;

/// The time from the origin to the first use of the clock; it allows for earlier times to be
/// represented.
const BEFORE_FIRST_USE: Duration = Duration::from_secs(24 * 60 * 60);

/// The delay that replaces a time beyond the range of the clock of the operating system.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The origin of all times of this process, the same on all threads.
fn origin() -> StdInstant {
    static ORIGIN: OnceLock<StdInstant> = OnceLock::new();
    *ORIGIN.get_or_init(|| {
        let now = StdInstant::now();
        now.checked_sub(BEFORE_FIRST_USE).unwrap_or(now)
    })
}

impl Instant {
    /// The current time of the process-wide clock.
    #[inline]
    #[must_use]
    pub fn now() -> Self {
        Self::from(StdInstant::now())
    }

    /// The time that has passed since `self`, by the process-wide clock.
    #[inline]
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }
}

impl From<StdInstant> for Instant {
    #[inline]
    fn from(time: StdInstant) -> Self {
        Self::from_origin(time.saturating_duration_since(origin()))
    }
}

impl From<Instant> for StdInstant {
    #[inline]
    fn from(time: Instant) -> Self {
        let origin = origin();
        origin
            .checked_add(time.since_origin())
            .or_else(|| Self::now().checked_add(FAR))
            .unwrap_or(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_standard_library_survives_the_round_trip() {
        let now = StdInstant::now();
        assert_eq!(StdInstant::from(Instant::from(now)), now);
        let earlier = now - Duration::from_secs(60);
        assert_eq!(Instant::from(now) - Instant::from(earlier), now - earlier);
    }

    #[test]
    fn the_latest_time_converts_to_one_in_the_far_future() {
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        assert!(StdInstant::from(Instant::FAR_FUTURE) > StdInstant::now() + year);
    }

    #[test]
    fn the_clock_advances_on_all_threads_alike() {
        let before = Instant::now();
        let between = std::thread::spawn(Instant::now).join().unwrap();
        assert!(before <= between && between <= Instant::now());
        assert!(before.elapsed() < Duration::from_secs(60));
    }
}
