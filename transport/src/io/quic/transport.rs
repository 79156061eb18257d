//! The QUIC transport.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use mio::{Registry, Token};
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, DatagramEvent, Endpoint, Event, StreamEvent,
};
use rustls::pki_types::CertificateDer;

use super::amplification_limit::AmplificationLimit;
use super::config::{CLOSE_MAX, CONNECTION_WINDOW, HANDSHAKE_MAX};
use super::connection_end::{CODE_CLOSED, CODE_MISBEHAVED, end_of};
use super::listener::destination_id;
use super::pending_transmit::{PendingTransmit, outgoing};
use super::recv_streams::RecvStreams;
use super::send_streams::{PullResult, SendStreams};
use super::stats::QuicStats;
use crate::io::datagram_socket::{DatagramMeta, DatagramSocket, SendResult};
use crate::io::forward_queue::ForwardQueue;
use crate::io::handshake_slots::SlotLease;
use crate::io::tls::{self, RefusalCell};
use crate::{
    Address, End, FRAME_LEN_MAX, FrameSink, FrameSource, Info, Instant, Phase, Progress, Role,
    Transport, Turn,
};

/// The maximum number of consecutive socket errors in one call. Each reports a response of the
/// network to a sent datagram; without a limit they could keep the call from returning.
const SOCKET_ERRORS_IN_A_ROW: usize = 16;

/// One connection to one peer over QUIC: a connected socket and the protocol state.
pub struct QuicTransport {
    info: Info,
    phase: Phase,
    socket: DatagramSocket,
    /// The address to which the socket is connected.
    socket_peer: SocketAddr,
    forward_queue: Option<(ForwardQueue, SlotLease)>,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    conn: Connection,
    recv_streams: RecvStreams,
    send_streams: SendStreams,
    /// Packets that the socket has not accepted.
    pending: Option<PendingTransmit>,
    /// The reason of the end, while received data is still unread.
    end: Option<End>,
    refusal: RefusalCell,
    /// `Some` until the peer's address is validated.
    amplification_limit: Option<AmplificationLimit>,
    /// The deadline of the handshake or the close.
    deadline: Option<Instant>,
    /// The timer of the connection, updated after each change.
    timer: Option<Instant>,
    /// CONNECTION_CLOSE was passed to the connection.
    close_sent: bool,
    forwarded: u64,
    migrations: u64,
}

/// The components of a new transport.
pub(super) struct ConnectionParts {
    pub(super) role: Role,
    pub(super) socket: DatagramSocket,
    pub(super) endpoint: Endpoint,
    pub(super) handle: ConnectionHandle,
    pub(super) conn: Connection,
    pub(super) refusal: RefusalCell,
    pub(super) forward_queue: Option<(ForwardQueue, SlotLease)>,
    pub(super) amplification_limit: Option<AmplificationLimit>,
}

/// The result of [`QuicTransport::flush`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlushResult {
    /// Nothing is left to send at present.
    All,
    /// The socket buffer is full.
    Blocked,
    /// The budget is used up.
    Budget,
}

impl QuicTransport {
    pub(super) fn new(now: Instant, parts: ConnectionParts) -> Self {
        let mut conn = parts.conn;
        let socket_peer = conn.remote_address();
        Self {
            info: Info {
                scheme: super::SCHEME,
                role: parts.role,
                local: Some(Address::socket(super::SCHEME, parts.socket.local_addr())),
                remote: Some(Address::socket(super::SCHEME, socket_peer)),
                peer: None,
                reliable: true,
                encrypted: true,
                frame_max: FRAME_LEN_MAX,
                datagram_max: 0,
            },
            phase: Phase::Handshaking,
            socket: parts.socket,
            socket_peer,
            forward_queue: parts.forward_queue,
            endpoint: parts.endpoint,
            handle: parts.handle,
            timer: conn.poll_timeout().map(Instant::from),
            conn,
            recv_streams: RecvStreams::default(),
            send_streams: SendStreams::default(),
            pending: None,
            end: None,
            refusal: parts.refusal,
            amplification_limit: parts.amplification_limit,
            deadline: Some(now + HANDSHAKE_MAX),
            close_sent: false,
            forwarded: 0,
            migrations: 0,
        }
    }

