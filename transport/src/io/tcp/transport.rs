//! The TCP transport.

use std::io::{self, Write};
use std::time::Duration;

use mio::event::Event;
use mio::{Interest, Registry, Token};

use super::frame_decoder::{DecodeProgress, FrameDecoder};
use super::peer_stream::PeerStream;
use super::write_buffer::{WriteBuffer, WriteProgress};
use super::{SCHEME_PLAIN, SCHEME_TLS};
use crate::{
    Address, End, FRAME_LEN_MAX, FrameSink, FrameSource, Info, Instant, Phase, Progress, Role,
    Transport, Turn,
};

/// The maximum duration of connecting and handshaking together.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// The maximum duration of a close, until the peer has closed its half.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// One connection to one peer over TCP, with or without TLS.
#[derive(Debug)]
pub struct TcpTransport {
    info: Info,
    stream: PeerStream,
    state: TcpState,
    decoder: FrameDecoder,
    write_buffer: WriteBuffer,
    /// The deadline of the handshake or the close, or the time of a failed write, which makes
    /// `recv` report it.
    deadline: Option<Instant>,
    /// The error of a failed write. Data received earlier may contain the reason.
    write_error: Option<io::Error>,
}

#[derive(Debug)]
enum TcpState {
    Connecting,
    Handshaking,
    Open,
    Closing {
        /// This half of the stream is shut down.
        fin_sent: bool,
        /// The peer's half has ended.
        fin_received: bool,
    },
    Ended(End),
}

impl TcpTransport {
    pub(super) fn new(now: Instant, role: Role, stream: PeerStream, remote: Address) -> Self {
        let scheme = match stream {
            PeerStream::Plain(..) => SCHEME_PLAIN,
            PeerStream::Tls(_) => SCHEME_TLS,
        };
        let local = stream.socket_stream().socket().local_addr().ok();
        Self {
            info: Info {
                scheme,
                role,
                local: local.map(|local| Address::socket(scheme, local)),
                remote: Some(remote),
                peer: None,
                reliable: true,
                encrypted: matches!(stream, PeerStream::Tls(_)),
                frame_max: FRAME_LEN_MAX,
                datagram_max: 0,
            },
            state: match role {
                Role::Dialer => TcpState::Connecting,
                Role::Acceptor => TcpState::Handshaking,
            },
            stream,
            decoder: FrameDecoder::default(),
            write_buffer: WriteBuffer::default(),
            deadline: Some(now + HANDSHAKE_MAX),
            write_error: None,
        }
    }

    /// Advances the handshake. Returns whether frames may be transferred.
    fn drive_handshake(&mut self) -> Result<bool, End> {
        if matches!(self.state, TcpState::Connecting) {
            if !self.is_connected()? {
                return Ok(false);
            }
            self.state = TcpState::Handshaking;
        }
        if matches!(self.state, TcpState::Handshaking) {
            let Some(peer) = self.stream.drive_handshake()? else {
                return Ok(false);
            };
            self.stream.drop_handshake();
            self.info.peer = Some(peer);
            self.state = TcpState::Open;
            self.deadline = None;
        }
        Ok(true)
    }

