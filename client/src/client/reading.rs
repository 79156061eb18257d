//! Reading: from the endpoint in use, or from the one before it until that is drained.

use std::collections::VecDeque;
use std::sync::Arc;

use selvedge_hub::{Endpoint, Message, Reader, TryRecvError};

use crate::client::flows::{Inbound, ReaderRun, RoutedDelivery, SessionKey};
use crate::client::shared::{ClientClosed, ClientShared, lock};
use crate::lanes::CONTROL;
use crate::wire::settlement::RoutedMessage;
use crate::wire::{Data, WireError, WireMessage};

/// The endpoint that messages are read from.
#[derive(Debug)]
pub(super) struct ReadState {
    /// Data that arrived before the acknowledgement of the introduction.
    early: VecDeque<Data>,
    /// Reads `endpoint` until everything that it has received is consumed; then its successor is read.
    reader: Reader,
    endpoint: Endpoint,
    number: u64,
    /// The session of which data is read.
    session: SessionKey,
    /// Messages that need no lock.
    run: Option<ReaderRun>,
}

impl ReadState {
    /// Reads from the first endpoint of a client.
    pub(super) fn new(
        endpoint: &Endpoint,
        early: VecDeque<Data>,
        inbound: Option<&Inbound>,
    ) -> Self {
        Self {
            early,
            reader: endpoint.reader(),
            endpoint: endpoint.clone(),
            number: 0,
            session: read_session(inbound, endpoint),
            run: None,
        }
    }
}

/// The next message, or why there is none.
#[derive(Debug)]
pub(super) enum NextInbound {
    /// Data from before the acknowledgement. Boxed, since it is rare and four times as large as the
    /// others.
    Early(Box<Data>),
    Message(Message),
    /// A message of a route, or one that cannot be decoded.
    Routed(Result<RoutedDelivery, WireError>),
    /// No message yet; the caller may wait on this endpoint.
    Nothing(Endpoint),
    /// The endpoint with this number has ended, and all of its messages are consumed.
    Ended(u64),
}

impl ClientShared {
    pub(super) fn try_read(&self) -> NextInbound {
        let mut reading = lock(&self.reading);
        if let Some(data) = reading.early.pop_front() {
            return NextInbound::Early(Box::new(data));
        }
        loop {
            if let Some(inbound) = &self.inbound
                && inbound.has_ready()
                && let Some(routed) = inbound.take_ready()
            {
                return NextInbound::Routed(routed);
            }
            match reading.reader.try_recv() {
                // In its parts: to move it as a whole waits 6 ns for the store of the lane, which is one byte.
                Ok(Message { lane, payload }) => {
                    let Some(inbound) = &self.inbound else {
                        return NextInbound::Message(Message { lane, payload });
                    };
                    if lane == CONTROL {
                        let message = Message { lane, payload };
                        note_control(inbound, &mut reading, &message);
                        return NextInbound::Message(message);
                    }
                    // Two steps: most messages are plain data, and are not moved any further.
                    if RoutedMessage::label_of(&payload).is_none() {
                        return NextInbound::Message(Message { lane, payload });
                    }
                    let ReadState { run, session, .. } = &mut *reading;
                    if let Some(header) = RoutedMessage::read(&payload)
                        && let Some(routed) = inbound.receive(run, *session, (header, payload))
                    {
                        return NextInbound::Routed(routed);
                    }
                }
                Err(TryRecvError::Empty) => {
                    if let Some(inbound) = &self.inbound {
                        inbound.note_idle();
                    }
                    return NextInbound::Nothing(reading.endpoint.clone());
                }
                Err(TryRecvError::Closed(_)) => return NextInbound::Ended(reading.number),
            }
        }
    }

    /// The process receives nothing more with settlement, and reports what it has processed.
    pub(super) fn leave(&self) {
        if let Some(inbound) = &self.inbound {
            inbound.leave();
        }
    }

    /// The flows that the process receives.
    pub(super) const fn inbound(&self) -> Option<&Arc<Inbound>> {
        self.inbound.as_ref()
    }

    /// Waits for the successor of the endpoint with that number, and reads from the successor.
    pub(super) fn read_from_another(&self, than: u64) -> Result<(), ClientClosed> {
        self.wait_for_another(than)?;
        self.switch_reading(than);
        Ok(())
    }

    /// Reads from the successor of the endpoint with that number, if there is one.
    pub(super) fn try_read_from_another(&self, than: u64) -> Result<bool, ClientClosed> {
        self.check_stopped()?;
        let is_there = lock(&self.current).number != than;
        if is_there {
            self.switch_reading(than);
        }
        Ok(is_there)
    }

    fn switch_reading(&self, than: u64) {
        let mut reading = lock(&self.reading);
        if reading.number == than {
            let mut current = lock(&self.current);
            reading.early = std::mem::take(&mut current.early);
            reading.reader = current.endpoint.reader();
            reading.endpoint = current.endpoint.clone();
            reading.number = current.number;
            // The acknowledgement of an endpoint that was admitted before it was entered is consumed.
            reading.session = match current.is_admitted {
                true => read_session(self.inbound.as_deref(), &reading.endpoint),
                false => SessionKey::NONE,
            };
        }
    }
}

/// A control message was read: another session may begin.
#[cold]
fn note_control(inbound: &Inbound, reading: &mut ReadState, message: &Message) {
    let decoded = WireMessage::decode(message.payload.clone());
    if matches!(decoded, Ok(WireMessage::HandshakeAck { .. })) {
        reading.session = inbound.read_session(&reading.endpoint);
    }
}

/// A reader begins with an endpoint whose acknowledgement was read already.
fn read_session(inbound: Option<&Inbound>, endpoint: &Endpoint) -> SessionKey {
    inbound.map_or(SessionKey::NONE, |it| it.read_session(endpoint))
}
