//! The mesh with its driver: dials what it wants, attaches what answers, tells what happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use selvedge_driver::{
    Actor, Connected, DialError, Driver, Endpoint, Event, MailboxSender, Next, NodeId,
};

use crate::builder::OnEvent;
use crate::event::HubEvent;
use crate::guests::Guests;
use crate::mesh::{Dial, Mesh};
use crate::peers::Peers;

/// What the service is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// Everything is in place: dial.
    Start,
    Accepted(Connected),
    Dialed(Dial, Result<Connected, DialError>),
    /// A dial was answered, and its connection brought in.
    Answered(Dial),
    /// That the peer is lost. It is being dialed.
    Lost(HubEvent, Dial),
    /// A lost peer could not be dialed after all.
    Undialed(Dial),
    Event(HubEvent),
    /// Endpoints that end are not wanted again.
    Close,
    Stop,
}

/// A hub's event for one of an endpoint's.
pub(crate) fn hub_event(endpoint: &Endpoint, event: &Event) -> Option<HubEvent> {
    let peer = endpoint.peer();
    Some(match event {
        Event::Attached { .. } => HubEvent::Up { peer },
        Event::Moved { .. } => HubEvent::Moved { peer },
        Event::Detached { reason } => HubEvent::Down {
            peer,
            reason: reason.to_string(),
        },
        Event::AttachFailed { reason } => HubEvent::Refused {
            peer,
            reason: reason.to_string(),
        },
        Event::Closed { reason, .. } => HubEvent::Left {
            peer,
            reason: reason.to_string(),
            endpoint: endpoint.clone(),
        },
        Event::Redundant { attachment } => HubEvent::Redundant {
            peer,
            is_there: attachment.is_some(),
        },
        Event::PeerRestarted { undelivered } => HubEvent::Restarted {
            peer,
            undelivered: undelivered.len(),
        },
        _ => return None,
    })
}

pub(crate) struct Service {
    pub(crate) driver: Arc<Driver>,
    pub(crate) mail: MailboxSender<Told>,
    pub(crate) mesh: Mesh,
    pub(crate) guests: Guests,
    pub(crate) peers: Arc<Peers>,
    pub(crate) on_event: OnEvent,
    pub(crate) random: fastrand::Rng,
    pub(crate) closing: bool,
    pub(crate) complaints: Complaints,
}

/// Why peers cannot be reached, by their ways, as it was logged last: whoever looks for the reason is to
/// find it, and not once for each try.
#[derive(Debug, Default)]
pub(crate) struct Complaints(BTreeMap<(NodeId, usize), String>);

impl Complaints {
    /// Whether it was not said before.
    fn is_new(&mut self, dial: Dial, why: &str) -> bool {
        let said = self.0.entry((dial.peer, dial.way)).or_default();
        let is_new = said != why;
        if is_new {
            why.clone_into(said);
        }
        is_new
    }

    /// The peer is there.
    fn forget(&mut self, peer: NodeId) {
        self.0.retain(|(of, _), _| *of != peer);
    }
}

impl Actor for Service {
    type Command = Told;

