//! The copies of a batch, in one queue for each recipient.

use std::ops::Range;
use std::task::{Context, Poll};

use bytes::Bytes;
use selvedge_hub::{EncodedBatch, Incoming, SendError};

use crate::broker::Broker;
use crate::broker::batch::shared_payload::{self, SharedBatches};
use crate::broker::outlet::Outlet;
use crate::broker::plans::ResolvedHop;
use crate::stats::add;
use selvedge_client::lanes::DATA;
use selvedge_client::wire::{MessageHeader, NodeKey};

/// From this length on, recipients share one allocation, which their send buffers reference; shorter
/// copies are copied into each send buffer.
pub(super) const SHARED_LEN_MIN: usize = 4096 + 1;

/// Fan-out: the copies of a batch and their recipients.
#[derive(Default)]
pub(super) struct FanOut {
    headers: Vec<u8>,
    copies: Vec<OutgoingCopy>,
    queues: Vec<RecipientQueue>,
    /// Encoded batches shared by recipients with identical queues, stored at the index of the first of
    /// them; built when every copy is queued.
    batches: Vec<SharedBatches>,
    /// The next recipient if the message goes to the same recipients as the previous one: a search among
    /// 64 recipients costs more than the copy.
    expected: usize,
}

/// An unread message.
pub(super) struct QueuedMessage<'a> {
    /// The index in the queue of unread messages.
    pub(super) message: usize,
    pub(super) bytes: &'a Bytes,
    pub(super) payload_at: usize,
    /// The number of recipients that may share a copy.
    pub(super) copies: usize,
    pub(super) when_full: WhenFull,
}

/// A message with the header for its recipients.
pub(super) struct OutgoingCopy {
    /// The index in the queue of unread messages, and the offset of the payload.
    message: usize,
    payload_at: usize,
    header: Range<usize>,
    when_full: WhenFull,
    /// Header and payload in one allocation, if several recipients share them.
    whole: Option<Bytes>,
}

impl OutgoingCopy {
    /// Whether the copy has an allocation of its own.
    pub(super) const fn is_shared(&self) -> bool {
        self.whole.is_some()
    }
}

/// The header and the payload of a copy.
pub(super) fn parts<'a>(
    headers: &'a [u8],
    copy: &OutgoingCopy,
    incoming: &'a Incoming<'_>,
) -> [&'a [u8]; 2] {
    let message = incoming.get(DATA, copy.message);
    let payload = message.map_or(&[][..], |it| &it.payload[copy.payload_at..]);
    [&headers[copy.header.clone()], payload]
}

/// The copies for one recipient.
struct RecipientQueue {
    to: ResolvedHop,
    copies: Vec<usize>,
    /// The number of sent copies.
    done: usize,
    /// The index of the recipient whose encoded batches are shared.
    shares_with: Option<usize>,
    /// Whether the recipient was full, and no other instance takes over: copies that may be dropped are.
    drops: bool,
}

/// What becomes of copies for which their recipient has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// They wait, and so does everything behind them on the connection of their source.
    Wait,
    /// They are dropped and counted: they come from another zipper, and a link does not wait for one of its
    /// recipients; or they are for functions with a drop policy only.
    Drop,
}

/// The data that queues refer to.
#[derive(Clone, Copy)]
struct CopySource<'a> {
    headers: &'a [u8],
    copies: &'a [OutgoingCopy],
    batches: &'a [SharedBatches],
    incoming: &'a Incoming<'a>,
}

/// Logs that a copy cannot be sent. That its recipient has left is not an error.
pub(in crate::broker) fn log_send_error(error: &SendError) {
    if !matches!(error, SendError::Closed(_)) {
        tracing::error!(%error, "cannot forward a message");
    }
}

/// The index of a copy; `None` if its header cannot be encoded, which has been logged.
pub(super) type CopyId = Option<usize>;

impl FanOut {
    /// Adds a copy with that header.
    pub(super) fn encode(
        &mut self,
        message: &QueuedMessage<'_>,
        header: MessageHeader<'_>,
    ) -> CopyId {
        let begin = self.headers.len();
        if let Err(error) = header.encode(&mut self.headers) {
            tracing::error!(%error, "cannot forward a message");
            self.headers.truncate(begin);
            return None;
        }
        let mut copy = OutgoingCopy {
            message: message.message,
            payload_at: message.payload_at,
            header: begin..self.headers.len(),
            when_full: message.when_full,
            whole: None,
        };
        let payload = &message.bytes[message.payload_at..];
        if message.copies > 1 && copy.header.len() + payload.len() >= SHARED_LEN_MIN {
            copy.whole = Some([&self.headers[begin..], payload].concat().into());
        }
        self.copies.push(copy);
        Some(self.copies.len() - 1)
    }

