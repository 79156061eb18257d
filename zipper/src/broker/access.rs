//! The permissions of connected clients: admission, changed rules, and expiry.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use selvedge_client::lanes::CONTROL;
use selvedge_client::tag::Tag;
use selvedge_client::wire::settlement::InstanceNotice;
use selvedge_client::wire::{DropPolicy, Handshake, NodeKey, Rejection, WireMessage};

use super::outlet::Outlet;
use super::{Broker, BrokerState, ConnectedPeer, remote};
use crate::broker::settling::Occasion;
use crate::permissions::{Access, AccessError, AccessRules, Credentials};
use crate::router::{FunctionSpec, Presence};

/// What a client has presented, and what it may do.
#[derive(Debug)]
pub(super) struct AdmittedClient {
    token: Option<String>,
    is_local: bool,
    access: Arc<Access>,
    /// A function with all tags that it wants to observe.
    wanted: Option<FunctionSpec>,
}

impl AdmittedClient {
    /// Checks what a client presents and wants.
    pub(super) fn new(
        rules: &AccessRules,
        node: NodeKey,
        handshake: &Handshake,
        is_local: bool,
        now: Duration,
    ) -> Result<Self, AccessError> {
        let wanted = (!handshake.tags.is_empty()).then(|| FunctionSpec {
            instance: None,
            drops: None,
            name: handshake.name.clone(),
            tags: handshake.tags.clone(),
            target: handshake.target.clone(),
            policy: handshake.policy,
        });
        let client = Self {
            token: handshake.token.clone(),
            is_local,
            access: Arc::default(),
            wanted,
        };
        let access = client.admit(rules, node, now)?;
        access.check_role(handshake.role, &handshake.tags)?;
        let access = Arc::new(access);
        Ok(Self { access, ..client })
    }

    fn admit(
        &self,
        rules: &AccessRules,
        node: NodeKey,
        now: Duration,
    ) -> Result<Access, AccessError> {
        let client = Credentials {
            node,
            token: self.token.as_deref(),
            is_local: self.is_local,
        };
        rules.admit(client, now)
    }

    /// The function with the tags that it may observe, if there are any.
    pub(super) fn function(&self) -> Option<FunctionSpec> {
        let mut function = self.wanted.clone()?;
        let observe = &self.access.permissions.observe;
        function.tags.retain(|tag| observe.contains(*tag));
        (!function.tags.is_empty()).then_some(function)
    }

    /// The tags that it wants to observe, and may not.
    pub(super) fn forbidden_tags(&self) -> Vec<Tag> {
        let wanted = self.wanted.iter().flat_map(|function| &function.tags);
        let observe = &self.access.permissions.observe;
        wanted
            .filter(|tag| !observe.contains(**tag))
            .copied()
            .collect()
    }

    pub(super) const fn access(&self) -> &Arc<Access> {
        &self.access
    }

    fn is_expired(&self, now: Duration) -> bool {
        self.access.expires.is_some_and(|expires| expires <= now)
    }
}

/// What was granted to a client at its admission.
#[derive(Debug, Default)]
pub(super) struct Granted {
    /// The names of its token and its key.
    pub(super) by: String,
    /// The tags that it wants to observe, and may not.
    pub(super) forbidden_tags: Vec<Tag>,
}

/// How the permissions of a client have changed.
enum Revision {
    None,
    Changed,
    Refused(AccessError),
}

impl Broker {
    /// The time since 1970.
    fn since_1970(&self) -> Duration {
        Duration::from_micros(self.settings.clock.unix_micros())
    }

    /// Admits a client with its permissions, unless it has none.
    pub(super) fn admit_client(
        &self,
        node: NodeKey,
        handshake: &Handshake,
        is_local: bool,
    ) -> Result<Granted, AccessError> {
        let now = self.since_1970();
        let mut state = self.lock();
        let client = AdmittedClient::new(&state.rules, node, handshake, is_local, now)?;
        let granted = Granted {
            by: client.access.granted_by.clone(),
            forbidden_tags: client.forbidden_tags(),
        };
        if let Some(peer) = state.known.get_mut(&node) {
            peer.client = Some(client);
        }
        // Its connection may have had other permissions before.
        state.changed_peers.insert_node(&node);
        self.publish(&mut state);
        Ok(granted)
    }

    /// An admitted function has introduced its process: messages may be routed to it.
    pub(super) fn set_instance(&self, node: NodeKey, notice: InstanceNotice) {
        {
            let mut state = self.lock();
            let known = state.known.get_mut(&node);
            let client = known.and_then(|it| {
                it.outlet = None;
                it.client.as_mut()
            });
            if let Some(function) = client.and_then(|it| it.wanted.as_mut()) {
                (function.instance, function.drops) = (Some(notice), None);
            }
        }
        self.add_function(node);
    }

