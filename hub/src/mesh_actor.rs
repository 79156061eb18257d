//! The actor of the mesh: carries out its dials, attaches the connections, reports the events.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use selvedge_driver::{
    Actor, Connected, DialError, Driver, End, Endpoint, Instant, MailboxSender, Next, NodeId,
    PeerNetwork,
};

use crate::admission_log::AdmissionLog;
use crate::builder::OnEvent;
use crate::dial_error_log::DialErrorLog;
use crate::event::HubEvent;
use crate::guests::{Expiry, Guests, GuestsFull};
use crate::mesh::{Dial, Mesh};
use crate::peers::Peers;

/// A command to the mesh's actor.
#[derive(Debug)]
pub(crate) enum HubCommand {
    /// All endpoints and listeners exist: begin to dial.
    Start,
    /// A listener has accepted a connection that no endpoint took.
    Accepted(Connected),
    /// A dial has ended, and its connection is not attached.
    Dialed(Dial, Result<Connected, DialError>),
    /// A dial was answered, and the worker has attached the connection.
    AnsweredAndAttached(Dial),
    /// The peer is down, and a worker is about to redial it.
    DownAndRedialing(HubEvent, Dial),
    /// The worker could not begin that redial.
    RedialFailed(Dial),
    Event(HubEvent),
    /// Accept up to that many guests from now on.
    SetGuests(usize),
    /// Close all endpoints; make no new ones for those that end.
    Close,
    Stop,
}

pub(crate) struct MeshActor {
    pub(crate) driver: Arc<Driver>,
    pub(crate) mailbox: MailboxSender<HubCommand>,
    pub(crate) mesh: Mesh,
    pub(crate) guests: Guests,
    pub(crate) peers: Arc<Peers>,
    pub(crate) on_event: OnEvent,
    pub(crate) random: fastrand::Rng,
    pub(crate) is_closing: bool,
    pub(crate) reports_other_nodes: bool,
    pub(crate) dial_errors: DialErrorLog,
    pub(crate) admission_log: AdmissionLog,
}

impl Actor for MeshActor {
    type Command = HubCommand;

    fn handle(&mut self, now: Instant, command: Option<HubCommand>) -> Next {
        match command {
            Some(HubCommand::Start) => {
                for (peer, addresses) in &self.peers.addresses {
                    let first = self.peers.first.get(peer).copied();
                    let first = first.filter(|first| *first < addresses.len());
                    let first = first.unwrap_or_default();
                    self.mesh.add(now, *peer, addresses.len(), first);
                }
            }
            Some(HubCommand::Close) => {
                self.is_closing = true;
                // This includes an endpoint made while the user's thread closed the others.
                self.peers.all().iter().for_each(Endpoint::close);
            }
            Some(HubCommand::Stop) => {
                // This includes an endpoint that was made after the hub was dropped.
                self.peers.all().iter().for_each(Endpoint::close);
                return Next::End;
            }
            Some(HubCommand::Accepted(connected)) => self.accept(now, connected),
            Some(HubCommand::Dialed(dial, Ok(connected))) => self.connected(now, dial, connected),
            Some(HubCommand::Dialed(dial, Err(error))) => {
                self.dial_failed(now, dial, &error);
            }
            Some(HubCommand::AnsweredAndAttached(dial)) => {
                self.peers.redials.take_first_answer(dial.peer);
                self.mesh.answered(now, dial);
            }
            Some(HubCommand::DownAndRedialing(event, dial)) => {
                self.report(now, event);
                self.mesh.redialing(now, dial);
            }
            Some(HubCommand::RedialFailed(dial)) => {
                self.mesh.dial_failed(now, dial, self.random.f64());
            }
            Some(HubCommand::Event(event)) => self.report(now, event),
            Some(HubCommand::SetGuests(max)) => self.guests.set_max(max),
            None => {}
        }
        while let Some(dial) = self.mesh.poll_dial(now) {
            self.dial(dial);
        }
        while let Some((guest, expiry)) = self.guests.poll_expired(now) {
            let remote = self.end_guest(guest);
            match expiry {
                Expiry::Away => {
                    tracing::info!(peer = %guest, "forgot a guest that was disconnected for too long");
                }
                Expiry::NotAdmitted => self.admission_log.not_admitted(now, guest, &remote),
            }
        }
        let dials = self.mesh.poll_timeout().into_iter();
        let next = dials.chain(self.guests.poll_timeout()).min();
        next.map_or(Next::Command, Next::At)
    }
}

