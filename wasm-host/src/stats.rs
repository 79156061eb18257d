//! The counters of an instance.

use crate::call::CallError;

/// Counters of one [`Instance`](crate::Instance) or [`NumericFunction`](crate::NumericFunction)
/// since its creation; recycling does not reset them.
///
/// Each call is counted once: `calls` = `handled` + the failures by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FunctionStats {
    /// Calls made.
    pub calls: u64,
    /// Calls that succeeded.
    pub handled: u64,
    /// Failed: [`CallError::DeadlineExceeded`].
    pub deadline_exceeded: u64,
    /// Failed: [`CallError::GuestError`].
    pub guest_errors: u64,
    /// Failed: [`CallError::HostCallLimit`].
    pub host_call_limit: u64,
    /// Failed: [`CallError::MemoryLimit`].
    pub memory_limit: u64,
    /// Failed: [`CallError::OutputLimit`].
    pub output_limit: u64,
    /// Failed before the guest was called: [`CallError::InputTooLarge`], [`CallError::NotRepresentable`].
    pub refused: u64,
    /// Failed: [`CallError::Restart`].
    pub restart_failed: u64,
    /// Failed: [`CallError::Stopped`].
    pub stopped: u64,
    /// Failed: [`CallError::Trapped`].
    pub trapped: u64,
    /// How often the guest was discarded with its memory.
    pub recycled: u64,
    /// Messages that successful calls emitted.
    pub output_messages: u64,
    /// Bytes of the payloads and targets of these messages.
    pub output_bytes: u64,
    /// Calls of host functions by successful calls.
    pub host_calls: u64,
    /// Log lines dropped because of [`GuestLimits::log_bytes_per_second`](crate::GuestLimits::log_bytes_per_second).
    pub log_lines_dropped: u64,
    /// Bytes of the memories and tables of the guest now; 0 between a recycling and the next call.
    pub memory_bytes: usize,
}

impl FunctionStats {
    pub(crate) fn count_failure(&mut self, error: &CallError) {
        let counter = match error {
            CallError::DeadlineExceeded { .. } => &mut self.deadline_exceeded,
            CallError::GuestError { .. } => &mut self.guest_errors,
            CallError::HostCallLimit { .. } => &mut self.host_call_limit,
            CallError::InputTooLarge { .. } | CallError::NotRepresentable { .. } => {
                &mut self.refused
            }
            CallError::MemoryLimit { .. } => &mut self.memory_limit,
            CallError::OutputLimit { .. } => &mut self.output_limit,
            CallError::Restart(_) => &mut self.restart_failed,
            CallError::Stopped => &mut self.stopped,
            CallError::Trapped { .. } => &mut self.trapped,
        };
        *counter += 1;
    }
}
