//! Decides when a worker polls for a while before it sleeps: only while that pays.
//!
//! ```text
//!                 short sleeps in a row
//!   Watching ─────────────────────────────▶ Spinning
//!    ▲    ▲                                  │    │ a step took too long: another thread wants
//!    │    └──── a miss, then a long sleep ───┘    │ the core; or too many misses
//!    │                                            ▼
//!    └──────────────── time is up ───────────── Cooldown
//! ```
//!
//! A round trip mostly waits for a sleeping core to wake (51 us blocking, 7 us when both ends poll). But
//! polling on a core that another thread could use does harm: beside one endless loop on two cores, constant
//! polling made the slowest hundredth 8 to 17 times slower.

use std::time::Duration;

use selvedge_transport::Instant;

use crate::config::SPIN_MAX;

/// A sleep counts as short up to so many times the polling time: without the wake-ups on both sides it would
/// have been shorter than that. A wrong guess costs a few misses.
const SHORT: u32 = 4;

/// So many short sleeps in a row indicate traffic.
const SHORT_IN_A_ROW: u32 = 8;

/// The turn of another thread on the core does not take so long (a few milliseconds): a sleep of that length
/// means that there was nothing to do, and is no miss.
const LONG: Duration = Duration::from_millis(10);

/// A step is a poll that does not block, under a microsecond. A step that takes longer than this was
/// interrupted by another thread: a tick of the kernel takes up to 40 us on a virtual machine, the turn of a
/// thread that wants the core half a millisecond or more.
const STEP_MAX: Duration = Duration::from_micros(50);

/// How many hits outweigh one miss.
const MISS: u32 = 8;

/// The maximum credit of hits, so that polling stops soon when the traffic changes.
const CREDIT_MAX: u32 = 4 * MISS;

/// The credit at the begin of a trial: two misses are allowed, the third ends it.
const CREDIT: u32 = 2 * MISS;

/// The first cooldown after polling has not paid; twice as long each time, up to [`COOLDOWN_MAX`].
const COOLDOWN_MIN: Duration = Duration::from_millis(100);

const COOLDOWN_MAX: Duration = Duration::from_secs(10);

/// With so many hits polling has paid, however it ended: one wait in a thousand that takes longer does not
/// show in the slowest hundredth. Then the cooldown is only a [`PAUSE`], and the next one the shortest.
const PAID: u32 = 1000;

/// Long enough for the turn of a thread that wanted the core.
const PAUSE: Duration = Duration::from_millis(10);

/// The decisions of one worker.
#[derive(Debug)]
pub(super) struct Spin {
    max: Duration,
    state: SpinState,
    /// The length of the next cooldown.
    cooldown: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SpinState {
    /// Sleeps at once, and counts the short sleeps.
    Watching { short: u32 },
    /// Polls before it sleeps.
    Spinning { hits: u32, credit: u32 },
    /// Sleeps at once.
    Cooldown { until: Instant },
}

impl Spin {
    /// Polls for `max` each time at most; never, if that is zero.
    pub(super) fn new(max: Duration) -> Self {
        Self {
            max: max.min(SPIN_MAX),
            state: SpinState::Watching { short: 0 },
            cooldown: COOLDOWN_MIN,
        }
    }

    /// How long to poll before the next sleep. Then call [`step`](Self::step) after each empty poll, and
    /// [`hit`](Self::hit) if there was something, else [`slept`](Self::slept) after the sleep.
    pub(super) const fn window(&self) -> Option<Duration> {
        match self.state {
            SpinState::Spinning { .. } => Some(self.max),
            SpinState::Watching { .. } | SpinState::Cooldown { .. } => None,
        }
    }

    /// A poll has found nothing. Returns whether to poll again.
    pub(super) fn step(&mut self, began: Instant, now: Instant) -> bool {
        let is_interrupted = now.saturating_duration_since(began) > STEP_MAX;
        if is_interrupted {
            tracing::trace!(step = ?now.saturating_duration_since(began), "polling was interrupted");
            self.cool_down(now);
        }
        !is_interrupted
    }

    /// Polling has found something.
    pub(super) fn hit(&mut self) {
        if let SpinState::Spinning { hits, credit } = &mut self.state {
            *hits = hits.saturating_add(1);
            *credit = (*credit + 1).min(CREDIT_MAX);
        }
    }

