//! Measures the load of the workers for the placement policy, and selects the endpoint to move.
//!
//! Only a busy worker selects, among its own endpoints; of the others it knows how long they have worked. So
//! an idle worker is never woken for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use selvedge_transport::Instant;

use super::endpoint_table::EndpointTable;
use super::placement::{BUSY_MIN, Chooser, Move, WorkerLoad, crowd};
use crate::config::{INTERVAL_MAX, INTERVAL_MIN, Placement};

/// How long one worker has worked, readable by the others. Aligned so that workers do not write to each
/// other's cache lines.
#[repr(align(128))]
#[derive(Debug)]
struct WorkMeter {
    /// While a worker works, the time that it has slept is constant; while it sleeps, the time that it has
    /// worked is. This is the constant one, in nanoseconds, with [`WORKS`].
    constant: AtomicU64,
    /// Its crowd when it was determined last, as the bits of an `f64`.
    crowd: AtomicU64,
}

/// The lowest bit of [`WorkMeter::constant`]: the worker works.
const WORKS: u64 = 1;

impl WorkMeter {
    /// Asleep, and has not worked.
    const fn new() -> Self {
        Self {
            constant: AtomicU64::new(0),
            crowd: AtomicU64::new(0),
        }
    }

    /// How long it had worked at `at`, in nanoseconds since the start.
    fn worked(&self, at: u64) -> u64 {
        let constant = self.constant.load(Ordering::Relaxed);
        if constant & WORKS == WORKS {
            at.saturating_sub(constant >> 1)
        } else {
            constant >> 1
        }
    }

    fn wakes(&self, at: u64) {
        let slept = at.saturating_sub(self.worked(at));
        self.constant.store(slept << 1 | WORKS, Ordering::Relaxed);
    }

    fn sleeps(&self, at: u64) {
        self.constant.store(self.worked(at) << 1, Ordering::Relaxed);
    }
}

/// What the workers of a driver know of each other.
#[derive(Debug)]
pub(crate) struct SharedMeters {
    start: Instant,
    interval: Duration,
    meters: Box<[WorkMeter]>,
    /// When an endpoint was moved last, in nanoseconds since the start.
    moved: AtomicU64,
}

impl SharedMeters {
    /// `None` if nothing is to be balanced.
    pub(crate) fn new(placement: Placement, workers: usize) -> Option<Arc<Self>> {
        let Placement::Balanced { interval } = placement else {
            return None;
        };
        (workers > 1).then(|| {
            Arc::new(Self {
                start: Instant::now(),
                interval: interval.clamp(INTERVAL_MIN, INTERVAL_MAX),
                meters: (0..workers).map(|_| WorkMeter::new()).collect(),
                moved: AtomicU64::new(0),
            })
        })
    }

    fn nanos(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_nanos() as u64
    }
}

/// The balancer of one worker.
#[derive(Debug)]
pub(super) struct Balancer {
    meters: Arc<SharedMeters>,
    worker: usize,
    /// When the interval began, in nanoseconds since the start.
    began: u64,
    ends: Instant,
    /// How long each worker had worked then.
    before: Vec<u64>,
    /// Whether the endpoints were weighed at the begin of this interval: they are only while the worker is
    /// busy.
    is_weighing: bool,
    chooser: Chooser,
}

impl Balancer {
    pub(super) fn new(meters: Arc<SharedMeters>, worker: usize) -> Self {
        Self {
            worker,
            began: 0,
            ends: meters.start + meters.interval,
            before: vec![0; meters.meters.len()],
            is_weighing: false,
            chooser: Chooser::default(),
            meters,
        }
    }

    pub(super) fn wakes(&self, now: Instant) {
        self.meters.meters[self.worker].wakes(self.meters.nanos(now));
    }

    pub(super) fn sleeps(&self, now: Instant) {
        self.meters.meters[self.worker].sleeps(self.meters.nanos(now));
    }

    /// Ends the interval. Returns the loads of all workers in it.
    fn next_interval(&mut self, now: Instant) -> Vec<WorkerLoad> {
        let at = self.meters.nanos(now);
        let length = at.saturating_sub(self.began).max(1) as f64;
        self.began = at;
        self.ends = now + self.meters.interval;
        let meters = self.meters.meters.iter().zip(&mut self.before);
        meters
            .map(|(meter, before)| {
                let worked = meter.worked(at);
                let share = worked.saturating_sub(*before) as f64 / length;
                *before = worked;
                WorkerLoad {
                    share: share.min(1.0),
                    crowd: f64::from_bits(meter.crowd.load(Ordering::Relaxed)),
                }
            })
            .collect()
    }

    /// Whether this worker may make the single move since `seen`.
    fn claim(&self, seen: u64) -> bool {
        let moved = &self.meters.moved;
        let (set, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        moved
            .compare_exchange(seen, self.began, set, failed)
            .is_ok()
    }

    /// At the end of an interval, selects an endpoint to move to a less busy worker, if one should be moved.
    pub(super) fn choose(&mut self, endpoints: &mut EndpointTable, now: Instant) -> Option<Move> {
        if self.ends > now {
            return None;
        }
        let last_began = self.began;
        let mut loads = self.next_interval(now);
        let is_busy = loads[self.worker].share >= BUSY_MIN;
        let was_weighing = std::mem::replace(&mut self.is_weighing, is_busy);
        let candidates = if is_busy {
            endpoints.candidates(now)
        } else {
            Vec::new()
        };
        let crowd = if was_weighing {
            crowd(&candidates)
        } else {
            0.0
        };
        loads[self.worker].crowd = crowd;
        self.meters.meters[self.worker]
            .crowd
            .store(crowd.to_bits(), Ordering::Relaxed);
        // An interval in which an endpoint was moved describes neither the state before nor after it.
        let moved = self.meters.moved.load(Ordering::Relaxed);
        if !was_weighing || moved > last_began {
            self.chooser.skip();
            return None;
        }
        let chosen = self.chooser.choose(self.worker, &loads, &candidates)?;
        if !self.claim(moved) {
            return None;
        }
        let (from, to) = (self.worker, chosen.to);
        let (own, other) = (loads[from].share, loads[to].share);
        let endpoint = endpoints.get_mut(chosen.key)?;
        endpoint.begin_cooldown(now, self.meters.interval);
        let peer = endpoint.peer();
        tracing::debug!(%peer, from, own, to, other, "an endpoint moves to a less busy worker");
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_yields_the_time_worked_at_any_moment() {
        let meter = WorkMeter::new();
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
        assert!(SharedMeters::new(balanced, 1).is_none());
        assert!(SharedMeters::new(Placement::Fixed, 2).is_none());
        assert!(SharedMeters::new(balanced, 2).is_some());
    }

    #[test]
    fn two_workers_do_not_both_move_an_endpoint() {
        let meters = SharedMeters::new(Placement::default(), 2).unwrap();
        let [mut one, mut other] = [0, 1].map(|number| Balancer::new(Arc::clone(&meters), number));
        let now = meters.start + meters.interval;
        one.next_interval(now);
        other.next_interval(now);
        assert!(one.claim(0));
        assert!(!other.claim(0));
    }
}
