//! What a worker measures for the placement policy, and the moves that it makes.
//!
//! Only a worker that is busy looks, and only at its own endpoints; of the others it sees how long
//! they have worked. So an idle worker is never woken for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use selvedge_transport::Instant;

use super::Worker;
use crate::config::{INTERVAL_MAX, INTERVAL_MIN, Placement};
use crate::placement::{BUSY_MIN, Candidate, Chooser, Load, crowd};

/// How long one worker has worked, for the others to read. Aligned so that the workers do not write
/// to each other's cache lines.
#[repr(align(128))]
#[derive(Debug)]
struct Meter {
    /// While it works, the time that it has slept stands still; while it sleeps, the time that it
    /// has worked does. This is the one that stands still, in nanoseconds, with [`WORKS`].
    still: AtomicU64,
    /// Its crowd when it last looked, as the bits of an `f64`.
    crowd: AtomicU64,
}

/// The lowest bit of [`Meter::still`]: the worker works.
const WORKS: u64 = 1;

impl Meter {
    /// Asleep, and has not worked.
    const fn new() -> Self {
        Self {
            still: AtomicU64::new(0),
            crowd: AtomicU64::new(0),
        }
    }

    /// How long it had worked by `at`, in nanoseconds since the start.
    fn worked(&self, at: u64) -> u64 {
        let still = self.still.load(Ordering::Relaxed);
        if still & WORKS == WORKS {
            at.saturating_sub(still >> 1)
        } else {
            still >> 1
        }
    }

    fn wakes(&self, at: u64) {
        let slept = at.saturating_sub(self.worked(at));
        self.still.store(slept << 1 | WORKS, Ordering::Relaxed);
    }

    fn sleeps(&self, at: u64) {
        self.still.store(self.worked(at) << 1, Ordering::Relaxed);
    }
}

/// What the workers of a driver know of each other.
#[derive(Debug)]
pub(crate) struct Balance {
    start: Instant,
    interval: Duration,
    meters: Box<[Meter]>,
    /// When an endpoint was last moved, in nanoseconds since the start.
    moved: AtomicU64,
}

impl Balance {
    /// None if nothing is to be balanced.
    pub(crate) fn new(placement: Placement, workers: usize) -> Option<Arc<Self>> {
        let Placement::Balanced { interval } = placement else {
            return None;
        };
        (workers > 1).then(|| {
            Arc::new(Self {
                start: Instant::now(),
                interval: interval.clamp(INTERVAL_MIN, INTERVAL_MAX),
                meters: (0..workers).map(|_| Meter::new()).collect(),
                moved: AtomicU64::new(0),
            })
        })
    }

    fn nanos(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_nanos() as u64
    }
}

/// One worker's part in it.
#[derive(Debug)]
pub(super) struct Balancer {
    common: Arc<Balance>,
    number: usize,
    /// When the interval began, in nanoseconds since the start.
    began: u64,
    ends: Instant,
    /// How long each worker had worked then.
    before: Vec<u64>,
    /// Whether the weights of the endpoints are those of this interval: they are only looked at
    /// once the worker is busy.
    is_weighing: bool,
    chooser: Chooser,
}

impl Balancer {
    pub(super) fn new(common: Arc<Balance>, number: usize) -> Self {
        Self {
            number,
            began: 0,
            ends: common.start + common.interval,
            before: vec![0; common.meters.len()],
            is_weighing: false,
            chooser: Chooser::default(),
            common,
        }
    }

    pub(super) fn wakes(&self, now: Instant) {
        self.common.meters[self.number].wakes(self.common.nanos(now));
    }

    pub(super) fn sleeps(&self, now: Instant) {
        self.common.meters[self.number].sleeps(self.common.nanos(now));
    }

