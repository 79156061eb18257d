//! Messages of a flow, on their way to instances.
//!
//! The messages of a burst that go to the same instances are sent under one lock of each send buffer. What
//! finds no room is dropped, and requested again later: a full recipient costs others nothing.

use std::num::NonZeroUsize;
use std::task::Context;

use bytes::Bytes;
use selvedge_client::settlement::AbandonReason;
use selvedge_client::wire::settlement::{MessageMarks, RoutedHeader, RoutedMessage};
use selvedge_hub::{EncodedBatch, Incoming, Instant, LaneId, SendError, Sending};

use super::flow::{FlowRoute, FlowState, ROOM_MIN, SharedFlow};
use super::relay::{COPY_LEN_MAX, with_step};
use crate::broker::Broker;
use crate::broker::batch::BatchError;
use crate::settlement::MemberDelivery;
use crate::stats::add;

/// The largest number of messages that are sent under one lock, and their bytes.
const BURST_MAX: usize = 256;
const BURST_BYTES_MAX: usize = 256 * 1024;

/// Room for the header of a message.
const HEADER_ROOM: usize = 32;

/// From so many bytes on, recipients share one encoding of several messages.
const SHARED_LEN_MIN: usize = 4096;

/// What has become of the first messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forwarding {
    /// They were sent.
    Done,
    /// Some were dropped for want of room, and are requested again.
    Dropped,
    /// They wait for room at a function that does not settle, and stay unread.
    Waiting,
    /// They were declined: the source may not write them.
    Forbidden,
}

impl SharedFlow {
    /// Forwards the first message, and those behind it that belong to the flow, too. When there may be room
    /// for what was dropped or waits, `cx` is woken.
    pub(super) fn forward(
        &self,
        broker: &Broker,
        now: Instant,
        cx: &Context<'_>,
        (first, len): (RoutedMessage, usize),
        incoming: &mut Incoming<'_>,
    ) -> Result<Forwarding, BatchError> {
        let mut state = self.lock();
        let state = &mut *state;
        let mut burst = FlowBurst {
            broker,
            now,
            cx,
            lane: self.lane,
            label: self.label,
            depth: first.depth,
            forwarding: Forwarding::Done,
        };
        if let Some((group, token)) = first.resent {
            state.deliveries.clear();
            let delivery = state.machine.handle_resent(group, token, first.sequence);
            state.deliveries.extend(delivery);
            burst.send_one(state, first, incoming);
            return Ok(burst.forwarding);
        }
        if first.sequence != state.machine.expected() {
            return Err(BatchError::OutOfOrder);
        }
        if state.is_forbidden {
            let len = burst.decline(state, AbandonReason::Forbidden, incoming);
            add(&broker.counters.forbidden, len);
            return Ok(Forwarding::Forbidden);
        }
        if first.depth >= broker.settings.function_depth {
            let len = burst.decline(state, AbandonReason::TooDeep, incoming);
            add(&broker.counters.too_deep, len);
            if !std::mem::replace(&mut state.is_cut, true) {
                broker.report_cut(&self.id);
            }
            return Ok(Forwarding::Done);
        }
        if self.awaits_room(state, first.sequence, cx, incoming) {
            return Ok(Forwarding::Waiting);
        }
        state.deliveries.clear();
        let deliveries = &mut state.deliveries;
        let max = BURST_MAX as u64;
        let is_long = first.has_trace || len > COPY_LEN_MAX;
        let is_whole = is_long || state.unsettled.is_some();
        let len = state.machine.live_block(max, |it| deliveries.push(it));
        if len == 0 || is_whole {
            state.deliveries.clear();
            let deliveries = &mut state.deliveries;
            let _is_next = state
                .machine
                .handle_live(first.sequence, |it| deliveries.push(it));
            self.send_unsettled(broker, state, &first, incoming);
            burst.send_one(state, first, incoming);
        } else if state.deliveries.len() > 1 {
            burst.send_to_all(state, first.sequence, len as usize, incoming);
        } else {
            burst.send_to_one(state, first.sequence, len as usize, incoming);
        }
        Ok(burst.forwarding)
    }
}

