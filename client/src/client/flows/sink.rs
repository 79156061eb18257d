//! Where flows send: the send buffer of the endpoint in use.

use std::task::{Context, Waker};

use bytes::Bytes;
use selvedge_hub::{EncodedBatch, Endpoint, LaneId, Sending};

/// Takes the messages of flows.
pub(in crate::client) trait FlowSink {
    /// Whether there is room for a message of that length. If not, the client's actor is woken when there
    /// may be.
    fn has_room(&mut self, lane: LaneId, len: usize) -> bool;

    /// Sends a message, for which there is room. Returns false if the connection has ended.
    fn send(&mut self, lane: LaneId, parts: &[&[u8]]) -> bool;

    /// Sends a message whose body is not to be copied if that is long, for which there is room. Returns false
    /// if the connection has ended.
    fn send_message(&mut self, lane: LaneId, head: &[u8], body: &Bytes) -> bool;

    /// Sends messages without copying them, for which there is room. Returns false if the connection has ended.
    fn send_batch(&mut self, lane: LaneId, batch: &EncodedBatch) -> bool;
}

/// Shorter batches are copied: they share a frame with others.
const BATCH_LEN_MIN: usize = 8 << 10;

/// The send buffer of an endpoint. It is locked once something is to be sent: a message whose flow has no window
/// goes to the log only.
#[derive(Debug)]
pub(in crate::client) struct EndpointSink<'a> {
    endpoint: &'a Endpoint,
    sending: Option<Sending<'a>>,
    /// Wakes the client's actor.
    waker: &'a Waker,
}

impl<'a> EndpointSink<'a> {
    #[inline]
    pub(in crate::client) const fn new(endpoint: &'a Endpoint, waker: &'a Waker) -> Self {
        Self {
            endpoint,
            sending: None,
            waker,
        }
    }

    #[inline]
    fn sending(&mut self) -> &mut Sending<'a> {
        self.sending.get_or_insert_with(|| self.endpoint.sending())
    }
}

impl FlowSink for EndpointSink<'_> {
    #[inline]
    fn has_room(&mut self, lane: LaneId, len: usize) -> bool {
        let cx = Context::from_waker(self.waker);
        self.sending().poll_room(&cx, lane, len).is_ready()
    }

    #[inline]
    fn send(&mut self, lane: LaneId, parts: &[&[u8]]) -> bool {
        self.sending().try_send_parts(lane, parts).is_ok()
    }

    fn send_message(&mut self, lane: LaneId, head: &[u8], body: &Bytes) -> bool {
        self.sending().try_send_message(lane, head, body).is_ok()
    }

    fn send_batch(&mut self, lane: LaneId, batch: &EncodedBatch) -> bool {
        match batch.len() {
            ..BATCH_LEN_MIN => self.sending().try_copy_batch(lane, batch),
            _ => self.sending().try_send_batch(lane, batch),
        }
    }
}
