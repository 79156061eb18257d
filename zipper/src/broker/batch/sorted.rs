//! The copies of a batch, sorted by who gets them.

use std::ops::Range;
use std::task::{Context, Poll};

use bytes::Bytes;
use selvedge_hub::{EncodedBatch, Incoming, SendError};

use crate::broker::Broker;
use crate::broker::batch::alike::{self, Runs};
use crate::broker::plans::Recipient;
use crate::stats::add;
use selvedge_client::lanes::DATA;
use selvedge_client::wire::MessageHeader;

/// From this length on recipients share one copy, which their send buffers keep where it lies;
/// shorter ones are copied into each.
pub(super) const SHARED_LEN_MIN: usize = 4096 + 1;

/// What goes to whom.
#[derive(Default)]
pub(super) struct Sorted {
    heads: Vec<u8>,
    pieces: Vec<Piece>,
    lots: Vec<Lot>,
    /// What lots share that are alike, in the place of the first of them; made when all are sorted.
    runs: Vec<Runs>,
    /// Whose turn it is, if this message goes to the same recipients as the last one: a search for
    /// each of 64 costs more than the copy.
    expected: usize,
}

/// A message where it waits.
pub(super) struct Placed<'a> {
    /// Its place in the queue.
    pub(super) message: usize,
    pub(super) bytes: &'a Bytes,
    pub(super) payload_at: usize,
    /// How many recipients may share what is made of it.
    pub(super) copies: usize,
}

/// A message as its recipients get it.
pub(super) struct Piece {
    /// The place of the message in the queue, and where its payload begins.
    message: usize,
    payload_at: usize,
    head: Range<usize>,
    /// Head and payload, if several recipients share them.
    whole: Option<Bytes>,
}

impl Piece {
    /// Whether it is laid out already.
    pub(super) const fn is_shared(&self) -> bool {
        self.whole.is_some()
    }
}

/// Head and payload of a piece.
pub(super) fn parts<'a>(
    heads: &'a [u8],
    piece: &Piece,
    incoming: &'a Incoming<'_>,
) -> [&'a [u8]; 2] {
    let message = incoming.get(DATA, piece.message);
    let payload = message.map_or(&[][..], |it| &it.payload[piece.payload_at..]);
    [&heads[piece.head.clone()], payload]
}

/// All that one recipient gets.
struct Lot {
    to: Recipient,
    pieces: Vec<usize>,
    /// How many of them it has.
    done: usize,
    /// Whose runs it shares.
    like: Option<usize>,
}

/// What lots are made of.
#[derive(Clone, Copy)]
struct Made<'a> {
    heads: &'a [u8],
    pieces: &'a [Piece],
    runs: &'a [Runs],
    incoming: &'a Incoming<'a>,
}

/// A copy cannot be sent. That its recipient has left is no fault.
pub(super) fn say_why_not(error: &SendError) {
    if !matches!(error, SendError::Closed(_)) {
        tracing::error!(%error, "a message cannot be passed on");
    }
}

/// The number of a piece; none if it cannot be written, which was said.
pub(super) type Number = Option<usize>;

impl Sorted {
    /// Makes what recipients get.
    pub(super) fn put(&mut self, message: &Placed<'_>, head: MessageHeader<'_>) -> Number {
        let begin = self.heads.len();
        if let Err(error) = head.put(&mut self.heads) {
            tracing::error!(%error, "a message cannot be passed on");
            self.heads.truncate(begin);
            return None;
        }
        let mut piece = Piece {
            message: message.message,
            payload_at: message.payload_at,
            head: begin..self.heads.len(),
            whole: None,
        };
        let payload = &message.bytes[message.payload_at..];
        if message.copies > 1 && piece.head.len() + payload.len() >= SHARED_LEN_MIN {
            piece.whole = Some([&self.heads[begin..], payload].concat().into());
        }
        self.pieces.push(piece);
        Some(self.pieces.len() - 1)
    }

