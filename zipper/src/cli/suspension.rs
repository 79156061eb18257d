//! Notices that the process was suspended (SIGSTOP, a laptop that sleeps): time has passed in which no
//! thread ran.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cli::error::CommandError;

/// How often the thread runs.
const INTERVAL: Duration = Duration::from_secs(1);

/// A delay that a busy machine does not cause.
const DELAY_MIN: Duration = Duration::from_secs(3);

/// The longest suspension so far.
#[derive(Debug, Clone)]
pub(crate) struct SuspensionWatch(Arc<Mutex<Observation>>);

#[derive(Debug)]
struct Observation {
    /// When a thread last looked.
    last: Instant,
    longest: Duration,
}

impl SuspensionWatch {
    /// Watches until the process ends.
    pub(crate) fn start() -> Result<Self, CommandError> {
        let watch = Self(Arc::new(Mutex::new(Observation {
            last: Instant::now(),
            longest: Duration::ZERO,
        })));
        let watching = watch.clone();
        let run = move || {
            loop {
                // It may return early, which only shortens the interval.
                std::thread::park_timeout(INTERVAL);
                watching.lock().observe(Instant::now());
            }
        };
        std::thread::Builder::new()
            .name("zipper-suspension".into())
            .spawn(run)
            .map_err(CommandError::thread)?;
        Ok(watch)
    }

    /// The longest suspension in seconds, if there was one, up to now: the thread may not have looked yet.
    pub(crate) fn longest(&self) -> Option<u64> {
        let mut observation = self.lock();
        observation.observe(Instant::now());
        let longest = observation.longest.as_secs();
        (longest > 0).then_some(longest)
    }

    fn lock(&self) -> MutexGuard<'_, Observation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observation {
    fn observe(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.last);
        self.last = now;
        if elapsed >= INTERVAL + DELAY_MIN {
            let seconds = elapsed.as_secs();
            tracing::warn!("this process was suspended for {seconds} s");
            self.longest = self.longest.max(elapsed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_delay_that_a_busy_machine_does_not_cause_is_a_suspension() {
        let mut now = Instant::now();
        let mut observation = Observation {
            last: now,
            longest: Duration::ZERO,
        };
        for (delay, longest) in [(2, 0), (40, 40), (20, 40), (1, 40)] {
            now += Duration::from_secs(delay);
            observation.observe(now);
            assert_eq!(observation.longest, Duration::from_secs(longest));
        }
    }
}
