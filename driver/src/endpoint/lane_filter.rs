//! A filter on the worker for one lane of an endpoint whose other messages wait for threads.

use std::fmt;

use bytes::Bytes;
use selvedge_endpoint::LaneId;

/// What becomes of a message that a [`LaneFilter`] was called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterAction {
    /// The filter has handled the message: the peer gets credit for it at once.
    Consume,
    /// The message is queued for [`Endpoint::recv`](crate::Endpoint::recv), as without a filter.
    Queue,
}

/// Handles messages of one lane on the worker, of an endpoint that queues messages.
///
/// The callback is called with each message of the lane, in order, on the worker which has read the bytes.
/// So the messages that it consumes depend on no reader. Messages of other lanes pass at no cost, in
/// the order in which they have arrived relative to queued messages of this lane.
///
/// The callback must return soon and must not block: everything else on the worker waits meanwhile. A panic
/// closes the endpoint and does not affect the worker; further messages of the lane are then dropped.
pub struct LaneFilter {
    pub(crate) lane: LaneId,
    pub(crate) filter: Box<dyn FnMut(&Bytes) -> FilterAction + Send>,
}

impl LaneFilter {
    /// A filter of `lane`, whose callback gets the payload of each message.
    #[must_use]
    pub fn new(lane: LaneId, filter: impl FnMut(&Bytes) -> FilterAction + Send + 'static) -> Self {
        let filter = Box::new(filter);
        Self { lane, filter }
    }
}

impl fmt::Debug for LaneFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneFilter")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}
