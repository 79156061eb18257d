//! One peer by TCP.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Interest, Registry, Token};

use super::outbox::{Outbox, Sent};
use super::splitter::{Received, Splitter};
use super::wire::Wire;
use super::{SCHEME_PLAIN, SCHEME_TLS};
use crate::{
    Address, End, FRAME_LEN_MAX, FrameSink, FrameSource, Info, Phase, Progress, Role, Transport,
    Turn,
};

/// How long connecting and proving may take together.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How long a close may take, until the peer has closed too.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// One peer by TCP, inside TLS or plain.
#[derive(Debug)]
pub struct TcpTransport {
    info: Info,
    wire: Wire,
    state: State,
    splitter: Splitter,
    outbox: Outbox,
    /// When a handshake or a close has taken too long, or a failed write is to be told at last.
    limit: Option<Instant>,
    /// Nothing can be written any more. What the peer sent before may still say why.
    write_error: Option<io::Error>,
}

#[derive(Debug)]
enum State {
    Connecting,
    Proving,
    Open,
    Closing {
        /// This half of the stream is finished.
        is_said: bool,
        /// The peer's half is.
        is_heard: bool,
    },
    Ended(End),
}

impl TcpTransport {
    pub(super) fn new(now: Instant, role: Role, wire: Wire, remote: Address) -> Self {
        let scheme = match wire {
            Wire::Plain(..) => SCHEME_PLAIN,
            Wire::Tls(_) => SCHEME_TLS,
        };
        let local = wire.stream().socket().local_addr().ok();
        Self {
            info: Info {
                scheme,
                role,
                local: local.map(|local| Address::socket(scheme, local)),
                remote: Some(remote),
                peer: None,
                reliable: true,
                encrypted: matches!(wire, Wire::Tls(_)),
                frame_max: FRAME_LEN_MAX,
                datagram_max: 0,
            },
            state: match role {
                Role::Dialer => State::Connecting,
                Role::Acceptor => State::Proving,
            },
            wire,
            splitter: Splitter::default(),
            outbox: Outbox::default(),
            limit: Some(now + HANDSHAKE_MAX),
            write_error: None,
        }
    }

    /// Carries a handshake on, if there is one; whether frames may move.
    fn shake(&mut self) -> Result<bool, End> {
        if matches!(self.state, State::Connecting) {
            if !self.is_connected()? {
                return Ok(false);
            }
            self.state = State::Proving;
        }
        if matches!(self.state, State::Proving) {
            let Some(peer) = self.wire.prove()? else {
                return Ok(false);
            };
            self.wire.forget_proof();
            self.info.peer = Some(peer);
            self.state = State::Open;
            self.limit = None;
        }
        Ok(true)
    }