impl MeshActor {
    fn accept(&mut self, now: Instant, connected: Connected) {
        let peer = connected.peer();
        let is_known = self.peers.addresses.contains_key(&peer) || self.guests.is_guest(&peer);
        if !is_known && self.is_closing {
            return;
        }
        if !is_known {
            let remote = connected.info().remote.as_ref();
            match self
                .guests
                .accept(now, peer, remote.and_then(PeerNetwork::of))
            {
                Ok(None) => {}
                Ok(Some(replaced)) => {
                    let remote = self.end_guest(replaced);
                    self.admission_log.replaced(now, replaced, &remote);
                }
                Err(GuestsFull) => {
                    let remote = remote.map_or_else(String::new, ToString::to_string);
                    return self.admission_log.refused(now, peer, &remote);
                }
            }
            if let Err(error) = self.peers.make(&self.driver, peer, self.mailbox.clone()) {
                tracing::error!(%peer, %error, "cannot make an endpoint");
                self.guests.remove(&peer);
                return;
            }
        }
        self.attach(connected);
    }

    /// Aborts the endpoint of a guest that is forgotten. Returns its address.
    fn end_guest(&self, guest: NodeId) -> String {
        let Some(endpoint) = self.peers.remove(guest) else {
            return String::new();
        };
        let remote = endpoint.transport().and_then(|it| it.remote);
        endpoint.abort();
        remote.map_or_else(String::new, |it| it.to_string())
    }

    /// The user has admitted a guest.
    fn admitted(&mut self, now: Instant, guest: NodeId) {
        self.remember_network(guest);
        if self.guests.admit(guest).is_err() {
            self.guests.remove(&guest);
            let remote = self.end_guest(guest);
            self.admission_log.refused(now, guest, &remote);
        }
    }

    /// Connections from the network of a peer that is trusted have slots of their own from now on.
    fn remember_network(&self, peer: NodeId) {
        let endpoint = self.peers.endpoint(peer);
        let remote = endpoint
            .and_then(|it| it.transport())
            .and_then(|it| it.remote);
        if let Some(network) = remote.as_ref().and_then(PeerNetwork::of) {
            self.driver.remember_network(network);
        }
    }

    fn connected(&mut self, now: Instant, dial: Dial, connected: Connected) {
        if self.mesh.answered(now, dial) {
            self.attach(connected);
        } else {
            let address = self.peers.address(dial).map(tracing::field::display);
            tracing::debug!(peer = %dial.peer, address, "closed a connection: a better one is in use");
        }
    }

    fn dial_failed(&mut self, now: Instant, dial: Dial, error: &DialError) {
        let found = match error {
            DialError::Ended(End::WrongPeer { found, .. }) => Some(*found),
            _ => None,
        };
        match found.filter(|_| self.reports_other_nodes) {
            Some(found) => self.report(
                now,
                HubEvent::OtherNode {
                    peer: dial.peer,
                    address: dial.address,
                    found,
                },
            ),
            None => self.log_dial_error(dial, error),
        }
        if found.is_some() {
            self.mesh.answered_by_other(dial);
        }
        self.mesh.dial_failed(now, dial, self.random.f64());
    }

    /// Logs a failed dial as a warning if the reason is new, so that an operator finds the reason, and
    /// finds it once.
    fn log_dial_error(&mut self, dial: Dial, error: &DialError) {
        let peer = dial.peer;
        let Some(address) = self.peers.address(dial) else {
            return;
        };
        // Otherwise a better address has been tried, and the peer is connected.
        let is_down = self.mesh.address_in_use(&peer).is_none();
        if is_down && !self.is_closing && self.dial_errors.is_new(dial, &error.to_string()) {
            tracing::warn!(%peer, %address, %error, "cannot connect; retrying");
        } else {
            tracing::debug!(%peer, %address, %error, "a dial failed");
        }
    }

    fn attach(&self, connected: Connected) {
        if let Some(connected) = self.peers.attach(connected) {
            tracing::debug!(peer = %connected.peer(), "closed a connection: the peer has no endpoint");
        }
    }

    fn dial(&self, dial: Dial) {
        let Some(address) = self.peers.address(dial) else {
            return;
        };
        if self.mesh.is_dialing(&dial.peer) {
            self.peers.redials.use_first_answer(dial.peer);
        }
        let done = self.peers.when_dialed(dial, self.mailbox.clone());
        self.driver
            .dial(&self.peers.dialers, address, Some(dial.peer), done);
    }

