//! What is left of the limits within one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::call::CallError;
use crate::limits::GuestLimits;
use crate::ticker::Ticks;

/// The counters of the call under way, set anew by [`Budget::begin`].
#[derive(Debug)]
pub(crate) struct Budget {
    ticks: Arc<Ticks>,
    ticks_per_call: u64,
    limits: GuestLimits,
    stop: Arc<AtomicBool>,
    ends_at: u64,
    host_calls_left: u32,
    output_bytes_left: usize,
    output_messages_left: u32,
    /// Only `handle` emits: there is nobody to take the outputs of a start.
    may_emit: bool,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Message,
    Start,
}

/// Why the host ended a call. It travels through the guest's frames as an error, and becomes the
/// caller's [`CallError`] on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Breach {
    #[error("deadline exceeded")]
    Deadline,
    #[error("emit outside handle: there is no message to answer")]
    EmitOutsideHandle,
    #[error("too many host calls")]
    HostCalls,
    #[error("too much output")]
    GuestOutput,
    #[error("a pointer handed to the host lies outside the guest's memory")]
    Pointer,
    #[error("stopped")]
    Stopped,
    #[error("a string handed to the host is not UTF-8")]
    Utf8,
}

impl Budget {
    pub(crate) fn new(
        ticks: Arc<Ticks>,
        ticks_per_call: u64,
        limits: GuestLimits,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self {
            ticks,
            ticks_per_call,
            limits,
            stop,
            ends_at: 0,
            host_calls_left: 0,
            output_bytes_left: 0,
            output_messages_left: 0,
            may_emit: false,
        }
    }

    pub(crate) fn begin(&mut self, purpose: Purpose) {
        self.ends_at = self.ticks.now().saturating_add(self.ticks_per_call);
        self.host_calls_left = self.limits.host_calls;
        self.output_bytes_left = self.limits.output_bytes;
        self.output_messages_left = self.limits.output_messages;
        self.may_emit = purpose == Purpose::Message;
    }

    /// Called on every tick while the guest runs, and at every host call, whose own time the epoch
    /// does not see.
    pub(crate) fn check_time(&self) -> Result<(), Breach> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Breach::Stopped);
        }
        if self.ticks.now() >= self.ends_at {
            Err(Breach::Deadline)
        } else {
            Ok(())
        }
    }

    pub(crate) fn take_host_call(&mut self) -> Result<(), Breach> {
        self.check_time()?;
        self.host_calls_left = self
            .host_calls_left
            .checked_sub(1)
            .ok_or(Breach::HostCalls)?;
        Ok(())
    }

    pub(crate) fn take_output(&mut self, bytes: usize) -> Result<(), Breach> {
        if !self.may_emit {
            return Err(Breach::EmitOutsideHandle);
        }
        self.output_messages_left = self
            .output_messages_left
            .checked_sub(1)
            .ok_or(Breach::GuestOutput)?;
        self.output_bytes_left = self
            .output_bytes_left
            .checked_sub(bytes)
            .ok_or(Breach::GuestOutput)?;
        Ok(())
    }

    pub(crate) fn ticks(&self) -> &Ticks {
        &self.ticks
    }

    pub(crate) fn limits(&self) -> &GuestLimits {
        &self.limits
    }

    pub(crate) fn host_calls_used(&self) -> u32 {
        self.limits.host_calls - self.host_calls_left
    }

    pub(crate) fn output_bytes_left(&self) -> usize {
        self.output_bytes_left
    }

    pub(crate) fn output_bytes_used(&self) -> usize {
        self.limits.output_bytes - self.output_bytes_left
    }

    pub(crate) fn describe(&self, breach: Breach) -> CallError {
        match breach {
            Breach::Deadline => CallError::DeadlineExceeded {
                deadline: self.limits.deadline,
            },
            Breach::HostCalls => CallError::HostCallLimit {
                limit: self.limits.host_calls,
            },
            Breach::GuestOutput => CallError::OutputLimit {
                limit_messages: self.limits.output_messages,
                limit_bytes: self.limits.output_bytes,
            },
            Breach::Stopped => CallError::Stopped,
            Breach::EmitOutsideHandle | Breach::Pointer | Breach::Utf8 => CallError::Trapped {
                reason: breach.to_string(),
            },
        }
    }
}
