//! The UDP transport.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use mio::{Registry, Token};

use super::handshake::{AcceptorHandshake, DialerHandshake, HandshakeAction, UdpSecurity};
use super::packet_protection::PacketProtection;
use super::segment_batch::SegmentBatch;
use crate::io::datagram_socket::{DatagramSocket, SendResult};
use crate::io::forward_queue::ForwardQueue;
use crate::io::handshake_slots::SlotLease;
use crate::{
    Address, End, Frame, FrameOrder, FrameSink, FrameSource, Info, Instant, LANES_MAX, LaneSet,
    NodeId, Phase, Progress, Role, SendCapacity, Transport, Turn,
};

const CONTROL: u8 = 16;
const DATAGRAM: u8 = 17;
const CLOSE: u8 = 18;
const LANE_0: u8 = 32;

/// The maximum duration of a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// The delay before the first retransmission of a handshake message; it doubles each time.
const RETRANSMIT_AFTER: Duration = Duration::from_millis(250);

/// The maximum time without a datagram from the peer. The heartbeats of a session (1 s) keep a live
/// connection open and detect a dead peer earlier (3 s).
const IDLE_MAX: Duration = Duration::from_secs(10);

/// The maximum number of consecutive socket errors in one call.
const SOCKET_ERRORS_IN_A_ROW: usize = 16;

/// One connection to one peer over UDP: a connected socket and its packet protection.
#[derive(Debug)]
pub struct UdpTransport {
    info: Info,
    phase: Phase,
    socket: DatagramSocket,
    remote: SocketAddr,
    forward_queue: Option<(ForwardQueue, SlotLease)>,
    handshake: UdpHandshake,
    /// `Some` once the transport is open.
    protection: Option<PacketProtection>,
    /// The handshake message must be sent in the next call of `send`.
    handshake_due: bool,
    /// The time of the next retransmission of the handshake message, and the interval after it.
    retransmit: Option<(Instant, Duration)>,
    /// The deadline of the handshake; after it, the end of the idle timeout.
    deadline: Instant,
    /// Datagrams that the socket has not accepted.
    batch: SegmentBatch,
    /// A frame that did not fit into the batch.
    pending_frame: Option<Frame>,
    end: Option<End>,
}

#[derive(Debug)]
enum UdpHandshake {
    DialerHandshake(DialerHandshake),
    AcceptorHandshake {
        state: AcceptorHandshake,
        /// The proof that opened the connection and the Welcome that answers it, kept because the
        /// Welcome may be lost.
        proof: Option<(Vec<u8>, Vec<u8>)>,
    },
}

impl UdpTransport {
    pub(super) fn dialing(
        now: Instant,
        security: UdpSecurity,
        socket: DatagramSocket,
        remote: SocketAddr,
        state: DialerHandshake,
    ) -> Self {
        let handshake = UdpHandshake::DialerHandshake(state);
        Self {
            retransmit: Some((now + RETRANSMIT_AFTER, 2 * RETRANSMIT_AFTER)),
            ..Self::new(now, Role::Dialer, security, socket, remote, handshake)
        }
    }

    pub(super) fn accepting(
        now: Instant,
        security: UdpSecurity,
        socket: DatagramSocket,
        remote: SocketAddr,
        state: AcceptorHandshake,
        forward_queue: (ForwardQueue, SlotLease),
    ) -> Self {
        let proof = None;
        let handshake = UdpHandshake::AcceptorHandshake { state, proof };
        Self {
            forward_queue: Some(forward_queue),
            ..Self::new(now, Role::Acceptor, security, socket, remote, handshake)
        }
    }

    fn new(
        now: Instant,
        role: Role,
        security: UdpSecurity,
        socket: DatagramSocket,
        remote: SocketAddr,
        handshake: UdpHandshake,
    ) -> Self {
        let scheme = security.scheme();
        Self {
            info: Info {
                scheme,
                role,
                local: Some(Address::socket(scheme, socket.local_addr())),
                remote: Some(Address::socket(scheme, remote)),
                peer: None,
                reliable: false,
                encrypted: security == UdpSecurity::Encrypted,
                frame_max: security.frame_max(),
                datagram_max: security.frame_max(),
            },
            phase: Phase::Handshaking,
            socket,
            remote,
            forward_queue: None,
            handshake,
            protection: None,
            handshake_due: true,
            retransmit: None,
            deadline: now + HANDSHAKE_MAX,
            batch: SegmentBatch::default(),
            pending_frame: None,
            end: None,
        }
    }

