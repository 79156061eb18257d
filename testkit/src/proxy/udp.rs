//! The proxy of datagrams.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use fastrand::Rng;
use mio::net::UdpSocket;
use mio::{Interest, Poll, Token};
use selvedge_transport::Instant;

use super::{FRONT, Relay};
use crate::link::{Conditions, Link};

/// Larger than any datagram.
const BUFFER_LEN: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct UdpProxy {
    front: UdpSocket,
    target: SocketAddr,
    conditions: Conditions,
    /// By the address of the client.
    clients: HashMap<SocketAddr, ProxiedClient>,
    next_token: usize,
    rng: Rng,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct ProxiedClient {
    /// The socket that represents the client at the target.
    back: UdpSocket,
    there: Link,
    here: Link,
}

impl UdpProxy {
    pub(super) fn new(
        poll: &Poll,
        target: SocketAddr,
        conditions: Conditions,
        seed: u64,
    ) -> io::Result<(Self, SocketAddr)> {
        let mut front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        poll.registry()
            .register(&mut front, FRONT, Interest::READABLE)?;
        let address = front.local_addr()?;
        let relay = Self {
            front,
            target,
            conditions,
            clients: HashMap::new(),
            next_token: FRONT.0 + 1,
            rng: Rng::with_seed(seed),
            buffer: vec![0; BUFFER_LEN],
        };
        Ok((relay, address))
    }

    fn meet(&mut self, poll: &Poll, from: SocketAddr) -> io::Result<()> {
        if self.clients.contains_key(&from) {
            return Ok(());
        }
        let mut back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        back.connect(self.target)?;
        let token = Token(self.next_token);
        self.next_token += 1;
        poll.registry()
            .register(&mut back, token, Interest::READABLE)?;
        let client = ProxiedClient {
            back,
            there: Link::new(self.conditions),
            here: Link::new(self.conditions),
        };
        self.clients.insert(from, client);
        Ok(())
    }
}

impl Relay for UdpProxy {
    fn turn(&mut self, poll: &Poll, now: Instant) -> Option<Instant> {
        while let Ok((len, from)) = self.front.recv_from(&mut self.buffer) {
            if self.meet(poll, from).is_ok()
                && let Some(client) = self.clients.get_mut(&from)
            {
                let datagram = self.buffer[..len].to_vec();
                client.there.send(now, &mut self.rng, datagram.into());
            }
        }
        let mut next = None;
        for (address, client) in &mut self.clients {
            // A refusal by the target's host causes one read error.
            for _ in 0..1024 {
                match client.back.recv(&mut self.buffer) {
                    Ok(len) => {
                        let datagram = self.buffer[..len].to_vec();
                        client.here.send(now, &mut self.rng, datagram.into());
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
            // A full socket drops datagrams, as any network may.
            while let Some(packet) = client.there.receive(now) {
                drop(client.back.send(&packet.bytes));
            }
            while let Some(packet) = client.here.receive(now) {
                drop(self.front.send_to(&packet.bytes, *address));
            }
            let arrivals = [client.there.next_arrival(), client.here.next_arrival()];
            next = arrivals.into_iter().flatten().chain(next).min();
        }
        next
    }

    fn set(&mut self, conditions: Conditions) {
        self.conditions = conditions;
        for client in self.clients.values_mut() {
            client.there.set(conditions);
            client.here.set(conditions);
        }
    }

    fn kill(&mut self) {
        self.clients.clear();
    }

    fn kill_after(&mut self, _from: usize, _bytes: u64) {}
}