    /// The worker has slept until something came.
    pub(super) fn slept(&mut self, began: Instant, now: Instant) {
        if self.max.is_zero() {
            return;
        }
        let slept = now.saturating_duration_since(began);
        match &mut self.state {
            SpinState::Watching { short } if slept <= self.max * SHORT => {
                *short += 1;
                if *short >= SHORT_IN_A_ROW {
                    self.state = SpinState::Spinning {
                        hits: 0,
                        credit: CREDIT,
                    };
                }
            }
            SpinState::Watching { .. } => self.state = SpinState::Watching { short: 0 },
            SpinState::Spinning { .. } if slept >= LONG => {
                self.state = SpinState::Watching { short: 0 };
            }
            SpinState::Spinning { credit, .. } if *credit >= MISS => *credit -= MISS,
            SpinState::Spinning { .. } => self.cool_down(now),
            SpinState::Cooldown { until } if *until <= now => {
                self.state = SpinState::Watching { short: 0 };
            }
            SpinState::Cooldown { .. } => {}
        }
    }

    fn cool_down(&mut self, now: Instant) {
        let pause = match self.state {
            SpinState::Spinning { hits: PAID.., .. } => {
                self.cooldown = COOLDOWN_MIN;
                PAUSE
            }
            _ => {
                let cooldown = self.cooldown;
                self.cooldown = (cooldown * 2).min(COOLDOWN_MAX);
                cooldown
            }
        };
        tracing::trace!(?pause, state = ?self.state, "polling before sleeping does not pay");
        self.state = SpinState::Cooldown { until: now + pause };
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

        fn sleep(&mut self, length: Duration) {
            let began = self.now;
            self.now += length;
            self.spin.slept(began, self.now);
        }

        /// Sleeps shortly until it spins.
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

        fn misses_until_cooldown(&mut self) -> usize {
            let spins = |spin: &Spin| matches!(spin.state, SpinState::Spinning { .. });
            let misses = (1..100).find(|_| {
                self.sleep(SHORTLY);
                !spins(&self.spin)
            });
            misses.expect("polling stops")
        }

        fn cooldown_length(&self) -> Duration {
            match self.spin.state {
                SpinState::Cooldown { until } => until - self.now,
                other => panic!("{other:?} is not in cooldown"),
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
    fn zero_disables_it_and_the_maximum_is_a_limit() {
        let mut off = Clocked::new(Duration::ZERO);
        for _ in 0..1000 {
            off.sleep(Duration::ZERO);
            assert_eq!(off.spin.window(), None);
        }
        let most = Clocked::new(Duration::from_secs(1)).started();
        assert_eq!(most.spin.window(), Some(SPIN_MAX));
    }

    #[test]
    fn one_long_sleep_among_short_ones_restarts_the_count() {
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
    fn misses_stop_it_soon_for_twice_as_long_each_time() {
        let mut it = Clocked::new(SPIN_MAX);
        for expected in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            it = it.started();
            it.hits(20);
            assert!(it.misses_until_cooldown() <= 5);
            assert_eq!(it.cooldown_length(), Duration::from_millis(expected));
            it.sleep(it.cooldown_length());
        }
    }

    #[test]
    fn an_interruption_stops_it_at_once() {
        let mut it = Clocked::new(SPIN_MAX).started();
        it.hits(20);
        assert!(it.spin.step(it.now, it.now + STEP_MAX));
        let late = it.now + STEP_MAX + US;
        assert!(!it.spin.step(it.now, late));
        assert_eq!(it.spin.window(), None);
        it.now = late;
        assert_eq!(it.cooldown_length(), COOLDOWN_MIN);
    }

    #[test]
    fn after_many_hits_it_only_pauses() {
        let mut it = Clocked::new(SPIN_MAX).started();
        assert_eq!(it.misses_until_cooldown(), 3);
        it.sleep(it.cooldown_length());
        let mut it = it.started();
        it.hits(PAID);
        assert_eq!(it.misses_until_cooldown(), 5);
        assert_eq!(it.cooldown_length(), PAUSE);
        it.sleep(PAUSE);
        let mut it = it.started();
        it.misses_until_cooldown();
        assert_eq!(
            it.cooldown_length(),
            COOLDOWN_MIN,
            "the next cooldown is the shortest again"
        );
    }

    #[test]
    fn the_end_of_traffic_is_not_a_miss() {
        let mut it = Clocked::new(SPIN_MAX).started();
        it.sleep(LONG);
        assert_eq!(it.spin.window(), None);
        it.started();
    }

    /// Bounds the cost for the slowest hundredth where polling only does harm.
    #[test]
    fn if_polling_never_finds_anything_few_waits_poll() {
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
