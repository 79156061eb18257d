//! A driver without threads, for tests: everything on it runs in virtual time.

use std::sync::Arc;
use std::time::Duration;

use selvedge_transport::Instant;

use crate::actors::SteppedActors;
use crate::clock::Clock;
use crate::driver::Driver;
use crate::error::DriverError;
use crate::worker::Worker;

/// How many turns one moment may take; more indicate an endless loop.
const TURNS_MAX: usize = 100_000;

/// One worker, and the actors of everything built on its driver, in virtual time.
///
/// [`driver`](Self::driver) is an ordinary [`Driver`], from which hubs and endpoints are built. Everything
/// happens in [`run`](Self::run), which advances from one deadline to the next. Calls that block
/// ([`Endpoint::recv`](crate::Endpoint::recv), [`Driver::dial_blocking`]) would block for ever: use those
/// that do not. Transports must not need sockets: their [`timeout`](crate::Transport::timeout) announces when
/// something arrives.
#[derive(Debug)]
pub struct Simulation {
    worker: Worker,
    actors: Arc<SteppedActors>,
    driver: Arc<Driver>,
    clock: Clock,
}

impl Simulation {
    /// A simulation whose [`Driver::seed`] is `seed`.
    ///
    /// # Errors
    /// [`DriverError::System`].
    pub fn new(seed: u64) -> Result<Self, DriverError> {
        Self::with_clock(seed, Clock::simulated())
    }

    /// Another simulation in the same virtual time, with its own worker and driver: another process for
    /// [`run_together`](Self::run_together). Dropping it ends that process as a kill does: nothing is
    /// delivered or closed in order any more.
    ///
    /// # Errors
    /// [`DriverError::System`].
    pub fn beside(&self, seed: u64) -> Result<Self, DriverError> {
        Self::with_clock(seed, self.clock.clone())
    }

    fn with_clock(seed: u64, clock: Clock) -> Result<Self, DriverError> {
        let actors = Arc::new(SteppedActors::default());
        let (driver, worker) = Driver::simulated(seed, clock.clone(), Arc::clone(&actors))?;
        Ok(Self {
            worker,
            actors,
            driver: Arc::new(driver),
            clock,
        })
    }

    /// The driver to use.
    #[must_use]
    pub fn driver(&self) -> Arc<Driver> {
        Arc::clone(&self.driver)
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Advances the time, by `limit` at most, until `done` returns true at the end of a moment. Returns
    /// whether it did.
    ///
    /// # Panics
    /// When a moment does not end: the deadline of a transport or an actor never passes.
    pub fn run(&mut self, limit: Duration, done: impl FnMut() -> bool) -> bool {
        Self::run_together(std::slice::from_mut(self), limit, done)
    }

    /// Advances the time of simulations that share it ([`beside`](Self::beside)), as [`run`](Self::run) does
    /// for one. They have their turns in the given order.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_together(all: &mut [Self], limit: Duration, mut done: impl FnMut() -> bool) -> bool {
        let Some(clock) = all.first().map(|first| first.clock.clone()) else {
            return done();
        };
        let mut now = clock.now();
        let end = now + limit;
        loop {
            let mut turns = 0;
            while all.iter_mut().fold(false, |any, it| it.turn(now) | any) {
                turns += 1;
                assert!(turns < TURNS_MAX, "a moment of the simulation does not end");
            }
            if done() {
                return true;
            }
            let next = all.iter().filter_map(Self::deadline).min();
            let next = next.filter(|at| *at <= end);
            now = next.map_or(end, |next| next.max(now));
            clock.advance_to(now);
            if next.is_none() {
                return false;
            }
        }
    }

    /// Does what is due at `now`. Returns whether there was anything.
    fn turn(&mut self, now: Instant) -> bool {
        let has_worked = self.worker.has_work(now);
        if has_worked {
            self.worker.step(now);
        }
        self.actors.step(now) | has_worked
    }

    /// The earliest deadline.
    fn deadline(&self) -> Option<Instant> {
        let worker = self.worker.deadline().into_iter();
        worker.chain(self.actors.deadline()).min()
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        // They own the driver, which owns them.
        self.actors.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::{Actor, Next};

    #[test]
    fn time_and_randomness_of_a_simulation_follow_from_its_seed() {
        let draw = |seed| {
            let mut simulation = Simulation::new(seed).unwrap();
            let driver = simulation.driver();
            let (begin, wall_clock) = (driver.now(), driver.unix_micros());
            assert!(!simulation.run(Duration::from_millis(5), || false));
            assert_eq!(driver.now() - begin, Duration::from_millis(5));
            assert_eq!(driver.now(), simulation.now());
            assert_eq!(driver.unix_micros() - wall_clock, 5000);
            assert_eq!(driver.seed(), Some(seed));
            (wall_clock, [(); 3].map(|()| driver.random_u64().unwrap()))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    /// Keeps its driver, as a hub does.
    struct DriverOwner(#[allow(dead_code, reason = "only kept")] Arc<Driver>);

    impl Actor for DriverOwner {
        type Command = ();

        fn handle(&mut self, _now: Instant, _command: Option<()>) -> Next {
            Next::Command
        }
    }

    #[test]
    fn a_simulation_that_is_dropped_releases_its_driver() {
        let mut simulation = Simulation::new(1).unwrap();
        let driver = simulation.driver();
        let actor = driver.spawn_actor("owner", |_| DriverOwner(simulation.driver()));
        simulation.run(Duration::from_millis(1), || false);
        let remaining = Arc::downgrade(&driver);
        drop((simulation, driver, actor));
        assert!(remaining.upgrade().is_none());
    }
}