    /// Sends one datagram, best effort.
    fn send_datagram(&mut self, contents: &[u8]) -> SendResult {
        self.transmit(contents, None)
    }

    fn transmit(&mut self, contents: &[u8], segment_size: Option<usize>) -> SendResult {
        self.socket.send(&quinn_udp::Transmit {
            destination: self.remote,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        })
    }

    /// Sends the pending handshake message.
    fn send_handshake(&mut self) -> Result<(), End> {
        if !std::mem::take(&mut self.handshake_due) {
            return Ok(());
        }
        let message = match &self.handshake {
            UdpHandshake::DialerHandshake(state) => state.message(),
            UdpHandshake::AcceptorHandshake { state, .. } => state.message(),
        };
        match self.send_datagram(&message) {
            SendResult::Sent | SendResult::Blocked => Ok(()),
            SendResult::Refused => Err(End::unreachable(io::ErrorKind::ConnectionRefused.into())),
        }
    }

    fn open(&mut self, now: Instant, peer: NodeId) {
        if self.phase != Phase::Handshaking {
            return;
        }
        if let Some((_, lease)) = &mut self.forward_queue {
            lease.handshake_done();
        }
        self.info.peer = Some(peer);
        self.phase = Phase::Open;
        self.retransmit = None;
        self.handshake_due = false;
        self.deadline = now + IDLE_MAX;
    }

