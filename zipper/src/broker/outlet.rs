//! Outlets: functions that do not hold sources back. Messages for which they have no room are dropped.
//!
//! By [`DropPolicy::Newest`] a message goes into the send buffer, or is dropped. By [`DropPolicy::Oldest`] the
//! send buffer is used up to a small limit only, since what is in it cannot be dropped any more. Behind it,
//! messages wait in a backlog of limited size, of which the oldest are dropped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use selvedge_hub::{Endpoint, Sending};

use super::batch::log_send_error;
use super::{Broker, lock};
use crate::stats::add;
use selvedge_client::lanes::DATA;
use selvedge_client::wire::DropPolicy;

/// How many bytes wait in the send buffer, behind what is in flight, before messages wait in the backlog.
const QUEUED_MAX: u64 = 1024 * 1024;

/// How much a backlog holds, or a single longer message: a receive window of a source, which a worker may read in
/// one turn before it serves the function.
const BACKLOG_MAX: usize = 4 * 1024 * 1024;

/// What a message costs in a backlog besides its length.
const MESSAGE_COST: usize = 64;

/// Header and payload of a message, to be sent one after the other.
pub(super) type OutletCopy<'a> = [&'a [u8]; 2];

/// Sends to one function that does not hold sources back.
#[derive(Debug)]
pub(super) struct Outlet {
    policy: DropPolicy,
    endpoint: Endpoint,
    /// Has the worker call the connection of the function, which then calls [`send_backlog`](Self::send_backlog).
    waker: Waker,
    /// How many messages were dropped for the function.
    dropped: Arc<AtomicU64>,
    backlog: Mutex<Backlog>,
}

/// Messages that wait for room, the oldest first.
#[derive(Debug, Default)]
struct Backlog {
    messages: VecDeque<Box<[u8]>>,
    /// The lengths and costs of the messages.
    cost: usize,
    /// Whether the connection of the function will be called when there may be room. Each registration requests
    /// an acknowledgement, so there is one at a time.
    is_waiting: bool,
    /// Whether the function is about to leave: from now on messages are sent at once or dropped.
    is_ending: bool,
}

/// What has become of messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct OutletCounts {
    sent: usize,
    dropped: usize,
    /// The function has left.
    unreachable: usize,
}

impl Broker {
    /// Sends what waits for functions with a drop policy, as far as their send buffers have room.
    pub(crate) fn flush_outlets(&self) {
        let outlets: Vec<_> = {
            let state = self.lock();
            let outlets = state.known.values().filter_map(|it| it.outlet.clone());
            outlets.collect()
        };
        outlets.iter().for_each(|outlet| outlet.flush(self));
    }
}

impl Outlet {
    pub(super) fn new(
        policy: DropPolicy,
        endpoint: Endpoint,
        waker: Waker,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        Self {
            policy,
            endpoint,
            waker,
            dropped,
            backlog: Mutex::default(),
        }
    }

