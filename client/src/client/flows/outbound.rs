//! The source side: flows with their logs, and what each of them sends.

use std::collections::{HashMap, VecDeque};

use selvedge_hub::LaneId;
use slab::Slab;

use super::outbound_flow::{FlowTurn, HAS_TRACE, OutboundFlow, log_flags};
use super::outcome::{FlowSummary, OutcomeSummary, add};
use super::plain::{LoggedMessage, PlainBacklog};
use super::sink::FlowSink;
use crate::lanes::{BULK, BULK_LEN_MIN, DATA, FLOW_LANES};
use crate::settlement::{FlowLimits, FlowOutcome, LoggedPayload, SettlementError, SourceFlow};
use crate::tag::Tag;
use crate::wire::settlement::{OPEN_FLOWS_MAX, SettlementLevel, SettlementMessage};

/// Bytes of unsettled messages in all logs together, each message with its payload and 64 more.
const LOGS_MAX: u64 = 64 << 20;

/// Idle flows are forgotten once there are more flows: the log of each may keep 144 KiB.
const FLOWS_KEPT: usize = 1024;

/// The flows of a source, by tag and target.
#[derive(Debug)]
pub(in crate::client) struct Outbound {
    level: SettlementLevel,
    limits: FlowLimits,
    /// The number of the process for flows that are opened from now on. It changes whenever a flow is
    /// forgotten, because the next flow of that tag and target numbers its messages anew.
    process: u64,
    link: FlowLink,
    flows: Slab<OutboundFlow>,
    tags: HashMap<Tag, TagFlows>,
    /// The flow without a target that was written last.
    recent: Option<(Tag, usize)>,
    /// Flows that are open on this connection. No label is used twice.
    labels: HashMap<u32, usize>,
    next_label: u32,
    /// Flows that have something to send, in turn, for each of the [`FLOW_LANES`].
    ready: [VecDeque<usize>; FLOW_LANES.len()],
    /// Flows that have something to answer.
    due: VecDeque<usize>,
    log_bytes: u64,
    /// Idle flows are looked for once there are so many.
    sweep_at: usize,
    forgotten: FlowOutcome,
    backlog: PlainBacklog,
}

/// What the zipper does with flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlowLink {
    /// It has not admitted the client yet.
    Down,
    /// It settles messages.
    Settling,
    /// It is of a version that does not.
    Plain,
}

/// The flows with one tag.
#[derive(Debug, Default)]
struct TagFlows {
    untargeted: Option<usize>,
    targeted: HashMap<Box<str>, usize>,
}

/// A message to write.
#[derive(Debug, Clone, Copy)]
pub(in crate::client) struct FlowWrite<'a> {
    pub(in crate::client) tag: Tag,
    pub(in crate::client) target: Option<&'a str>,
    /// Whether the body begins with a trace.
    pub(in crate::client) has_trace: bool,
    /// How many functions it has passed.
    pub(in crate::client) depth: u8,
    pub(in crate::client) body: LoggedPayload<'a>,
}

impl<'a> FlowWrite<'a> {
    /// A message without a target and a trace.
    #[inline]
    pub(in crate::client) const fn plain(tag: Tag, body: &'a [u8]) -> Self {
        Self {
            tag,
            target: None,
            has_trace: false,
            depth: 0,
            body: LoggedPayload::Copied(body),
        }
    }
}

/// Why a message was not accepted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum FlowRefusal {
    /// There is no room before other messages are settled.
    Full,
    /// The zipper does not settle messages: it is to be sent as plain data.
    Plain,
}

impl Outbound {
    pub(in crate::client) fn new(level: SettlementLevel, limits: FlowLimits, process: u64) -> Self {
        Self {
            level,
            limits,
            process,
            link: FlowLink::Down,
            flows: Slab::new(),
            tags: HashMap::new(),
            recent: None,
            labels: HashMap::new(),
            next_label: 0,
            ready: Default::default(),
            due: VecDeque::new(),
            log_bytes: 0,
            sweep_at: FLOWS_KEPT,
            forgotten: FlowOutcome::default(),
            backlog: PlainBacklog::default(),
        }
    }

