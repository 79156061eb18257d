//! What an endpoint has accepted and the peer has not acknowledged.

/// Bytes that an endpoint has accepted on reliable lanes and the peer has not acknowledged, with the
/// lengths of the messages: [`Endpoint::send_backlog`](crate::Endpoint::send_backlog).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendBacklog {
    /// Bytes that were not sent yet: the peer cannot be reached, grants no credit, or the path is slower.
    pub queued: u64,
    /// Bytes that were sent and not acknowledged, as of the last turn on the worker.
    pub in_flight: u64,
}
