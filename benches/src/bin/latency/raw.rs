//! Round trips on a bare socket: the least that a poll, a read and a write cost.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::ends::{Child, Far, Near};
use crate::mode::Mode;

pub(crate) const LEN: usize = 64;

/// How long it polls before it sleeps, if it spins.
pub(crate) const SPIN: Duration = Duration::from_micros(50);

struct Stream {
    stream: TcpStream,
    poll: Poll,
    events: Events,
    spins: bool,
}

impl Stream {
    fn new(stream: std::net::TcpStream, mode: &Mode) -> Self {
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

    /// Reads a message; false at the end of the stream. One read for each event.
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

/// Answers.
pub(crate) struct Echo(String);

impl Echo {
    pub(crate) fn start(mode: &Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let mode = mode.clone();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a stream");
            let (mut stream, mut buffer) = (Stream::new(stream, &mode), [0; LEN]);
            while stream.read(&mut buffer) {
                stream.write(&buffer);
            }
        });
        Self(address)
    }
}

impl Far for Echo {
    fn address(&self) -> String {
        self.0.clone()
    }
}

/// Asks.
pub(crate) struct Asking {
    stream: Stream,
    far: Child,
}

impl Asking {
    pub(crate) fn start(mode: &Mode) -> Self {
        let far = Child::start(&["far", &mode.to_string(), ""]);
        let stream = std::net::TcpStream::connect(&far.address).expect("it listens");
        Self {
            stream: Stream::new(stream, mode),
            far,
        }
    }
}

impl Near for Asking {
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
