//! One flow of the source side: its log, and what it sends on its connection.

use bytes::Bytes;

use super::sink::FlowSink;
use crate::lanes::{CONTROL, DATA};
use crate::settlement::{Recipients, SettlementError, SourceFlow, SourceMessage};
use crate::tag::Tag;
use crate::wire::settlement::{
    FlowOpening, FlowProgress, ResentHeader, RoutedHeader, SettlementLevel, SettlementMessage,
};

/// A flow sends so many bytes before it is the turn of the next one.
const TURN_LEN: usize = 64 << 10;

/// More than the header of any message of a flow.
const HEADER_LEN_MAX: usize = 32;

/// The base of a log is reported after so many settled messages: instances forget what lies below.
const BASE_STEP: u64 = 1024;

/// The flag of a message whose body begins with a trace.
pub(super) const HAS_TRACE: u8 = 1;

/// One flow of a source.
#[derive(Debug)]
pub(super) struct OutboundFlow {
    pub(super) tag: Tag,
    pub(super) target: Option<Box<str>>,
    /// The number of the process under which it numbers its messages.
    pub(super) process: u64,
    pub(super) source: SourceFlow,
    /// Its label, if it is open on this connection.
    pub(super) label: Option<u32>,
    /// Whether it waits for its turn to send.
    pub(super) is_ready: bool,
    pub(super) due: DueAnswers,
    base_reported: u64,
}

/// What a flow has to send on the control lane. States, not a queue: they are merged while there is no room.
#[derive(Debug, Default)]
pub(super) struct DueAnswers {
    /// Whether the flow waits for its turn to answer.
    pub(super) is_queued: bool,
    confirm: Option<u64>,
    has_base: bool,
    alive: Option<u32>,
}

/// Where a flow is, after its turn to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlowTurn {
    /// It has nothing more to send.
    Drained,
    /// The endpoint has ended.
    Ended,
    /// The send buffer has no room.
    NoRoom,
    /// It has sent enough, and has more.
    Over,
}

impl OutboundFlow {
    pub(super) fn new(tag: Tag, target: Option<&str>, process: u64, source: SourceFlow) -> Self {
        Self {
            tag,
            target: target.map(Box::from),
            process,
            source,
            label: None,
            is_ready: false,
            due: DueAnswers::default(),
            base_reported: 0,
        }
    }

    /// The zipper does not know the flow any more.
    pub(super) fn disconnect(&mut self) {
        self.label = None;
        self.is_ready = false;
        self.due = DueAnswers::default();
    }

    /// Attaches the flow to the zipper. Its messages follow once that has announced the recipients.
    pub(super) fn open(
        &mut self,
        label: u32,
        level: SettlementLevel,
        sink: &mut impl FlowSink,
    ) -> FlowTurn {
        let opening = SettlementMessage::FlowOpen(FlowOpening {
            label,
            process: self.process,
            tag: self.tag,
            target: self.target.as_deref().map(str::to_owned),
            level,
            offer: self.source.attach(),
        });
        let bytes = match opening.encode() {
            Ok(bytes) => bytes,
            Err(error) => {
                // The limits of announcements are those of offers, and texts were checked.
                tracing::error!(%error, tag = %self.tag, "a flow cannot be attached");
                return FlowTurn::Drained;
            }
        };
        if !sink.has_room(DATA, bytes.len()) {
            return FlowTurn::NoRoom;
        }
        if !sink.send(DATA, &[&bytes]) {
            return FlowTurn::Ended;
        }
        self.label = Some(label);
        self.base_reported = self.source.base();
        FlowTurn::Drained
    }

    /// Sends messages while the window and the send buffer have room.
    #[inline]
    pub(super) fn pump(&mut self, label: u32, sink: &mut impl FlowSink) -> FlowTurn {
        let mut sent = 0;
        while let Some(len) = self.source.next_len() {
            if sent >= TURN_LEN {
                return FlowTurn::Over;
            }
            if !sink.has_room(DATA, len + HEADER_LEN_MAX) {
                return FlowTurn::NoRoom;
            }
            let Some(message) = self.source.poll_message(len) else {
                break;
            };
            if !send_message(label, message, sink) {
                return FlowTurn::Ended;
            }
            sent += len + HEADER_LEN_MAX;
        }
        FlowTurn::Drained
    }

