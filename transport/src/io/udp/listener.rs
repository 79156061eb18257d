//! Accepts UDP connections.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use mio::{Registry, Token};

use super::SCHEMES;
use super::handshake::{AcceptorHandshake, HelloValidator, HelloVerdict, ListenerKey, UdpSecurity};
use super::transport::UdpTransport;
use crate::io::datagram_socket::{DatagramMeta, DatagramSocket};
use crate::io::forward_queue::{self, ForwardSender, PollHandles};
use crate::io::handshake_slots::{HandshakeSlots, SlotLease};
use crate::io::identity::{Admission, Identity};
use crate::{Address, Instant, ListenError, Listener, Progress, Transport, Turn};

/// The maximum number of concurrent handshakes; the address of each is validated. A driver has half as
/// many slots by default, and shares them by network.
const HANDSHAKES_MAX: usize = 2048;

/// The maximum number of connections of one listener. Each uses a file descriptor.
const CONNECTIONS_MAX: usize = 1 << 18;

/// The maximum number of connections that one call accepts: each costs two signatures, about 0.1
/// ms.
const ACCEPTED_PER_TURN: usize = 32;

/// Listens on `udp://` or `udp+plain://`.
///
/// It keeps no state for an address that is not validated, and accepts at most 2048 concurrent
/// handshakes and 2^18 connections.
#[derive(Debug)]
pub struct UdpListener {
    socket: DatagramSocket,
    key: ListenerKey,
    admission: Admission,
    hello_validator: HelloValidator,
    /// The zero point of the cookie timestamps.
    started: Instant,
    senders: HashMap<SocketAddr, (u32, ForwardSender)>,
    addresses: HashMap<u32, SocketAddr>,
    next_slot: u32,
    slots: Arc<HandshakeSlots>,
    poll_handles: Arc<PollHandles>,
}

impl UdpListener {
    /// Binds `address`: `0.0.0.0` or `[::]` for all interfaces, port 0 for a port chosen by the
    /// operating system. Peers are accepted if `admission` admits their identity.
    ///
    /// Accepted transports outlive the listener and keep its address bound: no other listener can
    /// bind it until they are dropped.
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
        let opened = DatagramSocket::listening(socket)
            .and_then(|socket| {
                let hello_validator = HelloValidator::new(security)?;
                let key = ListenerKey::new(security, identity)?;
                Ok((socket, hello_validator, key, PollHandles::new()?))
            })
            .map_err(|error| ListenError::Bind {
                address: address.clone(),
                error,
            });
        let (socket, hello_validator, key, poll_handles) = opened?;
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

    /// Removes the entries of dropped transports.
    fn remove_released(&mut self) {
        for slot in self.slots.take_released() {
            if let Some(remote) = self.addresses.remove(&slot) {
                self.senders.remove(&remote);
            }
        }
    }

    /// Forwards a datagram to its transport, or handles it as a Hello.
    fn dispatch(
        &mut self,
        turn: &mut Turn<'_>,
        meta: &DatagramMeta,
        datagram: &BytesMut,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) {
        if let Some((_, sender)) = self.senders.get(&meta.remote) {
            // If the queue is full, the datagram is lost like any other.
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
                // If the cookie is lost, the dialer retransmits its Hello.
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
                    tracing::debug!(%error, remote = %meta.remote, "connection not accepted");
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
                // An unconnected socket reports few errors, and each concerns one datagram.
                Err(error) => {
                    remaining = remaining.saturating_sub(1);
                    let local = self.socket.local_addr();
                    tracing::debug!(%error, %local, "listening socket reported an error");
                }
            }
        }
        Ok(Progress::More)
    }

    fn timeout(&self) -> Option<Instant> {
        None
    }
}