    /// Accepts a message, and sends what can be sent. A message that is not accepted has no number.
    #[inline]
    pub(in crate::client) fn write(
        &mut self,
        message: FlowWrite<'_>,
        sink: &mut impl FlowSink,
    ) -> Result<(), FlowRefusal> {
        self.push(message, sink)?;
        self.pump(sink);
        Ok(())
    }

    /// Accepts a message without sending it: [`pump`](Self::pump) is to be called.
    #[inline]
    pub(in crate::client) fn push(
        &mut self,
        message: FlowWrite<'_>,
        sink: &mut impl FlowSink,
    ) -> Result<(), FlowRefusal> {
        let at = self.flow_for(&message, sink)?;
        let flow = &mut self.flows[at];
        // Then it is ready already, or something else makes it ready: room in the window, or a connection.
        let is_waiting = flow.source.has_unsent();
        let before = flow.source.log_bytes();
        let flags = log_flags(message.has_trace, message.depth);
        let pushed = flow.push(message.body, flags);
        pushed.map_err(|_full| FlowRefusal::Full)?;
        self.log_bytes += flow.source.log_bytes() - before;
        if message.body.len() >= BULK_LEN_MIN {
            self.flows[at].note_long();
        }
        if !is_waiting {
            self.mark_ready(at);
        }
        Ok(())
    }

    /// Looks for room for a message, as [`push`](Self::push) does.
    pub(in crate::client) fn look_for_room(
        &mut self,
        message: &FlowWrite<'_>,
        sink: &mut impl FlowSink,
    ) -> Result<(), FlowRefusal> {
        let at = self.flow_for(message, sink)?;
        let found = self.flows[at].source.look_for_room(message.body.len());
        found.map_err(|_full| FlowRefusal::Full)
    }

    /// The flow of a message, unless it is refused whatever that has room for.
    #[inline]
    fn flow_for(
        &mut self,
        message: &FlowWrite<'_>,
        sink: &mut impl FlowSink,
    ) -> Result<usize, FlowRefusal> {
        if !self.backlog.is_empty() {
            return Err(FlowRefusal::Full);
        }
        if self.link == FlowLink::Plain {
            return Err(FlowRefusal::Plain);
        }
        let at = match (self.recent, message.target) {
            (Some((tag, at)), None) if tag == message.tag => at,
            _ => self.flow_of(message.tag, message.target, sink)?,
        };
        match self.log_bytes > 0 && self.log_bytes + message.body.len() as u64 > LOGS_MAX {
            true => Err(FlowRefusal::Full),
            false => Ok(at),
        }
    }

    /// The flow with that tag and target, which is made if there is none.
    fn flow_of(
        &mut self,
        tag: Tag,
        target: Option<&str>,
        sink: &mut impl FlowSink,
    ) -> Result<usize, FlowRefusal> {
        let known = self.tags.get(&tag).and_then(|flows| match target {
            None => flows.untargeted,
            Some(target) => flows.targeted.get(target).copied(),
        });
        let at = match known {
            Some(at) => at,
            None => self.make(tag, target, sink)?,
        };
        if target.is_none() {
            self.recent = Some((tag, at));
        }
        Ok(at)
    }

    fn make(
        &mut self,
        tag: Tag,
        target: Option<&str>,
        sink: &mut impl FlowSink,
    ) -> Result<usize, FlowRefusal> {
        if self.flows.len() >= self.sweep_at {
            self.forget_idle(sink);
        }
        if self.flows.len() >= OPEN_FLOWS_MAX {
            return Err(FlowRefusal::Full);
        }
        let source = match self.level {
            SettlementLevel::Accepted => SourceFlow::new(self.limits).settling_when_routed(),
            SettlementLevel::Received | SettlementLevel::Processed => SourceFlow::new(self.limits),
        };
        let flow = OutboundFlow::new(tag, target, self.process, source);
        let at = self.flows.insert(flow);
        let flows = self.tags.entry(tag).or_default();
        match target {
            None => flows.untargeted = Some(at),
            Some(target) => {
                flows.targeted.insert(target.into(), at);
            }
        }
        Ok(at)
    }