    /// Sends messages, as far as there is room. Never waits.
    pub(super) fn offer<'a>(&self, broker: &Broker, copies: impl Iterator<Item = OutletCopy<'a>>) {
        let mut backlog = lock(&self.backlog);
        let limit = self.limit(&backlog);
        let mut sending = self.endpoint.sending();
        let mut counts = OutletCounts::default();
        backlog.send(&mut sending, limit, &mut counts);
        for copy in copies {
            let len = copy.iter().map(|part| part.len()).sum();
            let has_room = backlog.messages.is_empty() && !sending.is_full_within(DATA, len, limit);
            if has_room {
                counts.send(&mut sending, copy);
            } else if limit == u64::MAX {
                counts.dropped += 1;
            } else {
                counts.dropped += backlog.push(copy.concat().into());
            }
        }
        self.finish(broker, &mut backlog, sending, limit, counts);
    }

    /// Sends what waits, as far as there is room. Called by the connection of the function.
    pub(super) fn send_backlog(&self, broker: &Broker) {
        lock(&self.backlog).is_waiting = false;
        self.offer(broker, std::iter::empty());
    }

    /// The function is about to leave: what waits is sent, as far as the whole send buffer has room for it.
    pub(super) fn flush(&self, broker: &Broker) {
        let mut backlog = lock(&self.backlog);
        backlog.is_ending = true;
        let mut sending = self.endpoint.sending();
        let mut counts = OutletCounts::default();
        backlog.send(&mut sending, u64::MAX, &mut counts);
        counts.dropped += backlog.clear();
        self.finish(broker, &mut backlog, sending, u64::MAX, counts);
    }

    /// The connection of the function has ended. Returns the number of messages that have waited.
    pub(super) fn end(&self) -> usize {
        let mut backlog = lock(&self.backlog);
        backlog.is_ending = true;
        backlog.clear()
    }

    /// How much of the send buffer may be used. What is in flight does not count: how much that is depends on
    /// the time that acknowledgements take, and it is limited by the receive window.
    fn limit(&self, backlog: &Backlog) -> u64 {
        match self.policy {
            DropPolicy::Oldest if !backlog.is_ending => {
                self.endpoint.stats().bytes_in_flight + QUEUED_MAX
            }
            _ => u64::MAX,
        }
    }

    fn finish(
        &self,
        broker: &Broker,
        backlog: &mut Backlog,
        sending: Sending<'_>,
        limit: u64,
        counts: OutletCounts,
    ) {
        let counters = &broker.counters;
        // Under the lock of the send buffer: a copy is counted before its recipient can read it.
        add(&counters.delivered, counts.sent);
        if counts.unreachable > 0 {
            add(&counters.unreachable, counts.unreachable);
        }
        if counts.dropped > 0 {
            add(&counters.no_room, counts.dropped);
            self.dropped
                .fetch_add(counts.dropped as u64, Ordering::Relaxed);
        }
        if let Some(first) = backlog.messages.front()
            && !backlog.is_waiting
        {
            let (cx, len) = (Context::from_waker(&self.waker), first.len());
            let polled = sending.poll_room_within(&cx, DATA, len, limit);
            debug_assert!(polled.is_pending(), "what has room is sent");
            backlog.is_waiting = true;
        }
    }
}

impl Backlog {
    /// Sends the oldest messages, as far as there is room.
    fn send(&mut self, sending: &mut Sending<'_>, limit: u64, counts: &mut OutletCounts) {
        while let Some(first) = self.messages.front()
            && !sending.is_full_within(DATA, first.len(), limit)
        {
            counts.send(sending, [first, &[]]);
            self.cost -= first.len() + MESSAGE_COST;
            self.messages.pop_front();
        }
    }

    /// Adds a message. Returns how many were dropped for it.
    fn push(&mut self, message: Box<[u8]>) -> usize {
        let before = self.messages.len();
        let cost = message.len() + MESSAGE_COST;
        while self.cost + cost > BACKLOG_MAX {
            let Some(oldest) = self.messages.pop_front() else {
                break;
            };
            self.cost -= oldest.len() + MESSAGE_COST;
        }
        let dropped = before - self.messages.len();
        self.cost += cost;
        self.messages.push_back(message);
        dropped
    }

    /// Removes all messages. Returns how many there were.
    fn clear(&mut self) -> usize {
        let messages = std::mem::take(&mut self.messages);
        self.cost = 0;
        messages.len()
    }
}

impl OutletCounts {
    fn send(&mut self, sending: &mut Sending<'_>, copy: OutletCopy<'_>) {
        match sending.try_send_parts(DATA, &copy) {
            Ok(()) => self.sent += 1,
            Err(error) => {
                log_send_error(&error);
                self.unreachable += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(backlog: &Backlog) -> Vec<usize> {
        backlog.messages.iter().map(|it| it.len()).collect()
    }

    #[test]
    fn the_oldest_messages_make_room_for_new_ones() {
        let mut backlog = Backlog::default();
        let count = BACKLOG_MAX / (8 + MESSAGE_COST);
        for n in 0..count + 3 {
            let dropped = backlog.push(n.to_be_bytes().into());
            assert_eq!(dropped, usize::from(n >= count));
        }
        assert_eq!(backlog.messages[0][..], 3_usize.to_be_bytes());
        assert_eq!(backlog.clear(), count);
        let half = BACKLOG_MAX / 2 - MESSAGE_COST;
        for len in [half, 1, half - 1 - MESSAGE_COST] {
            assert_eq!(backlog.push(vec![0; len].into()), 0);
        }
        assert_eq!(backlog.cost, BACKLOG_MAX);
        assert_eq!(backlog.push(vec![0; 2].into()), 1);
        assert_eq!(lens(&backlog), [1, half - 1 - MESSAGE_COST, 2]);
        // A message that is longer than the backlog waits alone.
        assert_eq!(backlog.push(vec![0; 2 * BACKLOG_MAX].into()), 3);
        assert_eq!(backlog.push(vec![0; 1].into()), 1);
        assert_eq!((lens(&backlog), backlog.cost), (vec![1], 1 + MESSAGE_COST));
    }
}
