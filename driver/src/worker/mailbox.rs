//! How other threads reach a worker: commands, bells, and a wake-up only when it sleeps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::{Registry, Token, Waker};

use super::{Command, Entry};
use crate::error::DriverError;
use crate::shared::{Shared, lock};

/// The token of a worker's waker.
pub(super) const WAKER: Token = Token(usize::MAX);

/// Commands are rare (an endpoint, a dial, a listener); a thousand of them wait at most.
const COMMANDS_MAX: usize = 1024;

pub(crate) struct Mailbox {
    commands: Sender<Command>,
    /// Each endpoint is in it at most once: `Shared::rung`.
    rung: Mutex<Vec<Arc<Shared>>>,
    /// Endpoints on their way here; `None` once the worker has stopped. A list and not a command:
    /// two workers that exchange endpoints must not wait for each other.
    arrivals: Mutex<Option<Vec<Entry>>>,
    sleeps: AtomicBool,
    waker: Waker,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}

impl Mailbox {
    pub(crate) fn new(registry: &Registry) -> std::io::Result<(Self, Receiver<Command>)> {
        let (commands, receiver) = bounded(COMMANDS_MAX);
        let mailbox = Self {
            commands,
            rung: Mutex::default(),
            sleeps: AtomicBool::new(false),
            arrivals: Mutex::new(Some(Vec::new())),
            waker: Waker::new(registry, WAKER)?,
        };
        Ok((mailbox, receiver))
    }

    /// Hands a command over.
    pub(crate) fn send(&self, command: Command) -> Result<(), DriverError> {
        if self.commands.send(command).is_err() {
            return Err(DriverError::Stopped);
        }
        self.wake();
        Ok(())
    }

    /// Hands a command over, or drops it when the worker has stopped: whoever waits for its
    /// callback sees the callback dropped.
    pub(crate) fn send_or_drop(&self, command: Command) {
        if self.send(command).is_err() {
            tracing::debug!("a command came after the worker had stopped");
        }
    }

    /// Hands an endpoint over, or back when the worker has stopped.
    pub(crate) fn adopt(&self, entry: Entry) -> Result<(), Box<Entry>> {
        match &mut *lock(&self.arrivals) {
            Some(arrivals) => arrivals.push(entry),
            None => return Err(Box::new(entry)),
        }
        self.wake();
        Ok(())
    }

    pub(super) fn take_arrivals(&self) -> Vec<Entry> {
        lock(&self.arrivals)
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Has the worker look after an endpoint.
    pub(crate) fn ring(&self, shared: Arc<Shared>) {
        lock(&self.rung).push(shared);
        self.wake();
    }

    fn wake(&self) {
        // Pairs with the fence in `poll`: either the worker sees what was put in before, or this
        // sees that it sleeps.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.sleeps.swap(false, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "cannot wake a worker");
        }
    }

    pub(super) fn take_rung(&self) -> Vec<Arc<Shared>> {
        std::mem::take(&mut *lock(&self.rung))
    }

    /// Polls; does not sleep when something was put in meanwhile.
    pub(super) fn poll<T>(
        &self,
        timeout: Option<Duration>,
        commands: &Receiver<Command>,
        poll: impl FnOnce(Option<Duration>) -> T,
    ) -> T {
        self.sleeps.store(true, Ordering::Release);
        std::sync::atomic::fence(Ordering::SeqCst);
        let no_arrivals = || lock(&self.arrivals).as_ref().is_none_or(Vec::is_empty);
        let idle = commands.is_empty() && lock(&self.rung).is_empty() && no_arrivals();
        let polled = poll(if idle { timeout } else { Some(Duration::ZERO) });
        self.sleeps.store(false, Ordering::Release);
        polled
    }

    /// The worker stops: returns what has arrived, and lets nothing more in.
    pub(super) fn shut(&self) -> Vec<Entry> {
        lock(&self.arrivals).take().unwrap_or_default()
    }
}
