//! Accepts QUIC connections, and forwards datagrams that the sockets of its connections do not
//! receive.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use mio::{Registry, Token};
use quinn_proto::{DatagramEvent, Endpoint, EndpointConfig, Incoming, ServerConfig};

use super::SCHEME;
use super::amplification_limit::AmplificationLimit;
use super::cid::{CID_LEN, CidKey, SlotCids};
use super::config::{self, CONNECTION_WINDOW, MTU_CAP_NONE, TlsConfigError, TransportConfigs};
use super::connection_end::end_of;
use super::transport::{ConnectionParts, QuicTransport};
use crate::io::datagram_socket::{DatagramMeta, DatagramSocket};
use crate::io::forward_queue::{self, ForwardSender, PollHandles};
use crate::io::handshake_slots::{HandshakeSlots, SlotLease};
use crate::io::identity::{Admission, Identity};
use crate::io::tls::RefusalCell;
use crate::{
    Address, Instant, ListenError, Listener, Progress, Role, Transport, Turn, UNADMITTED_LEN_MAX,
};

/// From this number of concurrent handshakes on, a new peer must first validate its address (Retry,
/// RFC 9000, section 8.1.2), which costs it a round trip and this side no memory.
const RETRY_FROM: usize = 128;

/// The maximum number of concurrent handshakes: 80 MiB at about 40 KiB each. Further peers wait for
/// their retransmission. A driver has half as many slots by default, and shares them by network.
const HANDSHAKES_MAX: usize = 2048;

/// The maximum number of connections of one listener. Each uses a file descriptor.
const CONNECTIONS_MAX: usize = 1 << 18;

/// The maximum number of connections that one call accepts: a handshake costs about 0.3 ms of CPU,
/// and other transports of the worker wait meanwhile.
const ACCEPTED_PER_TURN: usize = 16;

/// Listens on `quic://`.
///
/// From 128 concurrent handshakes on it validates addresses by Retry; it accepts at most 2048
/// concurrent handshakes and 2^18 connections.
pub struct QuicListener {
    socket: DatagramSocket,
    identity: Identity,
    admission: Admission,
    base: ServerConfig,
    endpoint_config: EndpointConfig,
    transport_configs: TransportConfigs,
    cids: CidKey,
    /// The endpoint that handles packets of new peers. It becomes part of the next accepted
    /// connection. Its connection ids encode `accepting_slot`.
    accepting: Endpoint,
    accepting_slot: u32,
    connections: HashMap<u32, ConnectionEntry>,
    /// The destination ids that clients chose for their first packets, before they received one of
    /// this side.
    first_ids: HashMap<FirstId, u32>,
    slots: Arc<HandshakeSlots>,
    poll_handles: Arc<PollHandles>,
    counters: ListenerCounters,
}

/// The source address of a client's first packet, and the destination id that it chose.
type FirstId = (SocketAddr, Vec<u8>);

/// The listener's entry of an accepted transport.
struct ConnectionEntry {
    sender: ForwardSender,
    first_id: FirstId,
}

/// The numbers of packets and connections handled, by outcome.
#[derive(Debug, Clone, Copy, Default)]
struct ListenerCounters {
    admitted: u64,
    retried: u64,
    dropped: u64,
    failed: u64,
    forwarded: u64,
    forward_failed: u64,
    ignored: u64,
}

