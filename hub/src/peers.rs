//! The endpoints to all peers, each replaced when it has ended.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use selvedge_driver::{
    Address, Connected, DialError, Dialers, Driver, DriverError, Endpoint, Event, Inbox,
    LaneFilter, MailboxSender, NodeId, Reception, SessionConfig,
};

use crate::event::HubEvent;
use crate::fast_redial::FastRedials;
use crate::mesh::Dial;
use crate::mesh_actor::HubCommand;

/// Makes the inbox of an endpoint.
pub(crate) type MakeInbox = Arc<dyn Fn(&Endpoint) -> Box<dyn Inbox> + Send + Sync>;

/// Makes the lane filter of an endpoint.
pub(crate) type MakeFilter = Arc<dyn Fn(&Endpoint) -> LaneFilter + Send + Sync>;

/// The part of a hub that workers use, too.
///
/// Holds no [`Driver`]: dropping the last one joins the workers, which would deadlock on a worker.
pub(crate) struct Peers {
    pub(crate) local: NodeId,
    pub(crate) dialers: Dialers,
    /// The wanted peers.
    pub(crate) addresses: BTreeMap<NodeId, Vec<Address>>,
    /// The addresses to begin with.
    pub(crate) first: BTreeMap<NodeId, usize>,
    pub(crate) redials: FastRedials,
    pub(crate) session: SessionConfig,
    /// The admission buffer of guests.
    pub(crate) guest_buffer: Option<usize>,
    pub(crate) make_inbox: Option<MakeInbox>,
    pub(crate) make_filter: Option<MakeFilter>,
    pub(crate) endpoints: Mutex<BTreeMap<NodeId, Endpoint>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers")
            .field("local", &self.local)
            .field("endpoints", &self.lock())
            .finish_non_exhaustive()
    }
}

impl Peers {
    /// Makes an endpoint to `peer`, whose events go to `mailbox`. It replaces a previous one.
    pub(crate) fn make(
        self: &Arc<Self>,
        driver: &Driver,
        peer: NodeId,
        mailbox: MailboxSender<HubCommand>,
    ) -> Result<Endpoint, DriverError> {
        // Weak: the endpoint's worker holds the watch, and `Peers` holds the endpoint.
        let peers = Arc::downgrade(self);
        let reception = |endpoint: &Endpoint| {
            let watched = endpoint.clone();
            let watch = move |event: &Event| {
                let Some(hub_event) = HubEvent::from_endpoint(&watched, event) else {
                    return;
                };
                match peers.upgrade() {
                    Some(peers) if matches!(event, Event::Detached { .. }) => {
                        peers.lost(&watched, hub_event, &mailbox);
                    }
                    _ => mailbox.send(HubCommand::Event(hub_event)),
                }
            };
            Reception {
                inbox: self.make_inbox.as_ref().map(|make| make(endpoint)),
                filter: self.make_filter.as_ref().map(|make| make(endpoint)),
                watch: Some(Box::new(watch)),
            }
        };
        let mut session = self.session.clone();
        if !self.addresses.contains_key(&peer) {
            session.admission_buffer = self.guest_buffer.or(session.admission_buffer);
        }
        let made = driver.endpoint_with(session, self.local, peer, reception)?;
        self.lock().insert(peer, made.clone());
        Ok(made)
    }

    pub(crate) fn endpoint(&self, peer: NodeId) -> Option<Endpoint> {
        self.lock().get(&peer).cloned()
    }

    pub(crate) fn address(&self, dial: Dial) -> Option<&Address> {
        self.addresses.get(&dial.peer)?.get(dial.address)
    }

    /// Gives a connection to the endpoint of its peer. Returns the connection if there is no open
    /// endpoint.
    pub(crate) fn attach(&self, connected: Connected) -> Option<Connected> {
        let endpoint = self.endpoint(connected.peer());
        let is_open = |endpoint: &Endpoint| endpoint.wait_closed(Duration::ZERO).is_none();
        let Some(endpoint) = endpoint.filter(is_open) else {
            return Some(connected);
        };
        if let Err(error) = endpoint.attach(connected) {
            tracing::debug!(peer = %endpoint.peer(), %error, "cannot attach a connection");
        }
        None
    }

    /// Redials a peer on the worker on which its last connection has ended, at the address that was in
    /// use. Waking the mesh's actor, and then the worker again, takes 70 us.
    fn lost(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        event: HubEvent,
        mailbox: &MailboxSender<HubCommand>,
    ) {
        let Some(dial) = self.redials.lost(endpoint.peer()) else {
            return mailbox.send(HubCommand::Event(event));
        };
        // Sent before the dial begins, so that the mesh receives this before the outcome.
        mailbox.send(HubCommand::DownAndRedialing(event, dial));
        let is_dialing = self.address(dial).is_some_and(|address| {
            let done = self.when_dialed(dial, mailbox.clone());
            endpoint.redial(&self.dialers, address, done)
        });
        if !is_dialing {
            mailbox.send(HubCommand::RedialFailed(dial));
        }
    }

    /// The callback for the outcome of a dial. The first answer is attached on its worker, so that no
    /// other thread has to be woken; the mesh decides about the others.
    pub(crate) fn when_dialed(
        self: &Arc<Self>,
        dial: Dial,
        mailbox: MailboxSender<HubCommand>,
    ) -> impl FnOnce(Result<Connected, DialError>) + Send + use<> {
        let peers = Arc::downgrade(self);
        move |result| match (result, peers.upgrade()) {
            (Ok(connected), Some(peers)) if peers.redials.take_first_answer(dial.peer) => {
                mailbox.send(HubCommand::AnsweredAndAttached(dial));
                if let Some(connected) = peers.attach(connected) {
                    let peer = connected.peer();
                    tracing::debug!(%peer, "closed a connection: the peer has no endpoint");
                }
            }
            (result, _) => mailbox.send(HubCommand::Dialed(dial, result)),
        }
    }

    pub(crate) fn remove(&self, peer: NodeId) -> Option<Endpoint> {
        self.lock().remove(&peer)
    }

    pub(crate) fn all(&self) -> Vec<Endpoint> {
        self.lock().values().cloned().collect()
    }

    /// Each operation leaves the map valid, so a poisoned lock is usable.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Endpoint>> {
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