    /// Forgets flows without unsettled messages.
    fn forget_idle(&mut self, sink: &mut impl FlowSink) {
        let idle = self.flows.iter().filter(|(_, flow)| flow.source.is_done());
        let idle: Vec<usize> = idle.map(|(at, _)| at).collect();
        for at in idle {
            self.close_flow(at, sink);
            let flow = self.flows.remove(at);
            if let Some(flows) = self.tags.get_mut(&flow.tag) {
                match &flow.target {
                    None => flows.untargeted = None,
                    Some(target) => drop(flows.targeted.remove(target)),
                }
                if flows.untargeted.is_none() && flows.targeted.is_empty() {
                    self.tags.remove(&flow.tag);
                }
            }
            for ready in &mut self.ready {
                ready.retain(|ready| *ready != at);
            }
            self.due.retain(|due| *due != at);
            add(&mut self.forgotten, flow.source.outcome());
        }
        self.recent = None;
        self.process = self.process.wrapping_add(1);
        self.sweep_at = FLOWS_KEPT.max(2 * self.flows.len());
    }

    /// Ends the flows at the zipper, in order, as far as they are settled. The client is closing.
    pub(in crate::client) fn close_flows(&mut self, sink: &mut impl FlowSink) {
        let flows: Vec<usize> = self.flows.iter().map(|(at, _)| at).collect();
        for at in flows {
            if self.flows[at].source.is_done() {
                self.close_flow(at, sink);
            }
        }
    }

    fn close_flow(&mut self, at: usize, sink: &mut impl FlowSink) {
        if let Some(label) = self.flows[at].close(sink) {
            self.labels.remove(&label);
        }
    }

    /// Whether every accepted message has an outcome.
    pub(in crate::client) fn is_done(&self) -> bool {
        self.log_bytes == 0 && self.backlog.is_empty()
    }

    /// Whether no message waits to be sent as plain data.
    pub(in crate::client) fn has_no_backlog(&self) -> bool {
        self.backlog.is_empty()
    }

    /// The flows with unsettled messages, and the number behind the last of each: for
    /// [`is_done_below`](Self::is_done_below).
    pub(in crate::client) fn marks(&self) -> Vec<FlowMark> {
        let flows = self.flows.iter();
        let unsettled = flows.filter(|(_, flow)| !flow.source.is_done());
        let mark = |(at, flow): (usize, &OutboundFlow)| FlowMark {
            at,
            process: flow.process,
            next: flow.source.next(),
        };
        unsettled.map(mark).collect()
    }

    /// Whether every message of a flow below a mark has an outcome.
    pub(in crate::client) fn is_done_below(&self, mark: &FlowMark) -> bool {
        let flow = self.flows.get(mark.at);
        // Another flow has taken the place of one that was done.
        let flow = flow.filter(|flow| flow.process == mark.process);
        flow.is_none_or(|flow| flow.source.base() >= mark.next)
    }

    pub(in crate::client) fn outcomes(&self) -> OutcomeSummary {
        let summary = |flow: &OutboundFlow| FlowSummary {
            tag: flow.tag,
            target: flow.target.as_deref().map(str::to_owned),
            outcome: flow.source.outcome(),
            unsettled: flow.source.next() - flow.source.base(),
        };
        let mut flows: Vec<_> = self.flows.iter().map(|(_, flow)| summary(flow)).collect();
        flows.sort_by(|a, b| (a.tag, &a.target).cmp(&(b.tag, &b.target)));
        OutcomeSummary {
            flows,
            forgotten: self.forgotten,
        }
    }

