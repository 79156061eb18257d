//! A state machine whose decisions may take longer than a worker can wait: a mesh, a registry.

use selvedge_transport::Instant;

/// A state machine that is driven by time and commands.
pub trait Actor: Send + 'static {
    /// What it is sent.
    type Command: Send + 'static;

    /// Handles a command, or (`None`) the time that the last call returned. The first call has no command.
    /// Returns what to wait for.
    fn handle(&mut self, now: Instant, command: Option<Self::Command>) -> Next;
}

/// What an [`Actor`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A command, or that time.
    At(Instant),
    /// A command.
    Command,
    /// Nothing: the actor has ended, and its thread ends.
    End,
}
