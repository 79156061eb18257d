//! One peer by TCP.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Interest, Registry, Token};

use super::frame_decoder::{DecodeProgress, FrameDecoder};
use super::peer_stream::PeerStream;
use super::write_buffer::{WriteBuffer, WriteProgress};
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
    stream: PeerStream,
    state: TcpState,
    decoder: FrameDecoder,
    write_buffer: WriteBuffer,
    /// When a handshake or a close has taken too long, or a failed write is to be told at last.
    deadline: Option<Instant>,
    /// Nothing can be written any more. What the peer sent before may still say why.
    write_error: Option<io::Error>,
}

#[derive(Debug)]
enum TcpState {
    Connecting,
    Handshaking,
    Open,
    Closing {
        /// This half of the stream is finished.
        fin_sent: bool,
        /// The peer's half is.
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

    /// Carries a handshake on, if there is one; whether frames may move.
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

    /// Why it is over by time.
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
            // A failed write: `recv` tells it, behind the frames that came before.
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
            // However the peer ends, it has ended after us.
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
                // Often the peer has said why before it went; that is still to be read.
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

    /// Writes what was taken before the close, then finishes this half of the stream.
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

    /// Ends it. Every `Err` of a call goes through here.
    fn finish(&mut self, end: End) -> End {
        tracing::debug!(peer = ?self.info.peer, %end, "TCP ended");
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

    /// Nothing: the calls that follow see that a limit has passed.
    fn on_timeout(&mut self, _now: Instant) {}

    fn close(&mut self, now: Instant) {
        let deadline = match self.state {
            // Nothing was taken, and the peer is nobody yet.
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