    /// Reads the socket and the forwarded datagrams, about `turn.budget` bytes at most.
    fn receive(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        let mut left = turn.budget;
        while let Some((forward_queue, _)) = &self.forward_queue
            && let Some((_, datagram)) = forward_queue.pop()
        {
            self.handle(turn.now, datagram, sink)?;
        }
        let mut errors = 0;
        while left > 0 {
            match self.socket.recv(turn.buffer) {
                Ok(received) => {
                    for batch in received.batches.into_iter().flatten() {
                        left = left.saturating_sub(batch.bytes.len().max(1));
                        for datagram in batch {
                            self.handle(turn.now, datagram, sink)?;
                        }
                    }
                    if received.is_drained {
                        return Ok(Progress::Idle);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(self.refused(error));
                }
                Err(error) => {
                    tracing::debug!(%error, remote = %self.remote, "socket reported an error");
                    errors += 1;
                    if errors == SOCKET_ERRORS_IN_A_ROW {
                        return Ok(Progress::More);
                    }
                }
            }
        }
        Ok(Progress::More)
    }

    /// The end that results from an ICMP port-unreachable report.
    fn refused(&self, error: io::Error) -> End {
        match self.phase {
            Phase::Handshaking => End::unreachable(error),
            Phase::Open => End::broken(error),
            Phase::Closing | Phase::Ended => End::Closed,
        }
    }

    fn handle(
        &mut self,
        now: Instant,
        datagram: BytesMut,
        sink: &mut dyn FrameSink,
    ) -> Result<(), End> {
        let Some(&first) = datagram.first() else {
            return Ok(());
        };
        if first < CONTROL {
            return self.handle_handshake(now, &datagram);
        }
        let Some((kind, frame)) = self.unwrap(now, datagram) else {
            return Ok(());
        };
        self.deadline = now + IDLE_MAX;
        match kind {
            CLOSE => return Err(End::PeerClosed),
            CONTROL | DATAGRAM => {}
            lane if usize::from(lane.wrapping_sub(LANE_0)) < LANES_MAX => {}
            _ => return Ok(()),
        }
        if frame.len() <= self.info.frame_max {
            sink.frame(frame.freeze());
        }
        Ok(())
    }

    /// Returns kind and frame of a datagram of this connection; `None` if it is invalid or the
    /// handshake is incomplete.
    fn unwrap(&mut self, now: Instant, datagram: BytesMut) -> Option<(u8, BytesMut)> {
        match (&mut self.handshake, self.phase) {
            // The peer sends frames only when it is open, so the Welcome was lost or delayed.
            (UdpHandshake::DialerHandshake(state), Phase::Handshaking) => {
                let (protection, peer) = state.protection_mut()?;
                let unwrapped = protection.unwrap(datagram)?;
                self.protection = state.take_protection();
                self.open(now, peer);
                Some(unwrapped)
            }
            (UdpHandshake::AcceptorHandshake { .. }, Phase::Handshaking) => None,
            _ => self.protection.as_mut()?.unwrap(datagram),
        }
    }

    fn handle_handshake(&mut self, now: Instant, datagram: &[u8]) -> Result<(), End> {
        let outcome = match &mut self.handshake {
            UdpHandshake::DialerHandshake(state) if self.phase == Phase::Handshaking => {
                state.handle(datagram)
            }
            UdpHandshake::DialerHandshake(_) => return Ok(()),
            UdpHandshake::AcceptorHandshake { proof, state } => match proof {
                // An open acceptor answers only the repeated proof, which it compares without
                // verifying a signature.
                Some((known, welcome)) if known == datagram => {
                    HandshakeAction::Reply(welcome.clone())
                }
                Some(_) => HandshakeAction::Ignore,
                None => state.handle(datagram),
            },
        };
        match outcome {
            HandshakeAction::Ignore => {}
            HandshakeAction::Transmit => {
                self.handshake_due = true;
                self.retransmit = Some((now + RETRANSMIT_AFTER, 2 * RETRANSMIT_AFTER));
                self.send_handshake()?;
            }
            HandshakeAction::Reply(reply) => {
                self.send_datagram(&reply);
            }
            HandshakeAction::Open { peer, reply } => self.handle_open(now, peer, datagram, reply),
            HandshakeAction::Failed { end, reply } => {
                if !reply.is_empty() {
                    self.send_datagram(&reply);
                }
                return Err(end);
            }
        }
        Ok(())
    }

    fn handle_open(&mut self, now: Instant, peer: NodeId, datagram: &[u8], reply: Vec<u8>) {
        match &mut self.handshake {
            UdpHandshake::DialerHandshake(state) => self.protection = state.take_protection(),
            UdpHandshake::AcceptorHandshake { state, proof } => {
                self.protection = state.take_protection();
                *proof = Some((datagram.to_vec(), reply.clone()));
            }
        }
        if !reply.is_empty() {
            self.send_datagram(&reply);
        }
        self.open(now, peer);
    }

    /// Fills the batch from `source`. Returns `false` if the source has no more frames.
    fn fill(&mut self, source: &mut dyn FrameSource) -> bool {
        let frame_max = self.info.frame_max;
        let capacity = SendCapacity {
            frame_max,
            datagram_max: frame_max,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        let socket = &self.socket;
        let Some(protection) = &mut self.protection else {
            return false;
        };
        loop {
            let Some(frame) = self
                .pending_frame
                .take()
                .or_else(|| source.next_frame(&capacity))
            else {
                return false;
            };
            if frame.len() > frame_max {
                debug_assert!(false, "the source received the maximum length");
                tracing::debug!(
                    len = frame.len(),
                    frame_max,
                    remote = %self.remote,
                    "frame dropped: longer than a datagram"
                );
                continue;
            }
            if !self
                .batch
                .fits(protection, &frame, |len| socket.segments_max(len))
            {
                self.pending_frame = Some(frame);
                return true;
            }
            let kind = match frame.order {
                FrameOrder::Control => CONTROL,
                FrameOrder::Datagram => DATAGRAM,
                FrameOrder::Lane(lane) => LANE_0.saturating_add(lane),
            };
            self.batch.push(kind, protection, &frame);
        }
    }

    /// Sends the batch. It remains if the socket buffer is full.
    fn flush(&mut self) -> Result<SendResult, End> {
        if self.batch.is_empty() {
            return Ok(SendResult::Sent);
        }
        let batch = std::mem::take(&mut self.batch);
        match self.transmit(batch.bytes(), batch.segment()) {
            SendResult::Sent => {
                self.batch = batch;
                self.batch.clear();
                Ok(SendResult::Sent)
            }
            SendResult::Blocked => {
                self.batch = batch;
                Ok(SendResult::Blocked)
            }
            SendResult::Refused => Err(self.refused(io::ErrorKind::ConnectionRefused.into())),
        }
    }

    fn try_send(&mut self, turn: &Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        match self.phase {
            Phase::Handshaking => {
                self.send_handshake()?;
                Ok(Progress::Idle)
            }
            Phase::Open => self.send_frames(turn.budget, source),
            Phase::Closing | Phase::Ended => self.send_close(),
        }
    }

    fn send_frames(
        &mut self,
        budget: usize,
        source: &mut dyn FrameSource,
    ) -> Result<Progress, End> {
        let mut left = budget;
        while left > 0 {
            let has_more = self.fill(source);
            left = left.saturating_sub(self.batch.bytes().len());
            if self.flush()? == SendResult::Blocked {
                return Ok(Progress::Idle);
            }
            if !has_more {
                // Frees the batch: an idle transport holds no memory.
                self.batch = SegmentBatch::default();
                return Ok(Progress::Idle);
            }
        }
        Ok(Progress::More)
    }

    fn send_close(&mut self) -> Result<Progress, End> {
        if self.flush()? == SendResult::Blocked {
            return Ok(Progress::Idle);
        }
        let Some(protection) = &mut self.protection else {
            return Err(End::Closed);
        };
        if let Some(frame) = self.pending_frame.take() {
            self.batch.push(CONTROL, protection, &frame);
            if self.flush()? == SendResult::Blocked {
                return Ok(Progress::Idle);
            }
        }
        // Best effort: if the datagram is lost, a later one of the peer causes an ICMP
        // port-unreachable report.
        let mut message = Vec::new();
        if let Some(protection) = &mut self.protection {
            protection.protect(CLOSE, [&[], &[]], &mut message);
        }
        match self.send_datagram(&message) {
            SendResult::Blocked => Ok(Progress::Idle),
            SendResult::Sent | SendResult::Refused => Err(End::Closed),
        }
    }

    fn finish(&mut self, end: End) -> End {
        tracing::debug!(
            peer = self.info.peer.map(tracing::field::display),
            remote = %self.remote,
            %end,
            sends_blocked = self.socket.errors.blocked,
            refusals = self.socket.errors.refused,
            socket_errors = self.socket.errors.other,
            "UDP transport ended"
        );
        self.phase = Phase::Ended;
        self.end = Some(end.clone());
        end
    }

    /// Returns the end, whether it was reported before or not.
    fn ended(&mut self) -> Result<(), End> {
        match self.end.clone() {
            Some(end) if self.phase == Phase::Ended => Err(end),
            Some(end) => Err(self.finish(end)),
            None => Ok(()),
        }
    }
}

impl Transport for UdpTransport {
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
        self.ended()?;
        let sent = self.try_send(turn, source).and_then(|progress| {
            self.socket
                .update_interest(turn.registry)
                .map_err(End::broken)?;
            Ok(progress)
        });
        sent.map_err(|end| self.finish(end))
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        self.ended()?;
        self.receive(turn, sink).map_err(|end| self.finish(end))
    }

    fn timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended => None,
            _ => Some(
                self.retransmit
                    .map_or(self.deadline, |(at, _)| at.min(self.deadline)),
            ),
        }
    }

    fn on_timeout(&mut self, now: Instant) {
        if let Some((at, after)) = self.retransmit
            && now >= at
        {
            self.handshake_due = true;
            self.retransmit = Some((now + after, 2 * after));
        }
        if now >= self.deadline && self.phase != Phase::Ended {
            self.end = Some(End::TimedOut);
        }
    }

    fn close(&mut self, _now: Instant) {
        if self.phase < Phase::Closing {
            self.phase = Phase::Closing;
            self.retransmit = None;
        }
    }
}
