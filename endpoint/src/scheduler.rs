//! Selects the lane that sends next: strict priority with a starvation guard, fair within a priority.

/// How many bytes other lanes may send while a lane waits, before that lane sends one frame: 1 MiB,
/// so that a lane starved by more urgent ones keeps a sixteenth of the rate (one 64 KiB frame per
/// 1 MiB).
pub const STARVATION_GUARD: u64 = 1 << 20;

/// The bytes that each lane has sent and has waited for.
#[derive(Debug)]
pub(crate) struct Scheduler {
    priorities: Vec<u8>,
    /// Bytes sent, for fairness among lanes of one priority.
    served: Vec<u64>,
    /// Bytes that others have sent while the lane was waiting.
    waited: Vec<u64>,
}

impl Scheduler {
    pub(crate) fn new(priorities: Vec<u8>) -> Self {
        Self {
            served: vec![0; priorities.len()],
            waited: vec![0; priorities.len()],
            priorities,
        }
    }

    /// The lane to serve among those for which `is_waiting`.
    pub(crate) fn choose(&self, is_waiting: impl Fn(usize) -> bool) -> Option<usize> {
        if self.priorities.len() == 1 {
            // The lists are not needed, which saves cache misses.
            return is_waiting(0).then_some(0);
        }
        let mut best: Option<(u8, u64, usize)> = None;
        for (lane, &priority) in self
            .priorities
            .iter()
            .enumerate()
            .filter(|&(lane, _)| is_waiting(lane))
        {
            if self.waited[lane] >= STARVATION_GUARD {
                return Some(lane);
            }
            let candidate = (priority, self.served[lane], lane);
            if best.is_none_or(|best| candidate < best) {
                best = Some(candidate);
            }
        }
        best.map(|(_, _, lane)| lane)
    }

    /// `lane` sent `bytes` while those for which `is_waiting` waited.
    pub(crate) fn served(&mut self, lane: usize, bytes: u64, is_waiting: impl Fn(usize) -> bool) {
        self.served[lane] += bytes;
        self.waited[lane] = 0;
        for other in (0..self.priorities.len()).filter(|&other| other != lane) {
            if is_waiting(other) {
                self.waited[other] += bytes;
            } else {
                // An idle lane earns no share of the bandwidth that it did not use.
                self.waited[other] = 0;
                self.served[other] = self.served[other].max(self.served[lane]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        scheduler: &mut Scheduler,
        frames: usize,
        is_waiting: impl Fn(usize) -> bool,
    ) -> Vec<usize> {
        let mut sent = vec![0; scheduler.priorities.len()];
        for _ in 0..frames {
            let Some(lane) = scheduler.choose(&is_waiting) else {
                break;
            };
            sent[lane] += 1;
            scheduler.served(lane, 64 * 1024, &is_waiting);
        }
        sent
    }

    #[test]
    fn lanes_of_one_priority_share_evenly() {
        let mut scheduler = Scheduler::new(vec![1, 1, 1]);
        assert_eq!(run(&mut scheduler, 300, |_| true), [100, 100, 100]);
    }

    #[test]
    fn an_urgent_lane_is_preferred_but_starves_no_other() {
        let mut scheduler = Scheduler::new(vec![0, 1, 2]);
        let sent = run(&mut scheduler, 1800, |_| true);
        assert!(sent[0] > 1500, "{sent:?}");
        assert!(sent[1] >= 90 && sent[2] >= 90, "{sent:?}");
    }

    #[test]
    fn a_lane_that_was_idle_does_not_catch_up() {
        let mut scheduler = Scheduler::new(vec![1, 1]);
        run(&mut scheduler, 1000, |lane| lane == 0);
        let sent = run(&mut scheduler, 100, |_| true);
        assert!(sent[0].abs_diff(sent[1]) <= 1, "{sent:?}");
    }
}
