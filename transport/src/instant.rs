//! [`Instant`], the monotonic time of Selvedge: nanoseconds since an origin, on every target.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// A point of monotonic time, in nanoseconds since an arbitrary origin.
///
/// `std::time::Instant` traps on `wasm32-unknown-unknown`, and only the operating system can make
/// one. This type can be made from the reading of any monotonic clock ([`Instant::from_origin`]):
/// a browser's `performance.now()`, or virtual time. All times that meet in one calculation must
/// come from the same clock. With the feature `io` there is a process-wide clock as well
/// (`Instant::now`), and a conversion from and to `std::time::Instant`.
///
/// Arithmetic saturates at the origin and at [`Instant::FAR_FUTURE`], 584 years later; nothing here
/// panics.
///
/// ```
/// use std::time::Duration;
/// use selvedge_transport::Instant;
///
/// let start = Instant::from_origin(Duration::from_secs(5));
/// let later = start + Duration::from_millis(20);
/// assert_eq!(later - start, Duration::from_millis(20));
/// assert_eq!(start - later, Duration::ZERO);
/// assert_eq!(start + Duration::MAX, Instant::FAR_FUTURE);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The latest time that can be represented.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// The time that is `since_origin` after the origin of the caller's clock.
    #[inline]
    #[must_use]
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(saturating_nanos(since_origin))
    }

    /// The time that has passed between the origin and `self`.
    #[inline]
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// `self + duration`, or `None` if that is after [`Instant::FAR_FUTURE`].
    #[inline]
    #[must_use]
    pub const fn checked_add(self, duration: Duration) -> Option<Self> {
        let Some(nanos) = checked_nanos(duration) else {
            return None;
        };
        match self.0.checked_add(nanos) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// `self - duration`, or `None` if that is before the origin.
    #[inline]
    #[must_use]
    pub const fn checked_sub(self, duration: Duration) -> Option<Self> {
        let Some(nanos) = checked_nanos(duration) else {
            return None;
        };
        match self.0.checked_sub(nanos) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// The time from `earlier` to `self`, or `None` if `earlier` is the later of the two.
    #[inline]
    #[must_use]
    pub const fn checked_duration_since(self, earlier: Self) -> Option<Duration> {
        match self.0.checked_sub(earlier.0) {
            Some(nanos) => Some(Duration::from_nanos(nanos)),
            None => None,
        }
    }

    /// The time from `earlier` to `self`, or zero if `earlier` is the later of the two.
    #[inline]
    #[must_use]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time from `earlier` to `self`, or zero if `earlier` is the later of the two.
    #[inline]
    #[must_use]
    pub const fn duration_since(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// `duration` in nanoseconds, or `None` if `u64` cannot hold them.
#[inline]
const fn checked_nanos(duration: Duration) -> Option<u64> {
    match duration.as_secs().checked_mul(NANOS_PER_SEC) {
        Some(nanos) => nanos.checked_add(duration.subsec_nanos() as u64),
        None => None,
    }
}

#[inline]
const fn saturating_nanos(duration: Duration) -> u64 {
    match checked_nanos(duration) {
        Some(nanos) => nanos,
        None => u64::MAX,
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instant({:?})", self.since_origin())
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    #[inline]
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    #[inline]
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    #[inline]
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(saturating_nanos(duration)))
    }
}

impl SubAssign<Duration> for Instant {
    #[inline]
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    #[inline]
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_origin(Duration::from_secs(3));

    #[test]
    fn sums_and_differences_agree() {
        let step = Duration::new(2, 7);
        assert_eq!((START + step) - START, step);
        assert_eq!((START + step) - step, START);
        assert_eq!((START + step).duration_since(START), step);
        assert_eq!(START.since_origin(), Duration::from_secs(3));
        let (mut up, mut down) = (START, START);
        up += step;
        down -= step;
        assert_eq!(up - down, 2 * step);
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let (zero, step) = (
            Instant::from_origin(Duration::ZERO),
            Duration::from_nanos(1),
        );
        assert_eq!(zero - step, zero);
        assert_eq!(zero - START, Duration::ZERO);
        assert_eq!(START + Duration::MAX, Instant::FAR_FUTURE);
        assert_eq!(Instant::FAR_FUTURE + step, Instant::FAR_FUTURE);
        assert_eq!(Instant::from_origin(Duration::MAX), Instant::FAR_FUTURE);
        assert_eq!(START - Duration::MAX, zero);
    }

    #[test]
    fn checked_arithmetic_reports_what_does_not_fit() {
        let (zero, step) = (
            Instant::from_origin(Duration::ZERO),
            Duration::from_nanos(1),
        );
        assert_eq!(START.checked_add(step), Some(START + step));
        assert_eq!(Instant::FAR_FUTURE.checked_add(step), None);
        assert_eq!(START.checked_add(Duration::MAX), None);
        assert_eq!(START.checked_sub(step), Some(START - step));
        assert_eq!(zero.checked_sub(step), None);
        assert_eq!(START.checked_duration_since(START + step), None);
        assert_eq!((START + step).checked_duration_since(START), Some(step));
    }

    #[test]
    fn times_are_ordered_by_distance_from_the_origin() {
        assert!(START < START + Duration::from_nanos(1));
        assert!(START < Instant::FAR_FUTURE);
        assert_eq!(format!("{START:?}"), "Instant(3s)");
    }
}
