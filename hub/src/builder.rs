//! The settings of a hub.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use selvedge_driver::{
    Address, Admission, Dialer, Driver, Endpoint, Identity, Inbox, LaneFilter, Listener, NodeId,
    SessionConfig,
};

use crate::error::HubError;
use crate::event::HubEvent;
use crate::guest_admission::GuestAdmission;
use crate::hub::Hub;
use crate::peers::{MakeFilter, MakeInbox};

/// Receives each event of a hub.
pub(crate) type OnEvent = Box<dyn Fn(HubEvent) + Send>;

/// Makes a listener that accepts the nodes which the admission allows.
pub(crate) type MakeListener = Box<dyn FnOnce(&Admission) -> Box<dyn Listener> + Send>;

/// The settings of a [`Hub`]: its identity, where it listens, its peers.
pub struct HubBuilder {
    pub(crate) identity: Identity,
    pub(crate) driver: Option<Arc<Driver>>,
    pub(crate) listen: Vec<Address>,
    /// Dialers of transports that are not built in.
    pub(crate) dialers: Vec<Arc<dyn Dialer>>,
    pub(crate) listeners: Vec<MakeListener>,
    pub(crate) peers: BTreeMap<NodeId, Vec<Address>>,
    /// The address to dial first, for peers that do not begin with the best one.
    pub(crate) first: BTreeMap<NodeId, usize>,
    pub(crate) reports_other_nodes: bool,
    pub(crate) session: SessionConfig,
    pub(crate) guests_max: usize,
    pub(crate) guest_admission: Option<GuestAdmission>,
    pub(crate) make_inbox: Option<MakeInbox>,
    pub(crate) make_filter: Option<MakeFilter>,
    pub(crate) on_event: Option<OnEvent>,
}

