//! The receiving side: what the process has of each flow, and when that is reported.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use selvedge_hub::{Clock, Endpoint, Instant};

use super::delivery::{DeliveryHandle, RoutedDelivery};
use super::inbound_flow::RouteBack;
use super::inbound_state::InboundState;
use super::run::{ReaderRun, RunCounter};
use super::sessions::SessionKey;
use crate::lanes::CONTROL;
use crate::settlement::{InstanceId, Receipt};
use crate::wire::settlement::{RouteBinding, RoutedMessage, SettlementLevel, SettlementMessage};
use crate::wire::{DropPolicy, WireError};

/// A report leaves after so many messages, of up to 1 KiB; longer ones count more.
const REPORT_MESSAGES: u64 = 1024;

/// And so long after the first of them; and when no message is left, at most as often. Measured with one message
/// outstanding, 32 rounds on two cores: a report each millisecond lengthens the round trip by 12 % (mean; median 19 %), one
/// each five milliseconds by 3 %.
const REPORT_DELAY: Duration = Duration::from_millis(5);

/// When a message counts as processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcknowledgeMode {
    /// When it is read.
    #[default]
    OnRead,
    /// When [`Client::acknowledge`](crate::Client::acknowledge) is called with it. Every message has to be
    /// acknowledged: its source retains it until then. [`Client::read`](crate::Client::read) acknowledges
    /// what it returns.
    ByCall,
}

/// What becomes of messages that an instance of a function may have processed when it is lost: it crashed,
/// or was disconnected for longer than its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InstanceLossPolicy {
    /// Another instance receives them, flagged as redeliveries: at least once.
    #[default]
    Redeliver,
    /// They are reported to their source as abandoned: at most once.
    Report,
}

/// The flows that this process receives. Any thread may call any method; none blocks.
#[derive(Debug)]
pub(in crate::client) struct Inbound {
    state: Mutex<InboundState>,
    run: RunCounter,
    /// Whether messages that have waited for a lease may be read.
    has_ready: AtomicBool,
    /// Whether messages may have been processed that are not reported.
    has_news: AtomicBool,
    /// Which messages the zipper drops while there is no room for more: then none of them is settled.
    drops: Option<DropPolicy>,
    clock: Clock,
    wake_actor: Waker,
}

impl Inbound {
    pub(in crate::client) fn new(
        instance: InstanceId,
        acknowledge: AcknowledgeMode,
        on_loss: InstanceLossPolicy,
        drops: Option<DropPolicy>,
        clock: Clock,
        wake_actor: Waker,
    ) -> Self {
        Self {
            state: Mutex::new(InboundState::new(instance, acknowledge, on_loss)),
            run: RunCounter::new(),
            has_ready: AtomicBool::new(false),
            has_news: AtomicBool::new(false),
            drops,
            clock,
            wake_actor,
        }
    }

