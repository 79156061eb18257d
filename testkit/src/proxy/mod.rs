//! A relay of real sockets with configurable faults.

mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use selvedge_transport::Instant;

use crate::link::Conditions;

/// A relay between a dialer and a listener on real sockets: dial [`address`](Self::address) instead.
///
/// A UDP proxy treats datagrams as a [`Link`](crate::Link) of its [`Conditions`] does. A TCP proxy keeps order
/// and loses nothing: of the conditions, latency, rate and `cut` (nothing passes, without notification)
/// apply. The proxy and its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<ProxyShared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct ProxyShared {
    orders: Mutex<Vec<ProxyCommand>>,
    waker: Waker,
}

impl ProxyShared {
    fn lock(&self) -> MutexGuard<'_, Vec<ProxyCommand>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<ProxyCommand> {
        std::mem::take(&mut *self.lock())
    }
}

#[derive(Debug, Clone, Copy)]
enum ProxyCommand {
    Set(Conditions),
    Kill,
    KillAfter { from: usize, bytes: u64 },
    Stop,
}

/// One turn of the loop of either kind.
trait Relay: Send + 'static {
    /// Moves data as far as possible. Returns the latest time of the next turn.
    fn turn(&mut self, poll: &Poll, now: Instant) -> Option<Instant>;

    fn set(&mut self, conditions: Conditions);

    fn kill(&mut self);

    fn kill_after(&mut self, from: usize, bytes: u64);
}

const WAKER: Token = Token(0);
const FRONT: Token = Token(1);

/// The longest sleep of a relay.
const NAP: Duration = Duration::from_secs(1);

impl Proxy {
    /// Forwards datagrams to `target`, and its answers back.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn udp(target: SocketAddr, conditions: Conditions, seed: u64) -> io::Result<Self> {
        let poll = Poll::new()?;
        let (relay, address) = udp::UdpProxy::new(&poll, target, conditions, seed)?;
        Self::start(poll, relay, address)
    }

    /// Forwards connections to `target`.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn tcp(target: SocketAddr, conditions: Conditions) -> io::Result<Self> {
        let poll = Poll::new()?;
        let (relay, address) = tcp::TcpRelay::new(&poll, target, conditions)?;
        Self::start(poll, relay, address)
    }

    fn start(mut poll: Poll, mut relay: impl Relay, address: SocketAddr) -> io::Result<Self> {
        let shared = Arc::new(ProxyShared {
            orders: Mutex::default(),
            waker: Waker::new(poll.registry(), WAKER)?,
        });
        let orders = Arc::clone(&shared);
        let run = move || {
            let mut events = Events::with_capacity(64);
            loop {
                for order in orders.take() {
                    match order {
                        ProxyCommand::Set(conditions) => relay.set(conditions),
                        ProxyCommand::Kill => relay.kill(),
                        ProxyCommand::KillAfter { from, bytes } => relay.kill_after(from, bytes),
                        ProxyCommand::Stop => return,
                    }
                }
                let now = Instant::now();
                let next = relay.turn(&poll, now);
                let nap = next.map_or(NAP, |at| at.saturating_duration_since(now).min(NAP));
                // An interrupted poll is treated as an early return.
                drop(poll.poll(&mut events, Some(nap)));
            }
        };
        Ok(Self {
            address,
            shared,
            thread: Some(std::thread::spawn(run)),
        })
    }

    /// The address to dial.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the conditions.
    pub fn set(&self, conditions: Conditions) {
        self.order(ProxyCommand::Set(conditions));
    }

    /// Resets every TCP connection. A UDP proxy discards its ports and sends from others, like a restarted NAT.
    pub fn kill(&self) {
        self.order(ProxyCommand::Kill);
    }

    /// Resets the next TCP connection after so many forwarded bytes from one side: 0 is the client, 1 the target.
    /// A UDP proxy ignores it.
    pub fn kill_after(&self, from: usize, bytes: u64) {
        self.order(ProxyCommand::KillAfter { from, bytes });
    }

    fn order(&self, order: ProxyCommand) {
        self.shared.lock().push(order);
        // A relay that cannot be woken runs within a second.
        drop(self.shared.waker.wake());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.order(ProxyCommand::Stop);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
