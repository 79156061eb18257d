//! A received message whose header is decoded only as far as necessary.

use bytes::Bytes;

use crate::client::flows::{DeliveryHandle, RoutedDelivery};
use crate::tag::Tag;
use crate::wire::{Data, NodeKey, PlainMessage};

/// A message whose header is decoded only as far as necessary.
///
/// Decoding the header of every message costs as much as the overhead of a call into a WebAssembly
/// guest. [`Client::read`](crate::Client::read) returns decoded messages.
#[derive(Debug)]
pub struct ReceivedMessage(ReceivedContent);

#[derive(Debug)]
enum ReceivedContent {
    /// A message without target and trace, not decoded.
    Plain(PlainMessage, Bytes),
    /// A message whose header has optional parts.
    Decoded(Data),
    /// A message that is to be settled.
    Routed(RoutedDelivery),
}

impl From<Data> for ReceivedMessage {
    fn from(data: Data) -> Self {
        Self(ReceivedContent::Decoded(data))
    }
}

impl From<RoutedDelivery> for ReceivedMessage {
    #[inline]
    fn from(routed: RoutedDelivery) -> Self {
        Self(ReceivedContent::Routed(routed))
    }
}

impl ReceivedMessage {
    /// Reads a plain message. Returns the bytes of any other message, which has to be decoded.
    pub(super) fn read(bytes: Bytes) -> Result<Self, Bytes> {
        match PlainMessage::read_sourced(&bytes) {
            Some(plain) => Ok(Self(ReceivedContent::Plain(plain, bytes))),
            None => Err(bytes),
        }
    }

    /// The tag of the message.
    #[must_use]
    pub fn tag(&self) -> Tag {
        match &self.0 {
            ReceivedContent::Plain(plain, _) => plain.tag,
            ReceivedContent::Decoded(data) => data.tag,
            ReceivedContent::Routed(routed) => routed.tag,
        }
    }

    /// The target, if the message has one.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match &self.0 {
            ReceivedContent::Plain(..) => None,
            ReceivedContent::Decoded(data) => data.target.as_deref(),
            ReceivedContent::Routed(routed) => routed.target.as_deref(),
        }
    }

    /// The key of the source.
    #[must_use]
    pub fn source(&self) -> NodeKey {
        match &self.0 {
            ReceivedContent::Plain(plain, bytes) => plain.source_in(bytes),
            ReceivedContent::Decoded(data) => data.origin.source,
            ReceivedContent::Routed(routed) => routed.source,
        }
    }

    /// The number of the message: among those of its source, or if it is settled, among those of its source
    /// with the same tag and target.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        match &self.0 {
            ReceivedContent::Plain(plain, _) => plain.sequence,
            ReceivedContent::Decoded(data) => data.origin.sequence,
            ReceivedContent::Routed(routed) => routed.sequence,
        }
    }

    /// Whether another instance of the function may have processed the message before.
    #[must_use]
    pub const fn is_redelivery(&self) -> bool {
        match &self.0 {
            ReceivedContent::Plain(..) | ReceivedContent::Decoded(_) => false,
            ReceivedContent::Routed(routed) => routed.is_redelivery,
        }
    }

    /// How many functions the message has passed: 0 if a source has written it, or it is not settled. What a function
    /// writes while it processes the message has one more.
    #[must_use]
    pub const fn depth(&self) -> u8 {
        match &self.0 {
            ReceivedContent::Plain(..) | ReceivedContent::Decoded(_) => 0,
            ReceivedContent::Routed(routed) => routed.depth,
        }
    }

    /// Whether the message is settled: its source retains it, and sends it again if a zipper loses it.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(&self.0, ReceivedContent::Routed(_))
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.0 {
            ReceivedContent::Plain(plain, bytes) => &bytes[plain.payload_at..],
            ReceivedContent::Decoded(data) => &data.payload,
            ReceivedContent::Routed(routed) => &routed.payload,
        }
    }

    /// The steps so far, if the message is traced.
    #[must_use]
    pub fn trace(&self) -> Option<&[(String, u64)]> {
        match &self.0 {
            ReceivedContent::Plain(..) => None,
            ReceivedContent::Decoded(data) => data.trace.as_deref(),
            ReceivedContent::Routed(routed) => routed.trace.as_deref().map(Vec::as_slice),
        }
    }

    /// Whether [`Client::acknowledge`](crate::Client::acknowledge) is to be called with the message.
    #[must_use]
    pub const fn awaits_acknowledgement(&self) -> bool {
        self.handle().is_some()
    }

    pub(super) const fn handle(&self) -> Option<DeliveryHandle> {
        match &self.0 {
            ReceivedContent::Plain(..) | ReceivedContent::Decoded(_) => None,
            ReceivedContent::Routed(routed) => routed.handle(),
        }
    }
}