    /// Locks the flows, with everything that was read.
    #[inline]
    fn lock(&self) -> MutexGuard<'_, InboundState> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.note_taken(self.run.close());
        state
    }

    /// A zipper has admitted the client, on the worker. If it settles messages, the process introduces
    /// itself, or its drop policy.
    pub(in crate::client) fn begin_session(
        &self,
        endpoint: &Endpoint,
        settles: bool,
    ) -> SessionKey {
        let mut state = self.lock();
        if settles && !state.awaits_reader {
            state.introduce(endpoint, self.drops);
        }
        for (_, flow) in &mut state.flows {
            // The process that knew the route is gone.
            flow.route.take_if(|route| route.endpoint == *endpoint);
        }
        let key = state.sessions.begin(endpoint);
        if settles && state.awaits_reader {
            state.withheld = Some((endpoint.clone(), key));
        }
        key
    }

    /// The zipper has ended the connection, because the process has held a source back. What the user has not
    /// read is dropped. To zippers it is another process from now on, since its messages go to others; and it is
    /// not introduced before a user reads the next session, so that one that is blocked receives nothing.
    pub(in crate::client) fn end_stalled(&self) {
        self.lock().end_stalled();
    }

    /// A reader has read the beginning of a session. Routes of former ones end.
    pub(in crate::client) fn read_session(&self, endpoint: &Endpoint) -> SessionKey {
        let mut state = self.lock();
        let key = state.sessions.read(endpoint);
        if state
            .withheld
            .take_if(|it| *it == (endpoint.clone(), key))
            .is_some()
        {
            state.awaits_reader = false;
            state.introduce(endpoint, self.drops);
        }
        state.routes.retain(|(session, _), _| *session >= key);
        state.recent = None;
        key
    }

    /// A route begins. The answer is sent at once.
    pub(in crate::client) fn bind(
        &self,
        endpoint: &Endpoint,
        session: SessionKey,
        binding: &RouteBinding,
    ) {
        let mut state = self.lock();
        let (label, epoch) = (binding.label, binding.epoch);
        let reason = match state.flow_to_bind(binding) {
            Ok(at) => {
                let back = RouteBack {
                    endpoint: endpoint.clone(),
                    session,
                    label,
                };
                return state.bind(at, epoch, back, self.clock.now());
            }
            Err(reason) => reason,
        };
        let lost = SettlementMessage::RouteLost { label, reason };
        if let Ok(bytes) = lost.encode() {
            // Without room the entry zipper waits for the answer until its own limit.
            let _is_sent = endpoint.try_send(CONTROL, bytes);
        }
    }

    /// The sender does not use a route any more.
    pub(in crate::client) fn unbind(&self, session: SessionKey, label: u32) {
        let mut state = self.lock();
        state.recent = None;
        let Some(route) = state.routes.remove(&(session, label)) else {
            return;
        };
        if let Some(flow) = state.flow(route.at, route.number) {
            let is_same = |back: &mut RouteBack| (back.session, back.label) == (session, label);
            flow.route.take_if(is_same);
        }
    }

    /// The source of a flow has removed messages from its log.
    pub(in crate::client) fn raise_floor(&self, session: SessionKey, label: u32, floor: u64) {
        let mut state = self.lock();
        if let Some(route) = state.routes.get(&(session, label)).copied()
            && let Some(flow) = state.flow(route.at, route.number)
        {
            flow.receiving.raise_floor(floor);
        }
    }

    /// The entry zipper asks for a report, which is sent at once.
    pub(in crate::client) fn handle_ask(&self, session: SessionKey, label: u32) {
        let mut state = self.lock();
        if let Some(route) = state.routes.get(&(session, label)).copied()
            && let Some(flow) = state.flow(route.at, route.number)
        {
            flow.receiving.handle_ask(route.epoch);
            state.report_flow(route.at, self.clock.now());
        }
    }

    /// The lease of a flow is renewed. Returns whether messages may be read that have waited for it.
    pub(in crate::client) fn renew(&self, session: SessionKey, label: u32, stamp: u64) -> bool {
        let mut state = self.lock();
        let Some(route) = state.routes.get(&(session, label)).copied() else {
            return false;
        };
        let Some(flow) = state.flow(route.at, route.number) else {
            return false;
        };
        flow.receiving.handle_renew(route.epoch, stamp);
        if flow.parked.is_empty() || !flow.receiving.may_process(self.clock.now()) {
            return false;
        }
        let mut parked = std::mem::take(&mut flow.parked);
        state.ready.append(&mut parked);
        self.has_ready.store(true, Ordering::Release);
        true
    }

    /// A message has arrived. Returns it if the user is to process it now. `run` is that of the only reader.
    #[inline]
    pub(in crate::client) fn receive(
        &self,
        run: &mut Option<ReaderRun>,
        session: SessionKey,
        message: (RoutedMessage, Bytes),
    ) -> Option<Result<RoutedDelivery, WireError>> {
        if let Some(run) = run
            && run.take(&self.run, session, &message.0)
        {
            return Some(run.deliver(message.0, message.1));
        }
        self.receive_first(run, session, message)
    }

    /// A message has arrived that belongs to no run, and may begin one. Not inlined: it must cost the others
    /// nothing.
    #[inline(never)]
    fn receive_first(
        &self,
        run: &mut Option<ReaderRun>,
        session: SessionKey,
        (header, bytes): (RoutedMessage, Bytes),
    ) -> Option<Result<RoutedDelivery, WireError>> {
        let now = self.clock.now();
        let mut state = self.lock();
        let route = state.route(session, header.label)?;
        let is_by_call = state.acknowledge == AcknowledgeMode::ByCall;
        let flow = state.flow(route.at, route.number)?;
        if !flow.parked.is_empty() || !flow.receiving.may_process(now) {
            state.park(route, header, bytes, now);
            return None;
        }
        flow.note_len(bytes.len());
        let is_by_call = is_by_call && flow.level == SettlementLevel::Processed;
        let (epoch, sequence) = (route.epoch, header.sequence);
        let receipt = match is_by_call {
            true => flow.receiving.receive(epoch, sequence),
            false => flow.receiving.receive_and_process(epoch, sequence),
        };
        if receipt != Receipt::New {
            return None;
        }
        if is_by_call {
            flow.receiving.begin(sequence);
            self.hold(&mut state, route.at);
        } else {
            self.note_news(&mut state, route.at);
        }
        let origin = &state.flows[route.at].origin;
        let message = (header, bytes);
        let delivery = RoutedDelivery::new(origin, route.at, message, is_by_call);
        let (connection, place) = ((session, header.label), (route, sequence));
        *run = state.open_run(&self.run, connection, place, is_by_call);
        if run.is_some() && !is_by_call {
            self.has_news.store(true, Ordering::Relaxed);
            self.arm(&mut state);
        }
        Some(delivery)
    }

    /// Whether [`take_ready`](Self::take_ready) may have a message.
    #[inline]
    pub(in crate::client) fn has_ready(&self) -> bool {
        self.has_ready.load(Ordering::Acquire)
    }

    /// The next message whose lease has come.
    pub(in crate::client) fn take_ready(&self) -> Option<Result<RoutedDelivery, WireError>> {
        let mut state = self.lock();
        let now = self.clock.now();
        let is_by_call = state.acknowledge == AcknowledgeMode::ByCall;
        while let Some(parked) = state.ready.pop_front() {
            let (at, number, sequence) = (parked.at, parked.number, parked.header.sequence);
            state.parked_bytes -= parked.bytes.len();
            let Some(flow) = state.flow(at, number) else {
                continue;
            };
            if !flow.receiving.may_process(now) {
                // The messages of the flow that are ready go back behind it, in order.
                let len = parked.bytes.len();
                flow.parked.push_back(parked);
                state.parked_bytes += len;
                state.put_back(at);
                state.report_flow(at, now);
                continue;
            }
            // Unless it was dropped meanwhile.
            if !flow.receiving.begin(sequence) {
                continue;
            }
            let is_by_call = is_by_call && flow.level == SettlementLevel::Processed;
            if !is_by_call {
                flow.receiving.process(sequence);
                self.note_news(&mut state, at);
            }
            let origin = &state.flows[at].origin;
            let message = (parked.header, parked.bytes);
            return Some(RoutedDelivery::new(origin, at, message, is_by_call));
        }
        self.has_ready.store(false, Ordering::Release);
        None
    }

    /// The user has processed a message. Returns whether it was the last one of a client that
    /// [finishes](Self::finish).
    pub(in crate::client) fn acknowledge(&self, handle: DeliveryHandle) -> bool {
        let mut state = self.lock();
        if let Some(flow) = state.flow(handle.at, handle.number) {
            flow.receiving.process(handle.sequence);
            self.note_news(&mut state, handle.at);
        }
        state.is_finishing && state.is_idle() && state.leave(self.clock.now())
    }

    /// The user has processed everything that it has read. Returns whether the client
    /// [finishes](Self::finish), and everything is reported.
    pub(in crate::client) fn acknowledge_all(&self) -> bool {
        let mut state = self.lock();
        for place in 0..state.holding.len() {
            let at = state.holding[place];
            let count = state.flows[at].receiving.process_begun();
            if count > 0 {
                self.note_processed(&mut state, at, count);
            }
        }
        state.is_finishing && state.is_idle() && state.leave(self.clock.now())
    }

    /// Nothing is received any more. Once the user has processed what it has read, the process
    /// [leaves](Self::leave). Returns whether it has.
    pub(in crate::client) fn finish(&self) -> bool {
        let mut state = self.lock();
        if std::mem::replace(&mut state.is_finishing, true) {
            return false;
        }
        state.fence();
        state.is_idle() && state.leave(self.clock.now())
    }

    /// A reader has found no message.
    #[inline]
    pub(in crate::client) fn note_idle(&self) {
        if self.has_news.load(Ordering::Relaxed) {
            let mut state = self.lock();
            let now = self.clock.now();
            // One that reads a message at a time would report each of them. The actor reports after the delay.
            if state.idle_report_at.is_none_or(|at| now >= at) {
                state.idle_report_at = Some(now + REPORT_DELAY);
                self.report(&mut state);
            }
        }
    }

    /// The time has come to `now`, or the actor was woken. Returns when to call again.
    pub(in crate::client) fn step(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        if state.is_armed && state.report_at.is_none() {
            state.report_at = Some(now + REPORT_DELAY);
        }
        if state.report_at.is_some_and(|at| at <= now) {
            (state.report_at, state.is_armed) = (None, false);
            self.report(&mut state);
        }
        state.handle_limits(now);
        let timeouts = [state.report_at, state.limits_at];
        timeouts.into_iter().flatten().min()
    }

    /// Reports everything that was processed, and that the process leaves. Nothing is received any more.
    pub(in crate::client) fn leave(&self) {
        self.lock().leave(self.clock.now());
    }

    #[inline]
    fn note_news(&self, state: &mut InboundState, at: usize) {
        self.note_processed(state, at, 1);
    }

    fn note_processed(&self, state: &mut InboundState, at: usize, count: u64) {
        state.note_news(at, count);
        if state.unreported >= REPORT_MESSAGES {
            return self.report(state);
        }
        self.has_news.store(true, Ordering::Relaxed);
        self.arm(state);
    }

    /// The flow holds messages, so its time limits count.
    fn hold(&self, state: &mut InboundState, at: usize) {
        if state.hold(at) {
            self.wake_actor.wake_by_ref();
        }
    }

    #[inline]
    fn arm(&self, state: &mut InboundState) {
        if !state.is_armed {
            state.is_armed = true;
            self.wake_actor.wake_by_ref();
        }
    }

    /// Sends the reports of all flows that have news.
    fn report(&self, state: &mut InboundState) {
        let now = self.clock.now();
        state.unreported = 0;
        self.has_news.store(false, Ordering::Relaxed);
        for at in std::mem::take(&mut state.dirty) {
            state.report_flow(at, now);
        }
        if !state.dirty.is_empty() {
            // There was no room: again after the delay.
            self.arm(state);
        }
    }
}
