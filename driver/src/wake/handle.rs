//! A worker as other threads see it: a command channel, a wake queue, and the waker of its poll.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::{Registry, Token, Waker};

use super::command::WorkerCommand;
use super::queue::WakeQueue;
use crate::error::DriverError;

/// The token of a worker's waker.
pub(crate) const WAKER: Token = Token(usize::MAX);

/// The capacity of a command channel. Commands are rare: an endpoint, a dial, a listener.
const COMMANDS_MAX: usize = 1024;

/// Reaches one worker from any thread. `E` identifies an endpoint in the wake queue.
pub(crate) struct WorkerHandle<E> {
    commands: Sender<WorkerCommand>,
    wake_queue: WakeQueue<E>,
    waker: Waker,
}

impl<E> std::fmt::Debug for WorkerHandle<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkerHandle")
    }
}

impl<E> WorkerHandle<E> {
    pub(crate) fn new(registry: &Registry) -> std::io::Result<(Self, Receiver<WorkerCommand>)> {
        let (commands, receiver) = bounded(COMMANDS_MAX);
        let handle = Self {
            commands,
            wake_queue: WakeQueue::new(),
            waker: Waker::new(registry, WAKER)?,
        };
        Ok((handle, receiver))
    }

    /// Sends a command; blocks while the channel is full.
    pub(crate) fn send(&self, command: WorkerCommand) -> Result<(), DriverError> {
        if self.commands.send(command).is_err() {
            return Err(DriverError::Stopped);
        }
        self.wake_if_asleep();
        Ok(())
    }

    /// Sends a command if the channel has room: a worker must not block on its own channel. Returns
    /// whether the command was sent.
    pub(crate) fn try_send(&self, command: WorkerCommand) -> bool {
        let is_sent = self.commands.try_send(command).is_ok();
        if is_sent {
            self.wake_if_asleep();
        }
        is_sent
    }

    /// Sends a command like [`try_send`](Self::try_send), or returns it.
    pub(crate) fn try_send_or_return(&self, command: WorkerCommand) -> Option<WorkerCommand> {
        if let Err(refused) = self.commands.try_send(command) {
            return Some(refused.into_inner());
        }
        self.wake_if_asleep();
        None
    }

    /// Sends a command, or drops it with its callback when the worker has stopped.
    pub(crate) fn send_or_drop(&self, command: WorkerCommand) {
        if self.send(command).is_err() {
            tracing::debug!("a command was dropped: the worker has stopped");
        }
    }

    /// Requests a turn for an endpoint.
    pub(crate) fn wake(&self, endpoint: E) {
        self.wake_queue.push(endpoint);
        self.wake_if_asleep();
    }

    /// Wakes the worker if it sleeps. Call after something was enqueued for it.
    pub(crate) fn wake_if_asleep(&self) {
        if self.wake_queue.must_wake()
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "cannot wake a worker");
        }
    }

    /// Whether endpoints wait for a turn.
    pub(crate) fn has_pending(&self) -> bool {
        self.wake_queue.has_pending()
    }

    /// Moves the endpoints that wait for a turn into `into`, which is empty.
    pub(crate) fn take_pending(&self, into: &mut Vec<E>) {
        self.wake_queue.take_pending(into);
    }

    /// Calls `poll` with `timeout`, or with zero if an endpoint waits for a turn or `is_empty` finds
    /// something in the other queues of the worker.
    pub(crate) fn poll<T>(
        &self,
        timeout: Option<Duration>,
        is_empty: impl FnOnce() -> bool,
        poll: impl FnOnce(Option<Duration>) -> T,
    ) -> T {
        self.wake_queue.sleep(is_empty, |may_sleep| {
            poll(if may_sleep {
                timeout
            } else {
                Some(Duration::ZERO)
            })
        })
    }

    /// Drops the queued endpoints, and all later ones: the worker has ended.
    pub(crate) fn abandon(&self) {
        self.wake_queue.abandon();
    }
}