/// Consecutive messages of a flow, with one set of recipients and one depth.
struct FlowBurst<'a, 'b> {
    broker: &'a Broker,
    now: Instant,
    cx: &'a Context<'b>,
    lane: LaneId,
    label: u32,
    depth: u8,
    forwarding: Forwarding,
}

impl FlowBurst<'_, '_> {
    /// Drops the first messages, which go to no function. Returns how many there are.
    fn decline(
        &self,
        state: &mut FlowState,
        reason: AbandonReason,
        incoming: &mut Incoming<'_>,
    ) -> usize {
        let (first, mut len) = (state.machine.expected(), 0);
        incoming.take_bytes_while(self.lane, |bytes| {
            let read = RoutedMessage::read(bytes);
            let is_next = read.is_some_and(|it| {
                let is_alike = it.label == self.label && it.depth == self.depth;
                is_alike && it.sequence == first + len && it.resent.is_none()
            });
            len += u64::from(is_next);
            is_next
        });
        add(&self.broker.counters.received, len as usize);
        state.machine.decline(len, reason);
        len as usize
    }

    /// Sends the first message to its recipients.
    fn send_one(
        &mut self,
        state: &mut FlowState,
        first: RoutedMessage,
        incoming: &mut Incoming<'_>,
    ) {
        add(&self.broker.counters.received, 1);
        let Some(message) = incoming.take(self.lane) else {
            return;
        };
        let body = match first.has_trace {
            true => with_step(self.broker, &message.payload).map(|(_, body)| body),
            false => Some(message.payload.slice(first.body_at..)),
        };
        let Some(body) = body else {
            // The trace cannot be decoded. The source has broken the protocol; the message is as good as
            // any other for its recipients.
            add(&self.broker.counters.malformed, 1);
            return;
        };
        let deliveries = std::mem::take(&mut state.deliveries);
        for delivery in &deliveries {
            let Some(at) = state.route_of(delivery, 0) else {
                continue;
            };
            let route = &state.routes[at];
            let marks = MessageMarks {
                is_redelivery: delivery.is_redelivery,
                has_trace: first.has_trace,
                depth: first.depth,
            };
            let header = RoutedHeader::new(route.label, delivery.sequence, marks);
            let mut sending = route.to.endpoint.sending();
            let sent = sending.try_send_message(self.lane, header.bytes(), &body);
            self.count(route, usize::from(sent.is_ok()), usize::from(sent.is_err()));
            let room = self.note_refused(&sending, &sent);
            drop(sending);
            if sent.is_err() {
                self.refused(state, at, delivery, 1, room);
            }
        }
        state.deliveries = deliveries;
    }

