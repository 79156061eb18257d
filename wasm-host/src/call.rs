//! Why a call failed.

use std::time::Duration;

/// Why a call failed. The message was not handled, and its outputs are discarded.
///
/// [`recycled`](Self::recycled) returns whether the guest's memory was lost, too. Retrying the same
/// message helps only where the documentation of the variant mentions it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The guest ran longer than [`GuestLimits::deadline`](crate::GuestLimits::deadline). A bug of the
    /// guest, or the machine is overloaded: a retry may help.
    #[error("the guest did not finish within {deadline:?}")]
    DeadlineExceeded {
        /// The limit.
        deadline: Duration,
    },
    /// The guest returned an error. Its memory is kept; a retry fails again, unless the guest's
    /// documentation states otherwise.
    #[error("the guest failed with code {code}: {message}")]
    GuestError {
        /// The code that the guest returned; never 0 from a core module.
        code: i32,
        /// At most 1,024 bytes; empty from a core module, which can only return a code.
        message: String,
    },
    /// The guest called the host more often than
    /// [`GuestLimits::host_calls`](crate::GuestLimits::host_calls). A bug of the guest.
    #[error("the guest called the host more than {limit} times")]
    HostCallLimit {
        /// The limit.
        limit: u32,
    },
    /// The payload alone exceeds the guest's memory limit. A mistake of the caller; the guest was not
    /// called.
    #[error("a payload of {bytes} bytes exceeds the guest's memory limit of {limit} bytes")]
    InputTooLarge {
        /// The payload's length.
        bytes: usize,
        /// [`GuestLimits::memory_bytes`](crate::GuestLimits::memory_bytes).
        limit: usize,
    },
    /// The guest trapped after a request for memory was refused. A bug of the guest, or the limit is too
    /// low for the message.
    #[error("the guest needed more than {limit} bytes of memory")]
    MemoryLimit {
        /// [`GuestLimits::memory_bytes`](crate::GuestLimits::memory_bytes).
        limit: usize,
    },
    /// The number cannot be passed to the guest's function, whose parameter is an integer. A mistake
    /// of the caller; the guest was not called.
    #[error("{value} is not a value of type {wanted}")]
    NotRepresentable {
        /// The number.
        value: f64,
        /// The type of the guest's parameter.
        wanted: crate::NumericType,
    },
    /// The guest emitted more bytes than [`GuestLimits::output_bytes`](crate::GuestLimits::output_bytes) or more
    /// messages than [`GuestLimits::output_messages`](crate::GuestLimits::output_messages). A bug of the guest.
    #[error("the guest emitted more than {limit_messages} messages or {limit_bytes} bytes")]
    OutputLimit {
        /// The limit of messages.
        limit_messages: u32,
        /// The limit of bytes.
        limit_bytes: usize,
    },
    /// An earlier failure recycled the instance, and a fresh guest could not be started. The next call
    /// tries again.
    #[error("the guest could not be restarted: {0}")]
    Restart(#[source] StartError),
    /// A [`StopHandle`](crate::StopHandle) stopped the instance, for good.
    #[error("the instance was stopped")]
    Stopped,
    /// The guest trapped: for example, it panicked, divided by zero, overflowed its stack or passed a
    /// pointer outside its memory. A bug of the guest.
    #[error("the guest trapped: {reason}")]
    Trapped {
        /// What happened, as a text.
        reason: String,
    },
}

impl CallError {
    /// Whether this failure has discarded the guest's memory, so that the next call starts a fresh
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

/// Why a guest could not be started. A bug of the guest, or its limits are too low for a start.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the guest's {step} failed: {cause}")]
pub struct StartError {
    /// The step that failed: `instantiation` (with the module's start function), `_initialize`, `init` or
    /// `observe`.
    pub step: &'static str,
    /// Why it failed.
    #[source]
    pub cause: Box<CallError>,
}