    /// Queues a copy for a recipient.
    pub(super) fn enqueue(&mut self, to: &ResolvedHop, copy: CopyId) {
        let Some(copy) = copy else { return };
        let matches = |queue: &RecipientQueue| queue.to.connection == to.connection;
        let queue = match self.queues.get(self.expected).is_some_and(matches) {
            true => self.expected,
            false => self.queues.iter().position(matches).unwrap_or_else(|| {
                self.queues.push(RecipientQueue {
                    to: to.clone(),
                    copies: Vec::new(),
                    done: 0,
                    shares_with: None,
                    drops: false,
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

    /// Sends copies. Ready when none waits for room; otherwise the task is woken when there may be room.
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
                    if queue.may_drop_next(&self.copies) {
                        queue.drops = true;
                        continue;
                    }
                    polled = Poll::Pending;
                    break;
                }
                add(&broker.counters.unreachable, 1);
                queue.done += 1;
            }
        }
        polled
    }

    /// The recipients for which copies remain.
    pub(super) fn recipients(&self) -> impl Iterator<Item = &NodeKey> {
        let queues = self.queues.iter();
        let waiting = queues.filter(|queue| queue.done < queue.copies.len());
        waiting.map(|queue| &queue.to.node)
    }

    /// Encodes batches for recipients with identical queues.
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
    /// Whether the next copy may be dropped.
    fn may_drop_next(&self, copies: &[OutgoingCopy]) -> bool {
        let next = self.copies.get(self.done);
        next.is_some_and(|copy| copies[*copy].when_full == WhenFull::Drop)
    }

    /// Passes all copies to the outlet of a function that does not hold sources back.
    fn offer(&mut self, broker: &Broker, outlet: &Outlet, source: CopySource<'_>) {
        let copies = self.copies[self.done..].iter();
        let copies =
            copies.map(|copy| parts(source.headers, &source.copies[*copy], source.incoming));
        outlet.offer(broker, copies);
        self.done = self.copies.len();
    }

    /// Sends as many copies as there is room for. The others are dropped if the queue drops.
    fn push(&mut self, cx: &Context<'_>, broker: &Broker, source: CopySource<'_>) -> Poll<()> {
        if self.done >= self.copies.len() {
            return Poll::Ready(());
        }
        if let Some(outlet) = self.to.outlet.clone() {
            self.offer(broker, &outlet, source);
            return Poll::Ready(());
        }
        let mut sending = self.to.endpoint.sending();
        let batches = self
            .shares_with
            .map_or(&[][..], |shares_with| &source.batches[shares_with]);
        let (mut sent, mut unreachable, mut dropped) = (0, 0, 0);
        let mut polled = Poll::Ready(());
        while let Some(&copy) = self.copies.get(self.done) {
            let begins = |(batch, _): &&(Range<usize>, EncodedBatch)| batch.start == self.done;
            if let Some((places, batch)) = batches.iter().find(begins) {
                if !self.drops || !self.may_drop_next(source.copies) {
                    polled = sending.poll_room(cx, DATA, batch.len());
                }
                if polled.is_pending() {
                    break;
                }
                if sending.try_send_batch(DATA, batch) {
                    sent += places.len();
                    self.done = places.end;
                    continue;
                }
                // The batch is longer than the send buffer, some of its copies are to be dropped, or the
                // endpoint is closed.
            }
            let copy = &source.copies[copy];
            let [header, payload] = parts(source.headers, copy, source.incoming);
            let len = header.len() + payload.len();
            let may_drop = self.drops && copy.when_full == WhenFull::Drop;
            if may_drop && sending.is_full(DATA, len) {
                dropped += 1;
                self.done += 1;
                continue;
            }
            polled = sending.poll_room(cx, DATA, len);
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
        // Under the lock of the send buffer: a copy is counted before its recipient can read it.
        add(passed, sent);
        add(&counters.unreachable, unreachable);
        if dropped > 0 {
            add(&counters.no_room, dropped);
            add(&self.to.dropped, dropped);
        }
        drop(sending);
        polled
    }
}
