//! One transport, driven by the letter of the contract, and watched.

use std::io;
use std::time::Instant;

use mio::{Registry, Token};

use super::frame_generator::{FrameGenerator, FrameVerifier};
use crate::{End, FrameSink, FrameSource, Info, Phase, Progress, ReadBuffer, Transport, Turn};

/// A transport and the session above it.
#[derive(Debug)]
pub(super) struct DrivenTransport {
    pub(super) transport: Box<dyn Transport>,
    pub(super) outgoing: FrameGenerator,
    pub(super) incoming: FrameVerifier,
    pub(super) end: Option<End>,
    /// Does not receive while it is set.
    pub(super) receive_paused: bool,
    /// Which poll it is on.
    pub(super) poll: usize,
    pub(super) token: Token,
    /// The most frame bytes that one call received, and that one call took.
    pub(super) received_max: usize,
    pub(super) taken_max: usize,
    /// How often a call said that there may be more.
    pub(super) more_count: u64,
    due: DueCalls,
    phase: Phase,
    offered: usize,
}

/// Which calls the contract asks for now.
#[derive(Debug, Clone, Copy)]
struct DueCalls {
    recv: bool,
    send: bool,
}

impl DueCalls {
    const BOTH: Self = Self {
        recv: true,
        send: true,
    };
}

impl DrivenTransport {
    pub(super) fn new(transport: Box<dyn Transport>, token: Token, is_reliable: bool) -> Self {
        Self {
            phase: transport.phase(),
            transport,
            outgoing: FrameGenerator::default(),
            incoming: FrameVerifier::new(is_reliable),
            end: None,
            receive_paused: false,
            poll: 0,
            token,
            received_max: 0,
            taken_max: 0,
            more_count: 0,
            due: DueCalls::BOTH,
            offered: 0,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// It was registered, or has an event.
    pub(super) const fn wake(&mut self) {
        self.due = DueCalls::BOTH;
    }

    /// Whether it is to be called without waiting for an event.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let has_new_frames = self.outgoing.waiting() > self.offered;
        let is_time = self.transport.timeout().is_some_and(|at| at <= now);
        self.end.is_none()
            && (self.due.send || has_new_frames || is_time || self.due.recv && !self.receive_paused)
    }

    pub(super) fn close(&mut self) {
        self.transport.close(Instant::now());
        self.watch_phase();
        // As a driver does: it wants the farewell on the wire.
        self.due.send = true;
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
    pub(super) fn replace_ended(&mut self, registry: &Registry) {
        self.deregister(registry);
        self.transport = Box::new(EndedTransport(self.transport.info().clone()));
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
        if self.due.recv && !self.receive_paused {
            self.recv(&mut turn);
        }
        let has_new_frames = self.outgoing.waiting() > self.offered;
        if (self.due.send || has_new_frames) && self.end.is_none() {
            self.send(&mut turn);
        }
    }

    fn recv(&mut self, turn: &mut Turn<'_>) {
        let (count, len) = (self.incoming.count, self.incoming.len);
        let result = self.transport.recv(turn, &mut self.incoming);
        self.received_max = self.received_max.max(self.incoming.len - len);
        self.due.recv = self.record_result(result);
        // What was received may be to be answered: acknowledgements, credit.
        self.due.send = true;
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
        let (calls, len) = (self.outgoing.calls, self.outgoing.taken_len);
        let before = self.phase;
        let result = self.transport.send(turn, &mut self.outgoing);
        self.taken_max = self.taken_max.max(self.outgoing.taken_len - len);
        self.due.send = self.record_result(result);
        self.offered = self.outgoing.waiting();
        if self.outgoing.calls > calls {
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
    fn record_result(&mut self, result: Result<Progress, End>) -> bool {
        match result {
            Ok(progress) => {
                self.watch_phase();
                assert!(
                    self.phase != Phase::Ended,
                    "the phase is Ended though no call said why"
                );
                self.more_count += u64::from(progress == Progress::More);
                progress == Progress::More
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
struct EndedTransport(Info);

impl Transport for EndedTransport {
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

    fn send(&mut self, _: &mut Turn<'_>, _: &mut dyn FrameSource) -> Result<Progress, End> {
        Err(End::Closed)
    }

    fn recv(&mut self, _: &mut Turn<'_>, _: &mut dyn FrameSink) -> Result<Progress, End> {
        Err(End::Closed)
    }

    fn timeout(&self) -> Option<Instant> {
        None
    }

    fn on_timeout(&mut self, _: Instant) {}

    fn close(&mut self, _: Instant) {}
}
