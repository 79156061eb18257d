//! When a worker polls for a while before it sleeps: only while that pays.
//!
//! ```text
//!                 short sleeps in a row
//!   Watching ─────────────────────────────▶ Spinning
//!    ▲    ▲                                  │    │ a step took too long: somebody else wants
//!    │    └──── a miss, then a long sleep ───┘    │ the core; or too many misses
//!    │                                            ▼
//!    └──────────────── time is up ───────────── Resting
//! ```
//!
//! Waking a core that sleeps is what a round trip waits for (51 us blocking, 7 us when both ends
//! poll). But who polls on a core that somebody else could use makes it worse: beside one endless
//! loop on two cores, polling always made the slowest hundredth 8 to 17 times slower.

use std::time::Duration;

use selvedge_transport::Instant;

/// More than this is never worth a core.
pub(crate) const SPIN_MAX: Duration = Duration::from_micros(50);

/// A sleep counts as short up to so many times what may be polled: without the wake-ups on both
/// sides it would have been shorter than that. Being wrong costs a few misses.
const SHORT: u32 = 4;

/// So many short sleeps in a row show that something is going on.
const SHORT_IN_A_ROW: u32 = 8;

/// Nobody is kept from a core for so long by another thread's turn on it (a few milliseconds): a
/// sleep of that length says that there was nothing to do, and nothing about the misses.
const LONG: Duration = Duration::from_millis(10);

/// A step is a poll that does not wait, under a microsecond. One that takes longer than this was
/// interrupted by another thread: a tick of the kernel takes up to 40 us on a virtual machine, the
/// turn of a thread that wants the core half a millisecond or more.
const STEP_MAX: Duration = Duration::from_micros(50);

/// What a miss costs in hits: with fewer hits to a miss it does not pay.
const MISS: u32 = 8;

/// How many hits count at most, so that it stops soon when things change.
const CREDIT_MAX: u32 = 4 * MISS;

/// With what a trial begins: two misses are forgiven, the third ends it.
const CREDIT: u32 = 2 * MISS;

/// How long it sleeps at once when polling did not pay; twice as long each time, up to
/// [`REST_MAX`].
const REST_MIN: Duration = Duration::from_millis(100);

const REST_MAX: Duration = Duration::from_secs(10);

/// With so many hits polling did pay, however it ended: one wait in a thousand that is longer is not
/// seen in the slowest hundredth. Then it rests for [`PAUSE`], and the next rest is the shortest.
const PAID: u32 = 1000;

/// Long enough for a thread that wanted the core to have had a turn.
const PAUSE: Duration = Duration::from_millis(10);

/// The decisions of one worker.
#[derive(Debug)]
pub(crate) struct Spin {
    max: Duration,
    state: State,
    /// How long the next rest will be.
    rest: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Sleeps at once, and counts the short sleeps.
    Watching { short: u32 },
    /// Polls before it sleeps.
    Spinning { hits: u32, credit: u32 },
    /// Sleeps at once.
    Resting { until: Instant },
}

impl Spin {
    /// Polls at most for `max` each time; never, if that is zero.
    pub(crate) fn new(max: Duration) -> Self {
        Self {
            max: max.min(SPIN_MAX),
            state: State::Watching { short: 0 },
            rest: REST_MIN,
        }
    }

    /// For how long to poll before the next sleep. Then call [`step`](Self::step) after each poll, and
    /// [`hit`](Self::hit) if there was something, else [`slept`](Self::slept) after the sleep.
    pub(crate) const fn window(&self) -> Option<Duration> {
        match self.state {
            State::Spinning { .. } => Some(self.max),
            State::Watching { .. } | State::Resting { .. } => None,
        }
    }

    /// A poll without anything is done. Returns whether to go on.
    pub(crate) fn step(&mut self, began: Instant, now: Instant) -> bool {
        let is_interrupted = now.saturating_duration_since(began) > STEP_MAX;
        if is_interrupted {
            tracing::trace!(step = ?now.saturating_duration_since(began), "interrupted");
            self.rest(now);
        }
        !is_interrupted
    }

    /// Polling has found something.
    pub(crate) fn hit(&mut self) {
        if let State::Spinning { hits, credit } = &mut self.state {
            *hits = hits.saturating_add(1);
            *credit = (*credit + 1).min(CREDIT_MAX);
        }
    }

    /// It has slept until something came.
    pub(crate) fn slept(&mut self, began: Instant, now: Instant) {
        if self.max.is_zero() {
            return;
        }
        let slept = now.saturating_duration_since(began);
        match &mut self.state {
            State::Watching { short } if slept <= self.max * SHORT => {
                *short += 1;
                if *short >= SHORT_IN_A_ROW {
                    self.state = State::Spinning {
                        hits: 0,
                        credit: CREDIT,
                    };
                }
            }
            State::Watching { .. } => self.state = State::Watching { short: 0 },
            State::Spinning { .. } if slept >= LONG => self.state = State::Watching { short: 0 },
            State::Spinning { credit, .. } if *credit >= MISS => *credit -= MISS,
            State::Spinning { .. } => self.rest(now),
            State::Resting { until } if *until <= now => self.state = State::Watching { short: 0 },
            State::Resting { .. } => {}
        }
    }