impl QuicListener {
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
        if address.scheme() != SCHEME {
            return Err(ListenError::UnknownScheme {
                scheme: address.scheme().to_owned(),
                known: SCHEME,
            });
        }
        let socket = address.as_socket().ok_or_else(|| ListenError::BadPlace {
            address: address.clone(),
        })?;
        Self::open(socket, identity, admission).map_err(|error| ListenError::Bind {
            address: address.clone(),
            error,
        })
    }

    fn open(address: SocketAddr, identity: Identity, admission: Admission) -> io::Result<Self> {
        let socket = DatagramSocket::listening(address)?;
        let base = config::server_base(&identity, &admission).map_err(TlsConfigError::into_io)?;
        let (endpoint_config, cids) = (
            config::endpoint_config(&identity, MTU_CAP_NONE),
            CidKey::generate()?,
        );
        let accepting = new_endpoint(&endpoint_config, &base, &socket, &cids, 0);
        let window = match admission.is_restricted() {
            true => UNADMITTED_LEN_MAX as u32,
            false => CONNECTION_WINDOW,
        };
        Ok(Self {
            socket,
            identity,
            admission,
            base,
            endpoint_config,
            transport_configs: TransportConfigs::new(MTU_CAP_NONE, window),
            cids,
            accepting,
            accepting_slot: 0,
            connections: HashMap::new(),
            first_ids: HashMap::new(),
            slots: Arc::default(),
            poll_handles: Arc::new(PollHandles::new()?),
            counters: ListenerCounters::default(),
        })
    }

    /// Removes the entries of dropped transports.
    fn remove_released(&mut self) {
        for slot in self.slots.take_released() {
            if let Some(entry) = self.connections.remove(&slot) {
                self.first_ids.remove(&entry.first_id);
            }
        }
    }

    /// Forwards a datagram to its transport, or handles it as one of a new peer.
    fn dispatch(
        &mut self,
        turn: &mut Turn<'_>,
        meta: &DatagramMeta,
        datagram: BytesMut,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) {
        match self.connection_for(meta.remote, &datagram) {
            Some(entry) => {
                if entry.sender.push(meta, &datagram) {
                    self.counters.forwarded += 1;
                } else {
                    self.counters.forward_failed += 1;
                }
            }
            None => self.handle_unmatched(turn, meta, datagram, accepted),
        }
    }

    fn connection_for(&self, remote: SocketAddr, datagram: &[u8]) -> Option<&ConnectionEntry> {
        let id = destination_id(datagram)?;
        let by_first = || self.first_ids.get(&(remote, id.bytes.to_vec()));
        let is_client_chosen = id.is_initial && by_first().is_some();
        let slot = match is_client_chosen {
            true => *by_first()?,
            false => self.cids.decode(id.bytes)?,
        };
        let entry = self.connections.get(&slot)?;
        // An 8-byte destination id chosen by a client may decode to a slot by chance.
        let is_chance = id.is_initial && entry.first_id.0 != remote;
        (!is_chance).then_some(entry)
    }

    /// Handles a packet that belongs to no transport: the first one of a new peer, or an invalid
    /// one.
    fn handle_unmatched(
        &mut self,
        turn: &mut Turn<'_>,
        meta: &DatagramMeta,
        datagram: BytesMut,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) {
        let first_id = destination_id(&datagram).map(|id| (meta.remote, id.bytes.to_vec()));
        let len = datagram.len();
        let ecn = meta
            .ecn
            .and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
        let mut response = Vec::new();
        let event = self.accepting.handle(
            turn.now.into(),
            meta.remote,
            meta.local_ip,
            ecn,
            datagram,
            &mut response,
        );
        match (event, first_id) {
            (Some(DatagramEvent::NewConnection(incoming)), Some(first_id)) => {
                self.admit(turn, incoming, (first_id, len), accepted);
            }
            (Some(DatagramEvent::Response(transmit)), _) => self.respond(&transmit, &response),
            (Some(DatagramEvent::NewConnection(incoming)), None) => self.accepting.ignore(incoming),
            (Some(DatagramEvent::ConnectionEvent(..)) | None, _) => self.counters.ignored += 1,
        }
    }

    fn admit(
        &mut self,
        turn: &mut Turn<'_>,
        incoming: Incoming,
        first: (FirstId, usize),
        accepted: &mut Vec<Box<dyn Transport>>,
    ) {
        let is_validated = incoming.remote_address_validated();
        let remote = incoming.remote_address();
        let handshakes = self.slots.handshakes();
        if handshakes >= HANDSHAKES_MAX || self.connections.len() >= CONNECTIONS_MAX {
            self.counters.dropped += 1;
            // The peer retransmits after a second. A response to an address that is not validated
            // might hit a victim of spoofing.
            return self.accepting.ignore(incoming);
        }
        let mut response = Vec::new();
        if handshakes >= RETRY_FROM && !is_validated {
            self.counters.retried += 1;
            if let Ok(transmit) = self.accepting.retry(incoming, &mut response) {
                self.respond(&transmit, &response);
            }
            return;
        }
        match self.accept_connection(turn, incoming, first, accepted) {
            Ok(()) => self.counters.admitted += 1,
            Err(error) => {
                self.counters.failed += 1;
                tracing::debug!(%error, %remote, "connection not accepted");
            }
        }
    }

    fn accept_connection(
        &mut self,
        turn: &mut Turn<'_>,
        incoming: Incoming,
        (first_id, first_len): (FirstId, usize),
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> io::Result<()> {
        let is_validated = incoming.remote_address_validated();
        let amplification_limit =
            (!is_validated).then(|| AmplificationLimit::new(first_id.1.clone(), first_len as u64));
        let remote = incoming.remote_address();
        let ip = incoming
            .local_ip()
            .unwrap_or_else(|| self.socket.local_addr().ip());
        let local = SocketAddr::new(ip, self.socket.local_addr().port());
        let refusal = RefusalCell::default();
        // Steps that can fail come first: `accept` consumes the endpoint.
        let prepared = DatagramSocket::accepted(local, remote).and_then(|socket| {
            let config = config::server_config(
                &self.base,
                &self.identity,
                &self.admission,
                self.transport_configs.of(remote.ip()),
                Arc::clone(&refusal),
            )
            .map_err(TlsConfigError::into_io)?;
            Ok((socket, config))
        });
        let (mut socket, config) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.accepting.ignore(incoming);
                return Err(error);
            }
        };
        let early = socket.drain(turn.buffer);
        let mut response = Vec::new();
        let config = Some(Arc::new(config));
        let (handle, conn) =
            match self
                .accepting
                .accept(incoming, turn.now.into(), &mut response, config)
            {
                Ok(connection) => connection,
                Err(error) => {
                    if let Some(transmit) = error.response {
                        self.respond(&transmit, &response);
                    }
                    return Err(io::Error::other(end_of(error.cause, &refusal)));
                }
            };
        let (endpoint, number) = self.replace_accepting();
        let lease = SlotLease::new(&self.slots, number);
        let (sender, forward_queue) = forward_queue::channel(&self.poll_handles);
        self.first_ids.insert(first_id.clone(), number);
        self.connections
            .insert(number, ConnectionEntry { sender, first_id });
        accepted.push(Box::new(QuicTransport::new(
            turn.now,
            ConnectionParts {
                role: Role::Acceptor,
                socket,
                endpoint,
                handle,
                conn,
                refusal,
                forward_queue: Some((forward_queue, lease)),
                amplification_limit,
            },
        )));
        for (meta, datagram) in early {
            self.dispatch(turn, &meta, datagram, accepted);
        }
        Ok(())
    }

    /// Returns the endpoint that handled the new peer, with its slot, and installs another one.
    fn replace_accepting(&mut self) -> (Endpoint, u32) {
        let slot = self.accepting_slot;
        let mut next = slot.wrapping_add(1);
        while self.connections.contains_key(&next) {
            next = next.wrapping_add(1);
        }
        let accepting = new_endpoint(
            &self.endpoint_config,
            &self.base,
            &self.socket,
            &self.cids,
            next,
        );
        self.accepting_slot = next;
        let mut endpoint = std::mem::replace(&mut self.accepting, accepting);
        // From now on the endpoint has one connection and accepts no other.
        endpoint.set_server_config(None);
        (endpoint, slot)
    }

    fn respond(&mut self, transmit: &quinn_proto::Transmit, bytes: &[u8]) {
        // Not repeated if the socket is full: the peer retransmits.
        self.socket.send(&quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: None,
            contents: &bytes[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        });
    }
}

