//! Messages of flows that become plain data, because the next zipper does not settle messages.

use std::collections::VecDeque;

use bytes::Bytes;

use super::sink::FlowSink;
use crate::lanes::{DATA, HOPS_MAX};
use crate::settlement::LoggedPayload;
use crate::tag::Tag;
use crate::wire::settlement::RoutedMessage;
use crate::wire::{MessageHeader, NO_SOURCE, Origin, WireError};

/// Plain messages that wait for room in the send buffer. It grows only when the client enters a zipper
/// without settlement, by what the logs have held until then.
#[derive(Debug, Default)]
pub(super) struct PlainBacklog(VecDeque<Bytes>);

impl PlainBacklog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a message of a flow.
    pub(super) fn push(&mut self, flow: (Tag, Option<&str>), message: LoggedMessage<'_>) {
        match message.encode(flow) {
            Ok(bytes) => self.0.push_back(bytes),
            // Its parts were checked when it was written.
            Err(error) => tracing::error!(%error, tag = %flow.0, "a message cannot be encoded"),
        }
    }

    /// Sends as much as there is room for.
    pub(super) fn pump(&mut self, sink: &mut impl FlowSink) {
        while let Some(first) = self.0.front() {
            if !sink.has_room(DATA, first.len()) || !sink.send(DATA, &[first]) {
                return;
            }
            self.0.pop_front();
        }
    }
}

/// A message in the log of a flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoggedMessage<'a> {
    pub(super) sequence: u64,
    /// Whether the body begins with a trace.
    pub(super) has_trace: bool,
    pub(super) body: LoggedPayload<'a>,
}

impl LoggedMessage<'_> {
    fn encode(&self, (tag, target): (Tag, Option<&str>)) -> Result<Bytes, WireError> {
        let body = RoutedMessage {
            label: 0,
            sequence: self.sequence,
            is_redelivery: false,
            has_trace: self.has_trace,
            depth: 0,
            resent: None,
            body_at: 0,
        };
        let (trace, payload) = body.split_body(Bytes::copy_from_slice(&self.body))?;
        let header = MessageHeader {
            tag,
            origin: Origin {
                source: NO_SOURCE,
                sequence: self.sequence,
            },
            hops_left: HOPS_MAX,
            target,
            recipients: &[],
            trace: trace.as_deref(),
        };
        let mut out = Vec::with_capacity(payload.len() + 64);
        header.encode(&mut out)?;
        out.extend_from_slice(&payload);
        Ok(out.into())
    }
}
