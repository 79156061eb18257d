//! Routes through this zipper: from a neighbour to another one, or to a function of this zipper.
//!
//! A relay has no custody of messages: it replaces the label and passes a message on. After a loss it
//! discards the rest of the route, and notifies the entry zipper, which binds another one.

use std::collections::HashMap;

use bytes::Bytes;
use selvedge_client::wire::settlement::{
    RouteBinding, RouteLossReason, RoutedMessage, SettlementMessage, StalledMessage,
    append_trace_step,
};
use selvedge_hub::{Endpoint, Incoming, LaneId, Sending};

use super::labels::{self, RouteOwner};
use crate::broker::Broker;
use crate::broker::plans::ResolvedHop;
use crate::stats::add;

/// The largest number of routes that one neighbour binds through this zipper.
const ROUTES_MAX: usize = 65_536;

/// Consecutive messages of one route, sent under one lock.
const BURST_MAX: usize = 256;

/// Longer messages are not copied. Shorter ones are: a reference to one of them could retain the whole piece
/// of memory that it was received in.
pub(super) const COPY_LEN_MAX: usize = 16 << 10;

/// The part of a message that is replaced: kind, flags and label.
const LABEL_END: usize = 6;

/// The routes that one neighbour has bound, by its labels. Owned by its connection.
#[derive(Debug, Default)]
pub(in crate::broker) struct RelayTable(HashMap<u32, RelayRoute>);

#[derive(Debug)]
struct RelayRoute {
    to: ResolvedHop,
    /// The label on the connection of the next hop.
    label: u32,
    /// Whether a message of the route was lost: the others are discarded.
    is_lost: bool,
}

impl RelayTable {
    /// The neighbour `from` binds a route.
    pub(in crate::broker) fn bind(
        &mut self,
        broker: &Broker,
        from: &Endpoint,
        binding: RouteBinding,
    ) {
        let upstream = binding.label;
        let refused = match self.begin(broker, from, binding) {
            Ok(route) => {
                if let Some(former) = self.0.insert(upstream, route) {
                    former.end();
                }
                return;
            }
            Err(reason) => reason,
        };
        let lost = SettlementMessage::RouteLost {
            label: upstream,
            reason: refused,
        };
        labels::send(from, &lost);
    }

    fn begin(
        &self,
        broker: &Broker,
        from: &Endpoint,
        mut binding: RouteBinding,
    ) -> Result<RelayRoute, RouteLossReason> {
        if self.0.len() >= ROUTES_MAX && !self.0.contains_key(&binding.label) {
            return Err(RouteLossReason::Refused);
        }
        let to = broker.next_hop_of(&binding)?;
        if to.endpoint.peer() == from.peer() {
            return Err(RouteLossReason::NoPath);
        }
        binding.hops_left = binding
            .hops_left
            .checked_sub(1)
            .filter(|_| binding.hops_left <= selvedge_client::lanes::HOPS_MAX)
            .ok_or(RouteLossReason::NoPath)?;
        let owner = RouteOwner::Relay {
            upstream: from.clone(),
            label: binding.label,
        };
        let label = broker.next_label();
        binding.label = label;
        if !to.routes.insert(label, owner) {
            return Err(RouteLossReason::Refused);
        }
        let route = RelayRoute {
            to,
            label,
            is_lost: false,
        };
        match labels::send(&route.to.endpoint, &SettlementMessage::Bind(binding)) {
            true => Ok(route),
            false => {
                route.to.routes.remove(label);
                Err(RouteLossReason::NoRoom)
            }
        }
    }

    /// The neighbour does not use a route any more.
    pub(in crate::broker) fn unbind(&mut self, label: u32) {
        if let Some(route) = self.0.remove(&label) {
            route.end();
        }
    }

    /// The neighbour has restarted, or its connection has ended.
    pub(in crate::broker) fn clear(&mut self) {
        self.0.drain().for_each(|(_, route)| route.end());
    }

    /// Passes on a control message for the instance of a route. An instance does not answer on a route that has lost
    /// messages: so its entry zipper learns of the loss, even if there was no room to report it.
    pub(in crate::broker) fn pass_on(&self, label: u32, bytes: &[u8]) {
        if let Some(route) = self.0.get(&label).filter(|route| !route.is_lost)
            && let Some(bytes) = labels::relabelled(bytes, route.label)
        {
            labels::send_bytes(&route.to.endpoint, bytes);
        }
    }

    /// The instance of a route has stalled: a function of this zipper is disconnected.
    pub(in crate::broker) fn end_stalled(
        &self,
        broker: &Broker,
        stalled: &StalledMessage,
        bytes: &[u8],
    ) {
        match self.0.get(&stalled.label) {
            Some(route) if route.to.is_local => broker.end_stalled(&route.to, stalled),
            _ => self.pass_on(stalled.label, bytes),
        }
    }

    /// Forwards the first unread messages of a lane, as far as they belong to routes, on the same lane.
    pub(in crate::broker) fn forward(
        &mut self,
        broker: &Broker,
        from: &Endpoint,
        lane: LaneId,
        incoming: &mut Incoming<'_>,
    ) {
        while let Some(label) = next_label(lane, incoming) {
            let Some(route) = self.0.get_mut(&label).filter(|route| !route.is_lost) else {
                discard(broker, (lane, label), incoming);
                continue;
            };
            let was_sent = route.forward(broker, (lane, label), incoming);
            if !was_sent {
                route.is_lost = true;
                let reason = RouteLossReason::NoRoom;
                labels::send(from, &SettlementMessage::RouteLost { label, reason });
            }
        }
    }
}

