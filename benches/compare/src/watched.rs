//! A QUIC transport that publishes its counters. The other benches include this file.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mio::{Registry, Token};
use selvedge_driver::{
    DialError, DialTarget, Dialer, End, FrameSink, FrameSource, Info, Instant, Phase, Progress,
    QuicDialer, QuicStats, QuicTransport, Transport, Turn,
};

/// The counters of the last connection.
pub(crate) type Seen = Arc<Mutex<QuicStats>>;

/// The maximum age of the published counters. Copying all counters of a connection costs a microsecond.
const AGE_MAX: Duration = Duration::from_millis(10);

/// Dials QUIC and publishes the counters of its connections.
#[derive(Debug)]
pub(crate) struct WatchedDialer {
    dialer: QuicDialer,
    seen: Seen,
}

impl WatchedDialer {
    pub(crate) fn new(dialer: QuicDialer) -> (Self, Seen) {
        let seen = Seen::default();
        let dialer = Self {
            dialer,
            seen: Arc::clone(&seen),
        };
        (dialer, seen)
    }
}

/// The counters published last.
pub(crate) fn look(seen: &Seen) -> QuicStats {
    *seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dialer for WatchedDialer {
    fn schemes(&self) -> &[&'static str] {
        self.dialer.schemes()
    }

    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        Ok(Box::new(Watched {
            transport: self.dialer.connect(now, target)?,
            seen: Arc::clone(&self.seen),
            look_at: now,
        }))
    }
}

/// Publishes its counters after sends.
#[derive(Debug)]
struct Watched {
    transport: QuicTransport,
    seen: Seen,
    look_at: Instant,
}

impl Watched {
    fn show(&mut self, now: Instant) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + AGE_MAX;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = self.transport.stats();
    }
}

impl Transport for Watched {
    fn info(&self) -> &Info {
        self.transport.info()
    }

    fn phase(&self) -> Phase {
        self.transport.phase()
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.transport.register(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.transport.deregister(registry)
    }

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        let sent = self.transport.send(turn, source);
        self.show(turn.now);
        sent
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        self.transport.recv(turn, sink)
    }

    fn timeout(&self) -> Option<Instant> {
        self.transport.timeout()
    }

    fn on_timeout(&mut self, now: Instant) {
        self.transport.on_timeout(now);
    }

    fn close(&mut self, now: Instant) {
        self.transport.close(now);
    }
}
