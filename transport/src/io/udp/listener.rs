//! Lets UDP peers in.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mio::{Registry, Token};

use super::SCHEMES;
use super::handshake::{Accepting, Greeter, Greeting, ListenKey, Protection};
use super::transport::UdpTransport;
use crate::io::datagram_socket::{DatagramMeta, DatagramSocket};
use crate::io::door::{Door, Lease};
use crate::io::identity::{Admission, Identity};
use crate::io::mailbox::{self, Polls, Slot};
use crate::{Address, ListenError, Listener, Progress, Transport, Turn};

/// So many handshakes at once, and no more; each has proved its address.
const HANDSHAKES_MAX: usize = 1024;

/// So many connections of one listener. Each needs a descriptor.
const CONNECTIONS_MAX: usize = 1 << 18;

/// How many connections one turn lets in: each costs two signatures, about 0.1 ms.
const ADMITTED_PER_TURN: usize = 32;

/// Listens on `udp://` or `udp+plain://`.
#[derive(Debug)]
pub struct UdpListener {
    socket: DatagramSocket,
    key: ListenKey,
    admission: Admission,
    greeter: Greeter,
    /// The zero of the greeter's clock.
    since: Instant,
    owners: HashMap<SocketAddr, (u32, Slot)>,
    places: HashMap<u32, SocketAddr>,
    next_slot: u32,
    door: Arc<Door>,
    polls: Arc<Polls>,
}

impl UdpListener {
    /// Listens at `address` (`0.0.0.0` or `[::]` for all, port 0 for any) and lets in whom
    /// `admission` admits.
    ///
    /// Transports outlive their listener and keep its address: until they have gone, nobody else
    /// can bind it.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(
        address: &Address,
        identity: Identity,
        admission: Admission,
    ) -> Result<Self, ListenError> {
        let Some(protection) = Protection::of_scheme(address.scheme()) else {
            return Err(ListenError::UnknownScheme {
                scheme: address.scheme().to_owned(),
                known: SCHEMES,
            });
        };
        let socket = address.as_socket().ok_or_else(|| ListenError::BadPlace {
            address: address.clone(),
        })?;
        let opened = DatagramSocket::listening(socket)
            .and_then(|socket| {
                let greeter = Greeter::new(protection)?;
                let key = ListenKey::new(protection, identity)?;
                Ok((socket, greeter, key, Polls::new()?))
            })
            .map_err(|error| ListenError::Bind {
                address: address.clone(),
                error,
            });
        let (socket, greeter, key, polls) = opened?;
        Ok(Self {
            socket,
            key,
            admission,
            greeter,
            since: Instant::now(),
            owners: HashMap::new(),
            places: HashMap::new(),
            next_slot: 0,
            door: Arc::default(),
            polls: Arc::new(polls),
        })
    }

    /// Forgets the transports that have gone.
    fn forget_left(&mut self) {
        for slot in self.door.take_left() {
            if let Some(remote) = self.places.remove(&slot) {
                self.owners.remove(&remote);
            }
        }
    }

    /// Brings a datagram to its owner, or greets a stranger.
    fn route(
        &mut self,
        turn: &mut Turn<'_>,
        meta: &DatagramMeta,
        datagram: &BytesMut,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) {
        if let Some((_, slot)) = self.owners.get(&meta.remote) {
            // If the mailbox is full, the datagram is lost, as any may be.
            slot.put(meta, datagram);
            return;
        }
        let seconds = turn.now.saturating_duration_since(self.since).as_secs();
        match self.greeter.greet(meta.remote, seconds, datagram) {
            Greeting::Ignore => {}
            Greeting::Ask(answer) => {
                // If it is lost, the stranger asks again.
                self.socket.send(&quinn_udp::Transmit {
                    destination: meta.remote,
                    ecn: None,
                    contents: &answer,
                    segment_size: None,
                    src_ip: meta.local_ip,
                });
            }
            Greeting::Accept(nonce) => {
                if self.door.handshakes() >= HANDSHAKES_MAX || self.owners.len() >= CONNECTIONS_MAX
                {
                    return;
                }
                if let Err(error) = self.let_in(turn, meta, nonce, accepted) {
                    tracing::debug!(%error, "a connection was not let in");
                }
            }
        }
    }

    fn let_in(
        &mut self,
        turn: &mut Turn<'_>,
        meta: &DatagramMeta,
        nonce: [u8; 32],
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> io::Result<()> {
        let bound = self.socket.local_addr();
        let local = SocketAddr::new(meta.local_ip.unwrap_or_else(|| bound.ip()), bound.port());
        let mut socket = DatagramSocket::accepted(local, meta.remote)?;
        let machine = Accepting::new(&self.key, self.admission.clone(), nonce)?;
        let (slot, mailbox) = mailbox::pair(&self.polls);
        let misled = socket.drain(turn.buffer);
        while self.places.contains_key(&self.next_slot) {
            self.next_slot = self.next_slot.wrapping_add(1);
        }
        let number = self.next_slot;
        self.places.insert(number, meta.remote);
        self.owners.insert(meta.remote, (number, slot));
        let lease = Lease::new(&self.door, number);
        accepted.push(Box::new(UdpTransport::accepting(
            turn.now,
            self.key.protection(),
            socket,
            meta.remote,
            machine,
            (mailbox, lease),
        )));
        for (meta, datagram) in misled {
            self.route(turn, &meta, &datagram, accepted);
        }
        Ok(())
    }
}

impl Listener for UdpListener {
    fn local_address(&self) -> Address {
        Address::socket(self.key.protection().scheme(), self.socket.local_addr())
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }

    fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> Result<Progress, io::Error> {
        self.forget_left();
        let admitted_max = accepted.len() + ADMITTED_PER_TURN;
        let mut left = turn.budget;
        while left > 0 && accepted.len() < admitted_max {
            match self.socket.recv(turn.buffer) {
                Ok(received) => {
                    for batch in received.batches.into_iter().flatten() {
                        left = left.saturating_sub(batch.bytes.len().max(1));
                        let meta = batch.meta;
                        for datagram in batch {
                            self.route(turn, &meta, &datagram, accepted);
                        }
                    }
                    if received.is_all {
                        return Ok(Progress::Idle);
                    }
                }
                // An unconnected socket reports hardly any, and each is about one datagram.
                Err(error) => {
                    left = left.saturating_sub(1);
                    tracing::debug!(%error, "the listening socket reports an error");
                }
            }
        }
        Ok(Progress::More)
    }

    fn timeout(&self) -> Option<Instant> {
        None
    }
}
