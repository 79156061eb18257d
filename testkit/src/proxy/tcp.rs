//! The proxy of connections.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::Duration;

use bytes::{Buf, Bytes};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Poll, Token};
use selvedge_transport::Instant;

use super::{FRONT, Relay};
use crate::link::Conditions;

/// The bytes buffered in one direction before backpressure applies.
const HELD_MAX: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct TcpRelay {
    front: TcpListener,
    target: SocketAddr,
    conditions: Conditions,
    connections: Vec<ProxiedConnection>,
    /// The bytes that the next connection may forward from each side.
    allowed: [u64; 2],
    next_token: usize,
}

#[derive(Debug)]
struct ProxiedConnection {
    /// The client and the target.
    ends: [TcpStream; 2],
    /// From the client, and from the target.
    pipes: [Pipe; 2],
}

#[derive(Debug, Default)]
struct Pipe {
    under_way: VecDeque<(Instant, Bytes)>,
    held: usize,
    busy_until: Option<Instant>,
    /// The sender has closed its direction.
    is_ended: bool,
    is_closed: bool,
    /// The bytes that may still pass.
    allowed: u64,
}

impl TcpRelay {
    pub(super) fn new(
        poll: &Poll,
        target: SocketAddr,
        conditions: Conditions,
    ) -> io::Result<(Self, SocketAddr)> {
        let mut front = TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        poll.registry()
            .register(&mut front, FRONT, Interest::READABLE)?;
        let address = front.local_addr()?;
        let relay = Self {
            front,
            target,
            conditions,
            connections: Vec::new(),
            allowed: [u64::MAX; 2],
            next_token: FRONT.0 + 1,
        };
        Ok((relay, address))
    }

    fn connect(&mut self, poll: &Poll, client: TcpStream) -> io::Result<()> {
        let mut ends = [client, TcpStream::connect(self.target)?];
        for end in &mut ends {
            let token = Token(self.next_token);
            self.next_token += 1;
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(end, token, both)?;
        }
        let pipes = std::mem::replace(&mut self.allowed, [u64::MAX; 2]).map(Pipe::new);
        self.connections.push(ProxiedConnection { ends, pipes });
        Ok(())
    }
}

impl Relay for TcpRelay {
    fn turn(&mut self, poll: &Poll, now: Instant) -> Option<Instant> {
        while let Ok((client, _)) = self.front.accept() {
            // An unreachable target appears as a connection that ends.
            drop(self.connect(poll, client));
        }
        let conditions = self.conditions;
        self.connections
            .retain_mut(|connection| connection.turn(now, &conditions).is_ok_and(|lives| lives));
        if conditions.cut {
            return None;
        }
        let pipes = self.connections.iter().flat_map(|it| &it.pipes);
        let arrivals = pipes.filter_map(|pipe| pipe.under_way.front());
        // Buffered data waits for room, which an event reports.
        arrivals.map(|(at, _)| *at).filter(|at| *at > now).min()
    }

    fn set(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    fn kill(&mut self) {
        for connection in self.connections.drain(..) {
            connection.reset();
        }
    }

    fn kill_after(&mut self, from: usize, bytes: u64) {
        self.allowed[from] = bytes;
    }
}

impl ProxiedConnection {
    /// Closes with a reset, so that the end is not orderly.
    fn reset(&self) {
        for end in &self.ends {
            drop(socket2::SockRef::from(end).set_linger(Some(Duration::ZERO)));
        }
    }

    /// Returns whether the connection continues.
    fn turn(&mut self, now: Instant, conditions: &Conditions) -> io::Result<bool> {
        if conditions.cut {
            return Ok(true);
        }
        for from in 0..2 {
            let [client, target] = &mut self.ends;
            let (reader, writer) = if from == 0 {
                (client, target)
            } else {
                (target, client)
            };
            self.pipes[from].carry(now, conditions, reader, writer)?;
            if self.pipes[from].allowed == 0 {
                self.reset();
                return Ok(false);
            }
        }
        Ok(!self.pipes.iter().all(|pipe| pipe.is_closed))
    }
}

/// Whether an operation would block, or the connection is broken.
fn is_waiting(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected
    )
}

impl Pipe {
    fn new(allowed: u64) -> Self {
        Self {
            allowed,
            ..Self::default()
        }
    }

    fn carry(
        &mut self,
        now: Instant,
        conditions: &Conditions,
        reader: &mut TcpStream,
        writer: &mut TcpStream,
    ) -> io::Result<()> {
        loop {
            self.read(now, conditions, reader)?;
            let held = self.held;
            self.write(now, writer)?;
            // Data that was not read for lack of room causes no further event.
            if held < HELD_MAX || self.held == held {
                return Ok(());
            }
        }
    }

    fn read(
        &mut self,
        now: Instant,
        conditions: &Conditions,
        reader: &mut TcpStream,
    ) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        while self.held < HELD_MAX && !self.is_ended {
            let len = match reader.read(&mut buffer) {
                Ok(len) => len,
                Err(error) if is_waiting(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            self.is_ended = len == 0;
            let mut leaves = self.busy_until.map_or(now, |until| until.max(now));
            if let Some(rate) = conditions.rate {
                leaves += Duration::from_secs_f64(len as f64 / rate as f64);
                self.busy_until = Some(leaves);
            }
            self.held += len;
            let bytes = Bytes::copy_from_slice(&buffer[..len]);
            self.under_way
                .push_back((leaves + conditions.latency, bytes));
        }
        Ok(())
    }

    fn write(&mut self, now: Instant, writer: &mut TcpStream) -> io::Result<()> {
        while let Some((at, bytes)) = self.under_way.front_mut()
            && *at <= now
        {
            if bytes.is_empty() {
                self.is_closed = true;
                drop(writer.shutdown(Shutdown::Write));
                self.under_way.pop_front();
                continue;
            }
            let allowed = usize::try_from(self.allowed).unwrap_or(usize::MAX);
            if allowed == 0 {
                return Ok(());
            }
            match writer.write(&bytes[..bytes.len().min(allowed)]) {
                Ok(len) => {
                    self.allowed -= len as u64;
                    bytes.advance(len);
                    self.held -= len;
                    if bytes.is_empty() {
                        self.under_way.pop_front();
                    }
                }
                Err(error) if is_waiting(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
