//! How other threads reach a worker: wake flags, the wake queue, and commands.

mod command;
mod handle;
mod queue;

pub(crate) use command::{AcceptCallback, DialCallback, WorkerCommand};
pub(crate) use handle::{WAKER, WorkerHandle};
pub(crate) use queue::{Location, Migrants, WakeFlag};