    /// Ends the interval: the loads of all workers over it.
    fn next_interval(&mut self, now: Instant) -> Vec<Load> {
        let at = self.common.nanos(now);
        let length = at.saturating_sub(self.began).max(1) as f64;
        self.began = at;
        self.ends = now + self.common.interval;
        let meters = self.common.meters.iter().zip(&mut self.before);
        meters
            .map(|(meter, before)| {
                let worked = meter.worked(at);
                let share = worked.saturating_sub(*before) as f64 / length;
                *before = worked;
                Load {
                    share: share.min(1.0),
                    crowd: f64::from_bits(meter.crowd.load(Ordering::Relaxed)),
                }
            })
            .collect()
    }

    /// Whether this worker may make the one move since `seen`.
    fn claim(&self, seen: u64) -> bool {
        let moved = &self.common.moved;
        let (set, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        moved
            .compare_exchange(seen, self.began, set, failed)
            .is_ok()
    }
}

impl Worker {
    /// At the end of an interval: moves one endpoint to a worker that has more time, if any should.
    pub(super) fn balance(&mut self) {
        let Some(balancer) = self.balancer.as_mut().filter(|it| it.ends <= self.now) else {
            return;
        };
        let last_began = balancer.began;
        let mut loads = balancer.next_interval(self.now);
        let is_busy = loads[self.number].share >= BUSY_MIN;
        let was_weighing = std::mem::replace(&mut balancer.is_weighing, is_busy);
        let candidates: Vec<_> = if is_busy {
            let entries = self.endpoints.iter_mut();
            entries
                .map(|(key, it)| it.candidate(key, self.now))
                .collect()
        } else {
            Vec::new()
        };
        let crowd = if was_weighing {
            crowd(&candidates)
        } else {
            0.0
        };
        loads[self.number].crowd = crowd;
        let common = Arc::clone(&balancer.common);
        common.meters[self.number]
            .crowd
            .store(crowd.to_bits(), Ordering::Relaxed);
        // What was measured across a move is neither what was before nor what is now.
        let moved = common.moved.load(Ordering::Relaxed);
        if !was_weighing || moved > last_began {
            return balancer.chooser.skip();
        }
        if let Some(chosen) = balancer.chooser.choose(self.number, &loads, &candidates)
            && balancer.claim(moved)
        {
            let (from, to) = (self.number, chosen.to);
            let (own, other) = (loads[from].share, loads[to].share);
            let entry = &mut self.endpoints[chosen.key];
            entry.rest.begin(self.now, common.interval);
            tracing::debug!(peer = ?entry.peer(), from, own, to, other, "an endpoint moves to even out");
            self.emigrate(chosen.key, to);
        }
    }
}

impl super::Entry {
    /// What it did since it was last asked, which should be an interval ago.
    fn candidate(&mut self, key: usize, now: Instant) -> Candidate {
        let done = self.work_done();
        let weight = done.saturating_sub(self.weighed) as f64;
        self.weighed = done;
        Candidate {
            key,
            weight,
            may_move: !self.is_pinned && self.rest.is_over(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_tells_the_time_worked_at_any_moment() {
        let meter = Meter::new();
        assert_eq!(meter.worked(100), 0);
        meter.wakes(100);
        assert_eq!(meter.worked(130), 30);
        meter.sleeps(150);
        assert_eq!(meter.worked(1000), 50);
        meter.wakes(1000);
        assert_eq!(meter.worked(1001), 51);
    }

    #[test]
    fn nothing_is_measured_where_nothing_can_move() {
        let balanced = Placement::default();
        assert!(Balance::new(balanced, 1).is_none());
        assert!(Balance::new(Placement::Fixed, 2).is_none());
        assert!(Balance::new(balanced, 2).is_some());
    }

    #[test]
    fn two_workers_do_not_both_move() {
        let common = Balance::new(Placement::default(), 2).unwrap();
        let [mut one, mut other] = [0, 1].map(|number| Balancer::new(Arc::clone(&common), number));
        let now = common.start + common.interval;
        one.next_interval(now);
        other.next_interval(now);
        assert!(one.claim(0));
        assert!(!other.claim(0));
    }
}