    /// The counters of this connection.
    #[must_use]
    pub fn stats(&self) -> QuicStats {
        let quic = self.conn.stats();
        let socket = self.socket.errors;
        QuicStats {
            datagrams_sent: quic.udp_tx.datagrams,
            bytes_sent: quic.udp_tx.bytes,
            sends: quic.udp_tx.ios,
            datagrams_received: quic.udp_rx.datagrams,
            bytes_received: quic.udp_rx.bytes,
            packets_lost: quic.path.lost_packets,
            congestion_events: quic.path.congestion_events,
            round_trip: quic.path.rtt,
            mtu: quic.path.current_mtu,
            sends_blocked: socket.blocked,
            sends_oversized: socket.oversized,
            refusals: socket.refused,
            socket_errors: socket.other,
            batches_unsegmented: socket.unsegmented,
            datagrams_forwarded: self.forwarded,
            migrations: self.migrations,
        }
    }

    /// Reads the socket and the forwarded datagrams, about `turn.budget` bytes at most.
    fn receive(&mut self, turn: &mut Turn<'_>) -> Result<Progress, End> {
        let mut remaining = turn.budget;
        while let Some((forward_queue, _)) = &self.forward_queue
            && let Some((meta, datagram)) = forward_queue.pop()
        {
            self.forwarded += 1;
            remaining = remaining.saturating_sub(datagram.len());
            self.handle_datagram(turn.now, &meta, datagram);
        }
        let mut errors = 0;
        while remaining > 0 {
            match self.socket.recv(turn.buffer) {
                Ok(received) => {
                    for batch in received.batches.into_iter().flatten() {
                        remaining = remaining.saturating_sub(batch.bytes.len().max(1));
                        let meta = batch.meta;
                        for datagram in batch {
                            self.handle_datagram(turn.now, &meta, datagram);
                        }
                    }
                    if received.is_drained {
                        return Ok(Progress::Idle);
                    }
                }
                Err(error) => {
                    self.handle_socket_error(error)?;
                    errors += 1;
                    if errors == SOCKET_ERRORS_IN_A_ROW {
                        return Ok(Progress::More);
                    }
                }
            }
        }
        Ok(Progress::More)
    }

    /// During the handshake a refusal means that no process listens at the address. Later it may
    /// concern an old address of a migrated peer, or be forged; then only the idle timeout ends the
    /// connection.
    fn handle_socket_error(&self, error: io::Error) -> Result<(), End> {
        if error.kind() != io::ErrorKind::ConnectionRefused {
            tracing::debug!(%error, remote = %self.socket_peer, "socket reported an error");
            return Ok(());
        }
        if self.close_sent {
            return Err(End::Closed);
        }
        match self.phase {
            Phase::Handshaking => Err(End::unreachable(error)),
            Phase::Open | Phase::Closing | Phase::Ended => Ok(()),
        }
    }

