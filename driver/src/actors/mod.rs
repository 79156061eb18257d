//! Actors: pure state machines outside the workers, each on a separate thread, or stepped by a simulation.

mod actor;
mod handle;
mod stepped;

pub use actor::{Actor, Next};
pub use handle::{ActorHandle, MailboxSender};

pub(crate) use stepped::SteppedActors;