    fn is_connected(&mut self) -> Result<bool, End> {
        let socket = self.stream.socket_stream().socket();
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

    /// The end that results from an expired deadline.
    fn expired(&self, now: Instant) -> Option<End> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return None;
        }
        match self.state {
            TcpState::Connecting | TcpState::Handshaking => Some(End::TimedOut),
            TcpState::Closing { fin_sent: true, .. } => Some(End::Closed),
            TcpState::Closing {
                fin_sent: false, ..
            } => Some(End::TimedOut),
            // A failed write: `recv` reports it after the frames that arrived before.
            TcpState::Open | TcpState::Ended(_) => None,
        }
    }

    fn try_recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        if let Some(end) = self.expired(turn.now) {
            return Err(end);
        }
        if !self.drive_handshake()? {
            return Ok(Progress::Idle);
        }
        let received = self
            .decoder
            .receive(&mut self.stream, turn.buffer, turn.budget, sink)?;
        if received == DecodeProgress::Budget {
            return Ok(Progress::More);
        }
        if let Some(error) = self.write_error.take() {
            return Err(End::broken(error));
        }
        match (received, &mut self.state) {
            (DecodeProgress::Blocked | DecodeProgress::Budget, _) => Ok(Progress::Idle),
            // The peer has ended after this side's FIN, so the close is complete however its stream
            // ended.
            (_, TcpState::Closing { fin_sent: true, .. }) => Err(End::Closed),
            (_, TcpState::Closing { fin_received, .. }) => {
                *fin_received = true;
                Ok(Progress::Idle)
            }
            (DecodeProgress::Finished, _) => Err(End::PeerClosed),
            (DecodeProgress::CutOff, _) => Err(End::broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn try_send(
        &mut self,
        turn: &mut Turn<'_>,
        source: &mut dyn FrameSource,
    ) -> Result<Progress, End> {
        if let Some(end) = self.expired(turn.now) {
            return Err(end);
        }
        if !self.drive_handshake()? || self.write_error.is_some() {
            return Ok(Progress::Idle);
        }
        let result = match self.state {
            TcpState::Closing {
                fin_sent: false, ..
            } => self.write_remaining(turn.budget),
            TcpState::Closing { .. } => Ok(WriteProgress::Done),
            _ => self.write(turn, source),
        };
        match result {
            Ok(WriteProgress::Budget) => Ok(Progress::More),
            Ok(WriteProgress::Done)
                if matches!(
                    self.state,
                    TcpState::Closing {
                        fin_received: true,
                        ..
                    }
                ) =>
            {
                Err(End::Closed)
            }
            Ok(WriteProgress::Done | WriteProgress::Blocked) => Ok(Progress::Idle),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Progress::Idle),
            Err(error) => {
                // The peer has often sent the reason before it closed; it must still be read.
                self.write_error = Some(error);
                self.deadline = Some(turn.now);
                Ok(Progress::Idle)
            }
        }
    }

    fn write(
        &mut self,
        turn: &mut Turn<'_>,
        source: &mut dyn FrameSource,
    ) -> io::Result<WriteProgress> {
        self.stream.flush()?;
        self.write_buffer
            .send(&mut self.stream, turn.buffer, turn.budget, source)
    }

    /// Writes the frames accepted before the close, then shuts down this half of the stream.
    fn write_remaining(&mut self, budget: usize) -> io::Result<WriteProgress> {
        self.stream.flush()?;
        let mut left = budget;
        let sent = self
            .write_buffer
            .write_pending(&mut self.stream, &mut left)?;
        if sent == WriteProgress::Done {
            self.stream.finish()?;
            if let TcpState::Closing { fin_sent, .. } = &mut self.state {
                *fin_sent = true;
            }
        }
        Ok(sent)
    }

    /// Records the end. Every `Err` of a call passes through here.
    fn finish(&mut self, end: End) -> End {
        tracing::debug!(
            peer = self.info.peer.map(tracing::field::display),
            remote = self.info.remote.as_ref().map(tracing::field::display),
            %end,
            "TCP transport ended"
        );
        self.state = TcpState::Ended(end.clone());
        self.deadline = None;
        end
    }

    fn ended(&self) -> Result<(), End> {
        match &self.state {
            TcpState::Ended(end) => Err(end.clone()),
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
            TcpState::Connecting | TcpState::Handshaking => Phase::Handshaking,
            TcpState::Open => Phase::Open,
            TcpState::Closing { .. } => Phase::Closing,
            TcpState::Ended(_) => Phase::Ended,
        }
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(
            self.stream.socket_stream_mut().socket_mut(),
            token,
            interest,
        )
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(self.stream.socket_stream_mut().socket_mut())
    }

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        self.ended()?;
        self.try_send(turn, source).map_err(|end| self.finish(end))
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        self.ended()?;
        let received = self.try_recv(turn, sink);
        self.stream.socket_stream_mut().reset_events();
        received.map_err(|end| self.finish(end))
    }

    fn on_event(&mut self, event: &Event) {
        self.stream.socket_stream_mut().on_event(event);
    }

    fn timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Does nothing: the next `send` or `recv` checks the deadline.
    fn on_timeout(&mut self, _now: Instant) {}

    fn close(&mut self, now: Instant) {
        let deadline = match self.state {
            // No frame was accepted, and the peer is not authenticated.
            TcpState::Connecting | TcpState::Handshaking => now,
            TcpState::Open => now + CLOSE_MAX,
            TcpState::Closing { .. } | TcpState::Ended(_) => return,
        };
        let is_over = deadline == now;
        self.state = TcpState::Closing {
            fin_sent: is_over,
            fin_received: is_over,
        };
        self.deadline = Some(deadline);
    }
}
