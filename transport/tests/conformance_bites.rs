//! The conformance suite finds faults: each transport here is TCP with one, and one check says so.

#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used, reason = "harnesses panic as tests do")]

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mio::{Registry, Token};
use selvedge_transport::conformance::{Abilities, CHECKS, Harness, Outcome};
use selvedge_transport::{
    Address, Admission, DialError, Dialer, End, Frame, FrameSink, FrameSource, Identity, Info,
    LaneSet, Listener, Pace, Phase, Room, Target, TcpDialer, TcpListener, Transport, Turn,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    DamagesFrames,
    DropsFrame,
    ExpectsAnyone,
    ForgetsInMove,
    Hoards,
    IgnoresBudget,
    IgnoresClose,
    IgnoresFirstWakeups,
    LiesAboutEncryption,
    NeverIdle,
    OpensEarly,
    RepeatsFrame,
    SwapsFrames,
    TakesAfterClose,
}

/// The check that must find each fault.
const FINDERS: [(Fault, &str); 14] = [
    (Fault::DamagesFrames, "frames_of_every_length_arrive_whole"),
    (Fault::DropsFrame, "many_small_frames_arrive"),
    (Fault::ExpectsAnyone, "a_wrong_peer_is_not_opened"),
    (
        Fault::ForgetsInMove,
        "moving_to_another_poll_under_load_loses_nothing",
    ),
    (Fault::Hoards, "a_reader_that_stops_stops_the_writer"),
    (Fault::IgnoresBudget, "the_budget_is_respected"),
    (Fault::IgnoresClose, "close_delivers_what_was_taken"),
    (Fault::IgnoresFirstWakeups, "many_small_frames_arrive"),
    (Fault::LiesAboutEncryption, "info_is_truthful"),
    (Fault::NeverIdle, "idle_is_idle"),
    (Fault::OpensEarly, "both_sides_open_and_know_each_other"),
    (Fault::RepeatsFrame, "flows_keep_their_order"),
    (Fault::SwapsFrames, "flows_keep_their_order"),
    (Fault::TakesAfterClose, "close_delivers_what_was_taken"),
];

#[test]
fn each_fault_is_found_by_the_check_that_is_about_it() {
    for (fault, finder) in FINDERS {
        let check = CHECKS.iter().find(|check| check.name == finder).unwrap();
        let failure = check.run(&Faulty(fault)).unwrap_err();
        assert_eq!(failure.check, finder, "{fault:?}");
        println!("{fault:?}: {}", failure.detail);
    }
}

#[test]
fn without_a_fault_the_same_checks_find_nothing() {
    for (_, finder) in FINDERS {
        let check = CHECKS.iter().find(|check| check.name == finder).unwrap();
        assert_eq!(check.run(&Faulty(Fault::None)).unwrap(), Outcome::Kept);
    }
}

/// TCP with a fault on both sides.
struct Faulty(Fault);

impl Harness for Faulty {
    fn abilities(&self) -> Abilities {
        Abilities {
            scheme: "tcp+plain",
            reliable: true,
            encrypted: false,
            authenticated: true,
            datagrams: false,
        }
    }

    fn listen(&self, identity: &Identity, admission: Admission) -> Box<dyn Listener> {
        let address = "tcp+plain://127.0.0.1:0".parse().unwrap();
        Box::new(FaultyListener {
            inner: TcpListener::bind(&address, identity.clone(), admission).unwrap(),
            fault: self.0,
        })
    }

    fn dialer(&self, identity: &Identity) -> Box<dyn Dialer> {
        Box::new(FaultyDialer {
            inner: TcpDialer::new(identity.clone()),
            fault: self.0,
        })
    }
}

#[derive(Debug)]
struct FaultyListener {
    inner: TcpListener,
    fault: Fault,
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
    ) -> Result<Pace, io::Error> {
        let mut sound = Vec::new();
        let pace = self.inner.accept(turn, &mut sound)?;
        accepted.extend(sound.into_iter().map(|inner| faulty(inner, self.fault)));
        Ok(pace)
    }

    fn timeout(&self) -> Option<Instant> {
        self.inner.timeout()
    }
}

#[derive(Debug)]
struct FaultyDialer {
    inner: TcpDialer,
    fault: Fault,
}

impl Dialer for FaultyDialer {
    fn schemes(&self) -> &[&'static str] {
        self.inner.schemes()
    }

    fn dial(&self, now: Instant, target: &Target) -> Result<Box<dyn Transport>, DialError> {
        let mut target = target.clone();
        if self.fault == Fault::ExpectsAnyone {
            target.peer = None;
        }
        Ok(faulty(self.inner.dial(now, &target)?, self.fault))
    }
}

