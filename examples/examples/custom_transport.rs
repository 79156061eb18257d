//! A custom transport over a Unix socket, checked by the conformance suite of transports.
//!
//! Run it: `cargo run -p selvedge-examples --example custom_transport`
//!
//! Each side first sends its node id (32 bytes), then frames, each prefixed with its length (u32 LE).
//! **The id is not authenticated**: this transport is for processes that trust each other, in a
//! directory that only they can access. A transport between machines must authenticate the id.

#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use selvedge_transport::Instant;
use selvedge_transport::conformance::{Abilities, CheckFailure, Harness, check_all};
use selvedge_transport::*;

/// The scheme of the addresses.
const SCHEME: &str = "unix";

/// How many bytes are taken from the session before they are written: enough for a large write, and
/// no more, so that the session chooses the next frame late.
const OUTPUT_LEN: usize = 128 * 1024;

/// How long the peer may take to send its id, or to close after this side.
const WAIT_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct UnixTransport {
    info: Info,
    phase: Phase,
    stream: UnixStream,
    /// The node that was dialed, compared with the id that the peer sends. That detects mistakes, not
    /// attacks.
    expected: Option<NodeId>,
    input: BytesMut,
    output: BytesMut,
    limit: Option<Instant>,
}

impl UnixTransport {
    fn new(now: Instant, role: Role, stream: UnixStream, own: NodeId) -> Self {
        Self {
            info: Info {
                scheme: SCHEME,
                role,
                local: None,
                remote: None,
                peer: None,
                reliable: true,
                encrypted: false,
                frame_max: FRAME_LEN_MAX,
                datagram_max: 0,
            },
            phase: Phase::Handshaking,
            stream,
            expected: None,
            input: BytesMut::new(),
            output: BytesMut::from(&own.as_bytes()[..]),
            limit: Some(now + WAIT_MAX),
        }
    }

    fn try_recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        let mut left = turn.budget;
        while left > 0 {
            let space = turn.buffer.space(FRAME_LEN_MAX);
            let len = space.len().min(left);
            match self.stream.read(&mut space[..len]) {
                Ok(0) if self.phase == Phase::Closing => return Err(End::Closed),
                Ok(0) if self.input.is_empty() => return Err(End::PeerClosed),
                Ok(0) => return Err(End::broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => {
                    left -= read;
                    // A copy, for brevity; `tcp://` slices frames out of the buffer.
                    self.input.extend_from_slice(&space[..read]);
                    self.cut(sink)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Idle);
                }
                Err(error) => return Err(End::broken(error)),
            }
        }
        Ok(Progress::More)
    }

    fn cut(&mut self, sink: &mut dyn FrameSink) -> Result<(), End> {
        if self.info.peer.is_none() {
            let Some(&key) = self.input.first_chunk::<32>() else {
                return Ok(());
            };
            self.input.advance(key.len());
            let found = NodeId::new(key);
            match self.expected {
                Some(expected) if expected != found => {
                    return Err(End::WrongPeer { expected, found });
                }
                _ => self.info.peer = Some(found),
            }
            if self.phase == Phase::Handshaking {
                self.phase = Phase::Open;
                self.limit = None;
            }
        }
        while let Some(&prefix) = self.input.first_chunk::<4>() {
            let len = u32::from_le_bytes(prefix) as usize;
            if len > FRAME_LEN_MAX {
                let what = "a frame is too long";
                return Err(End::Misbehaved { what });
            }
            if self.input.len() < 4 + len {
                break;
            }
            self.input.advance(4);
            sink.frame(self.input.split_to(len).freeze());
        }
        Ok(())
    }

    fn try_send(&mut self, turn: &Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        let capacity = SendCapacity {
            frame_max: FRAME_LEN_MAX,
            datagram_max: 0,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        let mut left = turn.budget;
        loop {
            while self.phase == Phase::Open && self.output.len() < OUTPUT_LEN.min(left) {
                let Some(frame) = source.next_frame(&capacity) else {
                    break;
                };
                self.output.put_u32_le(frame.len() as u32);
                frame.write_to(&mut self.output);
            }
            if self.output.is_empty() {
                if self.phase == Phase::Closing {
                    // If the peer has closed already, reading returns that error.
                    let _ = self.stream.shutdown(Shutdown::Write);
                }
                return Ok(Progress::Idle);
            }
            match self.stream.write(&self.output) {
                Ok(written) => {
                    self.output.advance(written);
                    left = left.saturating_sub(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Idle);
                }
                Err(error) => return Err(End::broken(error)),
            }
            if left == 0 {
                return Ok(Progress::More);
            }
        }
    }

    /// Checks the deadline before a call, and records the end of the connection after it.
    fn guard<T>(
        &mut self,
        now: Instant,
        call: impl FnOnce(&mut Self) -> Result<T, End>,
    ) -> Result<T, End> {
        let result = match (self.limit, self.phase) {
            (Some(limit), Phase::Closing) if now >= limit => Err(End::Closed),
            (Some(limit), _) if now >= limit => Err(End::TimedOut),
            _ => call(self),
        };
        if result.is_err() {
            self.phase = Phase::Ended;
        }
        result
    }
}

