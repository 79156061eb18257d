//! The copies of a batch, sorted by who gets them.

use std::ops::Range;
use std::task::{Context, Poll};

use bytes::Bytes;
use selvedge_hub::{EncodedBatch, Incoming, SendError};

use crate::broker::Broker;
use crate::broker::batch::shared_payload::{self, SharedBatches};
use crate::broker::plans::ResolvedHop;
use crate::stats::add;
use selvedge_client::lanes::DATA;
use selvedge_client::wire::MessageHeader;

/// From this length on recipients share one copy, which their send buffers keep where it lies;
/// shorter ones are copied into each.
pub(super) const SHARED_LEN_MIN: usize = 4096 + 1;

/// What goes to whom.
#[derive(Default)]
pub(super) struct FanOut {
    headers: Vec<u8>,
    copies: Vec<OutgoingCopy>,
    queues: Vec<RecipientQueue>,
    /// What lots share that are alike, in the place of the first of them; made when all are sorted.
    batches: Vec<SharedBatches>,
    /// Whose turn it is, if this message goes to the same recipients as the last one: a search for
    /// each of 64 costs more than the copy.
    expected: usize,
}

/// A message where it waits.
pub(super) struct QueuedMessage<'a> {
    /// Its place in the queue.
    pub(super) message: usize,
    pub(super) bytes: &'a Bytes,
    pub(super) payload_at: usize,
    /// How many recipients may share what is made of it.
    pub(super) copies: usize,
}

/// A message as its recipients get it.
pub(super) struct OutgoingCopy {
    /// The place of the message in the queue, and where its payload begins.
    message: usize,
    payload_at: usize,
    header: Range<usize>,
    /// Head and payload, if several recipients share them.
    whole: Option<Bytes>,
}

impl OutgoingCopy {
    /// Whether it is laid out already.
    pub(super) const fn is_shared(&self) -> bool {
        self.whole.is_some()
    }
}

/// Head and payload of a piece.
pub(super) fn parts<'a>(
    headers: &'a [u8],
    copy: &OutgoingCopy,
    incoming: &'a Incoming<'_>,
) -> [&'a [u8]; 2] {
    let message = incoming.get(DATA, copy.message);
    let payload = message.map_or(&[][..], |it| &it.payload[copy.payload_at..]);
    [&headers[copy.header.clone()], payload]
}

/// All that one recipient gets.
struct RecipientQueue {
    to: ResolvedHop,
    copies: Vec<usize>,
    /// How many of them it has.
    done: usize,
    /// Whose runs it shares.
    shares_with: Option<usize>,
}

/// What lots are made of.
#[derive(Clone, Copy)]
struct CopySource<'a> {
    headers: &'a [u8],
    copies: &'a [OutgoingCopy],
    batches: &'a [SharedBatches],
    incoming: &'a Incoming<'a>,
}

/// A copy cannot be sent. That its recipient has left is no fault.
pub(super) fn log_send_error(error: &SendError) {
    if !matches!(error, SendError::Closed(_)) {
        tracing::error!(%error, "a message cannot be passed on");
    }
}

/// The number of a piece; none if it cannot be written, which was said.
pub(super) type CopyId = Option<usize>;

impl FanOut {
    /// Makes what recipients get.
    pub(super) fn encode(
        &mut self,
        message: &QueuedMessage<'_>,
        header: MessageHeader<'_>,
    ) -> CopyId {
        let begin = self.headers.len();
        if let Err(error) = header.encode(&mut self.headers) {
            tracing::error!(%error, "a message cannot be passed on");
            self.headers.truncate(begin);
            return None;
        }
        let mut copy = OutgoingCopy {
            message: message.message,
            payload_at: message.payload_at,
            header: begin..self.headers.len(),
            whole: None,
        };
        let payload = &message.bytes[message.payload_at..];
        if message.copies > 1 && copy.header.len() + payload.len() >= SHARED_LEN_MIN {
            copy.whole = Some([&self.headers[begin..], payload].concat().into());
        }
        self.copies.push(copy);
        Some(self.copies.len() - 1)
    }