    /// Ends the flow at the zipper. Returns the label that it had there.
    pub(super) fn close(&mut self, sink: &mut impl FlowSink) -> Option<u32> {
        let label = self.label.take()?;
        let base = self.source.base();
        let base = SettlementMessage::Base { label, base };
        let close = SettlementMessage::FlowClose { label };
        // Without room the zipper notices by the lease that the source is gone.
        let _is_sent = send_control(&base, sink) && send_control(&close, sink);
        Some(label)
    }

    /// Sends what is to be answered. Returns false if there is no room.
    pub(super) fn answer(&mut self, sink: &mut impl FlowSink) -> bool {
        let due = &mut self.due;
        if let Some(label) = self.label {
            let (attachment, base) = (self.source.attachment(), self.source.base());
            let alive = due.alive.map(|probe| SettlementMessage::Alive {
                label,
                attachment,
                probe,
            });
            let confirm = due.confirm.map(|version| SettlementMessage::Confirm {
                label,
                attachment,
                version,
            });
            let base = SettlementMessage::Base { label, base };
            let base = due.has_base.then_some(base);
            for message in [alive, confirm, base].into_iter().flatten() {
                if !send_control(&message, sink) {
                    return false;
                }
            }
        }
        *due = DueAnswers::default();
        true
    }

    /// Handles a message that belongs to the present attachment. Returns whether something is to be
    /// answered.
    pub(super) fn handle(&mut self, message: SettlementMessage) -> Result<bool, SettlementError> {
        match message {
            SettlementMessage::Announce(it) => {
                let recipients = Recipients {
                    version: it.version,
                    groups: it.groups,
                };
                self.due.confirm = Some(self.source.handle_recipients(recipients));
            }
            SettlementMessage::Progress(progress) => {
                self.handle_progress(progress)?;
                return Ok(self.due.has_base);
            }
            SettlementMessage::Resend(it) => {
                self.source.handle_resend(it.request)?;
                return Ok(false);
            }
            SettlementMessage::Probe { probe, .. } => self.due.alive = Some(probe),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn handle_progress(&mut self, progress: FlowProgress) -> Result<(), SettlementError> {
        self.source.handle_routed(progress.routed)?;
        for (group, settled) in &progress.settled {
            self.source.handle_settled(*group, settled)?;
        }
        for it in &progress.abandoned {
            self.source
                .handle_abandoned(it.group, &it.messages, it.reason)?;
        }
        if self.source.base() >= self.base_reported + BASE_STEP {
            self.base_reported = self.source.base();
            self.due.has_base = true;
        }
        Ok(())
    }
}

#[inline]
fn send_message(label: u32, message: SourceMessage<'_>, sink: &mut impl FlowSink) -> bool {
    match message {
        SourceMessage::Live {
            sequence,
            flags,
            payload,
        } => {
            let header = RoutedHeader::new(label, sequence, false, flags & HAS_TRACE != 0);
            sink.send(DATA, &[header.bytes(), &payload])
        }
        SourceMessage::Resent {
            group,
            token,
            sequence,
            flags,
            payload,
        } => {
            let has_trace = flags & HAS_TRACE != 0;
            let header = ResentHeader::new(label, sequence, group, token, has_trace);
            sink.send(DATA, &[header.bytes(), &payload])
        }
        SourceMessage::ResendEnd { group, token, base } => {
            let end = SettlementMessage::ResendEnd {
                label,
                group,
                token,
                base,
            };
            encoded(&end).is_some_and(|bytes| sink.send(DATA, &[&bytes]))
        }
    }
}

/// Sends a short message on the control lane. Returns false if there is no room.
fn send_control(message: &SettlementMessage, sink: &mut impl FlowSink) -> bool {
    encoded(message)
        .is_none_or(|bytes| sink.has_room(CONTROL, bytes.len()) && sink.send(CONTROL, &[&bytes]))
}

/// A message of fixed length, which can always be encoded.
fn encoded(message: &SettlementMessage) -> Option<Bytes> {
    let bytes = message.encode();
    debug_assert!(bytes.is_ok(), "it has a fixed length: {message:?}");
    bytes.ok()
}
