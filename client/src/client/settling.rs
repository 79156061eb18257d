//! Writing messages that are to be settled, and waiting until they are.

use std::sync::{MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use selvedge_hub::{Endpoint, Instant};

use crate::client::flows::{
    EndpointSink, FlowRefusal, FlowWrite, Outbound, OutcomeSummary, settles,
};
use crate::client::shared::{ClientClosed, ClientShared, CurrentEndpoint, STOPPED, lock};
use crate::client::{Client, OutgoingBatch, WriteError};
use crate::lanes::BULK_LEN_MIN;
use crate::settlement::{LoggedPayload, SettlementError};
use crate::wire::settlement::{SettlementMessage, put_trace};
use crate::wire::{Data, Negotiated, PlainMessage};

/// Whether a writer waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteWait {
    Never,
    Forever,
}

/// What has become of a message that was to be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SettledWrite {
    /// It is in the log.
    Accepted,
    /// The zipper does not settle messages: it is to be sent as plain data.
    Plain,
}

/// How far a client that closes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseProgress {
    /// Messages wait for their settlement, and the client has begun to close.
    Begun,
    /// They have waited already.
    Settling,
    /// No message waits.
    Settled,
}

/// The settlement of the messages that a client writes.
#[derive(Debug)]
pub(super) struct SettledWrites {
    pub(super) outbound: Outbound,
    /// Wakes the client's actor, which continues when the send buffer has room.
    waker: Waker,
    /// How many threads wait for room in a log, or for settlement.
    waiting: usize,
    /// Whether the client is closing: it accepts no message, and ends once every message is settled.
    is_closing: bool,
}

impl SettledWrites {
    pub(super) const fn new(outbound: Outbound, waker: Waker) -> Self {
        Self {
            outbound,
            waker,
            waiting: 0,
            is_closing: false,
        }
    }

    /// Calls `run` with the flows and the send buffer of an endpoint.
    #[inline]
    fn with<T>(
        &mut self,
        endpoint: &Endpoint,
        run: impl FnOnce(&mut Outbound, &mut EndpointSink<'_>) -> T,
    ) -> T {
        let mut sink = EndpointSink::new(endpoint, &self.waker);
        run(&mut self.outbound, &mut sink)
    }

    /// The zipper has admitted the client on `endpoint`. Returns the number of messages that may or may
    /// not have been processed, and are not sent again.
    pub(super) fn connect(&mut self, endpoint: &Endpoint, settles: bool) -> u64 {
        self.with(endpoint, |outbound, sink| match settles {
            true => {
                outbound.connect(sink);
                0
            }
            false => outbound.connect_plain(sink),
        })
    }
}

impl CurrentEndpoint {
    /// Another endpoint has come into use: flows with unsettled messages are attached there, at once or
    /// when the zipper admits the client. Returns how many messages may or may not have been processed.
    pub(super) fn resume_flows(&mut self, protocol: Option<Negotiated>) -> u64 {
        let (Some(settled), endpoint) = (&mut self.settled, &self.endpoint) else {
            return 0;
        };
        self.has_data |= !settled.outbound.is_done();
        match protocol {
            Some(protocol) => settled.connect(endpoint, settles(protocol)),
            None => {
                settled.outbound.disconnect();
                0
            }
        }
    }

    /// Ends the flows at the zipper, as far as they are settled.
    pub(super) fn close_flows(&mut self) {
        if let (Some(settled), None) = (&mut self.settled, &self.ended) {
            settled.with(&self.endpoint, |outbound, sink| outbound.close_flows(sink));
        }
    }

    /// Whether the client is closing, and waits for settlement.
    pub(super) fn is_closing(&self) -> bool {
        self.settled.as_ref().is_some_and(|it| it.is_closing)
    }

