//! The endpoints to all peers, made anew when one is over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use selvedge_driver::{
    Address, Connected, DialError, Dialers, Driver, DriverError, Endpoint, Event, Inbox,
    MailboxSender, NodeId, Reception, SessionConfig,
};

use crate::event::HubEvent;
use crate::mesh::Dial;
use crate::redials::Redials;
use crate::service::{Told, hub_event};

/// Makes the inbox of an endpoint.
pub(crate) type Receive = Arc<dyn Fn(&Endpoint) -> Box<dyn Inbox> + Send + Sync>;

/// Workers hold it for a moment now and then, so the driver is not in it: who drops that waits for the
/// workers, and on one of them cannot.
pub(crate) struct Peers {
    pub(crate) local: NodeId,
    pub(crate) dialers: Dialers,
    pub(crate) ways: BTreeMap<NodeId, Vec<Address>>,
    pub(crate) redials: Redials,
    pub(crate) session: SessionConfig,
    pub(crate) receive: Option<Receive>,
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
    /// Makes an endpoint to `peer` that reports to `mail`, in the place of any before.
    pub(crate) fn make(
        self: &Arc<Self>,
        driver: &Driver,
        peer: NodeId,
        mail: MailboxSender<Told>,
    ) -> Result<Endpoint, DriverError> {
        // Weak: the endpoint's worker holds it, and they hold the endpoint.
        let peers = Arc::downgrade(self);
        let reception = |endpoint: &Endpoint| {
            let watched = endpoint.clone();
            let watch = move |event: &Event| {
                let Some(told) = hub_event(&watched, event) else {
                    return;
                };
                match peers.upgrade() {
                    Some(peers) if matches!(event, Event::Detached { .. }) => {
                        peers.lost(&watched, told, &mail);
                    }
                    _ => mail.send(Told::Event(told)),
                }
            };
            Reception {
                inbox: self.receive.as_ref().map(|receive| receive(endpoint)),
                watch: Some(Box::new(watch)),
            }
        };
        let session = self.session.clone();
        let made = driver.endpoint_with(session, self.local, peer, reception)?;
        self.lock().insert(peer, made.clone());
        Ok(made)
    }

    pub(crate) fn endpoint(&self, peer: NodeId) -> Option<Endpoint> {
        self.lock().get(&peer).cloned()
    }

    /// Gives a connection to the endpoint to its peer, or back if there is none that lasts.
    pub(crate) fn attach(&self, connected: Connected) -> Option<Connected> {
        let endpoint = self.endpoint(connected.peer());
        let lasts = |endpoint: &Endpoint| endpoint.wait_closed(Duration::ZERO).is_none();
        let Some(endpoint) = endpoint.filter(lasts) else {
            return Some(connected);
        };
        if let Err(error) = endpoint.attach(connected) {
            tracing::debug!(?endpoint, %error, "a connection is of no use");
        }
        None
    }

    /// On the worker on which the last connection to a peer has ended: dials it again there, by the way
    /// that worked. Waking the mesh's thread, and then the worker again, takes 70 us.
    fn lost(self: &Arc<Self>, endpoint: &Endpoint, event: HubEvent, mail: &MailboxSender<Told>) {
        let peer = endpoint.peer();
        let Some(dial) = self.redials.lost(peer) else {
            return mail.send(Told::Event(event));
        };
        // Before anything can be heard of the dial.
        mail.send(Told::Lost(event, dial));
        let addresses = self.ways.get(&peer);
        let is_dialed = addresses
            .and_then(|addresses| addresses.get(dial.way))
            .is_some_and(|address| {
                let done = self.when_dialed(dial, mail.clone());
                endpoint.redial(&self.dialers, address, done)
            });
        if !is_dialed {
            mail.send(Told::Undialed(dial));
        }
    }

    /// What becomes of a dial that has ended: the first that answers is brought in on its worker, so
    /// that no other thread has to be woken; else the mesh decides.
    pub(crate) fn when_dialed(
        self: &Arc<Self>,
        dial: Dial,
        mail: MailboxSender<Told>,
    ) -> impl FnOnce(Result<Connected, DialError>) + Send + use<> {
        let peers = Arc::downgrade(self);
        move |result| match (result, peers.upgrade()) {
            (Ok(connected), Some(peers)) if peers.redials.answered(dial.peer) => {
                mail.send(Told::Answered(dial));
                if let Some(connected) = peers.attach(connected) {
                    tracing::debug!(peer = %connected.peer(), "a connection comes to nobody");
                }
            }
            (result, _) => mail.send(Told::Dialed(dial, result)),
        }
    }

    pub(crate) fn remove(&self, peer: NodeId) -> Option<Endpoint> {
        self.lock().remove(&peer)
    }

    pub(crate) fn all(&self) -> Vec<Endpoint> {
        self.lock().values().cloned().collect()
    }

    /// The map is whole at each step, whoever panicked while holding it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Endpoint>> {
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