    fn handle(&mut self, now: Instant, told: Option<Told>) -> Next {
        match told {
            Some(Told::Start) => {
                for (peer, addresses) in &self.peers.ways {
                    self.mesh.add(now, *peer, addresses.len());
                }
            }
            Some(Told::Close) => {
                self.closing = true;
                // One that was made while the others were closed would stay.
                self.peers.all().iter().for_each(Endpoint::close);
            }
            Some(Told::Stop) => return Next::End,
            Some(Told::Accepted(connected)) => self.accept(now, connected),
            Some(Told::Dialed(dial, Ok(connected))) if self.mesh.answered(now, dial) => {
                self.attach(connected);
            }
            Some(Told::Dialed(dial, Ok(_))) => {
                tracing::debug!(peer = %dial.peer, way = dial.way, "a connection comes too late");
            }
            Some(Told::Dialed(dial, Err(error))) => {
                self.complain(dial, &error);
                self.mesh.failed(now, dial, self.random.f64());
            }
            Some(Told::Answered(dial)) => {
                self.peers.redials.answered(dial.peer);
                self.mesh.answered(now, dial);
            }
            Some(Told::Lost(event, dial)) => {
                self.tell(now, event);
                self.mesh.redialed(now, dial);
            }
            Some(Told::Undialed(dial)) => self.mesh.failed(now, dial, self.random.f64()),
            Some(Told::Event(event)) => self.tell(now, event),
            None => {}
        }
        while let Some(dial) = self.mesh.poll_dial(now) {
            self.dial(dial);
        }
        while let Some(guest) = self.guests.poll_expired(now) {
            if let Some(endpoint) = self.peers.remove(guest) {
                tracing::info!(peer = %guest, "a guest has been away for too long");
                endpoint.abort();
            }
        }
        let dials = self.mesh.poll_timeout().into_iter();
        let next = dials.chain(self.guests.poll_timeout()).min();
        next.map_or(Next::Command, Next::At)
    }
}

impl Service {
    fn accept(&mut self, now: Instant, connected: Connected) {
        let peer = connected.peer();
        let known = self.peers.ways.contains_key(&peer) || self.guests.is_guest(&peer);
        if !known && self.closing {
            return;
        }
        if !known {
            if !self.guests.let_in(now, peer) {
                tracing::warn!(%peer, "no room for another guest: refused");
                return;
            }
            if let Err(error) = self.peers.make(&self.driver, peer, self.mail.clone()) {
                tracing::error!(%peer, %error, "cannot make an endpoint");
                self.guests.remove(&peer);
                return;
            }
        }
        self.attach(connected);
    }

    fn complain(&mut self, dial: Dial, error: &DialError) {
        let peer = dial.peer;
        let ways = self.peers.ways.get(&peer);
        let Some(address) = ways.and_then(|ways| ways.get(dial.way)) else {
            return;
        };
        if !self.closing && self.complaints.is_new(dial, &error.to_string()) {
            tracing::warn!(%peer, %address, %error, "cannot be reached; it is dialed again");
        } else {
            tracing::debug!(%peer, %address, %error, "a dial failed");
        }
    }

    fn attach(&self, connected: Connected) {
        if let Some(connected) = self.peers.attach(connected) {
            tracing::debug!(peer = %connected.peer(), "a connection comes to nobody");
        }
    }

    fn dial(&self, dial: Dial) {
        let Some(addresses) = self.peers.ways.get(&dial.peer) else {
            return;
        };
        if self.mesh.is_away(&dial.peer) {
            self.peers.redials.await_answer(dial.peer);
        }
        let done = self.peers.when_dialed(dial, self.mail.clone());
        let (dialers, address) = (&self.peers.dialers, &addresses[dial.way]);
        self.driver.dial(dialers, address, Some(dial.peer), done);
    }

    fn tell(&mut self, now: Instant, event: HubEvent) {
        match &event {
            HubEvent::Up { peer } | HubEvent::Moved { peer } => {
                self.complaints.forget(*peer);
                self.mesh.up(now, *peer);
                self.peers.redials.up(*peer, self.mesh.way(peer));
                self.guests.up(*peer);
            }
            HubEvent::Down { peer, .. } => {
                self.mesh.down(now, *peer);
                self.guests.down(now, *peer);
            }
            HubEvent::Refused { peer, .. } => self.mesh.refused(now, *peer, self.random.f64()),
            HubEvent::Left { endpoint, .. } => self.left(now, endpoint),
            HubEvent::Redundant { peer, is_there } => self.mesh.spare(now, *peer, *is_there),
            HubEvent::Restarted { .. } => {}
        }
        tracing::debug!(?event);
        (self.on_event)(event);
    }