    /// Whether messages wait for their settlement, and may still be settled.
    fn is_settling(&self) -> bool {
        let is_done = self.settled.as_ref().is_none_or(|it| it.outbound.is_done());
        !is_done && self.ended.is_none()
    }
}

impl ClientShared {
    /// Whether messages are settled, if the zipper does that.
    #[inline]
    pub(super) const fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Writes a message that is to be settled. Not inlined: it must cost plain messages nothing.
    #[inline(never)]
    pub(super) fn write_settled(
        &self,
        message: FlowWrite<'_>,
        wait: WriteWait,
    ) -> Result<SettledWrite, WriteError> {
        if let LoggedPayload::Copied(body) = message.body
            && body.len() >= BULK_LEN_MIN
        {
            return self.write_settled_long(message, body, wait);
        }
        self.until_accepted(wait, |current| {
            current.write_flows(|outbound, sink| outbound.write(message, sink))
        })
    }

    /// Writes a long message. It is copied without the lock, once there is room: a copy of 60 MiB takes 20 ms, and
    /// other threads write meanwhile.
    #[cold]
    fn write_settled_long(
        &self,
        message: FlowWrite<'_>,
        body: &[u8],
        wait: WriteWait,
    ) -> Result<SettledWrite, WriteError> {
        let found = self.until_accepted(wait, |current| {
            current.write_flows(|outbound, sink| outbound.look_for_room(&message, sink))
        })?;
        if found == SettledWrite::Plain {
            return Ok(found);
        }
        let body = Bytes::copy_from_slice(body);
        let body = LoggedPayload::Kept(&body);
        self.write_settled(FlowWrite { body, ..message }, wait)
    }

    /// Repeats a write until it is not refused for want of room.
    #[inline]
    fn until_accepted(
        &self,
        wait: WriteWait,
        mut write: impl FnMut(
            &mut CurrentEndpoint,
        ) -> Result<Option<Result<(), FlowRefusal>>, ClientClosed>,
    ) -> Result<SettledWrite, WriteError> {
        let mut current = lock(&self.current);
        loop {
            match write(&mut current)?.unwrap_or(Err(FlowRefusal::Plain)) {
                Ok(()) => return Ok(SettledWrite::Accepted),
                Err(FlowRefusal::Plain) => return Ok(SettledWrite::Plain),
                Err(FlowRefusal::Full) if wait == WriteWait::Never => return Err(WriteError::Full),
                Err(FlowRefusal::Full) => current = self.wait_settled(current, None),
            }
        }
    }

    /// Writes messages of a batch under one lock. Returns whether all of them were accepted; the others are
    /// to be sent as plain data.
    pub(super) fn write_settled_batch(
        &self,
        batch: &mut OutgoingBatch,
    ) -> Result<SettledWrite, WriteError> {
        let mut current = lock(&self.current);
        loop {
            match current.write_settled_all(batch)? {
                Ok(()) => return Ok(SettledWrite::Accepted),
                Err(FlowRefusal::Plain) => return Ok(SettledWrite::Plain),
                Err(FlowRefusal::Full) => current = self.wait_settled(current, None),
            }
        }
    }

    /// Waits until messages have left a log, or the connection has changed; for `timeout` at most.
    fn wait_settled<'a>(
        &self,
        mut current: MutexGuard<'a, CurrentEndpoint>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, CurrentEndpoint> {
        let count = |current: &mut CurrentEndpoint, by: isize| {
            if let Some(settled) = &mut current.settled {
                settled.waiting = settled.waiting.saturating_add_signed(by);
            }
        };
        count(&mut current, 1);
        let waited = match timeout {
            None => self.settled.wait(current),
            Some(timeout) => self
                .settled
                .wait_timeout(current, timeout)
                .map(|(current, _)| current)
                .map_err(|poisoned| PoisonError::new(poisoned.into_inner().0)),
        };
        let mut current = waited.unwrap_or_else(PoisonError::into_inner);
        count(&mut current, -1);
        current
    }

    /// Wakes threads that wait.
    fn notify_waiters(&self, current: &CurrentEndpoint) {
        if current.settled.as_ref().is_some_and(|it| it.waiting > 0) {
            self.settled.notify_all();
        }
    }

    /// Wakes threads that wait, and the actor of a client that is closing.
    pub(super) fn notify_settled(&self, current: &CurrentEndpoint) {
        let Some(settled) = &current.settled else {
            return;
        };
        self.notify_waiters(current);
        if settled.is_closing && !current.is_settling() {
            settled.waker.wake_by_ref();
        }
    }

