//! The remaining limits of one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::call::CallError;
use crate::limits::GuestLimits;
use crate::ticker::Ticks;

/// The counters of the current call, reset by [`Budget::begin`].
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
    /// Only `handle` may emit: the outputs of a start would have no recipient.
    may_emit: bool,
}

/// The purpose of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    Message,
    Start,
}

/// Why the host ended a call. It passes through the guest's stack frames as an error, and is then
/// converted to the caller's [`CallError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AbortReason {
    #[error("deadline exceeded")]
    Deadline,
    #[error("emit outside handle: only handle may emit")]
    EmitOutsideHandle,
    #[error("too many host calls")]
    HostCalls,
    #[error("too much output")]
    Output,
    #[error("a pointer passed to the host is outside the guest's memory")]
    Pointer,
    #[error("stopped")]
    Stopped,
    #[error("a string passed to the host is not UTF-8")]
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

    pub(crate) fn begin(&mut self, kind: CallKind) {
        self.ends_at = self.ticks.now().saturating_add(self.ticks_per_call);
        self.host_calls_left = self.limits.host_calls;
        self.output_bytes_left = self.limits.output_bytes;
        self.output_messages_left = self.limits.output_messages;
        self.may_emit = kind == CallKind::Message;
    }

    /// Called on every tick while the guest runs, and at every host call, since the engine does not
    /// interrupt a host function.
    pub(crate) fn check_time(&self) -> Result<(), AbortReason> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(AbortReason::Stopped);
        }
        if self.ticks.now() >= self.ends_at {
            Err(AbortReason::Deadline)
        } else {
            Ok(())
        }
    }

    pub(crate) fn take_host_call(&mut self) -> Result<(), AbortReason> {
        self.check_time()?;
        self.host_calls_left = self
            .host_calls_left
            .checked_sub(1)
            .ok_or(AbortReason::HostCalls)?;
        Ok(())
    }

    pub(crate) fn take_output(&mut self, bytes: usize) -> Result<(), AbortReason> {
        if !self.may_emit {
            return Err(AbortReason::EmitOutsideHandle);
        }
        self.output_messages_left = self
            .output_messages_left
            .checked_sub(1)
            .ok_or(AbortReason::Output)?;
        self.output_bytes_left = self
            .output_bytes_left
            .checked_sub(bytes)
            .ok_or(AbortReason::Output)?;
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

    pub(crate) fn describe(&self, reason: AbortReason) -> CallError {
        match reason {
            AbortReason::Deadline => CallError::DeadlineExceeded {
                deadline: self.limits.deadline,
            },
            AbortReason::HostCalls => CallError::HostCallLimit {
                limit: self.limits.host_calls,
            },
            AbortReason::Output => CallError::OutputLimit {
                limit_messages: self.limits.output_messages,
                limit_bytes: self.limits.output_bytes,
            },
            AbortReason::Stopped => CallError::Stopped,
            AbortReason::EmitOutsideHandle | AbortReason::Pointer | AbortReason::Utf8 => {
                CallError::Trapped {
                    reason: reason.to_string(),
                }
            }
        }
    }
}