impl Drop for RelayTable {
    fn drop(&mut self) {
        self.clear();
    }
}

fn next_label(lane: LaneId, incoming: &mut Incoming<'_>) -> Option<u32> {
    let mut label = None;
    incoming.take_bytes_while(lane, |bytes| {
        label = RoutedMessage::label_of(bytes);
        false
    });
    label
}

/// Drops the first messages of a route that is lost or unknown.
fn discard(broker: &Broker, (lane, label): (LaneId, u32), incoming: &mut Incoming<'_>) {
    let mut count = 0;
    incoming.take_bytes_while(lane, |bytes| {
        let is_of_route = RoutedMessage::label_of(bytes) == Some(label);
        count += usize::from(is_of_route);
        is_of_route
    });
    add(&broker.counters.relayed, count);
    add(&broker.counters.discarded, count);
}

impl RelayRoute {
    /// Forwards the first messages, which belong to the route. Returns false if one of them was lost.
    fn forward(
        &self,
        broker: &Broker,
        (lane, label): (LaneId, u32),
        incoming: &mut Incoming<'_>,
    ) -> bool {
        let mut burst = RelayBurst {
            lane,
            label: self.label,
            sending: self.to.endpoint.sending(),
            len: 0,
            sent: 0,
            is_next_whole: false,
        };
        let mut is_sent = true;
        loop {
            incoming.take_bytes_while(lane, |bytes| {
                let is_next =
                    RoutedMessage::label_of(bytes) == Some(label) && burst.len < BURST_MAX;
                is_next && is_sent && {
                    let taken = burst.offer(bytes);
                    is_sent = taken != Some(false);
                    taken.is_some()
                }
            });
            if !is_sent || !std::mem::take(&mut burst.is_next_whole) {
                break;
            }
            is_sent = burst.offer_whole(broker, incoming);
        }
        let counters = &broker.counters;
        add(&counters.relayed, burst.len);
        let passed = match self.to.is_local {
            true => &counters.delivered,
            false => &counters.forwarded,
        };
        // Under the lock of the send buffer: a copy is counted before its recipient can read it.
        add(passed, burst.sent);
        add(&counters.discarded, burst.len - burst.sent);
        is_sent
    }

    /// The route has ended: the next hop forgets it.
    fn end(self) {
        if self.to.routes.remove(self.label).is_some() {
            let label = self.label;
            labels::send(&self.to.endpoint, &SettlementMessage::Unbind { label });
        }
    }
}

/// Consecutive messages of one route.
struct RelayBurst<'a> {
    lane: LaneId,
    label: u32,
    sending: Sending<'a>,
    len: usize,
    sent: usize,
    /// Whether the next message is to be taken as a whole: it has a trace, or is long.
    is_next_whole: bool,
}

impl RelayBurst<'_> {
    /// Sends a message. Returns whether it was sent; `None` if it must be taken in another way.
    #[inline]
    fn offer(&mut self, bytes: &[u8]) -> Option<bool> {
        if RoutedMessage::has_trace_in(bytes) || bytes.len() > COPY_LEN_MAX {
            self.is_next_whole = true;
            return None;
        }
        let head = RoutedMessage::relabelled(bytes, self.label);
        Some(self.send(&head, &bytes[LABEL_END..]))
    }

    fn send(&mut self, head: &[u8], rest: &[u8]) -> bool {
        self.len += 1;
        let sent = self.sending.try_send_parts(self.lane, &[head, rest]);
        self.sent += usize::from(sent.is_ok());
        sent.is_ok()
    }

    /// Sends the first message. Adds a step to its trace, if it has one.
    fn offer_whole(&mut self, broker: &Broker, incoming: &mut Incoming<'_>) -> bool {
        let Some(message) = incoming.take(self.lane) else {
            return true;
        };
        self.len += 1;
        let bytes = message.payload;
        let (mut head, body) = if RoutedMessage::has_trace_in(&bytes) {
            let Some((head, body)) = with_step(broker, &bytes) else {
                return false;
            };
            (head.to_vec(), body)
        } else {
            let (head, body) = bytes.split_at(LABEL_END.min(bytes.len()));
            (head.to_vec(), bytes.slice_ref(body))
        };
        let label = RoutedMessage::relabelled(&head, self.label);
        head[..LABEL_END].copy_from_slice(&label);
        let sent = self.sending.try_send_message(self.lane, &head, &body);
        self.sent += usize::from(sent.is_ok());
        sent.is_ok()
    }
}

/// The header of a message with a trace, and its body with a step of this zipper.
pub(super) fn with_step(broker: &Broker, message: &Bytes) -> Option<(Bytes, Bytes)> {
    let read = RoutedMessage::read(message)?;
    let settings = &broker.settings;
    let micros = settings.clock.unix_micros();
    let body = append_trace_step(message.slice(read.body_at..), &settings.name, micros).ok()?;
    Some((message.slice(..read.body_at), body))
}
