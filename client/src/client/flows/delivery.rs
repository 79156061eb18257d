//! Messages of routes, on their way to the user.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::tag::Tag;
use crate::wire::settlement::RoutedMessage;
use crate::wire::{Data, NodeKey, Origin, WireError};

/// The names and times of the nodes that a message has passed.
type MessageTrace = Vec<(String, u64)>;

/// The flow of a message, as far as the user is concerned.
#[derive(Debug, Clone)]
pub(super) struct DeliveryOrigin {
    pub(super) tag: Tag,
    pub(super) source: NodeKey,
    /// Shared by the messages.
    pub(super) target: Option<Arc<str>>,
    /// Distinguishes the flow from others that had its place.
    pub(super) number: u64,
}

/// A message of a route, for the user. Small, since it is moved several times on its way.
#[derive(Debug)]
pub(in crate::client) struct RoutedDelivery {
    pub(in crate::client) tag: Tag,
    pub(in crate::client) source: NodeKey,
    pub(in crate::client) target: Option<Arc<str>>,
    pub(in crate::client) payload: Bytes,
    pub(in crate::client) trace: Option<Box<MessageTrace>>,
    pub(in crate::client) sequence: u64,
    pub(in crate::client) is_redelivery: bool,
    pub(in crate::client) depth: u8,
    /// Whether the message counts as processed only once the user acknowledges it.
    awaits_acknowledgement: bool,
    at: u32,
    number: u64,
}

impl RoutedDelivery {
    #[inline]
    pub(super) fn new(
        origin: &DeliveryOrigin,
        at: usize,
        (header, mut bytes): (RoutedMessage, Bytes),
        awaits_acknowledgement: bool,
    ) -> Result<Self, WireError> {
        let trace = match header.has_trace {
            false => {
                bytes.advance(header.body_at);
                None
            }
            true => {
                let (trace, payload) = header.split_body(bytes)?;
                bytes = payload;
                trace.map(Box::new)
            }
        };
        Ok(Self {
            // A reference to all three would be counted: two atomic operations cost more than the copy.
            tag: origin.tag,
            source: origin.source,
            target: origin.target.clone(),
            payload: bytes,
            trace,
            sequence: header.sequence,
            is_redelivery: header.is_redelivery,
            depth: header.depth,
            awaits_acknowledgement,
            at: at as u32,
            number: origin.number,
        })
    }

    /// Identifies the message, if the user has to acknowledge it.
    #[inline]
    pub(in crate::client) const fn handle(&self) -> Option<DeliveryHandle> {
        if !self.awaits_acknowledgement {
            return None;
        }
        Some(DeliveryHandle {
            at: self.at as usize,
            number: self.number,
            sequence: self.sequence,
        })
    }
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

impl From<RoutedDelivery> for Data {
    #[inline]
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
            trace: routed.trace.map(|trace| *trace),
            payload: routed.payload,
        }
    }
}
