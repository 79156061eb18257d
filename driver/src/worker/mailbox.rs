//! How other threads reach a worker: commands, bells, and a wake-up only when it sleeps.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::{Registry, Token, Waker};

use super::{Command, Entry};
use crate::bells::Entrance;
use crate::error::DriverError;
use crate::shared::Shared;

/// The token of a worker's waker.
pub(super) const WAKER: Token = Token(usize::MAX);

/// Commands are rare (an endpoint, a dial, a listener); a thousand of them wait at most.
const COMMANDS_MAX: usize = 1024;

pub(crate) struct Mailbox {
    commands: Sender<Command>,
    entrance: Entrance<Arc<Shared>, Entry>,
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
            entrance: Entrance::new(),
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

    /// Hands a command over if there is room: a worker must not wait for itself. Returns whether there
    /// was.
    pub(crate) fn offer(&self, command: Command) -> bool {
        let is_taken = self.commands.try_send(command).is_ok();
        if is_taken {
            self.wake();
        }
        is_taken
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
        self.entrance.adopt(entry).map_err(Box::new)?;
        self.wake();
        Ok(())
    }

    pub(super) fn take_arrivals(&self) -> Vec<Entry> {
        self.entrance.take_arrivals()
    }

    /// Has the worker look after an endpoint.
    pub(crate) fn ring(&self, shared: Arc<Shared>) {
        self.entrance.ring(shared);
        self.wake();
    }

    fn wake(&self) {
        if self.entrance.must_wake()
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "cannot wake a worker");
        }
    }

    /// Whether anybody has rung or arrived.
    pub(super) fn has_any(&self) -> bool {
        self.entrance.has_any()
    }

    /// Puts those that have rung into `into`, which is empty.
    pub(super) fn take_rung(&self, into: &mut Vec<Arc<Shared>>) {
        self.entrance.take_rung(into);
    }

    /// Polls; does not sleep when something was put in meanwhile.
    pub(super) fn poll<T>(
        &self,
        timeout: Option<Duration>,
        commands: &Receiver<Command>,
        poll: impl FnOnce(Option<Duration>) -> T,
    ) -> T {
        let poll = |may_sleep| {
            poll(if may_sleep {
                timeout
            } else {
                Some(Duration::ZERO)
            })
        };
        self.entrance.sleep(|| commands.is_empty(), poll)
    }

    /// The worker stops: returns what has arrived, and lets nothing more in.
    pub(super) fn shut(&self) -> Vec<Entry> {
        self.entrance.shut()
    }

    /// The worker is gone.
    pub(super) fn abandon(&self) {
        self.entrance.abandon();
    }
}
