//! The thread on which the actors of a driver run, one at a time.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, ThreadId};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use selvedge_transport::Instant;

use super::stepped::StepActor;
use crate::error::DriverError;

/// How many commands of one actor are handled before others have their turn.
const TURN_LEN: usize = 64;

/// The thread of the actors of one driver.
#[derive(Debug)]
pub(crate) struct ActorThread {
    signals: Sender<ActorSignal>,
    next_id: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum ActorSignal {
    Add(HostedActor),
    /// An actor has commands, or nobody can send it any more.
    Ready(u64),
    Stop,
}

/// An actor on the thread.
struct HostedActor {
    name: String,
    wake: Arc<ActorWake>,
    deadline: Option<Instant>,
    actor: Box<dyn StepActor>,
    /// Dropped after the actor.
    _ended: Sender<()>,
}

impl fmt::Debug for HostedActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Has the thread call one actor.
#[derive(Debug)]
pub(crate) struct ActorWake {
    id: u64,
    /// Whether a signal is on its way that the thread has not received.
    is_pending: AtomicBool,
    signals: Sender<ActorSignal>,
}

impl ActorWake {
    /// Call after a command was put into the mailbox, or the last sender was dropped.
    pub(crate) fn wake(&self) {
        // The thread swaps the flag before it looks into the mailbox: it sees what was put there before.
        if !self.is_pending.swap(true, Ordering::AcqRel) {
            // Fails after the end of the driver, and of the actor with it.
            let _is_sent = self.signals.send(ActorSignal::Ready(self.id));
        }
    }
}

impl ActorThread {
    pub(crate) fn spawn() -> Result<Self, DriverError> {
        let (signals, received) = unbounded();
        let spawned = std::thread::Builder::new()
            .name("selvedge-actors".into())
            .spawn(move || HostedActors::default().run(&received));
        let thread = spawned.map_err(|error| DriverError::System {
            what: "start a thread",
            error,
        })?;
        Ok(Self {
            signals,
            next_id: AtomicU64::new(0),
            thread: Some(thread),
        })
    }

    /// What wakes the next actor.
    pub(crate) fn next_wake(&self) -> Arc<ActorWake> {
        Arc::new(ActorWake {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            is_pending: AtomicBool::new(false),
            signals: self.signals.clone(),
        })
    }

    /// Runs an actor from now on.
    pub(crate) fn add(
        &self,
        name: &str,
        wake: Arc<ActorWake>,
        actor: Box<dyn StepActor>,
    ) -> ActorEnd {
        let (ended, receiver) = bounded(0);
        let hosted = HostedActor {
            name: name.to_owned(),
            wake,
            deadline: None,
            actor,
            _ended: ended,
        };
        // It ends after all handles of the driver.
        let _is_sent = self.signals.send(ActorSignal::Add(hosted));
        ActorEnd {
            receiver,
            thread: self.thread.as_ref().map(|it| it.thread().id()),
        }
    }
}

impl Drop for ActorThread {
    fn drop(&mut self) {
        let _is_sent = self.signals.send(ActorSignal::Stop);
        let own = std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(|it| it.thread().id() != own)
            && thread.join().is_err()
        {
            tracing::error!("the thread of the actors panicked: this is a bug");
        }
    }
}

/// Waits for the end of an actor.
#[derive(Debug)]
pub(crate) struct ActorEnd {
    receiver: Receiver<()>,
    thread: Option<ThreadId>,
}

impl ActorEnd {
    /// Blocks until the actor has ended; returns at once on the thread of the actors.
    pub(crate) fn wait(&self) {
        if self.thread != Some(std::thread::current().id()) {
            // Nothing is sent: it is disconnected when the actor is dropped.
            let _is_disconnected = self.receiver.recv();
        }
    }
}

#[derive(Debug, Default)]
struct HostedActors {
    actors: HashMap<u64, HostedActor>,
    deadlines: BTreeSet<(Instant, u64)>,
}

impl HostedActors {
    fn run(mut self, signals: &Receiver<ActorSignal>) {
        loop {
            let received = match self.deadlines.first() {
                Some((at, _)) => signals.recv_deadline((*at).into()),
                None => signals.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(ActorSignal::Add(actor)) => {
                    let id = actor.wake.id;
                    self.actors.insert(id, actor);
                    self.call(id);
                }
                Ok(ActorSignal::Ready(id)) => self.call(id),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(ActorSignal::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            // Also beside commands without a pause.
            let now = Instant::now();
            while let Some((at, id)) = self.deadlines.first().copied()
                && at <= now
            {
                self.call(id);
            }
        }
        self.actors.drain().for_each(|(_, actor)| end(actor));
    }

    /// Calls an actor until it has nothing to do, or others have their turn.
    fn call(&mut self, id: u64) {
        let Some(hosted) = self.actors.get_mut(&id) else {
            return;
        };
        hosted.wake.is_pending.swap(false, Ordering::AcqRel);
        if let Some(at) = hosted.deadline.take() {
            self.deadlines.remove(&(at, id));
        }
        let actor = &mut hosted.actor;
        let has_more = catch_unwind(AssertUnwindSafe(|| {
            (0..TURN_LEN).all(|_| actor.step(Instant::now()))
        }));
        let is_over = has_more.is_err() || actor.has_ended();
        if has_more.is_err() {
            tracing::error!(
                actor = hosted.name,
                "an actor panicked, and has ended: this is a bug"
            );
        }
        if is_over {
            self.actors.remove(&id).into_iter().for_each(end);
            return;
        }
        if has_more.unwrap_or_default() {
            hosted.wake.wake();
        }
        hosted.deadline = hosted.actor.deadline();
        self.deadlines.extend(hosted.deadline.map(|at| (at, id)));
    }
}

/// Drops an actor. A panic of what it owns must not end the others.
fn end(actor: HostedActor) {
    if catch_unwind(AssertUnwindSafe(|| drop(actor))).is_err() {
        tracing::error!("an actor panicked when it was dropped: this is a bug");
    }
}
