//! The placement policy: which endpoint moves to which worker, so that busy endpoints are spread evenly. Pure:
//! the input is what was measured in each interval, the output at most one move.
//!
//! Two rules, since the share of time alone does not show the demand on a saturated worker:
//! - A busy worker moves an endpoint to the least busy one when the two differ clearly and the larger of
//!   their shares becomes smaller by it. With the same loads the way back would make it larger again, so
//!   moves do not oscillate.
//! - Between saturated workers, the one with the clearly larger crowd moves an endpoint.
//!
//! Loads change and measurements are inexact, so an endpoint that was moved stays for a cooldown, which is
//! longer each time.

use std::time::Duration;

use selvedge_transport::Instant;

/// A worker below this share of its time needs no relief: its endpoints wait little.
pub(super) const BUSY_MIN: f64 = 0.6;

/// The difference of two shares from which a move is worth it.
const MARGIN: f64 = 0.2;

/// The least reduction of the larger share: less is noise.
const GAIN_MIN: f64 = 0.002;

/// From this share on a worker is saturated, and its share does not show the demand on it.
const FULL: f64 = 0.95;

/// The difference of two crowds from which a move is worth it. A move changes the difference by 2, so that it
/// is never inverted by more than it was.
const CROWD_MARGIN: f64 = 1.5;

/// How many consecutive intervals must agree before the first move: one may be a burst.
const AGREE: u32 = 3;

/// How many intervals the cooldown after a first move takes; after each other one it is [`GROWTH`] times as
/// long. The two rules can disagree about a worker that is only just saturated, and a weight can be wrong:
/// then a move is tried a few times and given up.
const COOLDOWN: u32 = 4;

const GROWTH: u32 = 4;

/// 4096 intervals: a quarter of an hour with the default one.
const GROWTHS_MAX: u32 = 5;

/// The load of a worker in the interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct WorkerLoad {
    /// The share of the time in which it did not wait, 0 to 1.
    pub(super) share: f64,
    /// Its [`crowd`], if it was busy.
    pub(super) crowd: f64,
}

/// An endpoint on the worker that selects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) key: usize,
    /// Its work in the interval, in any unit: only proportions count.
    pub(super) weight: f64,
    pub(super) may_move: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) key: usize,
    pub(super) to: usize,
}

/// How many endpoints share a worker, weighted by their work: the number of equally busy endpoints that would
/// be as even (the inverse Simpson index).
pub(super) fn crowd(candidates: &[Candidate]) -> f64 {
    let total: f64 = candidates.iter().map(|it| it.weight).sum();
    let squares: f64 = candidates.iter().map(|it| it.weight * it.weight).sum();
    if squares > 0.0 {
        total * total / squares
    } else {
        0.0
    }
}

/// Selects the moves of one worker.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    /// The worker to which it would move an endpoint, and for how many consecutive intervals.
    preferred: Option<(usize, u32)>,
}

impl Chooser {
    /// The endpoint that worker `here` moves, if any, given the load of each worker in the interval and its
    /// own endpoints.
    pub(super) fn choose(
        &mut self,
        here: usize,
        loads: &[WorkerLoad],
        candidates: &[Candidate],
    ) -> Option<Move> {
        let chosen = uneven(here, loads, candidates);
        self.preferred = chosen.map(|Move { to, .. }| match self.preferred {
            Some((same, times)) if same == to => (to, AGREE.min(times + 1)),
            _ => (to, 1),
        });
        chosen.filter(|_| self.preferred.is_some_and(|(_, times)| times == AGREE))
    }

    /// The interval is not usable.
    pub(super) const fn skip(&mut self) {
        self.preferred = None;
    }
}

/// The move that would make two workers more even.
fn uneven(here: usize, loads: &[WorkerLoad], candidates: &[Candidate]) -> Option<Move> {
    let own = *loads.get(here)?;
    if own.share < BUSY_MIN {
        return None;
    }
    let others = || (0..).zip(loads).filter(|(number, _)| *number != here);
    let (to, least) = others().min_by(|(_, a), (_, b)| a.share.total_cmp(&b.share))?;
    if own.share - least.share >= MARGIN {
        let key = even_shares(own.share, least.share, candidates)?;
        return Some(Move { key, to });
    }
    if own.share < FULL || least.share < FULL {
        return None;
    }
    let (to, least) = others().min_by(|(_, a), (_, b)| a.crowd.total_cmp(&b.crowd))?;
    if own.crowd - least.crowd < CROWD_MARGIN {
        return None;
    }
    let key = busiest(candidates)?;
    Some(Move { key, to })
}

/// The endpoint whose move from a worker with the share `from` to one with the share `to` makes the
/// larger of the two the smallest.
fn even_shares(from: f64, to: f64, candidates: &[Candidate]) -> Option<usize> {
    let total: f64 = candidates.iter().map(|it| it.weight).sum();
    let gain = |it: &Candidate| {
        let share = from * it.weight / total;
        from - (from - share).max(to + share)
    };
    movable(candidates)
        .map(|it| (it.key, gain(it)))
        .filter(|(_, gain)| *gain >= GAIN_MIN)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(key, _)| key)
}

fn busiest(candidates: &[Candidate]) -> Option<usize> {
    movable(candidates)
        .max_by(|a, b| a.weight.total_cmp(&b.weight))
        .map(|it| it.key)
}

fn movable(candidates: &[Candidate]) -> impl Iterator<Item = &Candidate> {
    candidates
        .iter()
        .filter(|it| it.may_move && it.weight > 0.0)
}

/// How long an endpoint stays on the worker to which it was moved.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Cooldown {
    last: Option<(Instant, Duration)>,
    growths: u32,
}

impl Cooldown {
    fn lasted(&self, now: Instant, times: u32) -> bool {
        self.last.is_none_or(|(since, length)| {
            now.saturating_duration_since(since) >= length.saturating_mul(times)
        })
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.lasted(now, 1)
    }

    /// It was moved. If it stayed long after its last cooldown, the cause of that move is over.
    pub(super) fn begin(&mut self, now: Instant, interval: Duration) {
        if self.lasted(now, 3) {
            self.growths = 0;
        }
        let intervals = COOLDOWN * GROWTH.pow(self.growths);
        self.last = Some((now, interval.saturating_mul(intervals)));
        self.growths = GROWTHS_MAX.min(self.growths + 1);
    }
}

#[cfg(test)]
mod tests;