    /// The zipper has admitted the client on an endpoint. It is ignored unless that is in use.
    pub(super) fn connect_flows(&self, endpoint: &Endpoint, settles: bool) {
        let mut current = lock(&self.current);
        if current.endpoint != *endpoint {
            return;
        }
        let Some(settled) = &mut current.settled else {
            return;
        };
        let uncertain = settled.connect(endpoint, settles);
        self.notify_settled(&current);
        drop(current);
        self.count_uncertain(
            endpoint.peer(),
            uncertain,
            "the zipper does not settle messages",
        );
    }

    /// Handles a message of settlement for a flow that was written.
    ///
    /// # Errors
    /// [`SettlementError`] if the zipper has broken the protocol.
    pub(super) fn handle_flow(
        &self,
        endpoint: &Endpoint,
        message: SettlementMessage,
    ) -> Result<(), SettlementError> {
        let mut current = lock(&self.current);
        if current.endpoint != *endpoint {
            return Ok(());
        }
        let Some(settled) = &mut current.settled else {
            return Ok(());
        };
        if settled.with(endpoint, |outbound, sink| outbound.handle(message, sink))? {
            self.notify_settled(&current);
        }
        Ok(())
    }

    /// The connection is lost for the zipper, too: it has restarted.
    pub(super) fn disconnect_flows(&self) {
        if let Some(settled) = &mut lock(&self.current).settled {
            settled.outbound.disconnect();
        }
    }

    /// Sends what has waited for room in the send buffer.
    pub(super) fn pump_flows(&self) {
        if !self.is_settled {
            return;
        }
        let mut current = lock(&self.current);
        let endpoint = current.endpoint.clone();
        if let Some(settled) = &mut current.settled {
            settled.with(&endpoint, |outbound, sink| outbound.pump(sink));
            // A backlog of plain messages blocks writers. The actor, which calls this, is awake.
            self.notify_waiters(&current);
        }
    }

    /// Informs the zipper of the flows that recipients hold back. To be called once a second.
    pub(super) fn report_waiting(&self) {
        let mut current = lock(&self.current);
        let endpoint = current.endpoint.clone();
        if let Some(settled) = &mut current.settled {
            settled.with(&endpoint, |outbound, sink| outbound.report_waiting(sink));
        }
    }

    /// What has become of the messages that were written.
    pub(super) fn outcomes(&self) -> OutcomeSummary {
        let current = lock(&self.current);
        let settled = current.settled.as_ref();
        settled.map_or_else(OutcomeSummary::default, |it| it.outbound.outcomes())
    }

    /// Blocks until every message that was accepted so far has an outcome, or the client has ended, for at
    /// most `timeout`. Returns whether that is so.
    pub(super) fn flush_settled(&self, timeout: Duration) -> bool {
        if !self.is_settled {
            return true;
        }
        let began = Instant::now();
        let mut current = lock(&self.current);
        let Some(settled) = &current.settled else {
            return true;
        };
        let mut marks = settled.outbound.marks();
        loop {
            let Some(settled) = current.settled.as_ref().filter(|_| current.ended.is_none()) else {
                return true;
            };
            marks.retain(|mark| !settled.outbound.is_done_below(mark));
            if marks.is_empty() && settled.outbound.has_no_backlog() {
                return true;
            }
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return false;
            }
            current = self.wait_settled(current, Some(left));
        }
    }

    /// Refuses messages from now on, and ends reading. If accepted messages wait for their settlement, the
    /// client ends once [`is_settling`](Self::is_settling) returns false.
    pub(super) fn begin_close(&self) -> CloseProgress {
        let mut current = lock(&self.current);
        let Some(settled) = &mut current.settled else {
            return CloseProgress::Settled;
        };
        let has_begun = std::mem::replace(&mut settled.is_closing, true);
        self.settled.notify_all();
        match (current.is_settling(), has_begun) {
            (false, _) => CloseProgress::Settled,
            (true, false) => CloseProgress::Begun,
            (true, true) => CloseProgress::Settling,
        }
    }

    /// Whether accepted messages wait for their settlement.
    pub(super) fn is_settling(&self) -> bool {
        self.is_settled && lock(&self.current).is_settling()
    }

    /// Blocks until every accepted message has an outcome, for at most `timeout`.
    pub(super) fn await_settled(&self, timeout: Duration) {
        let _is_settled = self.flush_settled(timeout);
    }
}