    fn left(&mut self, now: Instant, endpoint: &Endpoint) {
        let peer = endpoint.peer();
        if self.peers.endpoint(peer).is_some_and(|it| it != *endpoint) {
            // A guest that was forgotten is back already, with another one.
            return;
        }
        self.peers.redials.forget(&peer);
        if self.closing {
            self.mesh.remove(&peer);
        } else if self.peers.ways.contains_key(&peer) {
            if let Err(error) = self.peers.make(&self.driver, peer, self.mail.clone()) {
                tracing::error!(%peer, %error, "cannot make a new endpoint");
            }
            self.mesh.left(now, peer, self.random.f64());
        } else if self.guests.is_guest(&peer) {
            self.guests.remove(&peer);
            self.peers.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use selvedge_driver::{SessionConfig, Simulation};

    use super::*;
    use crate::redials::Redials;

    const GUEST: NodeId = NodeId::new([7; 32]);

    /// Only lends its mail.
    struct Nobody;

    impl Actor for Nobody {
        type Command = Told;

        fn handle(&mut self, _now: Instant, _told: Option<Told>) -> Next {
            Next::Command
        }
    }

    /// The service of a hub that lets guests in and wants no peer.
    fn service(driver: Arc<Driver>) -> Service {
        let mut mail = None;
        let hosted = driver.host("test", |it| {
            mail = Some(it);
            Nobody
        });
        hosted.expect("a simulation needs no thread");
        let peers = Peers {
            local: NodeId::new([1; 32]),
            dialers: Arc::new([]),
            ways: BTreeMap::new(),
            redials: Redials::default(),
            session: SessionConfig::default(),
            receive: None,
            endpoints: Mutex::default(),
        };
        Service {
            driver,
            mail: mail.expect("it was made"),
            mesh: Mesh::new(false),
            guests: Guests::new(10),
            peers: Arc::new(peers),
            on_event: Box::new(drop),
            random: fastrand::Rng::with_seed(1),
            closing: false,
            complaints: Complaints::default(),
        }
    }

    #[test]
    fn the_end_of_a_forgotten_endpoint_leaves_the_one_with_which_a_guest_is_back() {
        let simulation = Simulation::new(1).unwrap();
        let (mut service, now) = (service(simulation.driver()), simulation.now());
        let mail = service.mail.clone();
        let come = |service: &mut Service| {
            assert!(service.guests.let_in(now, GUEST));
            service
                .peers
                .make(&service.driver, GUEST, mail.clone())
                .unwrap()
        };
        let old = come(&mut service);
        service.guests.remove(&GUEST);
        service.peers.remove(GUEST);
        let new = come(&mut service);
        let left = |endpoint| HubEvent::Left {
            peer: GUEST,
            reason: "test".into(),
            endpoint,
        };
        service.handle(now, Some(Told::Event(left(old))));
        assert_eq!(service.peers.endpoint(GUEST), Some(new.clone()));
        assert!(service.guests.is_guest(&GUEST));
        service.handle(now, Some(Told::Event(left(new))));
        assert_eq!(service.peers.endpoint(GUEST), None);
        assert!(!service.guests.is_guest(&GUEST));
    }

    #[test]
    fn each_reason_is_said_once_until_the_peer_was_there() {
        let peer = |number| NodeId::new([number; 32]);
        let dial = |number, way| Dial {
            peer: peer(number),
            way,
        };
        let mut complaints = Complaints::default();
        for (number, way, why, is_new) in [
            (1, 0, "refused", true),
            (1, 0, "refused", false),
            (1, 1, "refused", true),
            (2, 0, "refused", true),
            (1, 0, "another key", true),
            (1, 0, "another key", false),
        ] {
            assert_eq!(complaints.is_new(dial(number, way), why), is_new);
        }
        complaints.forget(peer(1));
        assert!(complaints.is_new(dial(1, 1), "refused"));
        assert!(!complaints.is_new(dial(2, 0), "refused"));
    }
}