    pub(super) fn give(&mut self, to: &Recipient, piece: Number) {
        let Some(piece) = piece else { return };
        let is_it = |lot: &Lot| lot.to.door == to.door;
        let lot = match self.lots.get(self.expected).is_some_and(is_it) {
            true => self.expected,
            false => self.lots.iter().position(is_it).unwrap_or_else(|| {
                self.lots.push(Lot {
                    to: to.clone(),
                    pieces: Vec::new(),
                    done: 0,
                    like: None,
                });
                self.lots.len() - 1
            }),
        };
        self.lots[lot].pieces.push(piece);
        self.expected = if lot + 1 < self.lots.len() {
            lot + 1
        } else {
            0
        };
    }

    /// Ready when every copy has found room; if not, the task is woken when there may be some.
    pub(super) fn hand_on(
        &mut self,
        cx: &Context<'_>,
        broker: &Broker,
        incoming: &Incoming<'_>,
    ) -> Poll<()> {
        if self.runs.is_empty() {
            self.find_alike(incoming);
        }
        let made = Made {
            heads: &self.heads,
            pieces: &self.pieces,
            runs: &self.runs,
            incoming,
        };
        let mut polled = Poll::Ready(());
        for lot in &mut self.lots {
            while lot.push(cx, broker, made).is_pending() {
                if let Some(other) = broker.instead_of(&lot.to) {
                    lot.to = other;
                    continue;
                }
                if !broker.is_gone(&lot.to.node) {
                    polled = Poll::Pending;
                    break;
                }
                add(&broker.counters.unreachable, 1);
                lot.done += 1;
            }
        }
        polled
    }

    /// Makes runs for recipients that get the same.
    fn find_alike(&mut self, incoming: &Incoming<'_>) {
        let groups = alike::groups(self.lots.iter().map(|lot| &lot.pieces[..]));
        let made = (&self.heads[..], &self.pieces[..]);
        for (at, group) in groups.into_iter().enumerate() {
            let is_first = group == Some(at);
            self.runs.push(match is_first {
                true => alike::runs(&self.lots[at].pieces, made, incoming),
                false => Runs::new(),
            });
            self.lots[at].like = group;
        }
    }

    pub(super) fn clear(&mut self) {
        self.heads.clear();
        self.pieces.clear();
        self.lots.clear();
        self.runs.clear();
        self.expected = 0;
    }
}

impl Lot {
    /// Pushes as much as there is room for.
    fn push(&mut self, cx: &Context<'_>, broker: &Broker, made: Made<'_>) -> Poll<()> {
        if self.done >= self.pieces.len() {
            return Poll::Ready(());
        }
        let mut sending = self.to.endpoint.sending();
        let runs = self.like.map_or(&[][..], |like| &made.runs[like]);
        let (mut sent, mut unreachable, mut polled) = (0, 0, Poll::Ready(()));
        while let Some(&piece) = self.pieces.get(self.done) {
            let begins = |(run, _): &&(Range<usize>, EncodedBatch)| run.start == self.done;
            if let Some((places, run)) = runs.iter().find(begins) {
                polled = sending.poll_room(cx, DATA, run.len());
                if polled.is_pending() {
                    break;
                }
                if sending.try_send_run(DATA, run) {
                    sent += places.len();
                    self.done = places.end;
                    continue;
                }
                // It is longer than the send buffer, or the endpoint is closed.
            }
            let piece = &made.pieces[piece];
            let [head, payload] = parts(made.heads, piece, made.incoming);
            polled = sending.poll_room(cx, DATA, head.len() + payload.len());
            if polled.is_pending() {
                break;
            }
            let pushed = match &piece.whole {
                Some(whole) => sending.try_send(DATA, whole.clone()),
                None => sending.try_send_parts(DATA, &[head, payload]),
            };
            match pushed {
                Ok(()) => sent += 1,
                Err(error) => {
                    say_why_not(&error);
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