    fn rest(&mut self, now: Instant) {
        let pause = match self.state {
            State::Spinning { hits: PAID.., .. } => {
                self.rest = REST_MIN;
                PAUSE
            }
            _ => {
                let rest = self.rest;
                self.rest = (rest * 2).min(REST_MAX);
                rest
            }
        };
        tracing::trace!(?pause, state = ?self.state, "polling before sleeping does not pay");
        self.state = State::Resting { until: now + pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTLY: Duration = Duration::from_micros(60);
    const US: Duration = Duration::from_micros(1);

    /// A worker in virtual time.
    struct Clocked {
        spin: Spin,
        now: Instant,
    }

    impl Clocked {
        fn new(max: Duration) -> Self {
            Self {
                spin: Spin::new(max),
                now: Instant::now(),
            }
        }

        fn sleep(&mut self, how_long: Duration) {
            let began = self.now;
            self.now += how_long;
            self.spin.slept(began, self.now);
        }

        /// Short sleeps until it spins.
        fn started(mut self) -> Self {
            for _ in 0..SHORT_IN_A_ROW {
                assert_eq!(self.spin.window(), None);
                self.sleep(SHORTLY);
            }
            assert_eq!(self.spin.window(), Some(self.spin.max));
            self
        }

        fn hits(&mut self, count: u32) {
            for _ in 0..count {
                assert!(self.spin.window().is_some());
                self.now += US;
                self.spin.hit();
            }
        }

        fn misses_until_it_rests(&mut self) -> usize {
            let spins = |spin: &Spin| matches!(spin.state, State::Spinning { .. });
            let misses = (1..100).find(|_| {
                self.sleep(SHORTLY);
                !spins(&self.spin)
            });
            misses.expect("it gives up")
        }

        fn rests_for(&self) -> Duration {
            match self.spin.state {
                State::Resting { until } => until - self.now,
                other => panic!("{other:?} does not rest"),
            }
        }
    }

    #[test]
    fn an_idle_worker_never_polls() {
        let mut it = Clocked::new(SPIN_MAX);
        for _ in 0..1000 {
            it.sleep(Duration::from_millis(1));
            assert_eq!(it.spin.window(), None);
        }
    }

    #[test]
    fn zero_is_off_and_more_than_the_most_is_the_most() {
        let mut off = Clocked::new(Duration::ZERO);
        for _ in 0..1000 {
            off.sleep(Duration::ZERO);
            assert_eq!(off.spin.window(), None);
        }
        let most = Clocked::new(Duration::from_secs(1)).started();
        assert_eq!(most.spin.window(), Some(SPIN_MAX));
    }

    #[test]
    fn one_long_sleep_among_the_short_ones_begins_the_count_anew() {
        let mut it = Clocked::new(SPIN_MAX);
        for _ in 0..SHORT_IN_A_ROW - 1 {
            it.sleep(SHORTLY);
        }
        it.sleep(Duration::from_millis(1));
        it.started();
    }

    #[test]
    fn a_few_misses_are_forgiven_among_many_hits() {
        let mut it = Clocked::new(SPIN_MAX).started();
        for _ in 0..100 {
            it.hits(MISS);
            it.sleep(SHORTLY);
        }
        it.hits(1);
    }

    #[test]
    fn misses_end_it_soon_for_twice_as_long_each_time() {
        let mut it = Clocked::new(SPIN_MAX);
        for expected in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            it = it.started();
            it.hits(20);
            assert!(it.misses_until_it_rests() <= 5);
            assert_eq!(it.rests_for(), Duration::from_millis(expected));
            it.sleep(it.rests_for());
        }
    }

    #[test]
    fn an_interruption_ends_it_at_once() {
        let mut it = Clocked::new(SPIN_MAX).started();
        it.hits(20);
        assert!(it.spin.step(it.now, it.now + STEP_MAX));
        let late = it.now + STEP_MAX + US;
        assert!(!it.spin.step(it.now, late));
        assert_eq!(it.spin.window(), None);
        it.now = late;
        assert_eq!(it.rests_for(), REST_MIN);
    }

    #[test]
    fn when_it_has_paid_it_only_pauses() {
        let mut it = Clocked::new(SPIN_MAX).started();
        assert_eq!(it.misses_until_it_rests(), 3);
        it.sleep(it.rests_for());
        let mut it = it.started();
        it.hits(PAID);
        assert_eq!(it.misses_until_it_rests(), 5);
        assert_eq!(it.rests_for(), PAUSE);
        it.sleep(PAUSE);
        let mut it = it.started();
        it.misses_until_it_rests();
        assert_eq!(it.rests_for(), REST_MIN, "the next is the shortest again");
    }

    #[test]
    fn traffic_that_ends_is_no_reproach() {
        let mut it = Clocked::new(SPIN_MAX).started();
        it.sleep(LONG);
        assert_eq!(it.spin.window(), None);
        it.started();
    }

    /// What keeps the slowest hundredth as it is where polling only does harm.
    #[test]
    fn where_polling_never_finds_anything_few_waits_poll() {
        let mut it = Clocked::new(SPIN_MAX);
        let waits = 100_000;
        let polled = (0..waits).filter(|_| {
            let polls = it.spin.window().is_some();
            it.sleep(Duration::from_micros(15));
            polls
        });
        assert!(polled.count() * 1000 < waits);
    }
}
