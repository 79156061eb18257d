//! A wrapper that adds a fault to a correct transport.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::{Registry, Token};
use selvedge_transport::{
    End, Frame, FrameSink, FrameSource, Info, Instant, LaneSet, NodeId, Phase, Progress, Role,
    SendCapacity, Transport, Turn,
};

use super::Fault;
use super::frames::{Arrivals, BufferedSource, FaultySink, ObservedSource};

/// The block length of `Fault::CountsBudgetInBlocks`, in bytes.
const BLOCK_LEN: usize = 4096;

#[derive(Debug)]
pub(super) struct FaultyTransport {
    inner: Box<dyn Transport>,
    info: Info,
    fault: Fault,
    arrivals: Arrivals,
    buffered: VecDeque<Frame>,
    wakeups: usize,
    closes: usize,
    token: Option<Token>,
    /// The source returned no frame at its last poll.
    is_empty: bool,
    /// The last send was blocked.
    is_blocked: bool,
    /// An end that the fault causes; the next call returns it.
    end: Option<End>,
    /// The phase to report instead of that of the inner transport.
    reported_phase: Option<Phase>,
    /// Notifies the listener that the handshake has failed.
    has_failed: Arc<AtomicBool>,
}

impl FaultyTransport {
    pub(super) fn new(
        inner: Box<dyn Transport>,
        fault: Fault,
        has_failed: Arc<AtomicBool>,
    ) -> Self {
        let mut info = inner.info().clone();
        info.encrypted = fault == Fault::ClaimsEncryption;
        Self {
            inner,
            info,
            fault,
            arrivals: Arrivals::default(),
            buffered: VecDeque::new(),
            wakeups: 0,
            closes: 0,
            token: None,
            is_empty: false,
            is_blocked: false,
            end: None,
            reported_phase: None,
            has_failed,
        }
    }

    /// Returns the end that the fault caused.
    fn injected_end(&mut self) -> Result<(), End> {
        let Some(end) = self.end.clone() else {
            return Ok(());
        };
        self.reported_phase = Some(Phase::Ended);
        Err(end)
    }

    /// Whether the fault suppresses a call of `send`.
    fn skips_send(&self, turn: &Turn<'_>) -> bool {
        self.fault == Fault::CountsBudgetInBlocks && turn.budget < BLOCK_LEN
    }

    /// Whether the fault suppresses a call of `recv`.
    fn skips_recv(&self) -> bool {
        match self.fault {
            Fault::IgnoresFirstWakeups => {
                self.inner.phase() == Phase::Open && !self.wakeups.is_multiple_of(8)
            }
            Fault::WritesFirst => self.is_blocked,
            _ => false,
        }
    }

