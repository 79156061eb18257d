//! The pause before a peer is dialed again.

use std::time::Duration;

/// The first pause. Short, because most lost connections can be restored at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause, and so the longest time until a peer that has returned is dialed.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The pause after `failures` failed rounds: doubled each time, and drawn from its upper half by
/// `random` (0 to 1), so that nodes which lost the same peer do not all dial it at once.
pub(crate) fn pause(failures: u32, random: f64) -> Duration {
    let doubled = PAUSE_MIN
        .saturating_mul(1 << failures.min(16))
        .min(PAUSE_MAX);
    doubled.mul_f64(random.mul_add(0.5, 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let longest: Vec<u128> = (0..9).map(|n| pause(n, 1.0).as_millis()).collect();
        assert_eq!(
            longest,
            [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
        assert_eq!(pause(u32::MAX, 0.0), PAUSE_MAX / 2);
    }
}
