//! What can fail, and whose fault it is.

use std::io;

use selvedge_endpoint::CloseReason;
use selvedge_transport::NodeId;

/// Why a driver could not start or do what it was asked. The environment's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The operating system gave no poll, thread or randomness.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        error: io::Error,
    },
    /// The driver has stopped.
    #[error("the driver has stopped")]
    Stopped,
}

/// Why a connection could not be attached. It has been closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The peer of the connection is not the peer of the endpoint. The caller's fault.
    #[error("the connection leads to {found:#}, the endpoint to {expected:#}")]
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

/// Why a flush did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The time is up first: the peer is away or slower. Waiting longer may help.
    #[error("not everything was acknowledged in time")]
    TimedOut,
    /// Messages may not have been delivered; an event tells which.
    #[error(transparent)]
    GivenUp(#[from] selvedge_endpoint::GivenUp),
}

/// Nothing will be received any more: the endpoint is closed, and all that had arrived was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing more to receive: {0}")]
pub struct RecvError(pub CloseReason);

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// Nothing has arrived that was not taken.
    #[error("nothing has arrived")]
    Empty,
    /// Nothing will be received any more.
    #[error(transparent)]
    Closed(#[from] RecvError),
}
