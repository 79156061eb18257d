//! A sound transport inside one that has a fault.

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
use super::frames::{Arrivals, FaultySink, Hoard, Watched};

/// What `Fault::CountsBudgetInBlocks` counts in, in bytes.
const BLOCK_LEN: usize = 4096;

#[derive(Debug)]
pub(super) struct FaultyTransport {
    inner: Box<dyn Transport>,
    info: Info,
    fault: Fault,
    arrivals: Arrivals,
    hoard: VecDeque<Frame>,
    wakeups: usize,
    closes: usize,
    token: Option<Token>,
    /// The source had nothing when it was last asked.
    is_dry: bool,
    /// There was more to send than could be written.
    is_blocked: bool,
    /// An end that is the fault's own; the next call tells it.
    end: Option<End>,
    /// What the inner transport has said is kept from the caller: the phase goes on being this.
    pretends: Option<Phase>,
    /// Told to the listener: a handshake has failed.
    is_hurt: Arc<AtomicBool>,
}

impl FaultyTransport {
    pub(super) fn new(inner: Box<dyn Transport>, fault: Fault, is_hurt: Arc<AtomicBool>) -> Self {
        let mut info = inner.info().clone();
        info.encrypted = fault == Fault::LiesAboutEncryption;
        Self {
            inner,
            info,
            fault,
            arrivals: Arrivals::default(),
            hoard: VecDeque::new(),
            wakeups: 0,
            closes: 0,
            token: None,
            is_dry: false,
            is_blocked: false,
            end: None,
            pretends: None,
            is_hurt,
        }
    }

    /// The end that the fault has made, if it has.
    fn own_end(&mut self) -> Result<(), End> {
        let Some(end) = self.end.clone() else {
            return Ok(());
        };
        self.pretends = Some(Phase::Ended);
        Err(end)
    }

    /// Whether a call of `send` comes to nothing.
    fn sits_out_send(&self, turn: &Turn<'_>) -> bool {
        self.fault == Fault::CountsBudgetInBlocks && turn.budget < BLOCK_LEN
    }

    /// Whether a call of `recv` comes to nothing.
    fn sits_out_recv(&self) -> bool {
        match self.fault {
            Fault::IgnoresFirstWakeups => {
                self.inner.phase() == Phase::Open && !self.wakeups.is_multiple_of(8)
            }
            Fault::WritesFirst => self.is_blocked,
            _ => false,
        }
    }

    /// Takes frames when none is to be taken.
    fn hoard(&mut self, source: &mut dyn FrameSource) {
        let takes = match self.fault {
            Fault::Hoards => self.inner.phase() == Phase::Open,
            Fault::TakesAfterClose => self.inner.phase() == Phase::Closing,
            _ => false,
        };
        let capacity = SendCapacity {
            frame_max: self.info.frame_max,
            datagram_max: 0,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        while takes && let Some(frame) = source.next_frame(&capacity) {
            self.hoard.push_back(frame);
        }
    }

    fn forward_send(
        &mut self,
        turn: &mut Turn<'_>,
        source: &mut dyn FrameSource,
    ) -> Result<Progress, End> {
        let mut source = Watched {
            inner: source,
            is_shut: self.fault == Fault::StaysDry && self.is_dry,
            is_dry: false,
        };
        let result = self.inner.send(turn, &mut source);
        let is_idle = matches!(result, Ok(Progress::Idle));
        self.is_dry = source.is_dry;
        self.is_blocked = is_idle && !source.is_dry && self.inner.phase() == Phase::Open;
        self.repent(turn.now).map_or(result, Ok)
    }

    /// What an open connection should have done before it was open.
    fn repent(&mut self, now: Instant) -> Option<Progress> {
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
        let overruns = matches!(self.fault, Fault::IgnoresBudget | Fault::OverrunsBudget);
        if overruns && progress == Progress::More {
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

    /// What is told of a call's result.
    fn settle(&mut self, result: Result<Progress, End>) -> Result<Progress, End> {
        let inner = &self.inner;
        self.info.peer = self.info.peer.or_else(|| inner.info().peer);
        match (self.fault, result) {
            (Fault::AdmitsLate, Err(End::PeerClosed | End::Broken(_))) => Err(End::Refused {
                detail: String::new(),
            }),
            (Fault::CallsRefusalBroken, Err(End::Unreachable(error))) => Err(End::Broken(error)),
            (Fault::LetsInUnproved, Err(End::Unauthenticated { .. })) => {
                self.info.peer = Some(NodeId::new([0; 32]));
                self.pretends = Some(Phase::Open);
                Ok(Progress::Idle)
            }
            (Fault::RubbishEndsListener, Err(end @ End::Unauthenticated { .. })) => {
                self.is_hurt.store(true, Ordering::Relaxed);
                Err(end)
            }
            (Fault::TakesEndForNothing, Err(End::PeerClosed | End::Broken(_))) => {
                self.pretends = Some(Phase::Open);
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
            _ if let Some(phase) = self.pretends => phase,
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
        self.own_end()?;
        if self.sits_out_send(turn) {
            return Ok(Progress::Idle);
        }
        self.hoard(source);
        let result = match self.fault {
            Fault::Hoards => self.inner.send(turn, &mut Hoard(&mut self.hoard)),
            _ => self.forward_send(turn, source),
        };
        self.settle(result)
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End> {
        self.own_end()?;
        self.wakeups += 1;
        if self.sits_out_recv() {
            return Ok(Progress::Idle);
        }
        // Something has happened: that is when `Fault::StaysDry` asks again.
        self.is_dry = false;
        let result = self.forward_recv(turn, sink);
        self.settle(result)
    }

    fn timeout(&self) -> Option<Instant> {
        self.inner.timeout()
    }

    fn on_timeout(&mut self, now: Instant) {
        self.inner.on_timeout(now);
        let believes = match self.inner.phase() {
            Phase::Handshaking => self.fault == Fault::BelievesTimersInHandshake,
            Phase::Closing => self.fault == Fault::BelievesTimersInClose,
            Phase::Open | Phase::Ended => false,
        };
        if believes {
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
