//! Actors: pure state machines outside the workers, on one thread for all of a driver, or stepped by a simulation.

mod actor;
mod handle;
mod stepped;
mod thread;

pub use actor::{Actor, Next};
pub use handle::{ActorHandle, MailboxSender};

pub(crate) use stepped::SteppedActors;
pub(crate) use thread::ActorThread;
