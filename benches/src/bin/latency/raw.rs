//! Round trips on a bare socket: the minimal cost of a poll, a read and a write.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::ends::{Child, Requester, Responder};
use crate::mode::RoundTripMode;

pub(crate) const LEN: usize = 64;

/// How long it polls before it sleeps, with `spin`.
pub(crate) const SPIN: Duration = Duration::from_micros(50);

struct PolledStream {
    stream: TcpStream,
    poll: Poll,
    events: Events,
    spins: bool,
}

impl PolledStream {
    fn new(stream: std::net::TcpStream, mode: &RoundTripMode) -> Self {
        stream.set_nodelay(true).expect("TCP");
        stream.set_nonblocking(true).expect("a socket");
        let (mut stream, poll) = (TcpStream::from_std(stream), Poll::new().expect("a poll"));
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = poll.registry().register(&mut stream, Token(0), both);
        registered.expect("a poll");
        Self {
            stream,
            poll,
            events: Events::with_capacity(16),
            spins: mode.spin,
        }
    }

    fn wait(&mut self) {
        if self.spins {
            let began = Instant::now();
            while began.elapsed() < SPIN {
                let polled = self.poll.poll(&mut self.events, Some(Duration::ZERO));
                polled.expect("a poll");
                if !self.events.is_empty() {
                    return;
                }
            }
        }
        self.poll.poll(&mut self.events, None).expect("a poll");
    }

    /// Reads a message; `false` at the end of the stream. One read per event.
    fn read(&mut self, buffer: &mut [u8; LEN]) -> bool {
        let mut got = 0;
        while got < LEN {
            self.wait();
            match self.stream.read(&mut buffer[got..]) {
                Ok(0) => return false,
                Ok(read) => got += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn write(&mut self, buffer: &[u8; LEN]) {
        self.stream.write_all(buffer).expect("room for one message");
    }
}

/// Echoes on a raw socket.
pub(crate) struct RawResponder(String);

impl RawResponder {
    pub(crate) fn start(mode: &RoundTripMode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let mode = mode.clone();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a stream");
            let (mut stream, mut buffer) = (PolledStream::new(stream, &mode), [0; LEN]);
            while stream.read(&mut buffer) {
                stream.write(&buffer);
            }
        });
        Self(address)
    }
}

impl Responder for RawResponder {
    fn address(&self) -> String {
        self.0.clone()
    }
}

/// Sends requests on a raw socket.
pub(crate) struct RawRequester {
    stream: PolledStream,
    far: Child,
}

impl RawRequester {
    pub(crate) fn start(mode: &RoundTripMode) -> Self {
        let far = Child::start(&["far", &mode.to_string(), ""]);
        let stream = std::net::TcpStream::connect(&far.address).expect("it listens");
        Self {
            stream: PolledStream::new(stream, mode),
            far,
        }
    }
}

impl Requester for RawRequester {
    fn run(&mut self, count: usize) -> Vec<u64> {
        let (mut times, mut buffer) = (Vec::with_capacity(count), [7; LEN]);
        let mut before = Instant::now();
        for _ in 0..count {
            self.stream.write(&buffer);
            assert!(self.stream.read(&mut buffer), "it answers");
            let now = Instant::now();
            times.push((now - before).as_nanos() as u64);
            before = now;
        }
        times
    }

    fn others(&self) -> Vec<u32> {
        vec![self.far.pid()]
    }
}
