//! What a hub is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use selvedge_driver::{
    Address, Admission, Dialer, Driver, Endpoint, Identity, Inbox, Listener, NodeId, SessionConfig,
};

use crate::error::HubError;
use crate::event::HubEvent;
use crate::hub::Hub;
use crate::peers::Receive;

/// Receives each event of a hub.
pub(crate) type OnEvent = Box<dyn Fn(HubEvent) + Send>;

/// Makes a listener for those who may connect.
pub(crate) type MakeListener = Box<dyn FnOnce(&Admission) -> Box<dyn Listener> + Send>;

/// The settings of a [`Hub`]: who it is, where it listens, whom it wants.
pub struct HubBuilder {
    pub(crate) identity: Identity,
    pub(crate) driver: Option<Arc<Driver>>,
    pub(crate) listen: Vec<Address>,
    /// Transports that are not built in.
    pub(crate) dialers: Vec<Arc<dyn Dialer>>,
    pub(crate) listeners: Vec<MakeListener>,
    pub(crate) peers: BTreeMap<NodeId, Vec<Address>>,
    pub(crate) session: SessionConfig,
    pub(crate) guests_max: usize,
    pub(crate) receive: Option<Receive>,
    pub(crate) on_event: Option<OnEvent>,
}

impl fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("node_id", &self.identity.node_id())
            .field("listen", &self.listen)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl HubBuilder {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            driver: None,
            listen: Vec::new(),
            dialers: Vec::new(),
            listeners: Vec::new(),
            peers: BTreeMap::new(),
            session: SessionConfig::default(),
            guests_max: 0,
            receive: None,
            on_event: None,
        }
    }

    /// Shares a driver with others. Default: one of its own, with one worker.
    #[must_use]
    pub fn driver(mut self, driver: Arc<Driver>) -> Self {
        self.driver = Some(driver);
        self
    }

    /// Dials the schemes of `dialer` too: a transport of your own. One of a built-in scheme takes the
    /// place of that.
    #[must_use]
    pub fn dialer(mut self, dialer: Arc<dyn Dialer>) -> Self {
        self.dialers.push(dialer);
        self
    }

    /// Listens also by a transport of your own. `make` gets who may connect: the peers, or anyone if
    /// there are guests.
    #[must_use]
    pub fn listener(
        mut self,
        make: impl FnOnce(&Admission) -> Box<dyn Listener> + Send + 'static,
    ) -> Self {
        self.listeners.push(Box::new(make));
        self
    }

    /// The limits and lanes of every endpoint.
    #[must_use]
    pub fn session(mut self, config: SessionConfig) -> Self {
        self.session = config;
        self
    }

    /// Lets in nodes that are not wanted peers, so many at once: whoever proves to have any key.
    /// One that stays away for 30 s, or closes, is forgotten. Default: none.
    #[must_use]
    pub const fn guests(mut self, max: usize) -> Self {
        self.guests_max = max;
        self
    }

    /// Hands what arrives to inboxes, on the worker: `receive` makes one for each endpoint, before
    /// anything can have arrived there. Default: messages wait for [`Endpoint::recv`].
    #[must_use]
    pub fn receive(
        mut self,
        receive: impl Fn(&Endpoint) -> Box<dyn Inbox> + Send + Sync + 'static,
    ) -> Self {
        self.receive = Some(Arc::new(receive));
        self
    }

    /// For who does not take [`Hub::events`]: none is kept. Left there, they would keep endpoints that
    /// have ended in memory, and each one more than there is room for would be logged.
    #[must_use]
    pub fn without_events(self) -> Self {
        self.on_event(drop)
    }

    /// Calls `on_event` with each event, in order, instead of queueing it for [`Hub::events`], which then
    /// yields none. It is called by the actor of the hub and must not block.
    #[must_use]
    pub fn on_event(mut self, on_event: impl Fn(HubEvent) + Send + 'static) -> Self {
        self.on_event = Some(Box::new(on_event));
        self
    }

    /// Listens on an address as well.
    ///
    /// # Errors
    /// [`HubError::Address`].
    pub fn listen(self, address: &str) -> Result<Self, HubError> {
        Ok(self.listen_on(parse(address)?))
    }

    /// Like [`listen`](Self::listen).
    #[must_use]
    pub fn listen_on(mut self, address: Address) -> Self {
        self.listen.push(address);
        self
    }

    /// Wants a peer, reached by the first of these addresses that answers; with none the peer is
    /// expected to dial. Only peers that are wanted get in, and [`guests`](Self::guests).
    ///
    /// # Errors
    /// [`HubError::Address`] and [`HubError::OwnPeer`].
    pub fn peer(self, peer: NodeId, addresses: &[&str]) -> Result<Self, HubError> {
        let parsed = addresses
            .iter()
            .map(|address| parse(address))
            .collect::<Result<_, _>>()?;
        self.peer_at(peer, parsed)
    }

    /// Like [`peer`](Self::peer).
    ///
    /// # Errors
    /// [`HubError::OwnPeer`].
    pub fn peer_at(mut self, peer: NodeId, addresses: Vec<Address>) -> Result<Self, HubError> {
        if peer == self.identity.node_id() {
            return Err(HubError::OwnPeer(peer));
        }
        self.peers.insert(peer, addresses);
        Ok(self)
    }

    /// Whether there is a transport for every address.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        for address in self.listen.iter().chain(self.peers.values().flatten()) {
            match address.scheme() {
                "quic" | "tcp" | "tcp+plain" | "udp" | "udp+plain" => {}
                scheme if self.dialers.iter().any(|it| it.schemes().contains(&scheme)) => {}
                _ => return Err(HubError::UnknownScheme(address.clone())),
            }
        }
        Ok(())
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn start(self) -> Result<Hub, HubError> {
        Hub::start(self)
    }
}

fn parse(text: &str) -> Result<Address, HubError> {
    text.parse().map_err(|error| HubError::Address {
        text: text.to_owned(),
        error,
    })
}
