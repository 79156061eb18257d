//! Why a call gave no outputs.

use std::time::Duration;

/// Why a call gave nothing. The message was not handled: what the guest emitted for it is discarded.
///
/// [`recycled`](Self::recycled) tells whether the guest's memory was lost with it. Retrying the same
/// message helps where the doc of the variant says so.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The guest ran longer than [`GuestLimits::deadline`](crate::Limits::deadline). Its own fault, or the
    /// machine is overloaded: a retry may help.
    #[error("the guest did not finish within {deadline:?}")]
    DeadlineExceeded {
        /// The limit.
        deadline: Duration,
    },
    /// The guest itself refused the message. Its memory is kept; a retry gives the same unless the
    /// guest's documentation says otherwise.
    #[error("the guest failed with code {code}: {message}")]
    GuestError {
        /// What the guest returned, never 0 from a core module.
        code: i32,
        /// At most 1024 bytes; empty from a core module, which can only return a code.
        message: String,
    },
    /// The guest called the host more often than
    /// [`GuestLimits::host_calls`](crate::Limits::host_calls). The guest's fault.
    #[error("the guest called the host more than {limit} times")]
    HostCallLimit {
        /// The limit.
        limit: u32,
    },
    /// The payload alone is larger than the guest's memory may be. The caller's fault; the guest was
    /// not run.
    #[error("a payload of {bytes} bytes is larger than the guest's memory limit of {limit}")]
    InputTooLarge {
        /// The payload's length.
        bytes: usize,
        /// [`GuestLimits::memory_bytes`](crate::Limits::memory_bytes).
        limit: usize,
    },
    /// The guest was refused memory and trapped. Its fault, or the limit is too low for the message.
    #[error("the guest needed more than {limit} bytes of memory")]
    MemoryLimit {
        /// [`GuestLimits::memory_bytes`](crate::Limits::memory_bytes).
        limit: usize,
    },
    /// The number cannot be given to the guest's function, whose parameter is an integer. The
    /// caller's fault; the guest was not run.
    #[error("{value} is not a value of type {wanted}")]
    NotRepresentable {
        /// The number.
        value: f64,
        /// The type of the guest's parameter.
        wanted: crate::NumericType,
    },
    /// The guest emitted more bytes than [`GuestLimits::output_bytes`](crate::Limits::output_bytes) or more
    /// messages than [`GuestLimits::output_messages`](crate::Limits::output_messages). The guest's fault.
    #[error("the guest emitted more than {limit_messages} messages or {limit_bytes} bytes")]
    OutputLimit {
        /// The limit of messages.
        limit_messages: u32,
        /// The limit of bytes.
        limit_bytes: usize,
    },
    /// An earlier failure recycled the instance, and a fresh one could not be started. The next call
    /// tries again.
    #[error("the guest could not be restarted: {0}")]
    Restart(#[source] StartError),
    /// A [`StopHandle`](crate::StopHandle) stopped the instance; it takes no more calls.
    #[error("the instance was stopped")]
    Stopped,
    /// The guest trapped: it panicked, divided by zero, overflowed its stack, gave the host a pointer
    /// outside its memory... The guest's fault.
    #[error("the guest trapped: {reason}")]
    Trapped {
        /// What happened, for people.
        reason: String,
    },
}

impl CallError {
    /// Whether the guest's memory was lost with this failure, so that the next call meets a fresh
    /// guest.
    #[must_use]
    pub fn recycled(&self) -> bool {
        match self {
            Self::GuestError { .. }
            | Self::InputTooLarge { .. }
            | Self::NotRepresentable { .. } => false,
            Self::DeadlineExceeded { .. }
            | Self::HostCallLimit { .. }
            | Self::MemoryLimit { .. }
            | Self::OutputLimit { .. }
            | Self::Restart(_)
            | Self::Stopped
            | Self::Trapped { .. } => true,
        }
    }
}

/// A guest could not be started. The guest's fault, or its limits are too low for a start.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the guest's {step} failed: {cause}")]
pub struct StartError {
    /// What was run: `instantiation` (with the module's start function), `_initialize`, `init` or
    /// `observe`.
    pub step: &'static str,
    /// What happened to it.
    #[source]
    pub cause: Box<CallError>,
}
