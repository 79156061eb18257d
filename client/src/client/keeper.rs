//! Keeps a client connected and introduced: its zipper may restart, leave and return, or be replaced by
//! another one.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use selvedge_hub::{Driver, Endpoint, HubEvent, Instant};

use crate::client::connector::{ClientCommand, INTRODUCTION_MAX};
use crate::client::failover::Failover;
use crate::client::hub_slot::HubSlot;
use crate::client::introduction::{ClientIntroduction, HubNumber, Introduced, Introducer};
use crate::client::search::Found;
use crate::client::settling::CloseProgress;
use crate::client::shared::{ClientShared, STOPPED};
use crate::lanes::LINGER;
use crate::wire::{Role, WireMessage};

/// How often the zipper is informed that recipients hold a flow back.
const WAITING_INTERVAL: Duration = Duration::from_secs(1);

/// Handles the events of the hub of a client.
pub(super) struct Keeper {
    shared: Arc<ClientShared>,
    /// Weak: the client alone decides when the hub is dropped.
    hub: Weak<HubSlot>,
    /// The number of that hub.
    number: HubNumber,
    /// Weak, like the hub, which holds the driver.
    driver: Weak<Driver>,
    role: Role,
    failover: Failover,
    introducing: Option<(ClientIntroduction, Instant)>,
    /// The zipper that is entered as soon as the session with the former one has ended, and the events of
    /// its hub until then.
    entering: Option<(Introduced, Vec<HubEvent>)>,
    /// Whether the connection in use has been logged.
    is_logged: bool,
    /// Until when the client waits for settlement before it ends.
    settling_until: Option<Instant>,
    /// When the flows that the client receives have something to do.
    inbound_timeout: Option<Instant>,
    /// When the zipper is informed next of flows that recipients hold back.
    waiting_at: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<ClientShared>,
        hub: &Arc<HubSlot>,
        number: HubNumber,
        driver: Weak<Driver>,
        role: Role,
    ) -> Self {
        Self {
            shared,
            hub: Arc::downgrade(hub),
            number,
            driver,
            role,
            failover: Failover::default(),
            introducing: None,
            entering: None,
            is_logged: false,
            settling_until: None,
            inbound_timeout: None,
            waiting_at: None,
        }
    }

    pub(super) fn step(
        &mut self,
        now: Instant,
        command: Option<ClientCommand>,
        introducer: &mut Introducer,
    ) {
        if matches!(command, Some(ClientCommand::EndSettled)) {
            self.settling_until.get_or_insert(now + LINGER);
        }
        if let Some(ClientCommand::Hub(number, event)) = command {
            if number == self.number {
                self.handle(now, event);
            } else if let Some((introduction, _)) = &mut self.introducing
                && number == introduction.number
            {
                introduction.handle(&event);
            } else if let Some((introduced, events)) = &mut self.entering
                && number == introduced.number
            {
                events.push(event);
            }
        }
        self.log_connected();
        let waker = introducer.waker();
        let mut cx = Context::from_waker(&waker);
        self.read_control(&mut cx);
        self.await_introduction(now, &mut cx);
        self.follow_candidate(now, introducer, &mut cx);
        self.shared.pump_flows();
        self.inbound_timeout = self.shared.inbound().and_then(|inbound| inbound.step(now));
        self.report_waiting(now);
        self.end_settled(now);
    }

    fn report_waiting(&mut self, now: Instant) {
        if self.shared.is_settled() && self.waiting_at.is_none_or(|at| now >= at) {
            self.waiting_at = Some(now + WAITING_INTERVAL);
            self.shared.report_waiting();
        }
    }

    /// When to call [`step`](Self::step) again at the latest.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let connection = match &self.introducing {
            Some((_, until)) => Some(*until),
            None if self.entering.is_some() => None,
            None => self.failover.poll_timeout(now),
        };
        let timeouts = [
            connection,
            self.inbound_timeout,
            self.settling_until,
            self.waiting_at,
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Ends a client that is closing, once its messages are settled or the time is up.
    fn end_settled(&mut self, now: Instant) {
        let is_over = |until| now >= until || !self.shared.is_settling();
        if self
            .settling_until
            .take_if(|until| is_over(*until))
            .is_some()
        {
            // The hub first: it would create a successor of the endpoint that ends.
            if let Some(slot) = self.hub.upgrade() {
                slot.get().wind_down();
            }
            self.shared.stop(STOPPED);
        }
    }

    /// A session has ended after the client was stopped. Returns whether another one is needed, because
    /// messages wait for their settlement.
    fn continues_stopped(&mut self, now: Instant) -> bool {
        match self.shared.begin_close() {
            CloseProgress::Settled => return false,
            CloseProgress::Begun => self.settling_until = Some(now + LINGER),
            CloseProgress::Settling => {}
        }
        true
    }

    /// Ends the client after its last handle has been dropped.
    pub(super) fn end(&self) {
        self.shared.stop("the client has been dropped");
    }

    fn handle(&mut self, now: Instant, event: HubEvent) {
        let shared = &self.shared;
        let (peer, remote) = (shared.node(), shared.remote());
        match event {
            HubEvent::Up { .. } | HubEvent::Moved { .. } => {
                self.failover.up();
                self.is_logged &= !matches!(event, HubEvent::Moved { .. });
                if let Some((introduction, _)) = self.introducing.take() {
                    introduction.abandon();
                }
                // The hub reports a restart shortly before the endpoint reports the undelivered messages.
                shared.note_undelivered(&shared.current().1);
            }
            HubEvent::Down { reason, .. } => {
                self.failover.down(now);
                self.is_logged = false;
                tracing::warn!(%peer, remote, reason, "connection lost; messages wait for the next one");
            }
            HubEvent::Refused { reason, .. } => {
                tracing::warn!(%peer, remote, reason, "the zipper refuses connections; dialing again");
            }
            HubEvent::OtherNode { address, found, .. } => {
                tracing::debug!(%peer, %found, address, "another zipper answers");
                self.failover.found(Found {
                    node: found,
                    address,
                });
            }
            HubEvent::Restarted { .. } => {
                // Before the log, which may make an operator end the process.
                shared.note_session_lost();
                tracing::warn!(
                    %peer, remote,
                    "the zipper has lost the session of this client: it has restarted, or it gave this \
                     client up after 30 s without a connection; messages that waited there are lost, \
                     unless they are settled: their sources send those again"
                );
                shared.disconnect_flows();
                if shared.is_stopped() && !self.continues_stopped(now) {
                    // The new process does not answer the goaway to the old one.
                    self.shared.stop(STOPPED);
                } else {
                    self.shared.introduce();
                }
            }
            HubEvent::Left {
                endpoint, reason, ..
            } => self.left(now, &endpoint, &reason),
            _ => {}
        }
    }

    /// Logs a connection once, and notes its address for later lines.
    fn log_connected(&mut self) {
        if self.is_logged {
            return;
        }
        let endpoint = self.shared.current().1;
        let Some(transport) = endpoint.transport() else {
            return;
        };
        self.is_logged = true;
        if let Some(remote) = transport.remote {
            self.shared.set_remote(remote.to_string());
        }
        let (peer, remote) = (endpoint.peer(), self.shared.remote());
        tracing::info!(%peer, remote, scheme = transport.scheme, "connected");
    }

    /// An endpoint has ended: that of the zipper that is left, or one that the zipper has closed.
    fn left(&mut self, now: Instant, endpoint: &Endpoint, reason: &str) {
        if self.shared.is_stopped() && !self.continues_stopped(now) {
            return self.shared.stop(STOPPED);
        }
        if let Some((introduced, events)) = self.entering.take() {
            self.enter(endpoint, introduced);
            return events.into_iter().for_each(|event| self.handle(now, event));
        }
        let (peer, remote) = (endpoint.peer(), self.shared.remote());
        tracing::warn!(%peer, remote, reason, "the zipper has closed the connection");
        self.failover.left(now);
        self.is_logged = false;
        let hub = self.hub.upgrade().map(|slot| slot.get());
        if let Some(new) = hub.and_then(|hub| hub.endpoint(peer)) {
            self.shared.replace(endpoint, new);
        }
    }

    /// Reads the control messages of a source, unless its user reads.
    fn read_control(&self, cx: &mut Context<'_>) {
        if self.role != Role::Source || self.shared.is_read() {
            return;
        }
        let (_, endpoint) = self.shared.current();
        while !self.shared.is_read()
            && let Poll::Ready(Ok(message)) = pin!(endpoint.recv_async()).poll(cx)
        {
            let control = WireMessage::decode(message.payload);
            // The client is closed then, which its user finds when it writes.
            let _closed = control.map(|control| self.shared.control(control));
        }
    }

    /// Begins to move to another zipper, if the own one is away for too long and another one has answered.
    fn follow_candidate(
        &mut self,
        now: Instant,
        introducer: &mut Introducer,
        cx: &mut Context<'_>,
    ) {
        let is_busy = self.introducing.is_some() || self.entering.is_some();
        if is_busy || self.shared.is_stopped() && !self.shared.is_settling() {
            return;
        }
        let (Some(found), Some(driver)) = (self.failover.candidate(now), self.driver.upgrade())
        else {
            return;
        };
        let node = found.node;
        match introducer.begin(driver, found) {
            Ok(introduction) => {
                self.introducing = Some((introduction, now + INTRODUCTION_MAX));
                self.await_introduction(now, cx);
            }
            Err(error) => {
                tracing::warn!(peer = %node, %error, "cannot connect to another zipper");
                self.failover.not_admitted(node);
            }
        }
    }

    fn await_introduction(&mut self, now: Instant, cx: &mut Context<'_>) {
        let Some((introduction, until)) = &mut self.introducing else {
            return;
        };
        let node = introduction.endpoint.peer();
        let error = match introduction.poll(cx) {
            Poll::Ready(Ok(introduced)) => {
                self.introducing = None;
                return self.leave_for(introduced);
            }
            Poll::Ready(Err(not_admitted)) => not_admitted.error,
            Poll::Pending if now >= *until => introduction.silence(),
            Poll::Pending => return,
        };
        tracing::warn!(peer = %node, %error, "another zipper has not admitted this client");
        if let Some((introduction, _)) = self.introducing.take() {
            introduction.abandon();
        }
        self.failover.not_admitted(node);
    }

    /// Ends the session with the zipper that is away. The client enters the other one once that is done.
    fn leave_for(&mut self, introduced: Introduced) {
        let Some(slot) = self.hub.upgrade() else {
            return;
        };
        self.entering = Some((introduced, Vec::new()));
        // The hub first: it would make a successor of the endpoint that ends.
        slot.get().wind_down();
        self.shared.current().1.abort();
    }

    fn enter(&mut self, left: &Endpoint, introduced: Introduced) {
        let Some(slot) = self.hub.upgrade() else {
            return;
        };
        let (from, peer) = (left.peer(), introduced.endpoint.peer());
        let zipper = introduced.name.clone();
        self.number = introduced.number;
        self.failover.up();
        self.shared.note_session_lost();
        let former = slot.replace(Arc::clone(&introduced.hub));
        self.shared.move_to(left, introduced);
        tracing::warn!(
            %peer, zipper, %from,
            "moved to a zipper with another key, since the former one cannot be reached"
        );
        self.is_logged = false;
        drop(former);
    }
}