    /// Sends the first messages to at most one recipient. The bytes are copied from the read buffer
    /// directly: no message gets a reference of its own.
    fn send_to_one(
        &mut self,
        state: &mut FlowState,
        first: u64,
        max: usize,
        incoming: &mut Incoming<'_>,
    ) {
        let delivery = state.deliveries.first().copied();
        let at = delivery.and_then(|it| state.route_of(&it, 0));
        let route = at.map(|at| &state.routes[at]);
        let mut sending = route.map(|it| it.to.endpoint.sending());
        let (mut len, mut bytes_len, mut sent) = (0, 0, 0);
        let marks = self.marks();
        let mut refused = None;
        incoming.take_bytes_while(self.lane, |bytes| {
            let is_short = bytes.len() <= COPY_LEN_MAX || route.is_none();
            let is_next = len < max && bytes_len < BURST_BYTES_MAX && is_short;
            let Some(body_at) = is_next
                .then(|| self.body_of(bytes, first + len as u64))
                .flatten()
            else {
                return false;
            };
            if let (Some(sending), Some(route), None) = (&mut sending, route, &refused) {
                let header = RoutedHeader::new(route.label, first + len as u64, marks);
                let parts = [header.bytes(), &bytes[body_at..]];
                match sending.try_send_parts(self.lane, &parts) {
                    Ok(()) => sent += 1,
                    Err(error) => refused = Some(Err(error)),
                }
            }
            len += 1;
            bytes_len += bytes.len();
            true
        });
        // Under the lock of the send buffer: a copy is counted before its recipient can read it.
        add(&self.broker.counters.received, len);
        match route {
            Some(route) => self.count(route, sent, len - sent),
            None if state.machine.is_observed() => add(&self.broker.counters.discarded, len),
            None => add(&self.broker.counters.unobserved, len),
        }
        let room = match (&sending, &refused) {
            (Some(sending), Some(refused)) => self.note_refused(sending, refused),
            _ => None,
        };
        drop(sending);
        state.machine.advance(len as u64);
        if let (Some(delivery), Some(at)) = (delivery, at)
            && sent < len
        {
            let delivery = MemberDelivery {
                sequence: first + sent as u64,
                ..delivery
            };
            self.refused(state, at, &delivery, (len - sent) as u64, room);
        }
    }

    /// Where the payload of the message with that number begins, if it is the next one and has no trace.
    #[inline]
    fn body_of(&self, bytes: &[u8], sequence: u64) -> Option<usize> {
        let read = RoutedMessage::read(bytes)?;
        let is_next = read.label == self.label
            && read.sequence == sequence
            && read.depth == self.depth
            && read.resent.is_none()
            && !read.has_trace;
        is_next.then_some(read.body_at)
    }

    /// Of every message of a burst without traces.
    const fn marks(&self) -> MessageMarks {
        MessageMarks {
            is_redelivery: false,
            has_trace: false,
            depth: self.depth,
        }
    }

    /// Sends the first messages to each of several recipients.
    fn send_to_all(
        &mut self,
        state: &mut FlowState,
        first: u64,
        max: usize,
        incoming: &mut Incoming<'_>,
    ) {
        let mut bodies: Vec<Bytes> = Vec::new();
        let mut bytes_len = 0;
        while bodies.len() < max
            && bytes_len < BURST_BYTES_MAX
            && let Some(message) = incoming.get(self.lane, bodies.len())
            && let Some(body_at) = self.body_of(&message.payload, first + bodies.len() as u64)
        {
            bytes_len += message.payload.len();
            bodies.push(message.payload.slice(body_at..));
        }
        let len = bodies.len();
        add(&self.broker.counters.received, len);
        state.machine.advance(len as u64);
        let deliveries = std::mem::take(&mut state.deliveries);
        let mut shared = SharedEncoding {
            marks: self.marks(),
            ..SharedEncoding::default()
        };
        for (expected, delivery) in deliveries.iter().enumerate() {
            let Some(at) = state.route_of(delivery, expected) else {
                continue;
            };
            let route = &state.routes[at];
            let mut sending = route.to.endpoint.sending();
            let (sent, refused) =
                shared.send(&mut sending, (self.lane, route.label), first, &bodies);
            self.count(route, sent, len - sent);
            let room = self.note_refused(&sending, &refused);
            drop(sending);
            if sent < len {
                let rest = MemberDelivery {
                    sequence: first + sent as u64,
                    ..*delivery
                };
                self.refused(state, at, &rest, (len - sent) as u64, room);
            }
        }
        state.deliveries = deliveries;
        incoming.drop_first(self.lane, len);
    }

    fn count(&self, route: &FlowRoute, sent: usize, discarded: usize) {
        let counters = &self.broker.counters;
        match route.to.is_local {
            true => add(&counters.delivered, sent),
            false => add(&counters.forwarded, sent),
        }
        if discarded > 0 {
            add(&counters.discarded, discarded);
        }
    }

