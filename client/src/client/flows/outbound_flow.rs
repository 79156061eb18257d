//! One flow of the source side: its log, and what it sends on its connection.

use bytes::Bytes;
use selvedge_hub::LaneId;

use super::sink::FlowSink;
use crate::lanes::{BULK, CONTROL, DATA};
use crate::settlement::{
    AbandonReason, DeclinedRange, LogFull, LoggedPayload, Recipients, SettlementError, SourceFlow,
    SourceMessage,
};
use crate::tag::Tag;
use crate::wire::settlement::{
    FlowOpening, FlowProgress, MESSAGE_DEPTH_MAX, MessageMarks, ResentHeader, RoutedHeader,
    SettlementLevel, SettlementMessage,
};

/// A flow sends so many bytes before it is the turn of the next one.
const TURN_LEN: usize = 64 << 10;

/// More than the header of any message of a flow.
const HEADER_LEN_MAX: usize = 32;

/// The base of a log is reported after so many settled messages: instances forget what lies below.
const BASE_STEP: u64 = 1024;

/// The flag of a logged message whose body begins with a trace. The other bits are the depth of the message.
pub(super) const HAS_TRACE: u8 = 1;

/// Where the depth begins.
const DEPTH_SHIFT: u8 = 1;

const _: () = assert!(MESSAGE_DEPTH_MAX <= u8::MAX >> DEPTH_SHIFT);

/// The flags under which a message is logged.
#[inline]
pub(super) const fn log_flags(has_trace: bool, depth: u8) -> u8 {
    (depth << DEPTH_SHIFT) | if has_trace { HAS_TRACE } else { 0 }
}