impl CurrentEndpoint {
    /// Writes messages of a batch until one finds no room.
    fn write_settled_all(
        &mut self,
        batch: &mut OutgoingBatch,
    ) -> Result<Result<(), FlowRefusal>, WriteError> {
        let written = self.write_flows(|outbound, sink| {
            let mut refused = Ok(());
            while let Some(first) = batch.first() {
                refused = push_encoded(outbound, first, batch.first_depth(), sink)?;
                if refused.is_err() {
                    break;
                }
                batch.pop();
            }
            outbound.pump(sink);
            Ok(refused)
        })?;
        written.unwrap_or(Ok(Err(FlowRefusal::Plain)))
    }

    /// Calls `write` with the flows, if there are any and the client is open.
    #[inline]
    fn write_flows<T>(
        &mut self,
        write: impl FnOnce(&mut Outbound, &mut EndpointSink<'_>) -> T,
    ) -> Result<Option<T>, ClientClosed> {
        if let Some(why) = &self.ended {
            return Err(ClientClosed(why.clone()));
        }
        let Some(settled) = &mut self.settled else {
            return Ok(None);
        };
        if settled.is_closing {
            return Err(ClientClosed(STOPPED.into()));
        }
        self.has_data = true;
        Ok(Some(settled.with(&self.endpoint, write)))
    }
}

impl Client {
    /// Writes a message that is to be settled. Returns the header if the message is to be sent as plain data.
    pub(super) fn settle_with(
        &self,
        message: FlowWrite<'_>,
        trace: Option<&[(String, u64)]>,
        wait: WriteWait,
    ) -> Result<Option<Vec<u8>>, WriteError> {
        self.check_len(&message.body)?;
        // Checks the target and the trace, too.
        let mut header = Vec::new();
        self.encode_header(message.tag, message.target, trace, &mut header)?;
        let written = self.write_settled(message, trace, wait)?;
        Ok((written != SettledWrite::Accepted).then_some(header))
    }

    /// Writes a message to the log of its flow, if messages are to be settled.
    fn write_settled(
        &self,
        message: FlowWrite<'_>,
        trace: Option<&[(String, u64)]>,
        wait: WriteWait,
    ) -> Result<SettledWrite, WriteError> {
        if !self.shared.is_settled() {
            return Ok(SettledWrite::Plain);
        }
        let Some(trace) = trace else {
            return self.shared.write_settled(message, wait);
        };
        let mut body = Vec::new();
        put_trace(trace, &mut body)?;
        body.extend_from_slice(&message.body);
        let body = body.into();
        let message = FlowWrite {
            has_trace: true,
            body: LoggedPayload::Kept(&body),
            ..message
        };
        self.shared.write_settled(message, wait)
    }
}

/// Accepts a message that is encoded as plain data.
fn push_encoded(
    outbound: &mut Outbound,
    encoded: &[u8],
    depth: u8,
    sink: &mut EndpointSink<'_>,
) -> Result<Result<(), FlowRefusal>, WriteError> {
    if let Some(plain) = PlainMessage::read(encoded) {
        let message = FlowWrite {
            depth,
            ..FlowWrite::plain(plain.tag, &encoded[plain.payload_at..])
        };
        return Ok(outbound.push(message, sink));
    }
    let data = Data::decode(Bytes::copy_from_slice(encoded))?;
    let mut body = Vec::new();
    if let Some(trace) = &data.trace {
        put_trace(trace, &mut body)?;
    }
    body.extend_from_slice(&data.payload);
    let message = FlowWrite {
        tag: data.tag,
        target: data.target.as_deref(),
        has_trace: data.trace.is_some(),
        depth,
        body: LoggedPayload::Copied(&body),
    };
    Ok(outbound.push(message, sink))
}