    fn is_connected(&mut self) -> Result<bool, End> {
        let socket = self.wire.stream().socket();
        let refused = socket.take_error().and_then(|error| match error {
            Some(error) => Err(error),
            None => Ok(()),
        });
        refused.map_err(End::unreachable)?;
        match socket.peer_addr() {
            Ok(_) => {
                let local = socket.local_addr().ok();
                self.info.local = local.map(|local| Address::socket(self.info.scheme, local));
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(End::unreachable(error)),
        }
    }

    /// Why it is over by time.
    fn overdue(&self, now: Instant) -> Option<End> {
        if self.limit.is_none_or(|limit| now < limit) {
            return None;
        }
        match self.state {
            State::Connecting | State::Proving => Some(End::TimedOut),
            State::Closing { is_said: true, .. } => Some(End::Closed),
            State::Closing { is_said: false, .. } => Some(End::TimedOut),
            // A failed write: `recv` tells it, behind the frames that came before.
            State::Open | State::Ended(_) => None,
        }
    }

    fn try_recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        if let Some(end) = self.overdue(turn.now) {
            return Err(end);
        }
        if !self.shake()? {
            return Ok(Progress::Idle);
        }
        let received = self
            .splitter
            .receive(&mut self.wire, turn.buffer, turn.budget, sink)?;
        if received == Received::Budget {
            return Ok(Progress::More);
        }
        if let Some(error) = self.write_error.take() {
            return Err(End::broken(error));
        }
        match (received, &mut self.state) {
            (Received::Blocked | Received::Budget, _) => Ok(Progress::Idle),
            // However the peer ends, it has ended after us.
            (_, State::Closing { is_said: true, .. }) => Err(End::Closed),
            (_, State::Closing { is_heard, .. }) => {
                *is_heard = true;
                Ok(Progress::Idle)
            }
            (Received::Finished, _) => Err(End::PeerClosed),
            (Received::CutOff, _) => Err(End::broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn try_send(
        &mut self,
        turn: &mut Turn<'_>,
        source: &mut dyn FrameSource,
    ) -> Result<Progress, End> {
        if let Some(end) = self.overdue(turn.now) {
            return Err(end);
        }
        if !self.shake()? || self.write_error.is_some() {
            return Ok(Progress::Idle);
        }
        let result = match self.state {
            State::Closing { is_said: false, .. } => self.write_last(turn.budget),
            State::Closing { .. } => Ok(Sent::All),
            _ => self.write(turn, source),
        };
        match result {
            Ok(Sent::Budget) => Ok(Progress::More),
            Ok(Sent::All) if matches!(self.state, State::Closing { is_heard: true, .. }) => {
                Err(End::Closed)
            }
            Ok(Sent::All | Sent::Blocked) => Ok(Progress::Idle),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Progress::Idle),
            Err(error) => {
                // Often the peer has said why before it went; that is still to be read.
                self.write_error = Some(error);
                self.limit = Some(turn.now);
                Ok(Progress::Idle)
            }
        }
    }

    fn write(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> io::Result<Sent> {
        self.wire.flush()?;
        self.outbox
            .send(&mut self.wire, turn.buffer, turn.budget, source)
    }

    /// Writes what was taken before the close, then finishes this half of the stream.
    fn write_last(&mut self, budget: usize) -> io::Result<Sent> {
        self.wire.flush()?;
        let mut left = budget;
        let sent = self.outbox.write_held(&mut self.wire, &mut left)?;
        if sent == Sent::All {
            self.wire.finish()?;
            if let State::Closing { is_said, .. } = &mut self.state {
                *is_said = true;
            }
        }
        Ok(sent)
    }

    /// Ends it. Every `Err` of a call goes through here.
    fn end(&mut self, end: End) -> End {
        tracing::debug!(peer = ?self.info.peer, %end, "TCP ended");
        self.state = State::Ended(end.clone());
        self.limit = None;
        end
    }

    fn ended(&self) -> Result<(), End> {
        match &self.state {
            State::Ended(end) => Err(end.clone()),
            _ => Ok(()),
        }
    }
}

impl Transport for TcpTransport {
    fn info(&self) -> &Info {
        &self.info
    }

    fn phase(&self) -> Phase {
        match self.state {
            State::Connecting | State::Proving => Phase::Handshaking,
            State::Open => Phase::Open,
            State::Closing { .. } => Phase::Closing,
            State::Ended(_) => Phase::Ended,
        }
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(self.wire.stream_mut().socket_mut(), token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(self.wire.stream_mut().socket_mut())
    }

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        self.ended()?;
        self.try_send(turn, source).map_err(|end| self.end(end))
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        self.ended()?;
        let received = self.try_recv(turn, sink);
        self.wire.stream_mut().look_again();
        received.map_err(|end| self.end(end))
    }

    fn on_event(&mut self, event: &Event) {
        self.wire.stream_mut().on_event(event);
    }

    fn timeout(&self) -> Option<Instant> {
        self.limit
    }

    /// Nothing: the calls that follow see that a limit has passed.
    fn on_timeout(&mut self, _now: Instant) {}

    fn close(&mut self, now: Instant) {
        let limit = match self.state {
            // Nothing was taken, and the peer is nobody yet.
            State::Connecting | State::Proving => now,
            State::Open => now + CLOSE_MAX,
            State::Closing { .. } | State::Ended(_) => return,
        };
        let is_over = limit == now;
        self.state = State::Closing {
            is_said: is_over,
            is_heard: is_over,
        };
        self.limit = Some(limit);
    }
}
