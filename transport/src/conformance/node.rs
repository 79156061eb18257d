//! One transport, driven by the letter of the contract, and watched.

use std::io;
use std::time::Instant;

use mio::{Registry, Token};

use super::load::{Incoming, Outgoing};
use crate::{End, FrameSink, FrameSource, Info, Pace, Phase, ReadBuffer, Transport, Turn};

/// A transport and the session above it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) transport: Box<dyn Transport>,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    pub(super) end: Option<End>,
    /// Does not receive while it is set.
    pub(super) is_deaf: bool,
    /// Which poll it is on.
    pub(super) poll: usize,
    pub(super) token: Token,
    /// The most frame bytes that one call received, and that one call took.
    pub(super) received_max: usize,
    pub(super) taken_max: usize,
    /// How often a call said that there may be more.
    pub(super) more_count: u64,
    owes: Owes,
    phase: Phase,
    offered: usize,
}

/// Which calls the contract asks for now.
#[derive(Debug, Clone, Copy)]
struct Owes {
    recv: bool,
    send: bool,
}

impl Owes {
    const BOTH: Self = Self {
        recv: true,
        send: true,
    };
}

impl Node {
    pub(super) fn new(transport: Box<dyn Transport>, token: Token, is_reliable: bool) -> Self {
        Self {
            phase: transport.phase(),
            transport,
            outgoing: Outgoing::default(),
            incoming: Incoming::new(is_reliable),
            end: None,
            is_deaf: false,
            poll: 0,
            token,
            received_max: 0,
            taken_max: 0,
            more_count: 0,
            owes: Owes::BOTH,
            offered: 0,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// It was registered, or has an event.
    pub(super) const fn wake(&mut self) {
        self.owes = Owes::BOTH;
    }

    /// Whether it is to be called without waiting for an event.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let has_new = self.outgoing.waiting() > self.offered;
        let is_time = self.transport.timeout().is_some_and(|at| at <= now);
        self.end.is_none()
            && (self.owes.send || has_new || is_time || self.owes.recv && !self.is_deaf)
    }

    pub(super) fn close(&mut self) {
        self.transport.close(Instant::now());
        self.watch_phase();
        // As a driver does: it wants the farewell on the wire.
        self.owes.send = true;
    }

    pub(super) fn register(&mut self, registry: &Registry) {
        let registered = self.transport.register(registry, self.token);
        assert!(registered.is_ok(), "register failed: {registered:?}");
        self.wake();
    }

    pub(super) fn deregister(&mut self, registry: &Registry) {
        let deregistered = self.transport.deregister(registry);
        assert!(deregistered.is_ok(), "deregister failed: {deregistered:?}");
    }

    /// It has ended: drops the transport, as the contract asks for, and with it its socket.
    pub(super) fn bury(&mut self, registry: &Registry) {
        self.deregister(registry);
        self.transport = Box::new(Gone(self.transport.info().clone()));
    }

    /// One turn of a worker's loop.
    pub(super) fn drive(&mut self, buffer: &mut ReadBuffer, budget: usize, registry: &Registry) {
        if self.end.is_some() {
            return;
        }
        let now = Instant::now();
        if self.transport.timeout().is_some_and(|at| at <= now) {
            self.transport.on_timeout(now);
            self.wake();
        }
        let mut turn = Turn {
            now,
            buffer,
            budget,
            registry,
        };
        if self.owes.recv && !self.is_deaf {
            self.recv(&mut turn);
        }
        let has_new = self.outgoing.waiting() > self.offered;
        if (self.owes.send || has_new) && self.end.is_none() {
            self.send(&mut turn);
        }
    }

    fn recv(&mut self, turn: &mut Turn<'_>) {
        let (count, len) = (self.incoming.count, self.incoming.len);
        let result = self.transport.recv(turn, &mut self.incoming);
        self.received_max = self.received_max.max(self.incoming.len - len);
        self.owes.recv = self.settle(result);
        // What was received may be to be answered: acknowledgements, credit.
        self.owes.send = true;
        let is_moving = self.incoming.count > count;
        assert!(
            !is_moving || self.transport.info().peer.is_some(),
            "a frame was received before the peer was known"
        );
        assert!(
            !is_moving || self.phase != Phase::Handshaking,
            "a frame was received while the phase was Handshaking"
        );
        if let Some(fault) = &self.incoming.fault {
            panic!("{fault}");
        }
    }

    fn send(&mut self, turn: &mut Turn<'_>) {
        let (asked, len) = (self.outgoing.asked, self.outgoing.taken_len);
        let before = self.phase;
        let result = self.transport.send(turn, &mut self.outgoing);
        self.taken_max = self.taken_max.max(self.outgoing.taken_len - len);
        self.owes.send = self.settle(result);
        self.offered = self.outgoing.waiting();
        if self.outgoing.asked > asked {
            assert!(
                self.phase != Phase::Handshaking,
                "a frame was asked for while the phase was Handshaking"
            );
            assert!(
                before < Phase::Closing,
                "a frame was asked for though the phase was {before:?}"
            );
        }
        if let Some(fault) = &self.outgoing.fault {
            panic!("{fault}");
        }
    }

    /// Looks at what a call returned; says whether it is to be repeated.
    fn settle(&mut self, result: Result<Pace, End>) -> bool {
        match result {
            Ok(pace) => {
                self.watch_phase();
                assert!(
                    self.phase != Phase::Ended,
                    "the phase is Ended though no call said why"
                );
                self.more_count += u64::from(pace == Pace::More);
                pace == Pace::More
            }
            Err(end) => {
                self.watch_phase();
                assert!(
                    self.phase == Phase::Ended,
                    "the phase is {:?} after {end:?}",
                    self.phase
                );
                self.end = Some(end);
                false
            }
        }
    }

    fn watch_phase(&mut self) {
        let phase = self.transport.phase();
        assert!(
            phase >= self.phase,
            "the phase went back from {:?} to {phase:?}",
            self.phase
        );
        assert!(
            phase != Phase::Open || self.transport.info().peer.is_some(),
            "the phase is Open, but the peer is not known"
        );
        self.phase = phase;
    }
}

/// Stands where a transport was that has ended.
#[derive(Debug)]
struct Gone(Info);

impl Transport for Gone {
    fn info(&self) -> &Info {
        &self.0
    }

    fn phase(&self) -> Phase {
        Phase::Ended
    }

    fn register(&mut self, _: &Registry, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, _: &mut Turn<'_>, _: &mut dyn FrameSource) -> Result<Pace, End> {
        Err(End::Closed)
    }

    fn recv(&mut self, _: &mut Turn<'_>, _: &mut dyn FrameSink) -> Result<Pace, End> {
        Err(End::Closed)
    }

    fn timeout(&self) -> Option<Instant> {
        None
    }

    fn on_timeout(&mut self, _: Instant) {}

    fn close(&mut self, _: Instant) {}
}
