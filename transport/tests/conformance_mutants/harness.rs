//! The harness of faulty transports, with the faults of listeners and dialers.

use std::io;
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::{Registry, Token};
use selvedge_transport::conformance::{Abilities, Harness};
use selvedge_transport::{
    Address, Admission, DialError, DialTarget, Dialer, Identity, Instant, Listener, Progress,
    TcpDialer, TcpListener, Transport, Turn, UdpDialer, UdpListener,
};

use super::Fault;
use super::buffering_listener::BufferingListener;
use super::transport::FaultyTransport;

/// The transport to which a fault is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    Tcp,
    /// Carries datagrams.
    Udp,
}

/// A harness whose transports have a fault on both sides.
pub(super) struct Faulty {
    pub(super) base: Base,
    pub(super) fault: Fault,
}

impl Harness for Faulty {
    fn abilities(&self) -> Abilities {
        let is_udp = self.base == Base::Udp;
        Abilities {
            scheme: if is_udp { "udp+plain" } else { "tcp+plain" },
            reliable: !is_udp,
            encrypted: false,
            authenticated: true,
            datagrams: is_udp,
        }
    }

    fn listen(&self, identity: &Identity, admission: Admission) -> Box<dyn Listener> {
        let address = format!("{}://127.0.0.1:0", self.abilities().scheme);
        let address = address.parse().unwrap();
        if self.fault == Fault::BuffersInvalidHandshakes {
            return Box::new(BufferingListener::bind(&address));
        }
        let identity = identity.clone();
        let admission = match self.fault {
            Fault::AdmitsAnyone | Fault::AdmitsLate => Admission::anyone(),
            _ => admission,
        };
        let inner: Box<dyn Listener> = match self.base {
            Base::Tcp => Box::new(TcpListener::bind(&address, identity, admission).unwrap()),
            Base::Udp => Box::new(UdpListener::bind(&address, identity, admission).unwrap()),
        };
        Box::new(FaultyListener {
            inner,
            fault: self.fault,
            has_failed: Arc::default(),
        })
    }

    fn dialer(&self, identity: &Identity) -> Box<dyn Dialer> {
        let inner: Box<dyn Dialer> = match self.base {
            Base::Tcp => Box::new(TcpDialer::new(identity.clone())),
            Base::Udp => Box::new(UdpDialer::new(identity.clone())),
        };
        Box::new(FaultyDialer {
            inner,
            fault: self.fault,
        })
    }

    fn raw_connection(&self, address: &Address) -> Option<Box<dyn io::Write>> {
        let stream = StdStream::connect(address.as_socket()?).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(Box::new(stream))
    }

    fn unreachable_address(&self) -> Option<Address> {
        let free = StdListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
        Some(Address::socket(self.abilities().scheme, free))
    }
}

#[derive(Debug)]
struct FaultyListener {
    inner: Box<dyn Listener>,
    fault: Fault,
    /// Set by a transport whose handshake failed.
    has_failed: Arc<AtomicBool>,
}

impl Listener for FaultyListener {
    fn local_address(&self) -> Address {
        self.inner.local_address()
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.inner.register(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.inner.deregister(registry)
    }

    fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> Result<Progress, io::Error> {
        if self.fault == Fault::FailedHandshakeEndsListener
            && self.has_failed.load(Ordering::Relaxed)
        {
            return Err(io::Error::other("a handshake has failed"));
        }
        let budget = turn.budget;
        if self.fault == Fault::AcceptsOnePerEvent {
            turn.budget = 1;
        }
        let mut connections = Vec::new();
        let progress = self.inner.accept(turn, &mut connections)?;
        turn.budget = budget;
        accepted.extend(connections.into_iter().map(|inner| {
            let has_failed = Arc::clone(&self.has_failed);
            Box::new(FaultyTransport::new(inner, self.fault, has_failed)) as Box<dyn Transport>
        }));
        match self.fault {
            Fault::AcceptsOnePerEvent => Ok(Progress::Idle),
            _ => Ok(progress),
        }
    }

    fn timeout(&self) -> Option<Instant> {
        self.inner.timeout()
    }
}

#[derive(Debug)]
struct FaultyDialer {
    inner: Box<dyn Dialer>,
    fault: Fault,
}

impl Dialer for FaultyDialer {
    fn schemes(&self) -> &[&'static str] {
        self.inner.schemes()
    }

    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        let mut target = target.clone();
        if self.fault == Fault::AcceptsUnexpectedPeer {
            target.peer = None;
        }
        let inner = self.inner.dial(now, &target)?;
        let dialed = FaultyTransport::new(inner, self.fault, Arc::default());
        Ok(Box::new(dialed))
    }
}