    /// The connection is lost for the zipper, too: it knows no flow any more.
    pub(in crate::client) fn disconnect(&mut self) {
        self.link = FlowLink::Down;
        self.labels.clear();
        self.ready.iter_mut().for_each(VecDeque::clear);
        self.due.clear();
        for (_, flow) in &mut self.flows {
            flow.disconnect();
        }
    }

    /// A zipper that settles messages has admitted the client. Every flow with unsettled messages is
    /// attached there.
    pub(in crate::client) fn connect(&mut self, sink: &mut impl FlowSink) {
        self.disconnect();
        self.link = FlowLink::Settling;
        for (at, flow) in &mut self.flows {
            if !flow.source.is_done() {
                flow.is_ready = true;
                self.ready[queue_of(flow.lane)].push_back(at);
            }
        }
        self.pump(sink);
    }

    /// A zipper that does not settle messages has admitted the client. Unsettled messages that were never
    /// sent become plain data. Returns the number of the others, which may or may not have been processed.
    pub(in crate::client) fn connect_plain(&mut self, sink: &mut impl FlowSink) -> u64 {
        self.disconnect();
        self.link = FlowLink::Plain;
        let mut uncertain = 0;
        let unsettled: Vec<usize> = self.flows.iter().map(|(at, _)| at).collect();
        for at in unsettled {
            let flow = &mut self.flows[at];
            let backlog = &mut self.backlog;
            let of_flow = (flow.tag, flow.target.as_deref());
            uncertain += flow.source.give_up(|sequence, flags, body| {
                let has_trace = flags & HAS_TRACE != 0;
                let message = LoggedMessage {
                    sequence,
                    has_trace,
                    body,
                };
                backlog.push(of_flow, message);
            });
        }
        self.log_bytes = 0;
        self.pump(sink);
        uncertain
    }

    /// Informs the zipper of the flows that recipients hold back. To be called once a second.
    pub(in crate::client) fn report_waiting(&self, sink: &mut impl FlowSink) {
        if self.link == FlowLink::Settling && self.log_bytes > 0 {
            let flows = self.flows.iter();
            flows.for_each(|(_, flow)| flow.report_waiting(sink));
        }
    }

    fn mark_ready(&mut self, at: usize) {
        let flow = &mut self.flows[at];
        if !flow.is_ready {
            flow.is_ready = true;
            self.ready[queue_of(flow.lane)].push_back(at);
        }
    }

    fn mark_due(&mut self, at: usize) {
        let due = &mut self.flows[at].due;
        if !std::mem::replace(&mut due.is_queued, true) {
            self.due.push_back(at);
        }
    }

    /// Sends as much as the windows and the send buffer have room for.
    #[inline]
    pub(in crate::client) fn pump(&mut self, sink: &mut impl FlowSink) {
        if !self.backlog.is_empty() {
            self.backlog.pump(sink);
        }
        if self.link != FlowLink::Settling {
            return;
        }
        while let Some(&at) = self.due.front() {
            if !self.flows[at].answer(sink) {
                return;
            }
            self.due.pop_front();
        }
        self.pump_lane(queue_of(DATA), sink);
        // A lane without room does not hold back the other one.
        if !self.ready[queue_of(BULK)].is_empty() {
            self.pump_bulk(sink);
        }
    }

    /// Sends messages of the flows on the lane [`BULK`]. Not inlined: it must cost the others nothing.
    #[inline(never)]
    fn pump_bulk(&mut self, sink: &mut impl FlowSink) {
        self.pump_lane(queue_of(BULK), sink);
    }

    /// Sends messages of the flows on one lane.
    #[inline]
    fn pump_lane(&mut self, queue: usize, sink: &mut impl FlowSink) {
        while let Some(&at) = self.ready[queue].front() {
            match self.pump_flow(at, sink) {
                FlowTurn::Drained => {
                    self.ready[queue].pop_front();
                    self.flows[at].is_ready = false;
                }
                FlowTurn::Moved => {
                    self.ready[queue].pop_front();
                    self.ready[queue_of(BULK)].push_back(at);
                }
                FlowTurn::Over => self.ready[queue].rotate_left(1),
                FlowTurn::NoRoom | FlowTurn::Ended => return,
            }
        }
    }

