//! How many functions the messages have passed that a client writes.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::client::flows::{AcknowledgeMode, FlowWrite};
use crate::client::settling::WriteWait;
use crate::client::{Client, ClientOptions, WriteError};
use crate::settlement::LoggedPayload;
use crate::tag::Tag;
use crate::wire::settlement::MESSAGE_DEPTH_MAX;

/// The depth of the messages that are written.
///
/// Only of a function that acknowledges messages is it known what it processes when it writes. One that does not may write
/// anything, such as the next question after an answer: if that counted as deeper, two that ask and answer would be a
/// cycle, and would be cut off after eight messages. What it writes to itself is a cycle in any case.
#[derive(Debug)]
pub(super) struct OutputDepth {
    /// One more than that of the message that was read last; 0 if none was.
    behind_last: AtomicU8,
    /// Whether the client acknowledges messages.
    is_by_call: bool,
    /// The tags that it observes, in order.
    observed: Box<[Tag]>,
}

impl OutputDepth {
    pub(super) fn new(options: &ClientOptions) -> Self {
        let mut observed = options.tags.clone();
        observed.sort_unstable();
        Self {
            behind_last: AtomicU8::new(0),
            is_by_call: options.acknowledge == AcknowledgeMode::ByCall,
            observed: observed.into(),
        }
    }

    /// The depth of a message with that tag that is written now.
    #[inline]
    fn of(&self, tag: Tag) -> u8 {
        match self.behind_last.load(Ordering::Relaxed) {
            depth if depth == 0 || self.is_by_call => depth,
            depth if self.observed.binary_search(&tag).is_ok() => depth,
            _ => 0,
        }
    }
}

impl Client {
    /// Writes a message like [`write_with`](Self::write_with), with the number of functions that it has passed: 0
    /// if it belongs to no message that was read, otherwise one more than the
    /// [depth](crate::ReceivedMessage::depth) of that message. At most 127.
    ///
    /// The other methods use one more than the depth of the message that was read last, by any thread, if the client
    /// acknowledges what it has processed ([`AcknowledgeMode::ByCall`](crate::AcknowledgeMode::ByCall)), or writes a tag
    /// that it observes; otherwise 0. So a function needs this method if it handles several messages at once, if it
    /// writes by itself and its messages come from deep in a chain of functions, or if it does not acknowledge messages
    /// and could be part of a cycle. Messages without a [level](crate::ClientOptions::level) have no depth.
    ///
    /// # Errors
    /// [`WriteError`], never [`WriteError::Full`].
    pub fn write_at_depth(
        &self,
        depth: u8,
        tag: Tag,
        target: Option<&str>,
        trace: Option<&[(String, u64)]>,
        payload: &[u8],
    ) -> Result<(), WriteError> {
        let message = FlowWrite {
            target,
            depth: depth.min(MESSAGE_DEPTH_MAX),
            ..FlowWrite::plain(tag, payload)
        };
        match self.settle_with(message, trace, WriteWait::Forever)? {
            None => Ok(()),
            Some(header) => self.send(&[&header, payload]),
        }
    }

    /// A message without a target and a trace, with the depth of the messages that are written now.
    #[inline]
    pub(super) fn output<'a>(&self, tag: Tag, body: LoggedPayload<'a>) -> FlowWrite<'a> {
        FlowWrite {
            depth: self.output_depth(tag),
            body,
            ..FlowWrite::plain(tag, &[])
        }
    }

    #[inline]
    pub(super) fn output_depth(&self, tag: Tag) -> u8 {
        self.shared.output_depth.of(tag)
    }

    /// A message with that depth was read.
    #[inline]
    pub(super) fn note_depth(&self, depth: u8) {
        let known = &self.shared.output_depth.behind_last;
        let next = depth.saturating_add(1).min(MESSAGE_DEPTH_MAX);
        // It rarely changes: a store for each message would take the line from threads that write.
        if known.load(Ordering::Relaxed) != next {
            known.store(next, Ordering::Relaxed);
        }
    }
}
