//! Messages of routes, on their way to the user.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::tag::Tag;
use crate::wire::settlement::RoutedMessage;
use crate::wire::{Data, NodeKey, Origin, WireError};

/// The names and times of the nodes that a message has passed.
type MessageTrace = Vec<(String, u64)>;

/// A message of a route, for the user.
#[derive(Debug)]
pub(in crate::client) struct RoutedDelivery {
    pub(in crate::client) tag: Tag,
    pub(in crate::client) target: Option<Arc<str>>,
    pub(in crate::client) source: NodeKey,
    pub(in crate::client) sequence: u64,
    pub(in crate::client) is_redelivery: bool,
    pub(in crate::client) trace: Option<MessageTrace>,
    pub(in crate::client) payload: Bytes,
    /// If the message counts as processed once the user acknowledges it.
    pub(in crate::client) handle: Option<DeliveryHandle>,
}

/// Identifies a message that the user has to acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) struct DeliveryHandle {
    pub(super) at: usize,
    pub(super) number: u64,
    pub(super) sequence: u64,
}

/// A message that waits until the lease of its flow allows to process it.
#[derive(Debug)]
pub(super) struct ParkedMessage {
    pub(super) at: usize,
    pub(super) number: u64,
    pub(super) header: RoutedMessage,
    pub(super) bytes: Bytes,
}

/// Splits the trace, if there is one, from the payload.
#[inline]
pub(super) fn split(
    header: &RoutedMessage,
    mut bytes: Bytes,
) -> Result<(Option<MessageTrace>, Bytes), WireError> {
    if header.has_trace {
        return header.split_body(bytes);
    }
    bytes.advance(header.body_at);
    Ok((None, bytes))
}

impl From<RoutedDelivery> for Data {
    fn from(routed: RoutedDelivery) -> Self {
        Self {
            tag: routed.tag,
            origin: Origin {
                source: routed.source,
                sequence: routed.sequence,
            },
            hops_left: 0,
            target: routed.target.as_deref().map(str::to_owned),
            recipients: Vec::new(),
            trace: routed.trace,
            payload: routed.payload,
        }
    }
}