    /// If a message was refused for want of room: how much is awaited. The connection of the source is called
    /// again when there may be as much.
    fn note_refused(
        &self,
        sending: &Sending<'_>,
        sent: &Result<(), SendError>,
    ) -> Option<NonZeroUsize> {
        let (Err(SendError::Full(payload)) | Err(SendError::Unreachable(payload))) = sent else {
            return None;
        };
        let room =
            NonZeroUsize::new(payload.len() + HEADER_ROOM).map_or(ROOM_MIN, |it| it.max(ROOM_MIN));
        if sending.poll_room(self.cx, self.lane, room.get()).is_ready() {
            // There is room since.
            self.cx.waker().wake_by_ref();
        }
        Some(room)
    }

    /// Notifies the machine of messages that were not sent.
    fn refused(
        &mut self,
        state: &mut FlowState,
        at: usize,
        delivery: &MemberDelivery,
        count: u64,
        room: Option<NonZeroUsize>,
    ) {
        let MemberDelivery {
            group,
            instance,
            epoch,
            sequence,
            ..
        } = *delivery;
        if room.is_some() {
            self.forwarding = Forwarding::Dropped;
            state.routes[at].awaits_room = room;
            let messages = sequence..sequence + count;
            state.machine.handle_refused(group, instance, messages);
        } else {
            let lost = (group, instance);
            state.machine.handle_loss(self.now, lost, epoch, false);
        }
    }
}

/// The messages of a burst, encoded once for all recipients with the same label.
#[derive(Default)]
struct SharedEncoding {
    label: Option<u32>,
    marks: MessageMarks,
    /// Each with the number of its messages.
    batches: Vec<(usize, EncodedBatch)>,
}

impl SharedEncoding {
    /// Sends messages under a label. Returns how many were sent, and why the next one was not.
    fn send(
        &mut self,
        sending: &mut Sending<'_>,
        (lane, label): (LaneId, u32),
        first: u64,
        bodies: &[Bytes],
    ) -> (usize, Result<(), SendError>) {
        let mut sent = 0;
        if self.is_encoded_for(label, first, bodies) {
            for (count, batch) in &self.batches {
                if !sending.try_send_batch(lane, batch) {
                    break;
                }
                sent += count;
            }
        }
        for (at, body) in bodies.iter().enumerate().skip(sent) {
            let header = RoutedHeader::new(label, first + at as u64, self.marks);
            if let Err(error) = sending.try_send_message(lane, header.bytes(), body) {
                return (at, Err(error));
            }
        }
        (bodies.len(), Ok(()))
    }

    fn is_encoded_for(&mut self, label: u32, first: u64, bodies: &[Bytes]) -> bool {
        match self.label {
            Some(known) => known == label && !self.batches.is_empty(),
            None => {
                self.label = Some(label);
                self.encode(label, first, bodies);
                !self.batches.is_empty()
            }
        }
    }

    /// Encodes messages in batches that fit into one frame each, unless they are too few to be shared, or too
    /// long to be copied.
    fn encode(&mut self, label: u32, first: u64, bodies: &[Bytes]) {
        let len: usize = bodies.iter().map(Bytes::len).sum();
        if len < SHARED_LEN_MIN || len / bodies.len() > COPY_LEN_MAX {
            return;
        }
        let headers: Vec<_> = (first..)
            .take(bodies.len())
            .map(|sequence| RoutedHeader::new(label, sequence, self.marks))
            .collect();
        let (mut from, mut len) = (0, 0);
        let mut end = |range: std::ops::Range<usize>| {
            let messages = range
                .clone()
                .map(|at| [headers[at].bytes(), &bodies[at][..]]);
            self.batches
                .push((range.len(), EncodedBatch::new(messages)));
        };
        for at in 0..bodies.len() {
            let cost = EncodedBatch::cost_of(headers[at].bytes().len() + bodies[at].len());
            if len + cost > EncodedBatch::LEN_GOOD && from < at {
                end(from..at);
                (from, len) = (at, 0);
            }
            len += cost;
        }
        end(from..bodies.len());
    }
}
