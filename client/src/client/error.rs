//! Why reading or writing failed.

use crate::tag::Tag;
use crate::wire::WireError;

/// Why a client could not write a message. The message was not sent.
///
/// Each variant names the side that has to act, and whether a retry helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The caller has passed a target or trace that is too long. A retry does not help.
    #[error("the message cannot be encoded: {0}")]
    Wire(#[from] WireError),
    /// The caller has passed a tag that is reserved for the system. A retry does not help.
    #[error("tag {0} is reserved: the range 0xf000 to 0xffff belongs to the system")]
    Reserved(Tag),
    /// The caller has passed a payload that is too long, or the target and the trace leave no room for it. A
    /// retry does not help; shorter messages are accepted.
    #[error("a message of {len} bytes is longer than the maximum of {max}")]
    TooLarge {
        /// The length of the payload, in bytes.
        len: usize,
        /// The longest payload, in bytes: [`ClientOptions::message_max`](crate::ClientOptions::message_max).
        max: usize,
    },
    /// The zipper or a function behind it is slower than this client, or the zipper is not connected. A
    /// retry helps later. Only calls that do not block return this error.
    #[error("the send buffer is full")]
    Full,
    /// This side has closed the client, or the zipper has refused it. A retry needs a new client.
    #[error("the client is closed: {0}")]
    Closed(String),
}

/// Why a client could not read a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No message has arrived in time. A retry helps.
    #[error("no message has arrived in time")]
    TimedOut,
    /// This side has closed the client, or the zipper has refused it or sent a malformed message. A
    /// retry needs a new client.
    #[error("the client is closed: {0}")]
    Closed(String),
}