    /// Applies an event to the mesh and the guests, and passes it to the user.
    fn report(&mut self, now: Instant, event: HubEvent) {
        match &event {
            HubEvent::Up { peer } | HubEvent::Moved { peer } => {
                self.dial_errors.forget(*peer);
                self.mesh.up(now, *peer);
                let address = self.mesh.address_in_use(peer);
                self.peers.redials.up(*peer, address);
                self.guests.up(*peer);
                if self.peers.addresses.contains_key(peer) {
                    self.remember_network(*peer);
                }
            }
            HubEvent::Admitted { peer } => self.admitted(now, *peer),
            HubEvent::Down { peer, .. } => {
                self.mesh.down(now, *peer);
                self.guests.down(now, *peer);
            }
            HubEvent::Refused { peer, .. } => self.mesh.refused(now, *peer, self.random.f64()),
            HubEvent::Left { endpoint, .. } => self.closed(now, endpoint),
            HubEvent::Redundant { peer, is_attached } => {
                self.mesh.standby_changed(now, *peer, *is_attached);
            }
            HubEvent::OtherNode { .. } | HubEvent::Restarted { .. } => {}
        }
        tracing::debug!(%event);
        if catch_unwind(AssertUnwindSafe(|| (self.on_event)(event))).is_err() {
            tracing::error!("the callback for the events of a hub panicked; the event is lost");
        }
    }

    /// An endpoint has ended: replaces that of a wanted peer, and forgets a guest.
    fn closed(&mut self, now: Instant, endpoint: &Endpoint) {
        let peer = endpoint.peer();
        if self.peers.endpoint(peer).is_some_and(|it| it != *endpoint) {
            // A guest that was forgotten has returned already, with a new endpoint.
            return;
        }
        self.peers.redials.forget(&peer);
        if self.is_closing {
            self.mesh.remove(&peer);
        } else if self.peers.addresses.contains_key(&peer) {
            if let Err(error) = self.peers.make(&self.driver, peer, self.mailbox.clone()) {
                tracing::error!(%peer, %error, "cannot make a new endpoint");
            }
            self.mesh.closed(now, peer, self.random.f64());
        } else if self.guests.is_guest(&peer) {
            self.guests.remove(&peer);
            self.peers.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use selvedge_driver::{NodeId, SessionConfig, Simulation};

    use super::*;
    use crate::fast_redial::FastRedials;

    const GUEST: NodeId = NodeId::new([7; 32]);

    /// Provides a mailbox, and ignores every command.
    struct IdleActor;

    impl Actor for IdleActor {
        type Command = HubCommand;

        fn handle(&mut self, _now: Instant, _command: Option<HubCommand>) -> Next {
            Next::Command
        }
    }

    /// The actor of a hub that accepts guests and wants no peer.
    fn mesh_actor(driver: Arc<Driver>) -> MeshActor {
        let mut mailbox = None;
        let hosted = driver.spawn_actor("test", |sender| {
            mailbox = Some(sender);
            IdleActor
        });
        hosted.expect("a simulation needs no thread");
        let peers = Peers {
            local: NodeId::new([1; 32]),
            dialers: Arc::new([]),
            addresses: BTreeMap::new(),
            first: BTreeMap::new(),
            redials: FastRedials::default(),
            session: SessionConfig::default(),
            guest_buffer: None,
            make_inbox: None,
            make_filter: None,
            endpoints: Mutex::default(),
        };
        MeshActor {
            driver,
            mailbox: mailbox.expect("it was made"),
            mesh: Mesh::new(false),
            guests: Guests::new(10, None),
            peers: Arc::new(peers),
            on_event: Box::new(drop),
            random: fastrand::Rng::with_seed(1),
            is_closing: false,
            reports_other_nodes: false,
            dial_errors: DialErrorLog::default(),
            admission_log: AdmissionLog::default(),
        }
    }

    #[test]
    fn the_end_of_a_forgotten_guest_s_endpoint_leaves_its_new_endpoint_alone() {
        let simulation = Simulation::new(1).unwrap();
        let (mut actor, now) = (mesh_actor(simulation.driver()), simulation.now());
        let mailbox = actor.mailbox.clone();
        let admit = |actor: &mut MeshActor| {
            assert_eq!(actor.guests.accept(now, GUEST, None), Ok(None));
            let made = actor.peers.make(&actor.driver, GUEST, mailbox.clone());
            made.unwrap()
        };
        let old = admit(&mut actor);
        actor.guests.remove(&GUEST);
        actor.peers.remove(GUEST);
        let new = admit(&mut actor);
        let left = |endpoint| {
            Some(HubCommand::Event(HubEvent::Left {
                peer: GUEST,
                reason: "test".into(),
                endpoint,
            }))
        };
        actor.handle(now, left(old));
        assert_eq!(actor.peers.endpoint(GUEST), Some(new.clone()));
        assert!(actor.guests.is_guest(&GUEST));
        actor.handle(now, left(new));
        assert_eq!(actor.peers.endpoint(GUEST), None);
        assert!(!actor.guests.is_guest(&GUEST));
    }
}
