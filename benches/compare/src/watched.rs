//! A QUIC transport whose losses can be seen from outside.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::{Registry, Token};
use selvedge_driver::{
    DialError, Dialer, End, FrameSink, FrameSource, Info, Pace, Phase, QuicDialer, QuicTransport,
    Target, Transport, Turn,
};

use crate::meter::{Losses, Meter};

/// How old what is seen may be. Copying all counters of a connection costs a microsecond.
const AGE_MAX: Duration = Duration::from_millis(10);

/// Dials QUIC, and has the losses told with each mark.
#[derive(Debug)]
pub(crate) struct WatchedDialer {
    dialer: QuicDialer,
    seen: Arc<Mutex<Losses>>,
}

impl WatchedDialer {
    pub(crate) fn new(dialer: QuicDialer, meter: &Meter) -> Self {
        let seen = Arc::<Mutex<Losses>>::default();
        let looked = Arc::clone(&seen);
        meter.watch(move || *looked.lock().unwrap_or_else(PoisonError::into_inner));
        Self { dialer, seen }
    }
}

impl Dialer for WatchedDialer {
    fn schemes(&self) -> &[&'static str] {
        self.dialer.schemes()
    }

    fn dial(&self, now: Instant, target: &Target) -> Result<Box<dyn Transport>, DialError> {
        Ok(Box::new(Watched {
            transport: self.dialer.connect(now, target)?,
            seen: Arc::clone(&self.seen),
            look_at: now,
        }))
    }
}

/// It shows its counters after sends.
#[derive(Debug)]
struct Watched {
    transport: QuicTransport,
    seen: Arc<Mutex<Losses>>,
    look_at: Instant,
}

impl Watched {
    fn show(&mut self, now: Instant) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + AGE_MAX;
        let stats = self.transport.stats();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Losses {
            packets_lost: stats.packets_lost,
            send_errors: stats.sends_oversized + stats.socket_errors,
            mtu: stats.mtu,
        };
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

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Pace, End> {
        let sent = self.transport.send(turn, source);
        self.show(turn.now);
        sent
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Pace, End> {
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
