//! The errors of a session; those of a send return the message.

use bytes::Bytes;

/// Why a message was not accepted. Each variant returns the payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The send buffer is full: the peer is slower or cannot be reached. Wait, then retry.
    #[error("the send buffer is full: the peer is slower or cannot be reached")]
    Full(Bytes),
    /// The send buffer is full, the peer cannot be reached, and the session is configured not to
    /// wait then ([`OfflinePolicy::Refuse`](crate::OfflinePolicy::Refuse)). Retry when the peer can
    /// be reached.
    #[error("the send buffer is full and the peer cannot be reached")]
    Unreachable(Bytes),
    /// The message is longer than the limit of the lane. A retry does not help.
    #[error("the message has {} bytes, but the limit is {message_max}", payload.len())]
    TooLarge {
        /// The message.
        payload: Bytes,
        /// The limit of the lane.
        message_max: usize,
    },
    /// The endpoint has no lane of that number: a mistake of the caller.
    #[error("the endpoint has no such lane")]
    UnknownLane(Bytes),
    /// The endpoint is closed for good.
    #[error("the endpoint is closed")]
    Closed(Bytes),
}

impl SendError {
    /// The message that was not accepted.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        match self {
            Self::Full(payload)
            | Self::Unreachable(payload)
            | Self::TooLarge { payload, .. }
            | Self::UnknownLane(payload)
            | Self::Closed(payload) => payload,
        }
    }

    /// Whether the same message can be accepted later.
    #[must_use]
    pub const fn retry_helps(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Unreachable(_))
    }
}

/// Why a transport could not be attached. The driver returns the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionAttachError {
    /// The session is closed for good.
    #[error("the endpoint is closed")]
    Closed,
}

/// A violation of the protocol by the peer. The text completes "the peer ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Misbehaved(pub(crate) &'static str);