    /// Sends messages of one flow.
    #[inline]
    fn pump_flow(&mut self, at: usize, sink: &mut impl FlowSink) -> FlowTurn {
        let flow = &mut self.flows[at];
        let turn = match flow.label {
            _ if flow.is_bulk() => self.pump_bulk_flow(at, sink),
            Some(label) => flow.pump(DATA, label, sink),
            None => self.open_flow(at, sink),
        };
        if turn == FlowTurn::Ended {
            // The flows are attached again on the next endpoint.
            self.disconnect();
        }
        turn
    }

    fn open_flow(&mut self, at: usize, sink: &mut impl FlowSink) -> FlowTurn {
        let flow = &mut self.flows[at];
        let turn = flow.open(self.next_label, self.level, sink);
        if flow.label.is_some() {
            self.labels.insert(self.next_label, at);
            self.next_label = self.next_label.wrapping_add(1);
        }
        turn
    }

    /// Sends messages of a flow that has had a long one. It is moved to the lane [`BULK`] once the zipper has routed
    /// what it has, and sends nothing until then: it is attached anew there.
    #[inline(never)]
    fn pump_bulk_flow(&mut self, at: usize, sink: &mut impl FlowSink) -> FlowTurn {
        let flow = &mut self.flows[at];
        let is_open = flow.label.is_some();
        // What is settled once it is routed may be on its way, and could not be sent again.
        let may_move = !is_open || self.level != SettlementLevel::Accepted;
        if flow.lane != BULK && may_move {
            if is_open && !flow.source.is_routed() {
                return FlowTurn::Drained;
            }
            if let Some(label) = flow.move_to_bulk() {
                self.labels.remove(&label);
            }
            return FlowTurn::Moved;
        }
        flow.leave_data(sink);
        match flow.label {
            Some(label) => flow.pump(flow.lane, label, sink),
            None => self.open_flow(at, sink),
        }
    }

    /// Handles a message of the zipper, and sends what follows from it. Messages for flows that are not
    /// open on this connection are ignored. Returns whether messages have left a log.
    ///
    /// # Errors
    /// [`SettlementError`] if the zipper has broken the protocol.
    pub(in crate::client) fn handle(
        &mut self,
        message: SettlementMessage,
        sink: &mut impl FlowSink,
    ) -> Result<bool, SettlementError> {
        let (label, attachment) = match &message {
            SettlementMessage::Announce(it) => (it.label, it.attachment),
            SettlementMessage::Progress(it) => (it.label, it.attachment),
            SettlementMessage::Resend(it) => (it.label, it.attachment),
            SettlementMessage::Probe {
                label, attachment, ..
            } => (*label, *attachment),
            _ => return Ok(false),
        };
        let Some(&at) = self.labels.get(&label) else {
            return Ok(false);
        };
        let flow = &mut self.flows[at];
        if !flow.source.is_current(attachment) {
            return Ok(false);
        }
        let before = flow.source.log_bytes();
        let is_due = flow.handle(message)?;
        let freed = before - flow.source.log_bytes();
        self.log_bytes -= freed;
        if is_due {
            self.mark_due(at);
        }
        self.mark_ready(at);
        self.pump(sink);
        Ok(freed > 0)
    }
}

/// The place of a lane among the [`FLOW_LANES`].
#[inline]
fn queue_of(lane: LaneId) -> usize {
    usize::from(lane == BULK)
}

/// The unsettled messages of a flow at one time.
#[derive(Debug)]
pub(in crate::client) struct FlowMark {
    at: usize,
    process: u64,
    next: u64,
}

#[cfg(test)]
#[path = "outbound_tests.rs"]
mod tests;