/// The header marks of a logged message.
#[inline]
const fn marks(flags: u8) -> MessageMarks {
    MessageMarks {
        is_redelivery: false,
        has_trace: flags & HAS_TRACE != 0,
        depth: flags >> DEPTH_SHIFT,
    }
}

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
    /// The lane of its messages. It is another one only if the flow is attached anew.
    pub(super) lane: LaneId,
    /// Whether it has had a long message: it belongs on the lane [`BULK`].
    is_bulk: bool,
    /// The label of its opening on the lane [`DATA`], unless it was closed there.
    data_label: Option<u32>,
    /// Whether it waits for its turn to send.
    pub(super) is_ready: bool,
    pub(super) due: DueAnswers,
    /// Whether it was logged that messages had passed too many functions.
    is_cut: bool,
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
    /// It belongs to another lane from now on.
    Moved,
    /// The send buffer has no room on its lane.
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
            lane: DATA,
            is_bulk: false,
            data_label: None,
            is_ready: false,
            due: DueAnswers::default(),
            is_cut: false,
            base_reported: 0,
        }
    }

    /// The zipper does not know the flow any more.
    pub(super) fn disconnect(&mut self) {
        self.label = None;
        self.is_ready = false;
        self.due = DueAnswers::default();
        if self.is_bulk {
            self.lane = BULK;
        }
    }

    /// A long message was written.
    pub(super) const fn note_long(&mut self) {
        self.is_bulk = true;
    }

    /// Whether it has had a long message.
    #[inline]
    pub(super) const fn is_bulk(&self) -> bool {
        self.is_bulk
    }

    /// The flow is attached anew on the lane [`BULK`]. Returns the label that it had.
    pub(super) fn move_to_bulk(&mut self) -> Option<u32> {
        self.lane = BULK;
        // What the former attachment was to be answered.
        self.due = DueAnswers {
            is_queued: self.due.is_queued,
            ..DueAnswers::default()
        };
        self.label.take()
    }

    /// Closes the opening on the lane [`DATA`], behind it: a zipper that has restarted receives openings that were
    /// not sent to the former process.
    pub(super) fn leave_data(&mut self, sink: &mut impl FlowSink) {
        if self.lane != DATA
            && let Some(label) = self.data_label
            && let Some(close) = encoded(&SettlementMessage::FlowClose { label })
            && sink.has_room(DATA, close.len())
            && sink.send(DATA, &[&close])
        {
            self.data_label = None;
        }
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
        if !sink.has_room(self.lane, bytes.len()) {
            return FlowTurn::NoRoom;
        }
        if !sink.send(self.lane, &[&bytes]) {
            return FlowTurn::Ended;
        }
        self.label = Some(label);
        if self.lane == DATA {
            self.data_label = Some(label);
        }
        self.base_reported = self.source.base();
        FlowTurn::Drained
    }

    /// Accepts a message.
    #[inline]
    pub(super) fn push(&mut self, body: LoggedPayload<'_>, flags: u8) -> Result<u64, LogFull> {
        self.source.push_with(body, flags, |sequence| {
            self.label
                .map(|label| RoutedHeader::new(label, sequence, marks(flags)))
        })
    }

    /// Sends messages on its lane while the window and the send buffer have room.
    #[inline]
    pub(super) fn pump(&mut self, lane: LaneId, label: u32, sink: &mut impl FlowSink) -> FlowTurn {
        let mut sent = 0;
        while let Some(len) = self.source.next_len() {
            if sent >= TURN_LEN {
                return FlowTurn::Over;
            }
            if !sink.has_room(lane, len + HEADER_LEN_MAX) {
                return FlowTurn::NoRoom;
            }
            if let Some(batch) = self.source.poll_batch(|len| sink.has_room(lane, len)) {
                if !sink.send_batch(lane, &batch) {
                    return FlowTurn::Ended;
                }
                sent += batch.len();
                continue;
            }
            let Some(message) = self.source.poll_message(len) else {
                break;
            };
            if !send_message((lane, label), message, sink) {
                return FlowTurn::Ended;
            }
            sent += len + HEADER_LEN_MAX;
        }
        FlowTurn::Drained
    }

    /// Ends the flow at the zipper. Returns the label that it had there.
    pub(super) fn close(&mut self, sink: &mut impl FlowSink) -> Option<u32> {
        self.leave_data(sink);
        let label = self.label.take()?;
        let base = self.source.base();
        let base = SettlementMessage::Base { label, base };
        let close = SettlementMessage::FlowClose { label };
        // Without room the zipper notices by the lease that the source is gone.
        let _is_sent = send_control(&base, sink) && send_control(&close, sink);
        Some(label)
    }

    /// Informs the zipper if recipients hold the flow back.
    pub(super) fn report_waiting(&self, sink: &mut impl FlowSink) {
        if let Some(label) = self.label
            && self.source.is_waiting()
        {
            let attachment = self.source.attachment();
            // Without room, the next report follows a second later.
            let _is_sent = send_control(&SettlementMessage::Waiting { label, attachment }, sink);
        }
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
        self.source
            .handle_routed(progress.routed, &progress.declined)?;
        self.note_cut(&progress.declined);
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

impl OutboundFlow {
    /// Logs once that messages have passed too many functions.
    fn note_cut(&mut self, declined: &[DeclinedRange]) {
        let is_cut = declined
            .iter()
            .any(|it| it.reason == AbandonReason::TooDeep);
        if is_cut && !std::mem::replace(&mut self.is_cut, true) {
            let (tag, target) = (self.tag, self.target.as_deref());
            tracing::warn!(
                %tag, target,
                "the zipper has refused messages that have passed too many functions: functions form a cycle"
            );
        }
    }
}

#[inline]
fn send_message(
    (lane, label): (LaneId, u32),
    message: SourceMessage<'_>,
    sink: &mut impl FlowSink,
) -> bool {
    match message {
        SourceMessage::Live {
            sequence,
            flags,
            payload,
        } => {
            let header = RoutedHeader::new(label, sequence, marks(flags));
            send_payload(lane, header.bytes(), payload, sink)
        }
        SourceMessage::Resent {
            group,
            token,
            sequence,
            flags,
            payload,
        } => {
            let header = ResentHeader::new(label, sequence, (group, token), marks(flags));
            send_payload(lane, header.bytes(), payload, sink)
        }
        SourceMessage::ResendEnd {
            group,
            token,
            base,
            complete_below,
        } => {
            let end = SettlementMessage::ResendEnd {
                label,
                group,
                token,
                base,
                complete_below,
            };
            encoded(&end).is_some_and(|bytes| sink.send(lane, &[&bytes]))
        }
    }
}

#[inline]
fn send_payload(
    lane: LaneId,
    header: &[u8],
    payload: LoggedPayload<'_>,
    sink: &mut impl FlowSink,
) -> bool {
    match payload {
        LoggedPayload::Copied(payload) => sink.send(lane, &[header, payload]),
        LoggedPayload::Kept(payload) => sink.send_message(lane, header, payload),
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
