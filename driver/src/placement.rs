//! Which endpoint moves to which worker, so that the busy ones are even. Pure: it is told what was
//! measured over one interval after the other, and names at most one move each time.
//!
//! Two rules, since time alone says nothing of a worker that has none left:
//! - A busy worker hands an endpoint to the least busy one when the two differ clearly and the
//!   larger of their shares becomes smaller by it. With the same loads the way back would make it
//!   larger again, so there is none.
//! - Between workers without any time left, the one with the clearly larger crowd hands over.
//!
//! Loads change and measurements err, so an endpoint that was moved rests, longer each time.

use std::time::Duration;

use selvedge_transport::Instant;

/// A worker under this share of its time has no need of help: what waits there waits little.
pub(crate) const BUSY_MIN: f64 = 0.6;

/// By how much two shares differ before it is worth a move.
const MARGIN: f64 = 0.2;

/// How much smaller the larger share must become: less is noise.
const GAIN_MIN: f64 = 0.002;

/// From this share on a worker has no time left, and its share does not tell what is asked of it.
const FULL: f64 = 0.95;

/// By how much two crowds differ before it is worth a move: a move changes the difference by 2, so
/// that it never turns round by more than it was.
const CROWD_MARGIN: f64 = 1.5;

/// How many intervals in a row must agree before the first move: one may be a burst.
const AGREE: u32 = 3;

/// How many intervals an endpoint rests after its first move; after each other one it is
/// [`GROWTH`] times as many. The two rules can disagree about a worker that is only just full, and
/// a weight can be wrong: then it is tried a few times and left.
const REST: u32 = 4;

const GROWTH: u32 = 4;

/// 4096 intervals: a quarter of an hour of the default one.
const GROWTHS_MAX: u32 = 5;

/// What a worker did over the interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// The share of the time in which it did not wait, 0 to 1.
    pub(crate) share: f64,
    /// Its [`crowd`], if it was busy.
    pub(crate) crowd: f64,
}

/// An endpoint on the worker that asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) key: usize,
    /// What it did over the interval, in a unit of the caller's: only proportions count.
    pub(crate) weight: f64,
    pub(crate) may_move: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) key: usize,
    pub(crate) to: usize,
}

/// How many endpoints share a worker, the quiet ones hardly counted: so many as, equally busy,
/// would be as even (the inverse Simpson index).
pub(crate) fn crowd(candidates: &[Candidate]) -> f64 {
    let total: f64 = candidates.iter().map(|it| it.weight).sum();
    let squares: f64 = candidates.iter().map(|it| it.weight * it.weight).sum();
    if squares > 0.0 {
        total * total / squares
    } else {
        0.0
    }
}

/// One worker's choices.
#[derive(Debug, Default)]
pub(crate) struct Chooser {
    /// Where it would move something, and for how many intervals in a row.
    wish: Option<(usize, u32)>,
}

impl Chooser {
    /// What worker `here` hands over, if anything, given the load of each worker over the interval
    /// and its own endpoints.
    pub(crate) fn choose(
        &mut self,
        here: usize,
        loads: &[Load],
        candidates: &[Candidate],
    ) -> Option<Move> {
        let chosen = uneven(here, loads, candidates);
        self.wish = chosen.map(|Move { to, .. }| match self.wish {
            Some((same, times)) if same == to => (to, AGREE.min(times + 1)),
            _ => (to, 1),
        });
        chosen.filter(|_| self.wish.is_some_and(|(_, times)| times == AGREE))
    }

    /// The interval tells nothing.
    pub(crate) const fn skip(&mut self) {
        self.wish = None;
    }
}

/// What would make two workers more even.
fn uneven(here: usize, loads: &[Load], candidates: &[Candidate]) -> Option<Move> {
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

/// How long an endpoint stays where it was moved to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Rest {
    last: Option<(Instant, Duration)>,
    growths: u32,
}

impl Rest {
    fn lasted(&self, now: Instant, times: u32) -> bool {
        self.last.is_none_or(|(since, length)| {
            now.saturating_duration_since(since) >= length.saturating_mul(times)
        })
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.lasted(now, 1)
    }

    /// It was moved. If it stayed long after its rest, what moved it then is over and forgotten.
    pub(crate) fn begin(&mut self, now: Instant, interval: Duration) {
        if self.lasted(now, 3) {
            self.growths = 0;
        }
        let intervals = REST * GROWTH.pow(self.growths);
        self.last = Some((now, interval.saturating_mul(intervals)));
        self.growths = GROWTHS_MAX.min(self.growths + 1);
    }
}

#[cfg(test)]
mod tests;
