//! Copies of messages of a flow for functions that do not settle, such as those of an older version.
//!
//! They are sent at most once, as plain data, and hold the source back while they have no room, as plain data
//! of a source does; unless the functions have a drop policy. Messages that a former zipper of the source may have sent are not sent again.

use std::collections::BTreeMap;
use std::task::Context;

use selvedge_client::lanes::{DATA, HOPS_MAX};
use selvedge_client::wire::settlement::RoutedMessage;
use selvedge_client::wire::{MessageHeader, Origin, Recipient};
use selvedge_hub::{Incoming, SendError};

use super::flow::{FlowState, SharedFlow};
use crate::broker::Broker;
use crate::broker::plans::{ResolvedHop, ResolvedPlan};
use crate::stats::add;

/// Room for the header of a copy: names and homes of functions.
const HEADER_ROOM: usize = 4096;

impl SharedFlow {
    /// Whether the first message waits for room at one of these functions, or the neighbours towards them, or
    /// for the source to confirm its recipients.
    pub(super) fn awaits_room(
        &self,
        state: &FlowState,
        sequence: u64,
        cx: &Context<'_>,
        incoming: &Incoming<'_>,
    ) -> bool {
        let Some(resolved) = state
            .unsettled
            .as_ref()
            .filter(|_| sequence >= self.sent_before)
        else {
            return false;
        };
        if !state.machine.is_confirmed() {
            // Otherwise another zipper of the source might take the message for one of a group that is closed.
            return true;
        }
        let len = incoming.peek(self.lane).map_or(0, |it| it.payload.len());
        let hops = resolved.recipients.iter().zip(&resolved.drops);
        let waiting = hops.filter(|(_, drops)| !**drops);
        waiting.filter_map(|(hop, _)| hop.as_ref()).any(|hop| {
            let sending = hop.endpoint.sending();
            sending.poll_room(cx, DATA, len + HEADER_ROOM).is_pending()
        })
    }

    /// Sends copies of the first message.
    pub(super) fn send_unsettled(
        &self,
        broker: &Broker,
        state: &mut FlowState,
        message: &RoutedMessage,
        incoming: &Incoming<'_>,
    ) {
        let Some(resolved) = state.unsettled.clone() else {
            return;
        };
        if message.sequence < self.sent_before {
            // Whether they have it is not known.
            return add(&broker.counters.unreachable, 1);
        }
        let Some(bytes) = incoming.peek(self.lane).map(|it| it.payload.clone()) else {
            return;
        };
        let Ok((mut trace, payload)) = message.split_body(bytes) else {
            return;
        };
        broker.append_trace_step(&mut trace);
        let header = MessageHeader {
            tag: self.id.tag,
            origin: Origin {
                source: self.id.source,
                sequence: message.sequence,
            },
            hops_left: HOPS_MAX,
            target: self.id.target.as_deref(),
            recipients: &[],
            trace: trace.as_deref(),
        };
        for (to, recipients) in self.select(state, &resolved) {
            let header = MessageHeader {
                recipients: &recipients,
                ..header
            };
            send(broker, to, header, &payload);
        }
    }

    /// The peers that receive a copy, neighbours with the functions that it is for.
    fn select<'a>(
        &self,
        state: &mut FlowState,
        resolved: &'a ResolvedPlan,
    ) -> Vec<(&'a ResolvedHop, Vec<Recipient>)> {
        let FlowState {
            machine, random, ..
        } = state;
        let mut hops: BTreeMap<usize, Vec<Recipient>> = BTreeMap::new();
        for selected in resolved.plan.select(&self.id.source, random) {
            // Of messages that its instances may have had, which settle.
            if machine.has_group(selected.name) {
                continue;
            }
            hops.entry(selected.next_hop).or_default().push(Recipient {
                name: selected.name.to_owned(),
                home: selected.node,
            });
        }
        let resolve = |(at, recipients): (usize, Vec<Recipient>)| {
            let to = resolved.recipients[at].as_ref()?;
            let recipients = match to.is_local {
                true => Vec::new(),
                false => recipients,
            };
            Some((to, recipients))
        };
        hops.into_iter().filter_map(resolve).collect()
    }
}

fn send(broker: &Broker, to: &ResolvedHop, header: MessageHeader<'_>, payload: &[u8]) {
    let (mut bytes, counters) = (Vec::new(), &broker.counters);
    if header.encode(&mut bytes).is_err() {
        return add(&counters.unreachable, 1);
    }
    let parts = [&bytes[..], payload];
    if let Some(outlet) = &to.outlet {
        return outlet.offer(broker, std::iter::once(parts));
    }
    let mut sending = to.endpoint.sending();
    let counter = match sending.try_send_parts(DATA, &parts) {
        Ok(()) if to.is_local => &counters.delivered,
        Ok(()) => &counters.forwarded,
        Err(SendError::Full(_)) => {
            add(&to.dropped, 1);
            &counters.no_room
        }
        Err(_) => &counters.unreachable,
    };
    add(counter, 1);
}