fn faulty(inner: Box<dyn Transport>, fault: Fault) -> Box<dyn Transport> {
    let mut info = inner.info().clone();
    info.encrypted = fault == Fault::LiesAboutEncryption;
    Box::new(FaultyTransport {
        inner,
        info,
        fault,
        received: 0,
        kept: None,
        has_moved: false,
        wakeups: 0,
        hoard: VecDeque::new(),
    })
}

#[derive(Debug)]
struct FaultyTransport {
    inner: Box<dyn Transport>,
    info: Info,
    fault: Fault,
    received: usize,
    kept: Option<Bytes>,
    has_moved: bool,
    wakeups: usize,
    hoard: VecDeque<Frame>,
}

/// Does something to the frames that arrive.
struct FaultySink<'a> {
    inner: &'a mut dyn FrameSink,
    fault: Fault,
    received: &'a mut usize,
    kept: &'a mut Option<Bytes>,
    has_moved: &'a mut bool,
}

impl FrameSink for FaultySink<'_> {
    fn frame(&mut self, frame: Bytes) {
        *self.received += 1;
        let is_victim = *self.received == 50;
        match self.fault {
            Fault::DropsFrame if is_victim => {}
            Fault::DamagesFrames if frame.len() > 10_000 => {
                let mut frame = BytesMut::from(&frame[..]);
                frame[9_999] ^= 0x10;
                self.inner.frame(frame.freeze());
            }
            Fault::ForgetsInMove if std::mem::take(self.has_moved) => {}
            Fault::RepeatsFrame if is_victim => {
                self.inner.frame(frame.clone());
                self.inner.frame(frame);
            }
            // The frame waits, and comes behind the next of its flow.
            Fault::SwapsFrames if is_victim => *self.kept = Some(frame),
            _ => {
                let is_same_flow = self.kept.as_ref().is_some_and(|kept| kept[0] == frame[0]);
                self.inner.frame(frame);
                if is_same_flow && let Some(kept) = self.kept.take() {
                    self.inner.frame(kept);
                }
            }
        }
    }
}

struct Hoard<'a>(&'a mut VecDeque<Frame>);

impl FrameSource for Hoard<'_> {
    fn next_frame(&mut self, _: &Room) -> Option<Frame> {
        self.0.pop_front()
    }
}

impl FaultyTransport {
    fn look(&mut self) {
        self.info.peer = self.inner.info().peer;
    }
}

impl Transport for FaultyTransport {
    fn info(&self) -> &Info {
        &self.info
    }

    fn phase(&self) -> Phase {
        match self.inner.phase() {
            Phase::Handshaking if self.fault == Fault::OpensEarly => Phase::Open,
            phase => phase,
        }
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.inner.register(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.has_moved = true;
        self.inner.deregister(registry)
    }

    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Pace, End> {
        let room = Room {
            frame_max: self.info.frame_max,
            datagram_max: 0,
            blocked: LaneSet::EMPTY,
            control_blocked: false,
        };
        let takes = match self.fault {
            Fault::Hoards => self.inner.phase() == Phase::Open,
            Fault::TakesAfterClose => self.inner.phase() == Phase::Closing,
            _ => false,
        };
        while takes && let Some(frame) = source.next_frame(&room) {
            self.hoard.push_back(frame);
        }
        let result = match self.fault {
            Fault::Hoards => self.inner.send(turn, &mut Hoard(&mut self.hoard)),
            _ => self.inner.send(turn, source),
        };
        self.look();
        result
    }

    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Pace, End> {
        self.wakeups += 1;
        if self.fault == Fault::IgnoresFirstWakeups
            && self.inner.phase() == Phase::Open
            && !self.wakeups.is_multiple_of(8)
        {
            return Ok(Pace::Idle);
        }
        let mut faulty = FaultySink {
            inner: sink,
            fault: self.fault,
            received: &mut self.received,
            kept: &mut self.kept,
            has_moved: &mut self.has_moved,
        };
        let pace = self.inner.recv(turn, &mut faulty);
        if self.fault == Fault::IgnoresBudget && matches!(pace, Ok(Pace::More)) {
            let budget = std::mem::replace(&mut turn.budget, usize::MAX);
            let pace = self.inner.recv(turn, &mut faulty);
            turn.budget = budget;
            return pace;
        }
        self.look();
        match pace {
            Ok(_) if self.fault == Fault::NeverIdle => Ok(Pace::More),
            pace => pace,
        }
    }

    fn timeout(&self) -> Option<Instant> {
        self.inner.timeout()
    }

    fn on_timeout(&mut self, now: Instant) {
        self.inner.on_timeout(now);
    }

    fn close(&mut self, now: Instant) {
        if self.fault != Fault::IgnoresClose {
            self.inner.close(now);
        }
    }
}
