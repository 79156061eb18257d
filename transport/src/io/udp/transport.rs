//! One peer by UDP.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mio::{Registry, Token};

use super::batch::Batch;
use super::cover::Cover;
use super::handshake::{Accepting, Dialing, Outcome, Protection};
use crate::io::datagram_socket::{DatagramSocket, Sent};
use crate::io::door::Lease;
use crate::io::mailbox::Mailbox;
use crate::{
    Address, End, Frame, FrameOrder, FrameSink, FrameSource, Info, LANES_MAX, LaneSet, NodeId,
    Phase, Progress, Role, SendCapacity, Transport, Turn,
};

const CONTROL: u8 = 16;
const DATAGRAM: u8 = 17;
const CLOSE: u8 = 18;
const LANE_0: u8 = 32;

/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How long the dialer waits for an answer before it repeats itself; doubled each time.
const REPEAT_AFTER: Duration = Duration::from_millis(250);

/// So long without a datagram is the end. A session's heartbeats (1 s) keep a living peer alive,
/// and notice a dead one first (3 s).
const IDLE_MAX: Duration = Duration::from_secs(10);

/// How many errors in a row a socket may report before its turn is over.
const SOCKET_ERRORS_IN_A_ROW: usize = 16;

/// One peer by UDP: a connected socket, and what covers its frames.
#[derive(Debug)]
pub struct UdpTransport {
    info: Info,
    phase: Phase,
    socket: DatagramSocket,
    remote: SocketAddr,
    mailbox: Option<(Mailbox, Lease)>,
    handshake: Handshake,
    /// Once it is open.
    cover: Option<Cover>,
    /// The handshake's message is to be said in the next send.
    is_to_say: bool,
    /// When it is to be said again, and how long after that.
    repeat: Option<(Instant, Duration)>,
    /// When the handshake, or silence, has taken too long.
    limit: Instant,
    /// What the socket did not take, or has not been offered yet.
    batch: Batch,
    /// A frame that did not fit into the batch.
    next: Option<Frame>,
    end: Option<End>,
}

#[derive(Debug)]
enum Handshake {
    Dialing(Dialing),
    Accepting {
        machine: Accepting,
        /// The proof that opened it, and the Welcome that answers it, which may get lost.
        proof: Option<(Vec<u8>, Vec<u8>)>,
    },
}

impl UdpTransport {
    pub(super) fn dialing(
        now: Instant,
        protection: Protection,
        socket: DatagramSocket,
        remote: SocketAddr,
        machine: Dialing,
    ) -> Self {
        let handshake = Handshake::Dialing(machine);
        Self {
            repeat: Some((now + REPEAT_AFTER, 2 * REPEAT_AFTER)),
            ..Self::new(now, Role::Dialer, protection, socket, remote, handshake)
        }
    }

    pub(super) fn accepting(
        now: Instant,
        protection: Protection,
        socket: DatagramSocket,
        remote: SocketAddr,
        machine: Accepting,
        mailbox: (Mailbox, Lease),
    ) -> Self {
        let proof = None;
        let handshake = Handshake::Accepting { machine, proof };
        Self {
            mailbox: Some(mailbox),
            ..Self::new(now, Role::Acceptor, protection, socket, remote, handshake)
        }
    }

    fn new(
        now: Instant,
        role: Role,
        protection: Protection,
        socket: DatagramSocket,
        remote: SocketAddr,
        handshake: Handshake,
    ) -> Self {
        let scheme = protection.scheme();
        Self {
            info: Info {
                scheme,
                role,
                local: Some(Address::socket(scheme, socket.local_addr())),
                remote: Some(Address::socket(scheme, remote)),
                peer: None,
                reliable: false,
                encrypted: protection == Protection::Sealed,
                frame_max: protection.frame_max(),
                datagram_max: protection.frame_max(),
            },
            phase: Phase::Handshaking,
            socket,
            remote,
            mailbox: None,
            handshake,
            cover: None,
            is_to_say: true,
            repeat: None,
            limit: now + HANDSHAKE_MAX,
            batch: Batch::default(),
            next: None,
            end: None,
        }
    }

    /// Sends one datagram, which may be lost as any other.
    fn say(&mut self, contents: &[u8]) -> Sent {
        self.transmit(contents, None)
    }

