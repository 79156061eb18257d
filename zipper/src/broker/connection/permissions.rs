//! What the peer of a connection may do: its admission, its requests as an operator, and the notices of
//! missing permissions.

use std::time::Duration;

use selvedge_client::tag::Tag;
use selvedge_client::wire::{
    AdminQuery, AdminReply, AdminRequest, Denial, FEATURE_ADMIN, FEATURE_DENIALS, Handshake,
    Permission, Rejection, WireMessage,
};
use selvedge_hub::Address;

use super::{Connection, join};
use crate::broker::access::Granted;
use crate::permissions::AccessError;
use crate::reload::ReloadRequest;

/// A peer that writes without permission is notified, and logged, at most this often.
const DENIAL_INTERVAL: Duration = Duration::from_secs(1);

/// The largest number of tags in a line of the log.
const LOGGED_MAX: usize = 16;

impl Connection {
    /// Admits a client with the permissions of its token and its key.
    pub(super) fn admit_client(
        &self,
        handshake: &Handshake,
    ) -> Result<Granted, (Rejection, String)> {
        if handshake.token.is_some()
            && let Some(delay) = self.broker.token_delay(&self.node, self.network)
        {
            let network = self.network.map_or_else(String::new, |it| it.to_string());
            let why = format!(
                "wrong tokens came from {network}: try again in {:.1} s",
                delay.as_secs_f64()
            );
            return Err((Rejection::Throttled, why));
        }
        let admitted = self
            .broker
            .admit_client(self.node, handshake, self.is_local());
        admitted.map_err(|error| {
            if error == AccessError::WrongToken {
                self.broker.note_wrong_token(self.network);
            }
            (error.rejection(), error.to_string())
        })
    }

    /// Answers a request of an operator.
    pub(super) fn answer(&mut self, request: &AdminRequest) {
        if self.role.is_none() || self.features & FEATURE_ADMIN == 0 {
            let why = "requests of operators are not agreed on";
            return self.reject(Rejection::Malformed, why);
        }
        if !self.outgoing.is_empty() {
            let why = "a request of an operator before the answers to others were read";
            return self.reject(Rejection::Malformed, why);
        }
        let access = self.broker.access_of(&self.node).unwrap_or_default();
        let admin = &access.permissions.admin;
        let reply = match AdminQuery::from_byte(request.query) {
            Some(AdminQuery::Reload) if admin.is_all() => {
                let request = ReloadRequest::new(self.endpoint.clone(), request.id);
                match self.broker.request_reload(request) {
                    None => return,
                    Some(refused) => refused,
                }
            }
            _ => self.broker.answer(request, admin),
        };
        if let AdminReply::Refused { message, .. } = &reply {
            let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
            tracing::debug!(%peer, remote, name, message, "refused a request of an operator");
        }
        self.send(&WireMessage::AdminReply(reply));
    }

    /// Notifies the peer, and the operator, of a missing permission.
    pub(super) fn deny(&mut self, permission: Permission, tags: Vec<Tag>) {
        let (peer, remote, name) = (self.endpoint.peer(), &self.remote, &self.name);
        let (count, shown) = (tags.len(), join(&tags[..tags.len().min(LOGGED_MAX)]));
        tracing::warn!(
            %peer, remote, name, %permission, count, tags = shown,
            "the peer lacks a permission"
        );
        if self.features & FEATURE_DENIALS != 0 {
            self.send(&WireMessage::Denial(Denial { permission, tags }));
        }
    }

    /// Notifies the peer of messages that it may not write, at most once a second.
    pub(super) fn deny_writes(&mut self) {
        let now = self.broker.settings.clock.now();
        let is_due = self.denied_at.is_none_or(|at| now >= at + DENIAL_INTERVAL);
        if is_due && self.outgoing.is_empty() {
            self.denied_at = Some(now);
            let tags = self.batch.take_forbidden();
            self.deny(Permission::Write, tags);
        }
    }

    /// Whether the peer is a process of this host, as far as is known: transports without an IP address are
    /// local, and a peer that is away is not.
    pub(super) fn is_local(&self) -> bool {
        self.endpoint.transport().is_some_and(|transport| {
            let socket = transport.remote.as_ref().and_then(Address::as_socket);
            socket.is_none_or(|it| it.ip().to_canonical().is_loopback())
        })
    }
}
