//! A TCP listener that buffers the bytes of an endless handshake without limit.

use std::io::{self, Read};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use selvedge_transport::{
    Address, End, FRAME_LEN_MAX, FrameSink, FrameSource, Info, Instant, Listener, Phase, Progress,
    Role, Transport, Turn,
};

#[derive(Debug)]
pub(super) struct BufferingListener {
    socket: TcpListener,
    local: Address,
}

impl BufferingListener {
    pub(super) fn bind(address: &Address) -> Self {
        let socket = TcpListener::bind(address.as_socket().unwrap()).unwrap();
        let local = address.at(socket.local_addr().unwrap());
        Self { socket, local }
    }
}

impl Listener for BufferingListener {
    fn local_address(&self) -> Address {
        self.local.clone()
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.socket)
    }

    fn accept(
        &mut self,
        _: &mut Turn<'_>,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> Result<Progress, io::Error> {
        let Ok((socket, _)) = self.socket.accept() else {
            return Ok(Progress::Idle);
        };
        accepted.push(Box::new(BufferingTransport {
            socket,
            info: Info {
                scheme: "tcp+plain",
                role: Role::Acceptor,
                local: None,
                remote: None,
                peer: None,
                reliable: true,
                encrypted: false,
                frame_max: FRAME_LEN_MAX,
                datagram_max: 0,
            },
            received: Vec::new(),
            end: None,
        }));
        Ok(Progress::More)
    }

    fn timeout(&self) -> Option<Instant> {
        None
    }
}

#[derive(Debug)]
struct BufferingTransport {
    socket: TcpStream,
    info: Info,
    received: Vec<u8>,
    end: Option<End>,
}

impl BufferingTransport {
    fn result(&self) -> Result<Progress, End> {
        self.end.clone().map_or(Ok(Progress::Idle), Err)
    }
}

impl Transport for BufferingTransport {
    fn info(&self) -> &Info {
        &self.info
    }

    fn phase(&self) -> Phase {
        match self.end {
            Some(_) => Phase::Ended,
            None => Phase::Handshaking,
        }
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut self.socket, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.socket)
    }

    fn send(&mut self, _: &mut Turn<'_>, _: &mut dyn FrameSource) -> Result<Progress, End> {
        self.result()
    }

    fn recv(&mut self, turn: &mut Turn<'_>, _: &mut dyn FrameSink) -> Result<Progress, End> {
        match self.socket.read(turn.buffer.space(FRAME_LEN_MAX)) {
            Ok(0) => self.end = Some(End::broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(len) => {
                self.received.extend_from_slice(&turn.buffer.take(len));
                return Ok(Progress::More);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.end = Some(End::broken(error)),
        }
        self.result()
    }

    fn timeout(&self) -> Option<Instant> {
        None
    }

    fn on_timeout(&mut self, _: Instant) {}

    fn close(&mut self, _: Instant) {
        self.end = Some(End::Closed);
    }
}
