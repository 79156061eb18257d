//! Waits for events: polls without sleeping while that pays, then sleeps.

use std::io;
use std::time::Duration;

use mio::Events;
use selvedge_transport::Instant;

use super::connections::Connections;
use super::mailboxes::Intake;
use super::spin::Spin;

/// How long a worker that polls lets wake-ups gather after it has served some: producers in a loop would
/// otherwise be served a few messages at a time, each batch with a system call. 64 B over `tcp+plain`
/// between two processes: at once 9.8 M/s and 185 ns of CPU, 10 us 11.8 M/s and 143 ns, 20 us 16.3 M/s and
/// 105 ns. For a worker that sleeps, the time that it takes to wake has the same effect. The first wake-up
/// after a pause is served at once.
const GATHER: Duration = Duration::from_micros(20);

/// The waiting of one worker.
#[derive(Debug)]
pub(super) struct Waiter {
    spin: Spin,
    /// When wake-ups were served last.
    served_at: Instant,
}

impl Waiter {
    pub(super) fn new(spin_max: Duration, now: Instant) -> Self {
        Self {
            spin: Spin::new(spin_max),
            served_at: now,
        }
    }

    /// Wake-ups were served.
    pub(super) const fn served(&mut self, now: Instant) {
        self.served_at = now;
    }

    /// Waits from `began` until there are events, something was sent to the worker, or `deadline`.
    /// Sets `now` to the time at which it returns.
    pub(super) fn wait(
        &mut self,
        events: &mut Events,
        connections: &mut Connections,
        intake: &Intake,
        deadline: Option<Instant>,
        now: &mut Instant,
    ) -> io::Result<()> {
        if self.spin(events, connections, intake, deadline, now)? {
            return Ok(());
        }
        let began = *now;
        let timeout = deadline.map(|at| at.saturating_duration_since(began));
        let polled = intake.poll(timeout, |timeout| connections.poll(events, timeout));
        *now = Instant::now();
        self.spin.slept(began, *now);
        polled
    }

    /// Polls without sleeping, as long as that pays; returns whether anything has come or is due. The worker
    /// does not count as asleep meanwhile, so that producers make no system call.
    fn spin(
        &mut self,
        events: &mut Events,
        connections: &mut Connections,
        intake: &Intake,
        deadline: Option<Instant>,
        now: &mut Instant,
    ) -> io::Result<bool> {
        let Some(window) = self.spin.window() else {
            return Ok(false);
        };
        let ends = *now + window;
        while *now < ends {
            let before = *now;
            connections.poll(events, Some(Duration::ZERO))?;
            *now = Instant::now();
            let must_serve = intake.has_endpoints() && *now >= self.served_at + GATHER;
            if must_serve || !events.is_empty() || intake.has_commands() {
                self.spin.hit();
                return Ok(true);
            }
            if deadline.is_some_and(|at| at <= *now) {
                return Ok(true);
            }
            if !self.spin.step(before, *now) {
                break;
            }
        }
        Ok(false)
    }
}
