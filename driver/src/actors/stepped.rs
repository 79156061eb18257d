//! Actors without threads, which a simulation steps in turn.

use std::sync::Mutex;

use crossbeam_channel::{Receiver, TryRecvError};
use selvedge_transport::Instant;

use super::actor::{Actor, Next};
use crate::sync::lock;

/// The actors of a simulation.
#[derive(Default)]
pub(crate) struct SteppedActors(Mutex<Vec<Box<dyn StepActor>>>);

impl std::fmt::Debug for SteppedActors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SteppedActors")
    }
}

/// An actor of any type, with its mailbox.
pub(crate) trait StepActor: Send {
    /// Handles one command or a deadline that is due. Returns whether there was one.
    fn step(&mut self, now: Instant) -> bool;

    /// The deadline for which the actor waits.
    fn deadline(&self) -> Option<Instant>;

    fn has_ended(&self) -> bool;
}

pub(crate) struct SteppedActor<A: Actor> {
    actor: A,
    mailbox: Receiver<A::Command>,
    /// `None` before the first call.
    next: Option<Next>,
}

impl<A: Actor> SteppedActor<A> {
    pub(crate) const fn new(actor: A, mailbox: Receiver<A::Command>) -> Self {
        Self {
            actor,
            mailbox,
            next: None,
        }
    }
}

impl<A: Actor> StepActor for SteppedActor<A> {
    fn step(&mut self, now: Instant) -> bool {
        let command = match self.next {
            Some(Next::End) => return false,
            None => None,
            Some(_) => match self.mailbox.try_recv() {
                Ok(command) => Some(command),
                Err(TryRecvError::Empty) => None,
                // Nobody can send it anything.
                Err(TryRecvError::Disconnected) => {
                    self.next = Some(Next::End);
                    return false;
                }
            },
        };
        let is_due = match self.next {
            None => true,
            Some(Next::At(at)) => at <= now,
            Some(Next::Command | Next::End) => false,
        };
        if command.is_none() && !is_due {
            return false;
        }
        self.next = Some(self.actor.handle(now, command));
        true
    }

    fn deadline(&self) -> Option<Instant> {
        match self.next {
            Some(Next::At(at)) => Some(at),
            None | Some(Next::Command | Next::End) => None,
        }
    }

    fn has_ended(&self) -> bool {
        self.next == Some(Next::End)
    }
}

impl SteppedActors {
    pub(crate) fn add<A: Actor>(&self, actor: A, mailbox: Receiver<A::Command>) {
        lock(&self.0).push(Box::new(SteppedActor::new(actor, mailbox)));
    }

    /// Steps each actor until it has nothing to do. Returns whether there was anything.
    pub(crate) fn step(&self, now: Instant) -> bool {
        // Taken out, since an actor may add another one.
        let mut actors = std::mem::take(&mut *lock(&self.0));
        let mut has_worked = false;
        for actor in &mut actors {
            while actor.step(now) {
                has_worked = true;
            }
        }
        let (ended, mut actors): (Vec<_>, Vec<_>) =
            actors.into_iter().partition(|it| it.has_ended());
        // Dropped without the lock: an actor may own something that adds another one.
        drop(ended);
        let mut added = lock(&self.0);
        actors.append(&mut added);
        *added = actors;
        has_worked
    }

    /// Drops all actors.
    pub(crate) fn clear(&self) {
        let actors = std::mem::take(&mut *lock(&self.0));
        // Without the lock: an actor may own something that adds another one.
        drop(actors);
    }

    /// The earliest deadline of all actors.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        lock(&self.0).iter().filter_map(|it| it.deadline()).min()
    }
}