    /// Pulls frames when the contract forbids it.
    fn buffer_frames(&mut self, source: &mut dyn FrameSource) {
        let may_pull = match self.fault {
            Fault::BuffersWithoutLimit => self.inner.phase() == Phase::Open,
            Fault::PullsAfterClose => self.inner.phase() == Phase::Closing,
            _ => false,
        };
        let capacity = SendCapacity {
            frame_max: self.info.frame_max,
            datagram_max: 0,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        while may_pull && let Some(frame) = source.next_frame(&capacity) {
            self.buffered.push_back(frame);
        }
    }

    fn forward_send(
        &mut self,
        turn: &mut Turn<'_>,
        source: &mut dyn FrameSource,
    ) -> Result<Progress, End> {
        let mut source = ObservedSource {
            inner: source,
            is_suspended: self.fault == Fault::StopsPollingEmptySource && self.is_empty,
            is_empty: false,
        };
        let result = self.inner.send(turn, &mut source);
        let is_idle = matches!(result, Ok(Progress::Idle));
        self.is_empty = source.is_empty;
        self.is_blocked = is_idle && !source.is_empty && self.inner.phase() == Phase::Open;
        self.act_late(turn.now).map_or(result, Ok)
    }

    /// Performs actions that were due before the connection opened.
    fn act_late(&mut self, now: Instant) -> Option<Progress> {
        if self.inner.phase() != Phase::Open {
            return None;
        }
        match self.fault {
            Fault::ClosesOnceOpen if self.closes > 0 => self.inner.close(now),
            Fault::AdmitsLate if self.info.role == Role::Acceptor => {
                let peer = self.inner.info().peer?;
                self.end = Some(End::NotAdmitted { peer });
            }
            _ => return None,
        }
        Some(Progress::More)
    }

    fn forward_recv(
        &mut self,
        turn: &mut Turn<'_>,
        sink: &mut dyn FrameSink,
    ) -> Result<Progress, End> {
        let mut sink = FaultySink {
            inner: sink,
            fault: self.fault,
            is_closing: self.inner.phase() == Phase::Closing,
            arrivals: &mut self.arrivals,
        };
        let progress = self.inner.recv(turn, &mut sink)?;
        let ignores_budget = matches!(self.fault, Fault::IgnoresBudget | Fault::OverrunsBudget);
        if ignores_budget && progress == Progress::More {
            let budget = std::mem::replace(&mut turn.budget, usize::MAX);
            let progress = self.inner.recv(turn, &mut sink);
            turn.budget = budget;
            return match self.fault {
                Fault::OverrunsBudget => progress.map(|_| Progress::More),
                _ => progress,
            };
        }
        match self.fault {
            Fault::NeverIdle => Ok(Progress::More),
            _ => Ok(progress),
        }
    }

    /// Returns the result of a call, as changed by the fault.
    fn observe_result(&mut self, result: Result<Progress, End>) -> Result<Progress, End> {
        let inner = &self.inner;
        self.info.peer = self.info.peer.or_else(|| inner.info().peer);
        match (self.fault, result) {
            (Fault::AdmitsLate, Err(End::PeerClosed | End::Broken(_))) => Err(End::Refused {
                detail: String::new(),
            }),
            (Fault::ReportsRefusalAsBroken, Err(End::Unreachable(error))) => {
                Err(End::Broken(error))
            }
            (Fault::AcceptsUnauthenticated, Err(End::Unauthenticated { .. })) => {
                self.info.peer = Some(NodeId::new([0; 32]));
                self.reported_phase = Some(Phase::Open);
                Ok(Progress::Idle)
            }
            (Fault::FailedHandshakeEndsListener, Err(end @ End::Unauthenticated { .. })) => {
                self.has_failed.store(true, Ordering::Relaxed);
                Err(end)
            }
            (Fault::IgnoresEndOfStream, Err(End::PeerClosed | End::Broken(_))) => {
                self.reported_phase = Some(Phase::Open);
                Ok(Progress::Idle)
            }
            (_, result) => result,
        }
    }
}

impl Transport for FaultyTransport {
    fn info(&self) -> &Info {
        &self.info
    }

    fn phase(&self) -> Phase {
        match self.inner.phase() {
            _ if let Some(phase) = self.reported_phase => phase,
            Phase::Handshaking if self.fault == Fault::OpensEarly => Phase::Open,
            phase => phase,
        }
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let first = *self.token.get_or_insert(token);
        match self.fault {
            Fault::KeepsFirstToken => self.inner.register(registry, first),
            _ => self.inner.register(registry, token),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.arrivals.has_moved = true;
        self.inner.deregister(registry)
    }

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End> {
        self.injected_end()?;
        if self.skips_send(turn) {
            return Ok(Progress::Idle);
        }
        self.buffer_frames(source);
        let result = match self.fault {
            Fault::BuffersWithoutLimit => self
                .inner
                .send(turn, &mut BufferedSource(&mut self.buffered)),
            _ => self.forward_send(turn, source),
        };
        self.observe_result(result)
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        self.injected_end()?;
        self.wakeups += 1;
        if self.skips_recv() {
            return Ok(Progress::Idle);
        }
        // `Fault::StopsPollingEmptySource` polls again after an event.
        self.is_empty = false;
        let result = self.forward_recv(turn, sink);
        self.observe_result(result)
    }

    fn timeout(&self) -> Option<Instant> {
        self.inner.timeout()
    }

    fn on_timeout(&mut self, now: Instant) {
        self.inner.on_timeout(now);
        let times_out = match self.inner.phase() {
            Phase::Handshaking => self.fault == Fault::TimesOutHandshakeOnAnyTimer,
            Phase::Closing => self.fault == Fault::TimesOutCloseOnAnyTimer,
            Phase::Open | Phase::Ended => false,
        };
        if times_out {
            self.end = Some(End::TimedOut);
        }
    }

    fn close(&mut self, now: Instant) {
        self.closes += 1;
        match self.fault {
            Fault::IgnoresClose => {}
            Fault::ClosesOnceOpen if self.inner.phase() == Phase::Handshaking => {}
            Fault::SecondCloseAborts if self.closes > 1 => {
                self.end = Some(End::broken(io::ErrorKind::ConnectionAborted.into()));
            }
            _ => self.inner.close(now),
        }
    }
}