    pub(super) fn enqueue(&mut self, to: &ResolvedHop, copy: CopyId) {
        let Some(copy) = copy else { return };
        let matches = |queue: &RecipientQueue| queue.to.door == to.door;
        let queue = match self.queues.get(self.expected).is_some_and(matches) {
            true => self.expected,
            false => self.queues.iter().position(matches).unwrap_or_else(|| {
                self.queues.push(RecipientQueue {
                    to: to.clone(),
                    copies: Vec::new(),
                    done: 0,
                    shares_with: None,
                });
                self.queues.len() - 1
            }),
        };
        self.queues[queue].copies.push(copy);
        self.expected = if queue + 1 < self.queues.len() {
            queue + 1
        } else {
            0
        };
    }

    /// Ready when every copy has found room; if not, the task is woken when there may be some.
    pub(super) fn deliver(
        &mut self,
        cx: &Context<'_>,
        broker: &Broker,
        incoming: &Incoming<'_>,
    ) -> Poll<()> {
        if self.batches.is_empty() {
            self.share_payloads(incoming);
        }
        let source = CopySource {
            headers: &self.headers,
            copies: &self.copies,
            batches: &self.batches,
            incoming,
        };
        let mut polled = Poll::Ready(());
        for queue in &mut self.queues {
            while queue.push(cx, broker, source).is_pending() {
                if let Some(other) = broker.failover_for(&queue.to) {
                    queue.to = other;
                    continue;
                }
                if !broker.is_gone(&queue.to.node) {
                    polled = Poll::Pending;
                    break;
                }
                add(&broker.counters.unreachable, 1);
                queue.done += 1;
            }
        }
        polled
    }

    /// Makes runs for recipients that get the same.
    fn share_payloads(&mut self, incoming: &Incoming<'_>) {
        let groups = shared_payload::groups(self.queues.iter().map(|queue| &queue.copies[..]));
        let source = (&self.headers[..], &self.copies[..]);
        for (at, group) in groups.into_iter().enumerate() {
            let is_first = group == Some(at);
            self.batches.push(match is_first {
                true => shared_payload::batches(&self.queues[at].copies, source, incoming),
                false => SharedBatches::new(),
            });
            self.queues[at].shares_with = group;
        }
    }

    pub(super) fn clear(&mut self) {
        self.headers.clear();
        self.copies.clear();
        self.queues.clear();
        self.batches.clear();
        self.expected = 0;
    }
}

impl RecipientQueue {
    /// Pushes as much as there is room for.
    fn push(&mut self, cx: &Context<'_>, broker: &Broker, source: CopySource<'_>) -> Poll<()> {
        if self.done >= self.copies.len() {
            return Poll::Ready(());
        }
        let mut sending = self.to.endpoint.sending();
        let batches = self
            .shares_with
            .map_or(&[][..], |shares_with| &source.batches[shares_with]);
        let (mut sent, mut unreachable, mut polled) = (0, 0, Poll::Ready(()));
        while let Some(&copy) = self.copies.get(self.done) {
            let begins = |(batch, _): &&(Range<usize>, EncodedBatch)| batch.start == self.done;
            if let Some((places, batch)) = batches.iter().find(begins) {
                polled = sending.poll_room(cx, DATA, batch.len());
                if polled.is_pending() {
                    break;
                }
                if sending.try_send_batch(DATA, batch) {
                    sent += places.len();
                    self.done = places.end;
                    continue;
                }
                // It is longer than the send buffer, or the endpoint is closed.
            }
            let copy = &source.copies[copy];
            let [header, payload] = parts(source.headers, copy, source.incoming);
            polled = sending.poll_room(cx, DATA, header.len() + payload.len());
            if polled.is_pending() {
                break;
            }
            let pushed = match &copy.whole {
                Some(whole) => sending.try_send(DATA, whole.clone()),
                None => sending.try_send_parts(DATA, &[header, payload]),
            };
            match pushed {
                Ok(()) => sent += 1,
                Err(error) => {
                    log_send_error(&error);
                    unreachable += 1;
                }
            }
            self.done += 1;
        }
        let counters = &broker.counters;
        let passed = match self.to.is_local {
            true => &counters.delivered,
            false => &counters.forwarded,
        };
        // While the buffer is held: whoever reads a copy finds it counted.
        add(passed, sent);
        add(&counters.unreachable, unreachable);
        drop(sending);
        polled
    }
}