impl fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubBuilder")
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
            first: BTreeMap::new(),
            reports_other_nodes: false,
            session: SessionConfig::default(),
            guests_max: 0,
            guest_admission: None,
            make_inbox: None,
            make_filter: None,
            on_event: None,
        }
    }

    /// Uses this driver, which may be shared. Default: a new driver with one worker.
    #[must_use]
    pub fn driver(mut self, driver: Arc<Driver>) -> Self {
        self.driver = Some(driver);
        self
    }

    /// Adds the dialer of a custom transport. It takes precedence for a scheme that is built in.
    #[must_use]
    pub fn dialer(mut self, dialer: Arc<dyn Dialer>) -> Self {
        self.dialers.push(dialer);
        self
    }

    /// Adds the listener of a custom transport. `make` gets the nodes to accept: the wanted peers, or
    /// every node if guests are admitted.
    #[must_use]
    pub fn listener(
        mut self,
        make: impl FnOnce(&Admission) -> Box<dyn Listener> + Send + 'static,
    ) -> Self {
        self.listeners.push(Box::new(make));
        self
    }

    /// The limits and lanes of every endpoint. Default: [`SessionConfig::default`].
    #[must_use]
    pub fn session(mut self, config: SessionConfig) -> Self {
        self.session = config;
        self
    }

    /// Admits up to `max` nodes at once that are not wanted peers; any node that proves possession of
    /// its key. A guest that closes its endpoint, or is disconnected for 30 s, is forgotten.
    /// Default: 0.
    #[must_use]
    pub const fn guests(mut self, max: usize) -> Self {
        self.guests_max = max;
        self
    }

    /// Limits what a guest may send, and for how long it may stay, until it is admitted by
    /// [`Endpoint::admit`] on each lane that it may use. Default: guests have the limits of
    /// [`session`](Self::session) from the start.
    #[must_use]
    pub const fn guest_admission(mut self, admission: GuestAdmission) -> Self {
        self.guest_admission = Some(admission);
        self
    }

    /// Delivers messages to inboxes, called on the worker. `make` is called once for each endpoint,
    /// before a message can arrive there. Default: messages wait for [`Endpoint::recv`].
    #[must_use]
    pub fn inbox(
        mut self,
        make: impl Fn(&Endpoint) -> Box<dyn Inbox> + Send + Sync + 'static,
    ) -> Self {
        self.make_inbox = Some(Arc::new(make));
        self
    }

    /// Handles messages of one lane on the worker, with filters that `make` makes: it is called once for
    /// each endpoint, before a message can arrive there. So messages that must be handled soon do not
    /// depend on readers. Without effect beside [`inbox`](Self::inbox). Default: all messages wait for
    /// [`Endpoint::recv`].
    #[must_use]
    pub fn lane_filter(
        mut self,
        make: impl Fn(&Endpoint) -> LaneFilter + Send + Sync + 'static,
    ) -> Self {
        self.make_filter = Some(Arc::new(make));
        self
    }

    /// Disables the event queue, [`Hub::events`]. Unread events keep closed endpoints in memory, and
    /// each event beyond the limit of the queue is logged.
    #[must_use]
    pub fn without_events(self) -> Self {
        self.on_event(drop)
    }

    /// Calls `on_event` with each event, in order, instead of queueing it for [`Hub::events`], which then
    /// yields none. It is called on the thread of the actors, which all hubs of a driver share, and must not block. A panic of it is logged,
    /// and loses the event.
    #[must_use]
    pub fn on_event(mut self, on_event: impl Fn(HubEvent) + Send + 'static) -> Self {
        self.on_event = Some(Box::new(on_event));
        self
    }

    /// Listens at an address, in addition to others. Port 0 lets the system assign one.
    ///
    /// # Errors
    /// [`HubError::Address`] if the text is no address.
    pub fn listen(self, address: &str) -> Result<Self, HubError> {
        Ok(self.listen_on(parse(address)?))
    }

    /// Like [`listen`](Self::listen), with an address that is parsed already.
    #[must_use]
    pub fn listen_on(mut self, address: Address) -> Self {
        self.listen.push(address);
        self
    }

    /// Adds a wanted peer, with its addresses in order of preference. Without an address the peer is
    /// expected to dial. Connections are accepted from wanted peers and [`guests`](Self::guests) only.
    ///
    /// # Errors
    /// [`HubError::Address`] if a text is no address, [`HubError::OwnPeer`] if the peer is this node.
    pub fn peer(self, peer: NodeId, addresses: &[&str]) -> Result<Self, HubError> {
        let parsed = addresses
            .iter()
            .map(|address| parse(address))
            .collect::<Result<_, _>>()?;
        self.peer_at(peer, parsed)
    }

    /// Like [`peer`](Self::peer), with addresses that are parsed already.
    ///
    /// # Errors
    /// [`HubError::OwnPeer`] if the peer is this node.
    pub fn peer_at(mut self, peer: NodeId, addresses: Vec<Address>) -> Result<Self, HubError> {
        if peer == self.identity.node_id() {
            return Err(HubError::OwnPeer(peer));
        }
        self.peers.insert(peer, addresses);
        Ok(self)
    }

    /// Begins with this address of a peer, by its place in the list, because it is known to answer. The
    /// order of preference stays: a better one is tried later. An address that does not exist counts as
    /// the first.
    #[must_use]
    pub fn dial_first(mut self, peer: NodeId, address: usize) -> Self {
        self.first.insert(peer, address);
        self
    }

    /// Expects that other nodes answer at some addresses of the peers: reports each as
    /// [`HubEvent::OtherNode`] instead of warning of a wrong address. Default: it warns.
    #[must_use]
    pub const fn report_other_nodes(mut self) -> Self {
        self.reports_other_nodes = true;
        self
    }

    /// Checks that there is a transport for every address.
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

    /// Starts the hub: binds its listeners, makes its endpoints, begins to dial. Blocks only to bind.
    ///
    /// # Errors
    /// [`HubError`] if a scheme is unknown, an address cannot be bound or a thread cannot be started.
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
