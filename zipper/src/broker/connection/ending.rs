//! How a peer leaves, and what is counted of messages from it and to it.

use selvedge_client::lanes::DATA;
use selvedge_client::wire::{self, Role, WireMessage};
use selvedge_hub::Message;

use super::Connection;
use crate::stats::add;

impl Connection {
    /// A function wants no more data, and waits for the answer behind the last data. Only the first request
    /// has an effect, and those of other peers have none.
    pub(super) fn on_goaway(&mut self, message: String) {
        if self.role != Some(Role::StreamFunction) || std::mem::replace(&mut self.is_leaving, true)
        {
            return;
        }
        let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
        tracing::info!(%peer, remote, name, message, "the peer wants no more data");
        self.broker.forget_function(&self.node);
        self.broker.withdraw(self.node);
        if let Some(outlet) = &self.outlet {
            outlet.flush(&self.broker);
        }
        self.send_on(DATA, &WireMessage::Goaway { message });
    }

    /// Counts unread messages as undelivered: nothing forwards them any more.
    pub(super) fn count_unread(&mut self) {
        let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
        let count = self.unread;
        if count > 0 {
            tracing::warn!(%peer, remote, name, count, "messages of this peer were not forwarded");
            add(&self.broker.counters.undelivered, count);
        }
        self.unread = 0;
    }

    /// Counts data that the peer may not have received.
    pub(super) fn count_undelivered(&self, undelivered: &[Message]) {
        // The goaway message that ends the data of a function is on the data lane, too.
        let is_data = |it: &&Message| it.lane == DATA && wire::is_data(&it.payload);
        let count = undelivered.iter().filter(is_data).count();
        let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
        if count > 0 {
            tracing::warn!(%peer, remote, name, count, "messages to this peer may be lost");
            add(&self.broker.counters.undelivered, count);
        }
    }

    /// Sends what waits for a function with a drop policy, as far as there is room.
    pub(super) fn send_backlog(&self) {
        if let Some(outlet) = &self.outlet {
            outlet.send_backlog(&self.broker);
        }
    }

    /// What waits for a function with a drop policy is lost.
    pub(super) fn end_outlet(&mut self) {
        if let Some(outlet) = self.outlet.take() {
            add(&self.broker.counters.undelivered, outlet.end());
        }
    }
}
