//! The transports and the listener of a check, on one or two polls.

use std::time::Duration;

use mio::{Events, Poll, Token};

use super::Harness;
use super::driven_transport::DrivenTransport;
use crate::{
    Address, Admission, DialTarget, Dialer, Identity, Instant, Listener, NodeId, Progress,
    ReadBuffer, Transport, Turn,
};

/// The maximum duration of a step. QUIC detects a silent peer after 10 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// The budget of a call, unless a check sets another.
const BUDGET: usize = 256 * 1024;

/// The time without an event after which loopback is considered idle.
const QUIET: Duration = Duration::from_millis(200);

/// The time without an event, a timer or a frame after which the transports are considered stalled.
const STUCK: Duration = Duration::from_secs(5);

/// The state of one check.
pub(super) struct TestBed<'a> {
    harness: &'a dyn Harness,
    polls: [Poll; 2],
    events: Events,
    listener: Box<dyn Listener>,
    dialer: Box<dyn Dialer>,
    pub(super) dialer_id: NodeId,
    pub(super) listener_id: NodeId,
    pub(super) transports: Vec<DrivenTransport>,
    pub(super) budget: usize,
    /// Whether each accepted transport gets a frame to send.
    pub(super) greets_peers: bool,
    buffer: ReadBuffer,
    accepts: bool,
    next_token: usize,
}

const LISTENER: Token = Token(0);

impl<'a> TestBed<'a> {
    /// Creates a listener and a dialer that are not connected.
    pub(super) fn new(harness: &'a dyn Harness) -> Self {
        Self::admitting(harness, Admission::anyone())
    }

    pub(super) fn admitting(harness: &'a dyn Harness, admission: Admission) -> Self {
        let polls = [new_poll(), new_poll()];
        let (ours, theirs) = (new_identity(), new_identity());
        let mut listener = harness.listen(&theirs, admission);
        let registered = listener.register(polls[0].registry(), LISTENER);
        assert!(registered.is_ok(), "register failed: {registered:?}");
        Self {
            harness,
            polls,
            events: Events::with_capacity(64),
            listener,
            dialer: harness.dialer(&ours),
            dialer_id: ours.node_id(),
            listener_id: theirs.node_id(),
            transports: Vec::new(),
            budget: BUDGET,
            greets_peers: false,
            buffer: ReadBuffer::default(),
            accepts: true,
            next_token: 1,
        }
    }

    /// Creates an open connection: transport 0 is the dialer, 1 the acceptor.
    pub(super) fn connected(harness: &'a dyn Harness) -> Self {
        let mut bed = Self::new(harness);
        bed.dial(Some(bed.listener_id));
        bed.until("both sides are open", |bed| {
            bed.transports.len() == 2 && bed.transports.iter().all(DrivenTransport::is_open)
        });
        bed
    }

    pub(super) fn listener_address(&self) -> Address {
        self.listener.local_address()
    }

    /// Dials the listener and expects `peer` there.
    pub(super) fn dial(&mut self, peer: Option<NodeId>) {
        let target = DialTarget {
            address: self.listener.local_address(),
            peer,
        };
        match self.dialer.dial(Instant::now(), &target) {
            Ok(transport) => self.add(transport),
            Err(error) => panic!("dial failed: {error}"),
        }
    }

    pub(super) const fn dialer(&self) -> &dyn Dialer {
        &*self.dialer
    }

    pub(super) fn add(&mut self, transport: Box<dyn Transport>) {
        let token = Token(self.next_token);
        self.next_token += 1;
        let mut driven = DrivenTransport::new(transport, token, self.harness.abilities().reliable);
        driven.register(self.polls[0].registry());
        self.transports.push(driven);
    }

    /// Drops a transport without closing it.
    pub(super) fn drop_transport(&mut self, at: usize) {
        let mut driven = self.transports.remove(at);
        if driven.end.is_none() {
            driven.deregister(self.polls[driven.poll].registry());
        }
    }

    /// Moves a transport to the other poll, under another token.
    pub(super) fn move_transport(&mut self, at: usize) {
        let driven = &mut self.transports[at];
        if driven.end.is_none() {
            driven.deregister(self.polls[driven.poll].registry());
            driven.poll = 1 - driven.poll;
            driven.token = Token(self.next_token);
            self.next_token += 1;
            driven.register(self.polls[driven.poll].registry());
        }
    }