    fn transmit(&mut self, contents: &[u8], segment_size: Option<usize>) -> Sent {
        self.socket.send(&quinn_udp::Transmit {
            destination: self.remote,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        })
    }

    /// Says what the handshake has to say.
    fn say_handshake(&mut self) -> Result<(), End> {
        if !std::mem::take(&mut self.is_to_say) {
            return Ok(());
        }
        let message = match &self.handshake {
            Handshake::Dialing(machine) => machine.message(),
            Handshake::Accepting { machine, .. } => machine.message(),
        };
        match self.say(&message) {
            Sent::Gone | Sent::Blocked => Ok(()),
            Sent::Refused => Err(End::unreachable(io::ErrorKind::ConnectionRefused.into())),
        }
    }

    fn open(&mut self, now: Instant, peer: NodeId) {
        if self.phase != Phase::Handshaking {
            return;
        }
        if let Some((_, lease)) = &mut self.mailbox {
            lease.opened();
        }
        self.info.peer = Some(peer);
        self.phase = Phase::Open;
        self.repeat = None;
        self.is_to_say = false;
        self.limit = now + IDLE_MAX;
    }

    /// Reads the socket and the mailbox, at most about `budget` bytes.
    fn receive(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        let mut left = turn.budget;
        while let Some((mailbox, _)) = &self.mailbox
            && let Some((_, datagram)) = mailbox.take()
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
                    if received.is_all {
                        return Ok(Progress::Idle);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(self.refused(error));
                }
                Err(error) => {
                    tracing::debug!(%error, "the socket reports an error");
                    errors += 1;
                    if errors == SOCKET_ERRORS_IN_A_ROW {
                        return Ok(Progress::More);
                    }
                }
            }
        }
        Ok(Progress::More)
    }

    /// The peer's host says that nobody listens there.
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
        self.limit = now + IDLE_MAX;
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

    /// What is in a datagram behind the handshake, if it belongs to this connection.
    fn unwrap(&mut self, now: Instant, datagram: BytesMut) -> Option<(u8, BytesMut)> {
        match (&mut self.handshake, self.phase) {
            // The peer would not send it if it had not opened: the Welcome was lost or is late.
            (Handshake::Dialing(machine), Phase::Handshaking) => {
                let (cover, peer) = machine.cover_mut()?;
                let unwrapped = cover.unwrap(datagram)?;
                self.cover = machine.take_cover();
                self.open(now, peer);
                Some(unwrapped)
            }
            (Handshake::Accepting { .. }, Phase::Handshaking) => None,
            _ => self.cover.as_mut()?.unwrap(datagram),
        }
    }

    fn handle_handshake(&mut self, now: Instant, datagram: &[u8]) -> Result<(), End> {
        let outcome = match &mut self.handshake {
            Handshake::Dialing(machine) if self.phase == Phase::Handshaking => {
                machine.handle(datagram)
            }
            Handshake::Dialing(_) => return Ok(()),
            Handshake::Accepting { proof, machine } => match proof {
                // Once open, only the repeated proof is answered, which costs no signature check.
                Some((known, welcome)) if known == datagram => Outcome::Answer(welcome.clone()),
                Some(_) => Outcome::Nothing,
                None => machine.handle(datagram),
            },
        };
        match outcome {
            Outcome::Nothing => {}
            Outcome::Say => {
                self.is_to_say = true;
                self.repeat = Some((now + REPEAT_AFTER, 2 * REPEAT_AFTER));
                self.say_handshake()?;
            }
            Outcome::Answer(answer) => {
                self.say(&answer);
            }
            Outcome::Open { peer, answer } => self.handle_open(now, peer, datagram, answer),
            Outcome::Failed { end, answer } => {
                if !answer.is_empty() {
                    self.say(&answer);
                }
                return Err(end);
            }
        }
        Ok(())
    }

    fn handle_open(&mut self, now: Instant, peer: NodeId, datagram: &[u8], answer: Vec<u8>) {
        match &mut self.handshake {
            Handshake::Dialing(machine) => self.cover = machine.take_cover(),
            Handshake::Accepting { machine, proof } => {
                self.cover = machine.take_cover();
                *proof = Some((datagram.to_vec(), answer.clone()));
            }
        }
        if !answer.is_empty() {
            self.say(&answer);
        }
        self.open(now, peer);
    }

    /// Fills the batch from `source`; `false` when there is nothing more for now.
    fn fill(&mut self, source: &mut dyn FrameSource) -> bool {
        let frame_max = self.info.frame_max;
        let capacity = SendCapacity {
            frame_max,
            datagram_max: frame_max,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        let socket = &self.socket;
        let Some(cover) = &mut self.cover else {
            return false;
        };
        loop {
            let Some(frame) = self.next.take().or_else(|| source.next_frame(&capacity)) else {
                return false;
            };
            if frame.len() > frame_max {
                debug_assert!(false, "the source was told the longest frame");
                tracing::debug!(len = frame.len(), "a frame that is too long is lost");
                continue;
            }
            if !self
                .batch
                .fits(cover, &frame, |len| socket.segments_max(len))
            {
                self.next = Some(frame);
                return true;
            }
            let kind = match frame.order {
                FrameOrder::Control => CONTROL,
                FrameOrder::Datagram => DATAGRAM,
                FrameOrder::Lane(lane) => LANE_0.saturating_add(lane),
            };
            self.batch.push(kind, cover, &frame);
        }
    }

    /// Sends the batch, unless the socket is full.
    fn flush(&mut self) -> Result<Sent, End> {
        if self.batch.is_empty() {
            return Ok(Sent::Gone);
        }
        let batch = std::mem::take(&mut self.batch);
        match self.transmit(batch.bytes(), batch.segment()) {
            Sent::Gone => {
                self.batch = batch;
                self.batch.clear();
                Ok(Sent::Gone)
            }
            Sent::Blocked => {
                self.batch = batch;
                Ok(Sent::Blocked)
            }
            Sent::Refused => Err(self.refused(io::ErrorKind::ConnectionRefused.into())),
        }
    }

    fn try_send(&mut self, turn: &Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        match self.phase {
            Phase::Handshaking => {
                self.say_handshake()?;
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
            if self.flush()? == Sent::Blocked {
                return Ok(Progress::Idle);
            }
            if !has_more {
                // What an idle transport holds: nothing.
                self.batch = Batch::default();
                return Ok(Progress::Idle);
            }
        }
        Ok(Progress::More)
    }

    fn send_close(&mut self) -> Result<Progress, End> {
        if self.flush()? == Sent::Blocked {
            return Ok(Progress::Idle);
        }
        let Some(cover) = &mut self.cover else {
            return Err(End::Closed);
        };
        if let Some(frame) = self.next.take() {
            self.batch.push(CONTROL, cover, &frame);
            if self.flush()? == Sent::Blocked {
                return Ok(Progress::Idle);
            }
        }
        // Best effort: if it is lost, the peer hears from our host that nobody listens any more.
        let mut message = Vec::new();
        if let Some(cover) = &mut self.cover {
            cover.wrap(CLOSE, [&[], &[]], &mut message);
        }
        match self.say(&message) {
            Sent::Blocked => Ok(Progress::Idle),
            Sent::Gone | Sent::Refused => Err(End::Closed),
        }
    }

    fn finish(&mut self, end: End) -> End {
        tracing::debug!(peer = ?self.info.peer, %end, errors = ?self.socket.errors, "UDP ended");
        self.phase = Phase::Ended;
        self.end = Some(end.clone());
        end
    }

    /// The end, if it has come without being told yet, or was told before.
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
        match &self.mailbox {
            Some((mailbox, _)) => mailbox.register(registry, token),
            None => Ok(()),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        if let Some((mailbox, _)) = &self.mailbox {
            mailbox.deregister();
        }
        self.socket.deregister(registry)
    }

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        self.ended()?;
        let sent = self.try_send(turn, source).and_then(|progress| {
            self.socket.settle(turn.registry).map_err(End::broken)?;
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
            _ => Some(self.repeat.map_or(self.limit, |(at, _)| at.min(self.limit))),
        }
    }

    fn on_timeout(&mut self, now: Instant) {
        if let Some((at, after)) = self.repeat
            && now >= at
        {
            self.is_to_say = true;
            self.repeat = Some((now + after, 2 * after));
        }
        if now >= self.limit && self.phase != Phase::Ended {
            self.end = Some(End::TimedOut);
        }
    }

    fn close(&mut self, _now: Instant) {
        if self.phase < Phase::Closing {
            self.phase = Phase::Closing;
            self.repeat = None;
        }
    }
}
