//! The errors of this crate, and their causes.

use std::io;

use selvedge_endpoint::CloseReason;
use selvedge_transport::NodeId;

/// A failure of a driver, caused by its environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The operating system provided no poll, thread or randomness.
    #[error("cannot {what}: {error}")]
    System {
        /// The operation.
        what: &'static str,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The driver has stopped.
    #[error("the driver has stopped")]
    Stopped,
}

/// A connection was not attached. It has been closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The peer of the connection is not the peer of the endpoint. An error of the caller.
    #[error("the peer of the connection is {found:#}, that of the endpoint {expected:#}")]
    WrongPeer {
        /// The peer of the endpoint.
        expected: NodeId,
        /// The peer of the connection.
        found: NodeId,
    },
    /// The endpoint is closed.
    #[error(transparent)]
    Session(#[from] selvedge_endpoint::SessionAttachError),
}

/// A flush has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The timeout has expired: the peer is unreachable or slow. A longer timeout may help.
    #[error("messages were not acknowledged before the timeout")]
    TimedOut,
    /// Messages may not have been delivered; an event reports them.
    #[error(transparent)]
    AbandonedMessages(#[from] selvedge_endpoint::AbandonedMessages),
}

/// Nothing will be received any more: the endpoint is closed, and all messages that had arrived were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing more to receive: {0}")]
pub struct RecvError(pub CloseReason);

/// No message was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// No message has arrived that was not taken.
    #[error("no message has arrived")]
    Empty,
    /// Nothing will be received any more.
    #[error(transparent)]
    Closed(#[from] RecvError),
}