    /// Drives everything until `is_so` returns `true`.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let patience = Instant::now() + PATIENCE;
        let mut stuck = Instant::now() + STUCK;
        while !is_so(self) {
            let now = Instant::now();
            assert!(
                now < patience && now < stuck,
                "this was not reached: {what}; {}",
                self.summary()
            );
            let mut transports = self.transports.iter().filter(|driven| driven.end.is_none());
            let has_timer = transports.any(|driven| driven.transport.timeout().is_some());
            if self.turn(Duration::from_millis(100)) || has_timer {
                stuck = Instant::now() + STUCK;
            }
        }
    }

    /// Drives everything until there is no more activity.
    #[track_caller]
    pub(super) fn until_quiet(&mut self) {
        let moved = |bed: &Self| -> usize {
            let transports = bed.transports.iter();
            transports
                .map(|driven| driven.outgoing.pulled_len + driven.incoming.len)
                .sum()
        };
        let mut last = moved(self);
        let mut stuck = Instant::now() + STUCK;
        while self.turn(QUIET) {
            if moved(self) != last {
                last = moved(self);
                stuck = Instant::now() + STUCK;
            }
            assert!(
                Instant::now() < stuck,
                "activity did not stop; {}",
                self.summary()
            );
        }
    }

    /// One iteration of a worker's loop that waits at most `wait`. Returns whether there was any
    /// work.
    pub(super) fn turn(&mut self, wait: Duration) -> bool {
        let mut is_busy = self.poll(wait);
        self.accept();
        let now = Instant::now();
        for at in 0..self.transports.len() {
            let driven = &mut self.transports[at];
            if driven.is_due(now) {
                is_busy = true;
                driven.drive(
                    &mut self.buffer,
                    self.budget,
                    self.polls[driven.poll].registry(),
                );
                if driven.end.is_some() {
                    driven.replace_ended(self.polls[driven.poll].registry());
                }
            }
        }
        is_busy
    }

    /// Waits for events. Returns whether there were any.
    fn poll(&mut self, wait: Duration) -> bool {
        let now = Instant::now();
        let is_due = self.accepts || self.transports.iter().any(|driven| driven.is_due(now));
        let timers = self.transports.iter().filter(|driven| driven.end.is_none());
        let wait = timers
            .filter_map(|driven| driven.transport.timeout())
            .chain(self.listener.timeout())
            .map(|at| at.saturating_duration_since(now))
            .fold(if is_due { Duration::ZERO } else { wait }, Duration::min);
        let has_second = self.transports.iter().any(|driven| driven.poll == 1);
        // With two polls the wait alternates between them in short intervals.
        let wait = if has_second {
            wait.min(Duration::from_millis(1))
        } else {
            wait
        };
        let mut has_events = false;
        for (at, poll) in self.polls.iter_mut().enumerate() {
            if at == 1 && !has_second {
                continue;
            }
            match poll.poll(&mut self.events, Some(wait)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => assert!(result.is_ok(), "poll failed: {result:?}"),
            }
            for event in &self.events {
                has_events = true;
                if event.token() == LISTENER {
                    self.accepts = true;
                }
                let woken = self.transports.iter_mut();
                for driven in
                    woken.filter(|driven| driven.token == event.token() && driven.poll == at)
                {
                    driven.transport.on_event(event);
                    driven.wake();
                }
            }
        }
        has_events
    }

    fn accept(&mut self) {
        let now = Instant::now();
        if !self.accepts && self.listener.timeout().is_none_or(|at| now < at) {
            return;
        }
        let mut accepted = Vec::new();
        let mut turn = Turn {
            now,
            buffer: &mut self.buffer,
            budget: self.budget,
            registry: self.polls[0].registry(),
        };
        match self.listener.accept(&mut turn, &mut accepted) {
            Ok(progress) => self.accepts = progress == Progress::More,
            Err(error) => panic!("accept failed: {error}"),
        }
        for transport in accepted {
            self.add(transport);
            if let (true, Some(driven)) = (self.greets_peers, self.transports.last_mut()) {
                driven.outgoing.generate(crate::FrameOrder::Control, 1, 0);
            }
        }
    }

    fn summary(&self) -> String {
        let transports = self.transports.iter().enumerate().map(|(at, driven)| {
            format!(
                "{at}: {:?} of {:?}, pulled {} B, {} frames queued, {} frames received, ended {:?}",
                driven.transport.phase(),
                driven.transport.info().role,
                driven.outgoing.pulled_len,
                driven.outgoing.waiting(),
                driven.incoming.count,
                driven.end,
            )
        });
        transports.collect::<Vec<_>>().join("; ")
    }
}

fn new_poll() -> Poll {
    match Poll::new() {
        Ok(poll) => poll,
        Err(error) => panic!("no poll: {error}"),
    }
}

fn new_identity() -> Identity {
    match Identity::generate() {
        Ok(identity) => identity,
        Err(error) => panic!("no identity: {error}"),
    }
}