    /// An admitted function has introduced itself as one that does not settle, and drops messages: they may
    /// be routed to it. `waker` has its connection called. Returns its outlet.
    pub(super) fn set_observer(
        &self,
        node: NodeKey,
        policy: DropPolicy,
        waker: Waker,
    ) -> Option<Arc<Outlet>> {
        let outlet = {
            let mut state = self.lock();
            let known = state.known.get_mut(&node)?;
            let client = known.client.as_mut();
            if let Some(function) = client.and_then(|it| it.wanted.as_mut()) {
                (function.instance, function.drops) = (None, Some(policy));
            }
            let (endpoint, dropped) = (known.endpoint.clone(), Arc::clone(&known.dropped));
            let outlet = Arc::new(Outlet::new(policy, endpoint, waker, dropped));
            known.outlet = Some(Arc::clone(&outlet));
            // What is cached of it has another outlet.
            state.changed_peers.insert_node(&node);
            outlet
        };
        self.add_function(node);
        Some(outlet)
    }

    /// Routes to an admitted function, as far as it may observe now.
    pub(super) fn add_function(&self, node: NodeKey) {
        self.change(|state| {
            let client = state.known.get(&node).and_then(|it| it.client.as_ref());
            if let Some(function) = client.and_then(AdmittedClient::function) {
                state.router.add_function(node, function);
            }
        });
        self.settle(Occasion::Change);
    }

    /// The function has left, or is about to: changed rules do not add it again.
    pub(super) fn forget_function(&self, node: &NodeKey) {
        let mut state = self.lock();
        let client = state.known.get_mut(node).and_then(|it| it.client.as_mut());
        if let Some(client) = client {
            client.wanted = None;
        }
    }

    /// The permissions of a client; `None` for a neighbour, and for a peer that has left.
    pub(super) fn access_of(&self, node: &NodeKey) -> Option<Arc<Access>> {
        let state = self.lock();
        let client = state.known.get(node)?.client.as_ref()?;
        Some(Arc::clone(client.access()))
    }

    /// Replaces the rules. Clients get the permissions of the new ones; those without any are disconnected.
    pub(crate) fn set_rules(&self, rules: AccessRules) {
        let mut state = self.lock();
        state.rules = rules;
        self.revise(&mut state);
        drop(state);
        self.settle(Occasion::Change);
    }

    /// Revises the permissions if any has expired.
    pub(super) fn expire(&self, state: &mut BrokerState) {
        let now = self.since_1970();
        let mut clients = state.known.values().filter_map(|it| it.client.as_ref());
        if clients.any(|client| client.is_expired(now)) {
            self.revise(state);
        }
    }

    fn revise(&self, state: &mut BrokerState) {
        let now = self.since_1970();
        let BrokerState {
            rules,
            known,
            router,
            changed_peers,
            ..
        } = state;
        for (&node, peer) in known.iter_mut() {
            let before = peer.client.as_ref().and_then(AdmittedClient::function);
            match peer.revise(rules, node, now) {
                Revision::None => continue,
                Revision::Changed => {}
                Revision::Refused(error) => peer.expel(&error),
            }
            changed_peers.insert_node(&node);
            let after = peer.client.as_ref().and_then(AdmittedClient::function);
            if before == after {
                continue;
            }
            router.remove(node);
            if let Some(function) = after {
                router.add_function(node, function);
                router.set_presence(node, peer.presence());
            }
        }
        self.publish(state);
    }
}

impl ConnectedPeer {
    const fn presence(&self) -> Presence {
        match (self.away_since, self.is_gone) {
            (None, _) => Presence::Up,
            (Some(_), false) => Presence::Away,
            (Some(_), true) => Presence::Gone,
        }
    }

    /// Applies new rules, or the time, to the permissions of a client.
    fn revise(&mut self, rules: &AccessRules, node: NodeKey, now: Duration) -> Revision {
        let Some(client) = &mut self.client else {
            return Revision::None;
        };
        // A client that was disconnected before has no permissions.
        if client.access.permissions.is_empty() {
            return Revision::None;
        }
        match client.admit(rules, node, now) {
            Ok(access) if access == *client.access => Revision::None,
            Ok(access) => {
                client.access = access.into();
                Revision::Changed
            }
            Err(error) => {
                client.access = Arc::default();
                Revision::Refused(error)
            }
        }
    }

    /// Disconnects a client that has no permissions any more.
    fn expel(&self, error: &AccessError) {
        let (peer, remote, name) = (self.endpoint.peer(), remote(&self.endpoint), &self.name);
        tracing::warn!(%peer, remote, name, %error, "disconnected a client without permissions");
        let message = WireMessage::Rejected {
            code: Rejection::Unauthorized as u16,
            message: error.to_string(),
        };
        if let Ok(bytes) = message.encode() {
            // If there is no room, the client learns that the connection was closed.
            let _is_full = self.endpoint.try_send(CONTROL, bytes);
        }
        self.endpoint.close();
    }
}
