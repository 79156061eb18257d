//! A running actor, and where its commands are sent.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError, unbounded};

use super::actor::Actor;
use super::stepped::{SteppedActor, SteppedActors};
use super::thread::{ActorEnd, ActorThread, ActorWake};

/// The capacity of a mailbox: thousands of connections and users send to one actor.
const MAILBOX_MAX: usize = 65_536;

/// Sends commands to an actor. Cheap to clone.
#[derive(Debug)]
pub struct MailboxSender<T>(Arc<Mailbox<T>>);

#[derive(Debug)]
struct Mailbox<T> {
    /// Not a bounded channel: that occupies the memory of a full one, 8 MiB for a hub.
    commands: Sender<T>,
    /// Dropped after the sender.
    wake: WakeWhenDropped,
}

/// Wakes an actor, also when this is dropped; without one, a simulation steps it.
#[derive(Debug)]
struct WakeWhenDropped(Option<Arc<ActorWake>>);

impl Drop for WakeWhenDropped {
    fn drop(&mut self) {
        if let Some(wake) = &self.0 {
            wake.wake();
        }
    }
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> MailboxSender<T> {
    fn new(commands: Sender<T>, wake: Option<Arc<ActorWake>>) -> Self {
        let wake = WakeWhenDropped(wake);
        Self(Arc::new(Mailbox { commands, wake }))
    }

    /// Sends without blocking. If the actor has ended, or its mailbox is full (tens of thousands of
    /// commands), the command is dropped and that is logged.
    pub fn send(&self, command: T) {
        let Mailbox { commands, wake } = &*self.0;
        if commands.len() >= MAILBOX_MAX {
            tracing::error!("the mailbox of an actor is full");
            return;
        }
        match commands.try_send(command) {
            Ok(()) => wake.0.iter().for_each(|wake| wake.wake()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                tracing::trace!("a command was dropped: its actor has ended");
            }
        }
    }
}

/// A running actor. It ends when it returns [`Next::End`](crate::Next::End), panics, or nobody can send to it any more.
#[derive(Debug)]
pub struct ActorHandle<T> {
    sender: MailboxSender<T>,
    end: Option<ActorEnd>,
}

impl<T: Send + 'static> ActorHandle<T> {
    /// Adds the actor that `make` returns to a thread, which calls it at once. The name is for the log.
    pub(crate) fn hosted<A: Actor<Command = T>>(
        thread: &ActorThread,
        name: &str,
        make: impl FnOnce(MailboxSender<T>) -> A,
    ) -> Self {
        let (commands, mailbox) = unbounded();
        let wake = thread.next_wake();
        let sender = MailboxSender::new(commands, Some(Arc::clone(&wake)));
        let actor = SteppedActor::new(make(sender.clone()), mailbox);
        Self {
            sender,
            end: Some(thread.add(name, wake, Box::new(actor))),
        }
    }

    /// An actor without a thread.
    pub(crate) fn simulated<A: Actor<Command = T>>(
        actors: &SteppedActors,
        make: impl FnOnce(MailboxSender<T>) -> A,
    ) -> Self {
        let (commands, mailbox) = unbounded();
        let sender = MailboxSender::new(commands, None);
        actors.add(make(sender.clone()), mailbox);
        Self { sender, end: None }
    }

    /// Sends commands to the actor.
    #[must_use]
    pub const fn sender(&self) -> &MailboxSender<T> {
        &self.sender
    }

    /// Blocks the thread until the actor has ended; returns at once on the thread of the actors.
    pub fn join(&mut self) {
        if let Some(end) = self.end.take() {
            end.wait();
        }
    }
}