impl Listener for QuicListener {
    fn local_address(&self) -> Address {
        Address::socket(SCHEME, self.socket.local_addr())
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
                            self.dispatch(turn, &meta, datagram, accepted);
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

impl fmt::Debug for QuicListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicListener")
            .field("local", &self.socket.local_addr())
            .field("connections", &self.connections.len())
            .field("handshakes", &self.slots.handshakes())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

fn new_endpoint(
    endpoint_config: &EndpointConfig,
    base: &ServerConfig,
    socket: &DatagramSocket,
    cids: &CidKey,
    slot: u32,
) -> Endpoint {
    let mut config = endpoint_config.clone();
    let key = cids.clone();
    config.cid_generator(move || {
        Box::new(SlotCids {
            key: key.clone(),
            slot,
        })
    });
    let probes_mtu = !socket.may_fragment();
    Endpoint::new(
        Arc::new(config),
        Some(Arc::new(base.clone())),
        probes_mtu,
        None,
    )
}

/// The destination connection id of a packet (RFC 8999, section 5).
pub(super) struct DestinationId<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether a client may have chosen the id, before it received one of this side.
    is_initial: bool,
}

pub(super) fn destination_id(datagram: &[u8]) -> Option<DestinationId<'_>> {
    /// The offset of the id length: after the first byte and the version (4).
    const LENGTH_AT: usize = 5;
    let first = *datagram.first()?;
    if first & 0x80 == 0 {
        let bytes = datagram.get(1..1 + CID_LEN)?;
        return Some(DestinationId {
            bytes,
            is_initial: false,
        });
    }
    let len = usize::from(*datagram.get(LENGTH_AT)?);
    let bytes = datagram.get(LENGTH_AT + 1..LENGTH_AT + 1 + len)?;
    // The packet type of version 1 is Initial. A packet of an unknown version can only be a first
    // packet.
    let is_initial = first & 0x30 == 0 || datagram.get(1..LENGTH_AT)? != [0, 0, 0, 1];
    Some(DestinationId { bytes, is_initial })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_id_is_found_in_any_packet() {
        let check = |datagram: &[u8], expected: Option<(&[u8], bool)>| {
            let found = destination_id(datagram).map(|id| (id.bytes, id.is_initial));
            assert_eq!(found, expected);
        };
        check(&[], None);
        check(&[0x40, 1, 2, 3], None);
        check(
            &[0x40, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            Some((&[1, 2, 3, 4, 5, 6, 7, 8], false)),
        );
        check(&[0xc0, 0, 0, 0, 1, 2, 7, 8, 9], Some((&[7, 8], true)));
        check(&[0xe0, 0, 0, 0, 1, 2, 7, 8, 9], Some((&[7, 8], false)));
        check(&[0xe0, 9, 9, 9, 9, 0], Some((&[], true)));
        check(&[0xc0, 0, 0, 0, 1, 20, 7], None);
        check(&[0xc0, 0, 0, 0, 1], None);
    }
}
