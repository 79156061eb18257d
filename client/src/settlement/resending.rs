//! Messages that an entry zipper has requested again.

use super::log::MessageLog;
use super::{GroupId, SequenceSet};

/// The answer to a request.
#[derive(Debug)]
pub(super) struct Resending {
    pub(super) group: GroupId,
    pub(super) token: u32,
    pub(super) rest: SequenceSet,
    /// Behind the last message that was requested.
    pub(super) end: u64,
    /// How many bytes it may still have.
    pub(super) bytes: u64,
    pub(super) is_begun: bool,
}

impl Resending {
    /// The next message of the answer. What is settled meanwhile needs none.
    pub(super) fn next(&mut self, log: &MessageLog) -> Option<u64> {
        loop {
            let first = self.rest.first()?;
            let held = log.first_held(first).unwrap_or(u64::MAX);
            if held == first {
                return Some(first);
            }
            self.rest.remove_below(held);
        }
    }
}
