//! A relay of datagrams between a dialer and a listener, which acts as a NAT and a lossy network.

use std::net::SocketAddr;

use fastrand::Rng;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};

/// Relays the datagrams of one dialer and one listener.
#[derive(Debug)]
pub(crate) struct Relay {
    /// The socket that the dialer dials.
    front: UdpSocket,
    /// The address that the listener sees.
    back: UdpSocket,
    dialer: Option<SocketAddr>,
    listener: SocketAddr,
    rng: Rng,
    /// The percentage of datagrams to drop.
    pub(crate) loss: u8,
    /// Whether all datagrams of the listener are dropped.
    pub(crate) is_one_way: bool,
    /// The next datagram of the dialer with a length in this range is dropped.
    pub(crate) lose_one: std::ops::Range<usize>,
    /// Whether datagrams of the dialer are kept for [`Relay::replay`].
    pub(crate) keeps: bool,
    kept: Vec<Vec<u8>>,
    token: Token,
}

impl Relay {
    pub(crate) fn new(listener: SocketAddr, registry: &Registry, token: Token, seed: u64) -> Self {
        let mut front = bind(listener);
        let mut back = bind(listener);
        for socket in [&mut front, &mut back] {
            let interest = Interest::READABLE;
            registry.register(socket, token, interest).unwrap();
        }
        Self {
            front,
            back,
            dialer: None,
            listener,
            rng: Rng::with_seed(seed),
            loss: 0,
            is_one_way: false,
            lose_one: 0..0,
            keeps: false,
            kept: Vec::new(),
            token,
        }
    }

    /// The address that the dialer dials.
    pub(crate) fn address(&self) -> SocketAddr {
        self.front.local_addr().unwrap()
    }

    /// The address that the listener sees.
    pub(crate) fn outer_address(&self) -> SocketAddr {
        self.back.local_addr().unwrap()
    }

    /// Rebinds the NAT: the listener sees another address from now on.
    pub(crate) fn rebind(&mut self, registry: &Registry) {
        let mut back = bind(self.listener);
        registry
            .register(&mut back, self.token, Interest::READABLE)
            .unwrap();
        self.back = back;
    }

    /// Sends `bytes` to both sides, each with the address of the other.
    pub(crate) fn inject(&self, bytes: &[u8]) {
        self.back.send_to(bytes, self.listener).unwrap();
        if let Some(dialer) = self.dialer {
            self.front.send_to(bytes, dialer).unwrap();
        }
    }

    /// Replays the kept datagrams of the dialer, from its address and from another.
    pub(crate) fn replay(&self) {
        for bytes in &self.kept {
            self.back.send_to(bytes, self.listener).unwrap();
            self.front.send_to(bytes, self.listener).unwrap();
        }
    }

    /// The kept datagrams of the dialer.
    pub(crate) fn kept(&self) -> &[Vec<u8>] {
        &self.kept
    }

    /// Replays the kept datagrams of the dialer, from its address.
    pub(crate) fn replay_in_place(&self) {
        for bytes in &self.kept {
            self.back.send_to(bytes, self.listener).unwrap();
        }
    }

    /// Relays the datagrams that have arrived.
    pub(crate) fn pump(&mut self) {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = self.front.recv_from(&mut buffer) {
            self.dialer = Some(from);
            if self.keeps && self.kept.len() < 8 {
                self.kept.push(buffer[..len].to_vec());
            }
            if self.lose_one.contains(&len) {
                self.lose_one = 0..0;
            } else if !self.is_lost() {
                // A full socket buffer drops the datagram as well.
                let _ = self.back.send_to(&buffer[..len], self.listener);
            }
        }
        loop {
            match self.back.recv_from(&mut buffer) {
                Ok((len, _)) => {
                    let is_lost = self.is_lost() || self.is_one_way;
                    if let (Some(dialer), false) = (self.dialer, is_lost) {
                        let _ = self.front.send_to(&buffer[..len], dialer);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        self.rng.u8(0..100) < self.loss
    }
}

fn bind(like: SocketAddr) -> UdpSocket {
    UdpSocket::bind(SocketAddr::new(like.ip(), 0)).unwrap()
}