    fn handle_datagram(&mut self, now: Instant, meta: &DatagramMeta, datagram: BytesMut) {
        let ecn = meta
            .ecn
            .and_then(|ecn| quinn_proto::EcnCodepoint::from_bits(ecn as u8));
        let is_validated = self
            .amplification_limit
            .as_mut()
            .is_some_and(|amplification_limit| {
                destination_id(&datagram)
                    .is_some_and(|id| amplification_limit.receive(id.bytes, datagram.len()))
            });
        let mut response = Vec::new();
        // QUIC needs no local address, because the socket is bound to one.
        let event =
            self.endpoint
                .handle(now.into(), meta.remote, None, ecn, datagram, &mut response);
        match event {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if is_validated {
                    self.amplification_limit = None;
                }
                self.conn.handle_event(event);
            }
            Some(DatagramEvent::Response(transmit)) => {
                self.socket.send(&outgoing(&transmit, &response));
            }
            // Unreachable: this endpoint has no server configuration any more.
            Some(DatagramEvent::NewConnection(incoming)) => self.endpoint.ignore(incoming),
            None => {}
        }
    }

    /// Exchanges events between endpoint and connection, and handles the events of the connection.
    fn handle_events(&mut self) {
        while let Some(event) = self.conn.poll_endpoint_events() {
            if let Some(response) = self.endpoint.handle_event(self.handle, event) {
                self.conn.handle_event(response);
            }
        }
        while let Some(event) = self.conn.poll() {
            match event {
                Event::Connected => self.open(),
                Event::ConnectionLost { reason } => self.on_connection_lost(reason),
                Event::Stream(StreamEvent::Opened { .. }) => {
                    self.recv_streams.accept(&mut self.conn)
                }
                Event::Stream(StreamEvent::Readable { id }) => self.recv_streams.mark_readable(id),
                // Each send retries backlogs and datagrams, and each recv reads.
                Event::Stream(
                    StreamEvent::Writable { .. }
                    | StreamEvent::Finished { .. }
                    | StreamEvent::Stopped { .. }
                    | StreamEvent::Available { .. },
                )
                | Event::DatagramReceived
                | Event::DatagramsUnblocked
                | Event::HandshakeDataReady => {}
            }
        }
        self.follow_peer();
        self.timer = self.conn.poll_timeout().map(Instant::from);
    }

    /// Opens the transport: the handshake is complete and both keys are verified.
    fn open(&mut self) {
        let identity = self.conn.crypto_session().peer_identity();
        let certificates = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'_>>>().ok());
        let Some(peer) = tls::peer_of(certificates.as_deref().map(Vec::as_slice)) else {
            self.end = Some(End::Unauthenticated {
                detail: "the handshake yielded no key".to_owned(),
            });
            return;
        };
        if let Some((_, lease)) = &mut self.forward_queue {
            lease.handshake_done();
        }
        self.info.peer = Some(peer);
        if self.phase == Phase::Handshaking {
            self.phase = Phase::Open;
            self.deadline = None;
        }
    }

    fn on_connection_lost(&mut self, reason: ConnectionError) {
        let all_arrived = self.phase == Phase::Closing && self.conn.streams().send_streams() == 0;
        self.end = Some(match end_of(reason, &self.refusal) {
            // Both sides closed at once, and the peer has received all data of this side.
            End::PeerClosed if all_arrived => End::Closed,
            end => end,
        });
    }

    /// Connects the socket to the peer's new address once QUIC has accepted it, or to the old one
    /// if path validation failed.
    fn follow_peer(&mut self) {
        let remote = self.conn.remote_address();
        if remote == self.socket_peer {
            return;
        }
        if let Err(error) = self.socket.reconnect(remote) {
            tracing::debug!(%error, %remote, "reconnect of the socket failed; the listener forwards");
        }
        self.migrations += 1;
        self.socket_peer = remote;
        self.info.remote = Some(Address::socket(super::SCHEME, remote));
    }

    /// Sends the packets of the connection, about `budget` bytes at most.
    fn flush(&mut self, now: Instant, budget: &mut usize) -> FlushResult {
        let mut bytes = Vec::new();
        if let Some(pending) = self.pending.take() {
            *budget = budget.saturating_sub(pending.bytes.len());
            if self.transmit(&pending.transmit, &pending.bytes) == SendResult::Blocked {
                self.pending = Some(pending);
                return FlushResult::Blocked;
            }
            bytes = pending.bytes;
        }
        let flushed = loop {
            if *budget == 0 {
                break FlushResult::Budget;
            }
            bytes.clear();
            let segments = match self.amplification_limit {
                Some(_) => 1,
                None => {
                    let mtu = usize::from(self.conn.current_mtu());
                    self.socket.segments_max(mtu)
                }
            };
            let Some(transmit) = self.conn.poll_transmit(now.into(), segments, &mut bytes) else {
                break FlushResult::All;
            };
            *budget = budget.saturating_sub(transmit.size);
            if let Some(amplification_limit) = &mut self.amplification_limit
                && !amplification_limit.take(transmit.size)
            {
                continue;
            }
            if self.transmit(&transmit, &bytes) == SendResult::Blocked {
                self.pending = Some(PendingTransmit { bytes, transmit });
                break FlushResult::Blocked;
            }
        };
        self.timer = self.conn.poll_timeout().map(Instant::from);
        flushed
    }

    fn transmit(&mut self, transmit: &quinn_proto::Transmit, bytes: &[u8]) -> SendResult {
        let outgoing = outgoing(transmit, bytes);
        match self.socket.send(&outgoing) {
            // The error concerned an earlier datagram and is now cleared.
            SendResult::Refused if self.phase != Phase::Handshaking => self.socket.send(&outgoing),
            sent => sent,
        }
    }

    /// Advances an orderly close. Returns `true` if the connection has packets to send for it.
    fn advance_close(&mut self, now: Instant) -> bool {
        if self.close_sent || self.end.is_some() {
            return false;
        }
        let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
        if !self.send_streams.has_backlog() {
            self.send_streams.finish(&mut self.conn);
        }
        let is_done = !self.send_streams.has_backlog() && self.conn.streams().send_streams() == 0;
        if is_done || is_late {
            self.send_close(now, CODE_CLOSED, &[]);
        }
        true
    }

    fn send_close(&mut self, now: Instant, code: quinn_proto::VarInt, reason: &[u8]) {
        self.conn
            .close(now.into(), code, Bytes::copy_from_slice(reason));
        self.close_sent = true;
        self.timer = self.conn.poll_timeout().map(Instant::from);
    }

    /// Whether the peer has answered the CONNECTION_CLOSE, or the draining period is over. There is
    /// no wait for a peer that was never authenticated.
    fn is_close_over(&self) -> bool {
        self.close_sent
            && (self.info.peer.is_none()
                || self.conn.is_drained()
                || self.conn.stats().frame_rx.connection_close > 0)
    }

    /// Records the end and sends CONNECTION_CLOSE if required. Every `Err` of a call passes through
    /// here.
    fn finish(&mut self, now: Instant, end: End) -> End {
        if let End::Misbehaved { what } = &end
            && !self.conn.is_closed()
        {
            self.send_close(now, CODE_MISBEHAVED, what.as_bytes());
        }
        if self.phase != Phase::Ended {
            let mut budget = usize::MAX;
            self.flush(now, &mut budget);
            let stats = self.stats();
            tracing::debug!(
                peer = self.info.peer.map(tracing::field::display),
                remote = %self.socket_peer,
                %end,
                packets_lost = stats.packets_lost,
                round_trip_us = stats.round_trip.as_micros() as u64,
                mtu = stats.mtu,
                migrations = stats.migrations,
                "QUIC transport ended"
            );
        }
        self.phase = Phase::Ended;
        self.end = Some(end.clone());
        self.deadline = None;
        self.timer = None;
        end
    }

    fn try_recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        let received = self.receive(turn)?;
        self.handle_events();
        // Read keys exist only after the handshake, so no datagram precedes it.
        while let Some(datagram) = self.conn.datagrams().recv() {
            sink.frame(datagram);
        }
        let read = self.recv_streams.read(&mut self.conn, sink, turn.budget)?;
        self.handle_events();
        if read == Progress::More {
            return Ok(Progress::More);
        }
        match &self.end {
            Some(end) => Err(end.clone()),
            None if self.is_close_over() => Err(End::Closed),
            None => Ok(received),
        }
    }

    fn try_send(&mut self, turn: &Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        let mut budget = turn.budget;
        if self.pending.is_some() && self.flush(turn.now, &mut budget) == FlushResult::Blocked {
            return Ok(Progress::Idle);
        }
        loop {
            let pulled = match self.phase {
                // After the end no frame is delivered, so none is pulled.
                Phase::Open if self.end.is_none() => {
                    self.send_streams.pull(&mut self.conn, source)?
                }
                Phase::Closing if !self.close_sent => {
                    self.send_streams.retry(&mut self.conn)?;
                    self.advance_close(turn.now);
                    PullResult::Drained
                }
                _ => PullResult::Drained,
            };
            match self.flush(turn.now, &mut budget) {
                FlushResult::Blocked => return Ok(Progress::Idle),
                FlushResult::Budget => return Ok(Progress::More),
                FlushResult::All if pulled == PullResult::Drained => break,
                FlushResult::All => {}
            }
        }
        self.handle_events();
        self.info.datagram_max = match self.phase {
            Phase::Open => self.conn.datagrams().max_size().unwrap_or(0),
            _ => self.info.datagram_max,
        };
        if self.is_close_over() {
            return Err(End::Closed);
        }
        Ok(Progress::Idle)
    }

    fn ended(&self) -> Option<End> {
        match self.phase {
            Phase::Ended => self.end.clone(),
            Phase::Handshaking | Phase::Open | Phase::Closing => None,
        }
    }
}

