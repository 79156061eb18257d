//! What can fail, each with what it hands back.

use bytes::Bytes;

/// Why a message was not accepted. The payload is in it: nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The send buffer is full: the peer is away or slower. Wait, then try again.
    #[error("the send buffer is full: the peer is away or slower")]
    Full(Bytes),
    /// The send buffer is full, the peer cannot be reached, and the session is configured not to
    /// wait then ([`Away::Refuse`](crate::Away::Refuse)). Retry when the peer can be reached.
    #[error("the send buffer is full and the peer cannot be reached")]
    Away(Bytes),
    /// Longer than the lane takes. Trying again does not help.
    #[error("a message of {} bytes, but at most {message_max} are taken", payload.len())]
    TooLarge {
        /// The message.
        payload: Bytes,
        /// The limit of the lane.
        message_max: usize,
    },
    /// The endpoint has no lane of that number. The caller's fault.
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
            | Self::Away(payload)
            | Self::TooLarge { payload, .. }
            | Self::UnknownLane(payload)
            | Self::Closed(payload) => payload,
        }
    }

    /// Whether the same message can be accepted later.
    #[must_use]
    pub const fn retry_helps(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Away(_))
    }
}

/// Why a transport could not be attached. The transport is handed back by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionAttachError {
    /// The session is closed for good.
    #[error("the endpoint is closed")]
    Closed,
}

/// What a peer did that the protocol does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Misbehaved(pub(crate) &'static str);
