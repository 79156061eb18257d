//! A relay of real sockets that behaves as badly as it is told.

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

/// Stands between a dialer and a listener on real sockets: dial [`address`](Self::address) instead.
///
/// A UDP proxy treats datagrams as a [`Link`](crate::Link) of its [`Conditions`] does. A TCP proxy
/// keeps order and loses nothing: of the conditions, latency, rate and `cut` (nothing passes, and
/// nobody is told) matter. It ends when it is dropped, and its connections with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    orders: Mutex<Vec<Order>>,
    waker: Waker,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Order>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Order> {
        std::mem::take(&mut *self.lock())
    }
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Set(Conditions),
    Kill,
    KillAfter { from: usize, bytes: u64 },
    Stop,
}

/// What the two kinds do in one turn of their loop.
trait Relay: Send + 'static {
    /// Moves what can be moved, and says when to come back at the latest.
    fn turn(&mut self, poll: &Poll, now: Instant) -> Option<Instant>;

    fn set(&mut self, conditions: Conditions);

    fn kill(&mut self);

    fn kill_after(&mut self, from: usize, bytes: u64);
}

const WAKER: Token = Token(0);
const FRONT: Token = Token(1);

/// How long a relay sleeps at the most.
const NAP: Duration = Duration::from_secs(1);

impl Proxy {
    /// Passes datagrams on to `target`, and its answers back.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn udp(target: SocketAddr, conditions: Conditions, seed: u64) -> io::Result<Self> {
        let poll = Poll::new()?;
        let (relay, address) = udp::UdpRelay::new(&poll, target, conditions, seed)?;
        Self::start(poll, relay, address)
    }

    /// Passes connections on to `target`.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn tcp(target: SocketAddr, conditions: Conditions) -> io::Result<Self> {
        let poll = Poll::new()?;
        let (relay, address) = tcp::TcpRelay::new(&poll, target, conditions)?;
        Self::start(poll, relay, address)
    }

    fn start(mut poll: Poll, mut relay: impl Relay, address: SocketAddr) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            orders: Mutex::default(),
            waker: Waker::new(poll.registry(), WAKER)?,
        });
        let orders = Arc::clone(&shared);
        let run = move || {
            let mut events = Events::with_capacity(64);
            loop {
                for order in orders.take() {
                    match order {
                        Order::Set(conditions) => relay.set(conditions),
                        Order::Kill => relay.kill(),
                        Order::KillAfter { from, bytes } => relay.kill_after(from, bytes),
                        Order::Stop => return,
                    }
                }
                let now = Instant::now();
                let next = relay.turn(&poll, now);
                let nap = next.map_or(NAP, |at| at.saturating_duration_since(now).min(NAP));
                // An interrupted poll is an early one.
                drop(poll.poll(&mut events, Some(nap)));
            }
        };
        Ok(Self {
            address,
            shared,
            thread: Some(std::thread::spawn(run)),
        })
    }

    /// What to dial.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on other conditions hold.
    pub fn set(&self, conditions: Conditions) {
        self.order(Order::Set(conditions));
    }

    /// Resets every TCP connection. A UDP proxy forgets its ports: as a NAT that has restarted, it
    /// sends from others then.
    pub fn kill(&self) {
        self.order(Order::Kill);
    }

    /// Resets the next TCP connection when so many bytes have been passed on from one side: 0 is the
    /// client, 1 the target. Means nothing to a UDP proxy.
    pub fn kill_after(&self, from: usize, bytes: u64) {
        self.order(Order::KillAfter { from, bytes });
    }

    fn order(&self, order: Order) {
        self.shared.lock().push(order);
        // A relay that cannot be woken comes by within a second.
        drop(self.shared.waker.wake());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
