//! A received message whose header is decoded only as far as necessary.

use bytes::Bytes;

use crate::tag::Tag;
use crate::wire::{Data, PlainMessage};

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
}

impl From<Data> for ReceivedMessage {
    fn from(data: Data) -> Self {
        Self(ReceivedContent::Decoded(data))
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
    pub const fn tag(&self) -> Tag {
        match &self.0 {
            ReceivedContent::Plain(plain, _) => plain.tag,
            ReceivedContent::Decoded(data) => data.tag,
        }
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.0 {
            ReceivedContent::Plain(plain, bytes) => &bytes[plain.payload_at..],
            ReceivedContent::Decoded(data) => &data.payload,
        }
    }

    /// The steps so far, if the message is traced.
    #[must_use]
    pub fn trace(&self) -> Option<&[(String, u64)]> {
        match &self.0 {
            ReceivedContent::Plain(..) => None,
            ReceivedContent::Decoded(data) => data.trace.as_deref(),
        }
    }
}
