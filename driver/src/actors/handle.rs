//! A running actor, and where its commands are sent.

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
use selvedge_transport::Instant;

use super::actor::{Actor, Next};
use super::stepped::SteppedActors;
use crate::error::DriverError;

/// The capacity of a mailbox: thousands of connections and users send to one actor.
const MAILBOX_MAX: usize = 65_536;

/// Sends commands to an actor. Cheap to clone.
#[derive(Debug)]
pub struct MailboxSender<T>(Sender<T>);

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> MailboxSender<T> {
    /// Sends without blocking. If the actor has ended, or its mailbox is full (tens of thousands of
    /// commands), the command is dropped and that is logged.
    pub fn send(&self, command: T) {
        match self.0.try_send(command) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => tracing::error!("the mailbox of an actor is full"),
            Err(TrySendError::Disconnected(_)) => {
                tracing::trace!("a command was dropped: its actor has ended");
            }
        }
    }
}

/// A running actor. It ends when it returns [`Next::End`].
#[derive(Debug)]
pub struct ActorHandle<T> {
    sender: MailboxSender<T>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> ActorHandle<T> {
    /// Starts a thread of that name for the actor that `make` returns. The actor is called at once.
    ///
    /// # Errors
    /// [`DriverError::System`] when the operating system starts no thread.
    pub fn spawn<A: Actor<Command = T>>(
        name: &str,
        make: impl FnOnce(MailboxSender<T>) -> A,
    ) -> Result<Self, DriverError> {
        let (sender, mailbox) = bounded(MAILBOX_MAX);
        let sender = MailboxSender(sender);
        let mut actor = make(sender.clone());
        let spawned = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&mut actor, &mailbox));
        let thread = spawned.map_err(|error| DriverError::System {
            what: "start a thread",
            error,
        })?;
        Ok(Self {
            sender,
            thread: Some(thread),
        })
    }

    /// An actor without a thread.
    pub(crate) fn simulated<A: Actor<Command = T>>(
        actors: &SteppedActors,
        make: impl FnOnce(MailboxSender<T>) -> A,
    ) -> Self {
        // A bounded one allocates all its room at once, and a simulation has many actors.
        let (sender, mailbox) = unbounded();
        let sender = MailboxSender(sender);
        actors.add(make(sender.clone()), mailbox);
        Self {
            sender,
            thread: None,
        }
    }

    /// Sends commands to the actor.
    #[must_use]
    pub const fn sender(&self) -> &MailboxSender<T> {
        &self.sender
    }

    /// Blocks the thread until the actor has ended; returns at once on the actor's own thread.
    pub fn join(&mut self) {
        let own = std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(|it| it.thread().id() != own)
            && thread.join().is_err()
        {
            tracing::error!("an actor panicked: this is a bug");
        }
    }
}

/// Runs an actor until it ends or all its senders are dropped.
fn run<A: Actor>(actor: &mut A, mailbox: &Receiver<A::Command>) {
    let mut next = actor.handle(Instant::now(), None);
    loop {
        let received = match next {
            Next::End => return,
            Next::At(at) => mailbox.recv_deadline(at.into()),
            Next::Command => mailbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        next = match received {
            Ok(command) => actor.handle(Instant::now(), Some(command)),
            Err(RecvTimeoutError::Timeout) => actor.handle(Instant::now(), None),
            Err(RecvTimeoutError::Disconnected) => return,
        };
    }
}