impl Transport for UnixTransport {
    fn info(&self) -> &Info {
        &self.info
    }

    fn phase(&self) -> Phase {
        self.phase
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut self.stream, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.stream)
    }

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        self.guard(turn.now, |this| this.try_send(turn, source))
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        self.guard(turn.now, |this| this.try_recv(turn, sink))
    }

    fn timeout(&self) -> Option<Instant> {
        self.limit
    }

    fn on_timeout(&mut self, _now: Instant) {}

    fn close(&mut self, now: Instant) {
        match self.phase {
            Phase::Handshaking => self.limit = Some(now),
            Phase::Open => self.limit = Some(now + WAIT_MAX),
            Phase::Closing | Phase::Ended => return,
        }
        self.phase = Phase::Closing;
    }
}

#[derive(Debug)]
struct UnixDialer(NodeId);

impl Dialer for UnixDialer {
    fn schemes(&self) -> &[&'static str] {
        &[SCHEME]
    }

    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        let Place::Path(path) = target.address.place() else {
            let address = target.address.clone();
            return Err(DialError::BadPlace { address });
        };
        let stream = UnixStream::connect(path).map_err(End::unreachable)?;
        let mut transport = UnixTransport::new(now, Role::Dialer, stream, self.0);
        transport.expected = target.peer;
        Ok(Box::new(transport))
    }
}

#[derive(Debug)]
struct UnixServer {
    listener: UnixListener,
    path: String,
    own: NodeId,
}

impl Listener for UnixServer {
    fn local_address(&self) -> Address {
        Address::path(SCHEME, &self.path)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.listener, token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.listener)
    }

    fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> Result<Progress, io::Error> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let transport = UnixTransport::new(turn.now, Role::Acceptor, stream, self.own);
                    accepted.push(Box::new(transport));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Idle);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn timeout(&self) -> Option<Instant> {
        None
    }
}

impl Drop for UnixServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The factory that the suite uses.
struct OverUnix;

impl Harness for OverUnix {
    fn abilities(&self) -> Abilities {
        Abilities {
            scheme: SCHEME,
            reliable: true,
            encrypted: false,
            authenticated: false,
            datagrams: false,
        }
    }

    fn listen(&self, identity: &Identity, _: Admission) -> Box<dyn Listener> {
        let own = identity.node_id();
        let path = std::env::temp_dir().join(format!("selvedge-{own:#}.sock"));
        Box::new(UnixServer {
            listener: UnixListener::bind(&path).expect("the temporary directory takes a socket"),
            path: path.to_str().expect("its path is UTF-8").to_owned(),
            own,
        })
    }

    fn dialer(&self, identity: &Identity) -> Box<dyn Dialer> {
        Box::new(UnixDialer(identity.node_id()))
    }

    fn unreachable_address(&self) -> Option<Address> {
        Some(Address::path(SCHEME, "/nonexistent/selvedge.sock"))
    }
}

fn main() -> Result<(), CheckFailure> {
    check_all(&OverUnix, |check, outcome| {
        println!("{}: {outcome}", check.name);
    })?;
    println!("every rule is kept: this is a transport");
    Ok(())
}
