//! Lets UDP peers in.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mio::{Registry, Token};

use super::SCHEMES;
use super::handshake::{AcceptorHandshake, HelloValidator, HelloVerdict, ListenerKey, UdpSecurity};
use super::transport::UdpTransport;
use crate::io::datagram_socket::{DatagramMeta, DatagramSocket};
use crate::io::forward_queue::{self, ForwardSender, PollHandles};
use crate::io::handshake_slots::{HandshakeSlots, SlotLease};
use crate::io::identity::{Admission, Identity};
use crate::{Address, ListenError, Listener, Progress, Transport, Turn};

/// So many handshakes at once, and no more; each has proved its address.
const HANDSHAKES_MAX: usize = 1024;

/// So many connections of one listener. Each needs a descriptor.
const CONNECTIONS_MAX: usize = 1 << 18;

/// How many connections one turn lets in: each costs two signatures, about 0.1 ms.
const ACCEPTED_PER_TURN: usize = 32;

/// Listens on `udp://` or `udp+plain://`.
#[derive(Debug)]
pub struct UdpListener {
    socket: DatagramSocket,
    key: ListenerKey,
    admission: Admission,
    hello_validator: HelloValidator,
    /// The zero of the greeter's clock.
    started: Instant,
    senders: HashMap<SocketAddr, (u32, ForwardSender)>,
    addresses: HashMap<u32, SocketAddr>,
    next_slot: u32,
    slots: Arc<HandshakeSlots>,
    poll_handles: Arc<PollHandles>,
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
        let Some(security) = UdpSecurity::of_scheme(address.scheme()) else {
            return Err(ListenError::UnknownScheme {
                scheme: address.scheme().to_owned(),
                known: SCHEMES,
            });
        };
        let socket = address.as_socket().ok_or_else(|| ListenError::BadPlace {
            address: address.clone(),
        })?;
        let handshake_done = DatagramSocket::listening(socket)
            .and_then(|socket| {
                let hello_validator = HelloValidator::new(security)?;
                let key = ListenerKey::new(security, identity)?;
                Ok((socket, hello_validator, key, PollHandles::new()?))
            })
            .map_err(|error| ListenError::Bind {
                address: address.clone(),
                error,
            });
        let (socket, hello_validator, key, poll_handles) = handshake_done?;
        Ok(Self {
            socket,
            key,
            admission,
            hello_validator,
            started: Instant::now(),
            senders: HashMap::new(),
            addresses: HashMap::new(),
            next_slot: 0,
            slots: Arc::default(),
            poll_handles: Arc::new(poll_handles),
        })
    }

    /// Forgets the transports that have gone.
    fn remove_released(&mut self) {
        for slot in self.slots.take_released() {
            if let Some(remote) = self.addresses.remove(&slot) {
                self.senders.remove(&remote);
            }
        }
    }

    /// Brings a datagram to its owner, or greets a stranger.
    fn dispatch(
        &mut self,
        turn: &mut Turn<'_>,
        meta: &DatagramMeta,
        datagram: &BytesMut,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) {
        if let Some((_, sender)) = self.senders.get(&meta.remote) {
            // If the mailbox is full, the datagram is lost, as any may be.
            sender.push(meta, datagram);
            return;
        }
        let seconds = turn.now.saturating_duration_since(self.started).as_secs();
        match self
            .hello_validator
            .check_hello(meta.remote, seconds, datagram)
        {
            HelloVerdict::Ignore => {}
            HelloVerdict::SendCookie(reply) => {
                // If it is lost, the stranger asks again.
                self.socket.send(&quinn_udp::Transmit {
                    destination: meta.remote,
                    ecn: None,
                    contents: &reply,
                    segment_size: None,
                    src_ip: meta.local_ip,
                });
            }
            HelloVerdict::Accept(nonce) => {
                if self.slots.handshakes() >= HANDSHAKES_MAX
                    || self.senders.len() >= CONNECTIONS_MAX
                {
                    return;
                }
                if let Err(error) = self.accept_connection(turn, meta, nonce, accepted) {
                    tracing::debug!(%error, "a connection was not let in");
                }
            }
        }
    }

    fn accept_connection(
        &mut self,
        turn: &mut Turn<'_>,
        meta: &DatagramMeta,
        nonce: [u8; 32],
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> io::Result<()> {
        let bound = self.socket.local_addr();
        let local = SocketAddr::new(meta.local_ip.unwrap_or_else(|| bound.ip()), bound.port());
        let mut socket = DatagramSocket::accepted(local, meta.remote)?;
        let handshake = AcceptorHandshake::new(&self.key, self.admission.clone(), nonce)?;
        let (sender, forward_queue) = forward_queue::channel(&self.poll_handles);
        let early = socket.drain(turn.buffer);
        while self.addresses.contains_key(&self.next_slot) {
            self.next_slot = self.next_slot.wrapping_add(1);
        }
        let number = self.next_slot;
        self.addresses.insert(number, meta.remote);
        self.senders.insert(meta.remote, (number, sender));
        let lease = SlotLease::new(&self.slots, number);
        accepted.push(Box::new(UdpTransport::accepting(
            turn.now,
            self.key.security(),
            socket,
            meta.remote,
            handshake,
            (forward_queue, lease),
        )));
        for (meta, datagram) in early {
            self.dispatch(turn, &meta, &datagram, accepted);
        }
        Ok(())
    }
}

impl Listener for UdpListener {
    fn local_address(&self) -> Address {
        Address::socket(self.key.security().scheme(), self.socket.local_addr())
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
        self.remove_released();
        let admitted_max = accepted.len() + ACCEPTED_PER_TURN;
        let mut remaining = turn.budget;
        while remaining > 0 && accepted.len() < admitted_max {
            match self.socket.recv(turn.buffer) {
                Ok(received) => {
                    for batch in received.batches.into_iter().flatten() {
                        remaining = remaining.saturating_sub(batch.bytes.len().max(1));
                        let meta = batch.meta;
                        for datagram in batch {
                            self.dispatch(turn, &meta, &datagram, accepted);
                        }
                    }
                    if received.is_drained {
                        return Ok(Progress::Idle);
                    }
                }
                // An unconnected socket reports hardly any, and each is about one datagram.
                Err(error) => {
                    remaining = remaining.saturating_sub(1);
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
