//! A transport that is driven exactly as the contract requires, with assertions on its behaviour.

use std::io;

use mio::{Registry, Token};

use super::frame_generator::{FrameGenerator, FrameVerifier};
use crate::{
    End, FrameSink, FrameSource, Info, Instant, Phase, Progress, ReadBuffer, Transport, Turn,
};

/// A transport with the source and sink of its frames.
#[derive(Debug)]
pub(super) struct DrivenTransport {
    pub(super) transport: Box<dyn Transport>,
    pub(super) outgoing: FrameGenerator,
    pub(super) incoming: FrameVerifier,
    pub(super) end: Option<End>,
    /// While set, `recv` is not called.
    pub(super) receive_paused: bool,
    /// The index of the poll in which it is registered.
    pub(super) poll: usize,
    pub(super) token: Token,
    /// The maximum of the frame bytes that one call received, and that one call pulled.
    pub(super) received_max: usize,
    pub(super) pulled_max: usize,
    /// The number of calls that returned [`Progress::More`].
    pub(super) more_results: u64,
    due: DueCalls,
    phase: Phase,
    offered: usize,
}

/// The calls that the contract requires at present.
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
            pulled_max: 0,
            more_results: 0,
            due: DueCalls::BOTH,
            offered: 0,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Marks both calls as due, after registration or an event.
    pub(super) const fn wake(&mut self) {
        self.due = DueCalls::BOTH;
    }

    /// Whether a call is due without another event.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let has_new_frames = self.outgoing.waiting() > self.offered;
        let is_time = self.transport.timeout().is_some_and(|at| at <= now);
        self.end.is_none()
            && (self.due.send || has_new_frames || is_time || self.due.recv && !self.receive_paused)
    }

    pub(super) fn close(&mut self) {
        self.transport.close(Instant::now());
        self.watch_phase();
        // As a driver does: the close must be sent.
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

    /// Drops an ended transport, as the contract requires, and with it its socket.
    pub(super) fn replace_ended(&mut self, registry: &Registry) {
        self.deregister(registry);
        self.transport = Box::new(EndedTransport(self.transport.info().clone()));
    }

    /// One iteration of a worker's loop.
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
        // Received frames may require responses: acknowledgements, credit.
        self.due.send = true;
        let is_moving = self.incoming.count > count;
        assert!(
            !is_moving || self.transport.info().peer.is_some(),
            "a frame was received before the peer was authenticated"
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
        let (calls, len) = (self.outgoing.calls, self.outgoing.pulled_len);
        let before = self.phase;
        let result = self.transport.send(turn, &mut self.outgoing);
        self.pulled_max = self.pulled_max.max(self.outgoing.pulled_len - len);
        self.due.send = self.record_result(result);
        self.offered = self.outgoing.waiting();
        if self.outgoing.calls > calls {
            assert!(
                self.phase != Phase::Handshaking,
                "a frame was pulled while the phase was Handshaking"
            );
            assert!(
                before < Phase::Closing,
                "a frame was pulled though the phase was {before:?}"
            );
        }
        if let Some(fault) = &self.outgoing.fault {
            panic!("{fault}");
        }
    }

    /// Checks the result of a call. Returns whether the call must be repeated.
    fn record_result(&mut self, result: Result<Progress, End>) -> bool {
        match result {
            Ok(progress) => {
                self.watch_phase();
                assert!(
                    self.phase != Phase::Ended,
                    "the phase is Ended, but no call returned an error"
                );
                self.more_results += u64::from(progress == Progress::More);
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
            "the phase is Open, but the peer is not authenticated"
        );
        self.phase = phase;
    }
}

/// A placeholder for a transport that has ended.
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
