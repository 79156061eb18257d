//! Whether the broker makes progress: it notes the time of each check of its timeouts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use selvedge_hub::Instant;

/// A broker without a check for this long is stuck: ten intervals, so that a busy machine is no failure.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The time of the last check. Reading it takes no lock, so a stuck broker can be reported.
#[derive(Debug)]
pub(super) struct Liveness {
    began: Instant,
    /// Milliseconds from `began` to the last check.
    checked: AtomicU64,
}

impl Liveness {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            began: now,
            checked: AtomicU64::new(0),
        }
    }

    pub(super) fn note_check(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began);
        self.checked
            .store(elapsed.as_millis() as u64, Ordering::Relaxed);
    }

    /// The time since the broker began.
    pub(super) const fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    pub(super) fn is_live(&self, now: Instant) -> bool {
        let checked = Duration::from_millis(self.checked.load(Ordering::Relaxed));
        now.saturating_duration_since(self.began + checked) < STUCK_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_live_until_its_checks_cease() {
        let began = Instant::now();
        let liveness = Liveness::new(began);
        assert!(liveness.is_live(began));
        assert!(!liveness.is_live(began + STUCK_AFTER));
        liveness.note_check(began + STUCK_AFTER);
        assert!(liveness.is_live(began + STUCK_AFTER * 2 - Duration::from_millis(1)));
        assert!(!liveness.is_live(began + STUCK_AFTER * 2));
    }
}