impl Transport for QuicTransport {
    fn info(&self) -> &Info {
        &self.info
    }

    fn phase(&self) -> Phase {
        self.phase
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token)?;
        match &self.forward_queue {
            Some((forward_queue, _)) => forward_queue.register(registry, token),
            None => Ok(()),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        if let Some((forward_queue, _)) = &self.forward_queue {
            forward_queue.deregister();
        }
        self.socket.deregister(registry)
    }

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        if let Some(end) = self.ended() {
            return Err(end);
        }
        let sent = self.try_send(turn, source).and_then(|progress| {
            self.socket
                .update_interest(turn.registry)
                .map_err(End::broken)?;
            Ok(progress)
        });
        sent.map_err(|end| self.finish(turn.now, end))
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        if let Some(end) = self.ended() {
            return Err(end);
        }
        self.try_recv(turn, sink)
            .map_err(|end| self.finish(turn.now, end))
    }

    fn timeout(&self) -> Option<Instant> {
        [self.timer, self.deadline].into_iter().flatten().min()
    }

    fn on_timeout(&mut self, now: Instant) {
        if self.phase == Phase::Ended {
            return;
        }
        let remote = self.conn.remote_address();
        self.conn.handle_timeout(now.into());
        if self.conn.remote_address() != remote {
            // No packet arrived from the peer's new address, so the previous one is used again.
            // quinn-proto keeps the timer of the packets in flight on the abandoned path, and in
            // debug builds panics when it expires with nothing in flight on the current path. The
            // PING puts a packet in flight. Fixed after quinn-proto 0.11.19 (quinn-rs/quinn#2660).
            self.conn.ping();
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            match self.phase {
                Phase::Handshaking => self.end = Some(End::TimedOut),
                // `send` stops waiting and notifies the peer.
                Phase::Closing => {
                    self.advance_close(now);
                    self.deadline = None;
                }
                Phase::Open | Phase::Ended => {}
            }
        }
        self.handle_events();
    }

    fn admit(&mut self) {
        // Without effect if the window is as large already.
        let window = quinn_proto::VarInt::from_u32(CONNECTION_WINDOW);
        self.conn.set_receive_window(window);
    }

    fn close(&mut self, now: Instant) {
        match self.phase {
            Phase::Handshaking => self.send_close(now, CODE_CLOSED, &[]),
            Phase::Open => {}
            Phase::Closing | Phase::Ended => return,
        }
        self.phase = Phase::Closing;
        self.deadline = Some(now + CLOSE_MAX);
    }
}

impl fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicTransport")
            .field("info", &self.info)
            .field("phase", &self.phase)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
