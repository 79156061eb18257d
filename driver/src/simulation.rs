//! A driver without threads, for tests: whoever holds it says how time passes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Receiver;
use selvedge_transport::Instant;

use crate::actor::{Actor, Next};
use crate::clock::Clock;
use crate::driver::Driver;
use crate::error::DriverError;
use crate::shared::lock;
use crate::worker::Worker;

/// How many turns one moment may take; more are a loop without an end.
const TURNS_MAX: usize = 100_000;

/// One worker, and the machines of whoever uses its driver, in virtual time.
///
/// [`driver`](Self::driver) is a [`Driver`] as any: hubs and endpoints are made of it. Nothing happens
/// but in [`run`](Self::run), which leaps from one moment to the next. Calls that block
/// ([`Endpoint::recv`](crate::Endpoint::recv), [`Driver::dial_blocking`]) would wait for ever: use those
/// that do not. Transports must not need sockets: their [`timeout`](crate::Transport::timeout) says when
/// something comes.
#[derive(Debug)]
pub struct Simulation {
    worker: Worker,
    machines: Arc<Machines>,
    driver: Arc<Driver>,
    clock: Clock,
}

/// What would run on threads of its own.
#[derive(Default)]
pub(crate) struct Machines(Mutex<Vec<Box<dyn Stepped>>>);

impl std::fmt::Debug for Machines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machines")
    }
}

trait Stepped: Send {
    /// Handles what has come and is due. Returns whether there was anything.
    fn turn(&mut self, now: Instant) -> bool;

    fn next(&self) -> Option<Instant>;

    fn is_over(&self) -> bool;
}

struct Hosting<M: Actor> {
    machine: M,
    mails: Receiver<M::Command>,
    next: Option<Next>,
}

impl<M: Actor> Stepped for Hosting<M> {
    fn turn(&mut self, now: Instant) -> bool {
        let mail = match self.next {
            Some(Next::End) => return false,
            // The first call, before anything has come.
            None => None,
            Some(_) => self.mails.try_recv().ok(),
        };
        let is_due = match self.next {
            None => true,
            Some(Next::At(at)) => at <= now,
            Some(Next::Command | Next::End) => false,
        };
        if mail.is_none() && !is_due {
            return false;
        }
        self.next = Some(self.machine.handle(now, mail));
        true
    }

    fn next(&self) -> Option<Instant> {
        match self.next {
            Some(Next::At(at)) => Some(at),
            None | Some(Next::Command | Next::End) => None,
        }
    }

    fn is_over(&self) -> bool {
        self.next == Some(Next::End)
    }
}

impl Machines {
    pub(crate) fn add<M: Actor>(&self, machine: M, mails: Receiver<M::Command>) {
        lock(&self.0).push(Box::new(Hosting {
            machine,
            mails,
            next: None,
        }));
    }

    fn turn(&self, now: Instant) -> bool {
        // A machine may make another one.
        let mut machines = std::mem::take(&mut *lock(&self.0));
        let mut moved = false;
        for machine in &mut machines {
            while machine.turn(now) {
                moved = true;
            }
        }
        let (over, mut machines): (Vec<_>, Vec<_>) =
            machines.into_iter().partition(|it| it.is_over());
        // Without the lock: what an actor owns may make another one.
        drop(over);
        let mut kept = lock(&self.0);
        machines.append(&mut kept);
        *kept = machines;
        moved
    }

    fn next(&self) -> Option<Instant> {
        lock(&self.0).iter().filter_map(|it| it.next()).min()
    }
}

impl Simulation {
    /// A simulation whose [`Driver::seed`] is `seed`.
    ///
    /// # Errors
    /// [`DriverError::System`].
    pub fn new(seed: u64) -> Result<Self, DriverError> {
        Self::with_clock(seed, Clock::simulated())
    }

    /// Another simulation in the same virtual time, with a worker and a driver of its own: another process
    /// for [`run_together`](Self::run_together). Dropping it ends that process as a kill does: nothing is
    /// delivered or closed in order any more.
    ///
    /// # Errors
    /// [`DriverError::System`].
    pub fn beside(&self, seed: u64) -> Result<Self, DriverError> {
        Self::with_clock(seed, self.clock.clone())
    }

    fn with_clock(seed: u64, clock: Clock) -> Result<Self, DriverError> {
        let machines = Arc::new(Machines::default());
        let (driver, worker) = Driver::simulated(seed, clock.clone(), Arc::clone(&machines))?;
        Ok(Self {
            worker,
            machines,
            driver: Arc::new(driver),
            clock,
        })
    }

    /// The driver to use.
    #[must_use]
    pub fn driver(&self) -> Arc<Driver> {
        Arc::clone(&self.driver)
    }

    /// The time in it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Lets time pass, at most `limit`, until `done` at the end of a moment. Returns whether it is.
    ///
    /// # Panics
    /// When a moment does not end: a transport or a machine asks for the present again and again.
    pub fn run(&mut self, limit: Duration, done: impl FnMut() -> bool) -> bool {
        Self::run_together(std::slice::from_mut(self), limit, done)
    }

    /// Lets time pass for simulations that share it ([`beside`](Self::beside)), as [`run`](Self::run) does
    /// for one. They take their turns in the order given.
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
            let next = all.iter().filter_map(Self::next).min();
            let next = next.filter(|at| *at <= end);
            now = next.map_or(end, |next| next.max(now));
            clock.advance_to(now);
            if next.is_none() {
                return false;
            }
        }
    }

    /// Does what is to be done now. Returns whether there was anything.
    fn turn(&mut self, now: Instant) -> bool {
        let has_worked = self.worker.has_work(now);
        if has_worked {
            self.worker.step(now);
        }
        self.machines.turn(now) | has_worked
    }

    /// When something is due.
    fn next(&self) -> Option<Instant> {
        let next = self.worker.next_due().into_iter();
        next.chain(self.machines.next()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
