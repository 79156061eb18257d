//! The endpoints to all peers, made anew when one is over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use selvedge_driver::{
    Connected, Driver, DriverError, Endpoint, Inbox, Mail, NodeId, Reception, session,
};

use crate::service::{Told, hub_event};

/// Makes the inbox of an endpoint.
pub(crate) type Receive = Arc<dyn Fn(&Endpoint) -> Box<dyn Inbox> + Send + Sync>;

pub(crate) struct Peers {
    pub(crate) driver: Arc<Driver>,
    pub(crate) local: NodeId,
    pub(crate) session: session::Config,
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
    pub(crate) fn make(&self, peer: NodeId, mail: Mail<Told>) -> Result<Endpoint, DriverError> {
        let reception = |endpoint: &Endpoint| {
            let watched = endpoint.clone();
            let watch = move |event: &selvedge_driver::Event| {
                if let Some(event) = hub_event(&watched, event) {
                    mail.send(Told::Event(event));
                }
            };
            Reception {
                inbox: self.receive.as_ref().map(|receive| receive(endpoint)),
                watch: Some(Box::new(watch)),
            }
        };
        let session = self.session.clone();
        let made = self
            .driver
            .endpoint_with(session, self.local, peer, reception)?;
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
