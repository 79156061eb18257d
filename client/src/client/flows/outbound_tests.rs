//! Flows of a source, in conversations with a zipper that the tests play.

use bytes::{Buf, Bytes};
use selvedge_hub::{EncodedBatch, LaneId};

use super::*;
use crate::lanes::{BULK, BULK_LEN_MIN, CONTROL, DATA};
use crate::replies::{GROUP, announcement, progress};
use crate::settlement::{AbandonReason, ResendRequest, SequenceSet};
use crate::wire::settlement::{
    AbandonedRange, FlowOpening, FlowProgress, MESSAGE_DEPTH_MAX, ResendMessage, RoutedMessage,
};
use crate::wire::{Data, is_data};

#[path = "outbound_tests/long.rs"]
mod long;

const TAG: Tag = Tag(0x10);

/// A send buffer with room for so many messages on each lane.
#[derive(Debug)]
struct Sent {
    room: usize,
    /// A lane without room.
    full: Option<LaneId>,
    is_open: bool,
    messages: Vec<(LaneId, Bytes)>,
    batches: usize,
}

impl FlowSink for Sent {
    fn has_room(&mut self, lane: LaneId, _len: usize) -> bool {
        self.messages.len() < self.room && self.full != Some(lane)
    }

    fn send(&mut self, lane: LaneId, parts: &[&[u8]]) -> bool {
        self.messages.push((lane, parts.concat().into()));
        self.is_open
    }

    fn send_message(&mut self, lane: LaneId, head: &[u8], body: &Bytes) -> bool {
        self.send(lane, &[head, body])
    }

    fn send_batch(&mut self, lane: LaneId, batch: &EncodedBatch) -> bool {
        self.batches += 1;
        let mut rest = batch.bytes().clone();
        while !rest.is_empty() {
            // Its messages have 64 B to 16 KiB, so that their lengths take two bytes.
            let len = usize::from(rest.get_u16() & 0x3fff);
            self.messages.push((lane, rest.split_to(len)));
        }
        self.is_open
    }
}

impl Sent {
    fn new() -> Self {
        Self {
            room: usize::MAX,
            full: None,
            is_open: true,
            messages: Vec::new(),
            batches: 0,
        }
    }

    /// Takes what was sent: the control messages, and the messages with a payload as their numbers.
    fn take(&mut self) -> (Vec<SettlementMessage>, Vec<u64>) {
        let (mut control, mut live) = (Vec::new(), Vec::new());
        for (lane, bytes) in self.messages.drain(..) {
            match RoutedMessage::read(&bytes) {
                Some(message) => {
                    assert_eq!(lane, DATA);
                    live.push(message.sequence);
                }
                None => control.push(SettlementMessage::decode(bytes).expect("it is well-formed")),
            }
        }
        (control, live)
    }

    /// Takes what was sent, each with its lane: openings as `open`, messages by their numbers, others as `control`.
    fn take_lanes(&mut self) -> Vec<(LaneId, String)> {
        let sent = self.messages.drain(..);
        let what = |bytes: Bytes| match RoutedMessage::read(&bytes) {
            Some(message) => message.sequence.to_string(),
            None => match SettlementMessage::decode(bytes).expect("it is well-formed") {
                SettlementMessage::FlowOpen(it) => {
                    format!("open {} from {}", it.label, it.offer.live_from)
                }
                SettlementMessage::FlowClose { label } => format!("close {label}"),
                SettlementMessage::Confirm { label, .. } => format!("confirm {label}"),
                other => panic!("{other:?}"),
            },
        };
        sent.map(|(lane, bytes)| (lane, what(bytes))).collect()
    }

    /// Takes the opening of a flow, which is the only message.
    fn take_opening(&mut self) -> FlowOpening {
        match self.take() {
            (mut control, live) if control.len() == 1 && live.is_empty() => match control.pop() {
                Some(SettlementMessage::FlowOpen(opening)) => opening,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

fn outbound() -> Outbound {
    let limits = FlowLimits {
        log_max: 1000,
        window: 500,
    };
    Outbound::new(SettlementLevel::Processed, limits, 77)
}

fn message<'a>(tag: Tag, body: &'a [u8]) -> FlowWrite<'a> {
    FlowWrite {
        tag,
        target: None,
        has_trace: false,
        depth: 0,
        body: LoggedPayload::Copied(body),
    }
}

/// A flow of [`TAG`] with one message, which is open.
fn open() -> (Outbound, Sent, FlowOpening) {
    let (mut outbound, mut sent) = (outbound(), Sent::new());
    outbound.connect(&mut sent);
    outbound.write(message(TAG, b"0"), &mut sent).expect("room");
    let opening = sent.take_opening();
    let announced = outbound.handle(announcement(&opening), &mut sent);
    assert_eq!(announced, Ok(false));
    (outbound, sent, opening)
}

#[test]
fn a_flow_is_opened_once_and_sends_after_the_announcement() {
    let (mut outbound, mut sent) = (outbound(), Sent::new());
    outbound.connect(&mut sent);
    outbound.write(message(TAG, b"0"), &mut sent).expect("room");
    let opening = sent.take_opening();
    assert_eq!((opening.tag, opening.process), (TAG, 77));
    outbound.write(message(TAG, b"1"), &mut sent).expect("room");
    assert_eq!(sent.take(), (vec![], vec![]));
    outbound
        .handle(announcement(&opening), &mut sent)
        .expect("it is valid");
    let confirm = SettlementMessage::Confirm {
        label: opening.label,
        attachment: 1,
        version: 1,
    };
    assert_eq!(sent.take(), (vec![confirm], vec![0, 1]));
    outbound.write(message(TAG, b"2"), &mut sent).expect("room");
    assert_eq!(sent.take(), (vec![], vec![2]));
}

#[test]
fn what_waits_for_room_in_the_send_buffer_is_sent_in_order_later() {
    let (mut outbound, mut sent, opening) = open();
    sent.take();
    sent.room = 2;
    for _ in 1..5 {
        outbound.write(message(TAG, b""), &mut sent).expect("room");
    }
    assert_eq!(sent.take().1, [1, 2]);
    sent.room = 0;
    let probe = SettlementMessage::Probe {
        label: opening.label,
        attachment: 1,
        probe: 3,
    };
    outbound.handle(probe, &mut sent).expect("it is valid");
    outbound.pump(&mut sent);
    assert_eq!(sent.take(), (vec![], vec![]));
    sent.room = 9;
    outbound.pump(&mut sent);
    let alive = SettlementMessage::Alive {
        label: opening.label,
        attachment: 1,
        probe: 3,
    };
    assert_eq!(sent.take(), (vec![alive], vec![3, 4]));
}

#[test]
fn a_blocked_flow_does_not_block_another_one_and_a_refused_message_has_no_number() {
    let (mut outbound, mut sent, opening) = open();
    let full = (0..20).find(|_| outbound.write(message(TAG, &[0; 36]), &mut sent).is_err());
    assert!(full.is_some(), "its log is full");
    let other = outbound.write(message(Tag(0x11), b"0"), &mut sent);
    assert_eq!(other, Ok(()));
    let (control, live) = sent.take();
    assert!(matches!(control[..], [_, SettlementMessage::FlowOpen(_)]));
    assert_eq!(live, [0, 1, 2, 3, 4]);
    let freed = outbound.handle(progress(&opening, 5, 5), &mut sent);
    assert_eq!(freed, Ok(true));
    assert_eq!(sent.take().1, [5, 6, 7, 8, 9]);
    outbound.write(message(TAG, b"x"), &mut sent).expect("room");
    outbound
        .handle(progress(&opening, 10, 6), &mut sent)
        .expect("it is valid");
    assert_eq!(sent.take().1, [10]);
}

#[test]
fn a_flow_is_done_when_its_messages_are_settled() {
    let (mut outbound, mut sent, opening) = open();
    let marks = outbound.marks();
    assert!(!outbound.is_done() && !outbound.is_done_below(&marks[0]));
    outbound
        .handle(progress(&opening, 1, 0), &mut sent)
        .expect("it is valid");
    assert!(!outbound.is_done());
    outbound.write(message(TAG, b"1"), &mut sent).expect("room");
    outbound
        .handle(progress(&opening, 2, 1), &mut sent)
        .expect("it is valid");
    assert!(outbound.is_done_below(&marks[0]) && !outbound.is_done());
    let abandoned = SettlementMessage::Progress(FlowProgress {
        label: opening.label,
        attachment: 1,
        routed: 2,
        declined: Vec::new(),
        settled: vec![],
        abandoned: vec![AbandonedRange {
            group: GROUP,
            reason: AbandonReason::InstanceLost,
            messages: SequenceSet::from(1..2),
        }],
    });
    assert_eq!(outbound.handle(abandoned, &mut sent), Ok(true));
    assert!(outbound.is_done());
    let outcomes = outbound.outcomes();
    let outcome = outcomes.total();
    assert_eq!((outcome.settled, outcome.instance_lost), (1, 1));
    assert!(!outcomes.is_settled() && outcomes.unsettled() == 0);
}

#[test]
fn only_flows_with_unsettled_messages_are_attached_to_the_next_zipper() {
    let (mut outbound, mut sent, opening) = open();
    outbound
        .write(message(Tag(0x11), b"0"), &mut sent)
        .expect("room");
    outbound
        .handle(progress(&opening, 1, 1), &mut sent)
        .expect("it is valid");
    sent.take();
    outbound.connect(&mut sent);
    let other = sent.take_opening();
    assert_eq!((other.tag, other.offer.attachment), (Tag(0x11), 2));
    assert!(other.label > opening.label, "no label is used twice");
    // The former zipper's messages are ignored.
    assert_eq!(
        outbound.handle(announcement(&opening), &mut sent),
        Ok(false)
    );
    outbound.write(message(TAG, b"1"), &mut sent).expect("room");
    let again = sent.take_opening();
    assert_eq!((again.tag, again.offer.live_from), (TAG, 1));
    // Neither are those for an earlier attachment of the flow.
    let mut stale = again;
    stale.offer.attachment -= 1;
    assert_eq!(outbound.handle(announcement(&stale), &mut sent), Ok(false));
    assert_eq!(sent.take(), (vec![], vec![]));
}

#[test]
fn requested_messages_are_sent_again_and_an_invalid_request_is_refused() {
    let (mut outbound, mut sent, opening) = open();
    sent.take();
    let request = |from| {
        SettlementMessage::Resend(ResendMessage {
            label: opening.label,
            attachment: 1,
            request: ResendRequest {
                group: GROUP,
                token: 8,
                ranges: SequenceSet::default(),
                from: Some(from),
                bytes: 1000,
            },
        })
    };
    outbound.handle(request(0), &mut sent).expect("it is valid");
    let end = SettlementMessage::ResendEnd {
        label: opening.label,
        group: GROUP,
        token: 8,
        base: 0,
        complete_below: 1,
    };
    assert_eq!(sent.take(), (vec![end], vec![0]));
    assert!(outbound.handle(request(9), &mut sent).is_err());
}

#[test]
fn a_message_keeps_its_depth_and_its_trace_when_it_is_sent_again() {
    let (mut outbound, mut sent, opening) = open();
    let deep = FlowWrite {
        has_trace: true,
        depth: MESSAGE_DEPTH_MAX,
        ..message(TAG, b"\0\0deep")
    };
    outbound.write(deep, &mut sent).expect("room");
    let request = SettlementMessage::Resend(ResendMessage {
        label: opening.label,
        attachment: 1,
        request: ResendRequest {
            group: GROUP,
            token: 8,
            ranges: SequenceSet::from(1..2),
            from: None,
            bytes: 1000,
        },
    });
    outbound.handle(request, &mut sent).expect("it is valid");
    let messages = sent.messages.iter();
    let read = messages.filter_map(|it| RoutedMessage::read(&it.1));
    let read: Vec<_> = read
        .map(|it| (it.sequence, it.depth, it.has_trace, it.resent.is_some()))
        .collect();
    let expected = [
        (0, 0, false, false),
        (1, 127, true, false),
        (1, 127, true, true),
    ];
    assert_eq!(read, expected);
}

#[test]
fn a_zipper_that_does_not_settle_receives_what_was_never_sent_as_plain_data() {
    let (mut outbound, mut sent, _) = open();
    sent.room = 0;
    outbound.write(message(TAG, b"1"), &mut sent).expect("room");
    let with_target = FlowWrite {
        target: Some("t"),
        ..message(TAG, b"2")
    };
    outbound.write(with_target, &mut sent).expect("room");
    sent = Sent::new();
    sent.room = 1;
    assert_eq!(outbound.connect_plain(&mut sent), 1);
    assert!(!outbound.has_no_backlog());
    assert_eq!(
        outbound.write(message(TAG, b"3"), &mut sent),
        Err(FlowRefusal::Full),
        "it would overtake a message"
    );
    sent.room = 9;
    outbound.pump(&mut sent);
    assert!(outbound.has_no_backlog());
    assert_eq!(
        outbound.write(message(TAG, b"3"), &mut sent),
        Err(FlowRefusal::Plain)
    );
    let plain: Vec<Data> = sent
        .messages
        .drain(..)
        .map(|(lane, bytes)| {
            assert!(lane == DATA && is_data(&bytes));
            Data::decode(bytes).expect("it is well-formed")
        })
        .collect();
    let parts = |it: &Data| (it.target.clone(), it.payload.to_vec());
    let parts: Vec<_> = plain.iter().map(parts).collect();
    let expected = [(None, b"1".to_vec()), (Some("t".into()), b"2".to_vec())];
    assert_eq!(parts, expected);
    assert!(outbound.is_done());
    // Later, with a zipper that settles, the flow continues.
    outbound.connect(&mut sent);
    outbound.write(message(TAG, b"4"), &mut sent).expect("room");
    let opening = sent.take_opening();
    assert_eq!((opening.offer.live_from, opening.offer.sent_max), (2, 2));
}

#[test]
fn an_endpoint_that_ends_stops_the_flows_until_the_next_one() {
    let (mut outbound, mut sent, _) = open();
    sent.is_open = false;
    outbound.write(message(TAG, b"1"), &mut sent).expect("room");
    sent.take();
    outbound.write(message(TAG, b"2"), &mut sent).expect("room");
    assert_eq!(sent.take(), (vec![], vec![]));
    sent.is_open = true;
    outbound.connect(&mut sent);
    let opening = sent.take_opening();
    outbound
        .handle(announcement(&opening), &mut sent)
        .expect("it is valid");
    assert_eq!(sent.take().1, [0, 1, 2]);
}

#[test]
fn idle_flows_are_forgotten_and_later_ones_have_another_process() {
    let (mut outbound, mut sent) = (outbound(), Sent::new());
    outbound.connect(&mut sent);
    for number in 0..FLOWS_KEPT {
        let tag = Tag(number as u32);
        outbound.write(message(tag, b"0"), &mut sent).expect("room");
        let opening = sent.take_opening();
        outbound
            .handle(announcement(&opening), &mut sent)
            .expect("it is valid");
        // One of them remains unsettled.
        if number > 0 {
            outbound
                .handle(progress(&opening, 1, 1), &mut sent)
                .expect("it is valid");
        }
        sent.take();
    }
    assert_eq!(outbound.flows.len(), FLOWS_KEPT);
    outbound
        .write(message(Tag(0x1_0000), b"0"), &mut sent)
        .expect("room");
    assert_eq!(outbound.flows.len(), 2);
    let (control, _) = sent.take();
    let closed = |it: &&SettlementMessage| matches!(it, SettlementMessage::FlowClose { .. });
    assert_eq!(control.iter().filter(closed).count(), FLOWS_KEPT - 1);
    assert!(sent.messages.is_empty());
    let again = message(Tag(5), b"1");
    outbound.write(again, &mut sent).expect("room");
    assert_eq!(sent.take_opening().process, 78);
    let outcomes = outbound.outcomes();
    assert_eq!(outcomes.total().settled, FLOWS_KEPT as u64 - 1);
    assert_eq!(outcomes.unsettled(), 3);
}

#[test]
fn an_idle_flow_is_forgotten_without_another_one_of_its_tag() {
    let (mut outbound, mut sent, opening) = open();
    let targeted = |body| FlowWrite {
        target: Some("t"),
        ..message(TAG, body)
    };
    outbound.write(targeted(b"0"), &mut sent).expect("room");
    outbound
        .handle(progress(&opening, 1, 1), &mut sent)
        .expect("it is valid");
    outbound.forget_idle(&mut sent);
    assert_eq!(outbound.flows.len(), 1);
    outbound.write(targeted(b"1"), &mut sent).expect("room");
    assert_eq!(outbound.flows.len(), 1);
}

#[test]
fn a_client_that_closes_ends_the_flows_that_are_settled() {
    let (mut outbound, mut sent, opening) = open();
    let other = message(Tag(0x11), b"0");
    outbound.write(other, &mut sent).expect("room");
    outbound
        .handle(progress(&opening, 1, 1), &mut sent)
        .expect("it is valid");
    sent.take();
    outbound.close_flows(&mut sent);
    let close = SettlementMessage::FlowClose {
        label: opening.label,
    };
    let (mut control, _) = sent.take();
    control.retain(|it| matches!(it, SettlementMessage::FlowClose { .. }));
    assert_eq!(control, [close]);
}

#[test]
fn there_is_room_for_a_message_that_would_be_accepted() {
    let (mut outbound, mut sent, _) = open();
    for len in [870, 871, 872] {
        let body = vec![0; len];
        let found = outbound.look_for_room(&message(TAG, &body), &mut sent);
        // The log has 1000 bytes, and each message costs 64 more. One of one byte is in it.
        assert_eq!(found.is_ok(), len <= 871, "{len} bytes");
    }
}

#[test]
fn all_logs_together_have_a_limit() {
    let (mut outbound, mut sent) = (outbound(), Sent::new());
    outbound.limits = FlowLimits::default();
    outbound.connect(&mut sent);
    let body = vec![0; 1 << 20];
    let accepted = (0..100).take_while(|tag| {
        let written = outbound.write(message(Tag(*tag), &body), &mut sent);
        written.is_ok()
    });
    assert_eq!(accepted.count(), 63, "each message counts 64 bytes more");
}

#[test]
fn control_messages_go_on_the_control_lane() {
    let (_, sent, _) = open();
    let lanes: Vec<LaneId> = sent.messages.iter().map(|(lane, _)| *lane).collect();
    assert_eq!(lanes, [CONTROL, DATA]);
}

#[test]
fn messages_that_have_waited_are_sent_in_batches_like_single_ones() {
    let limits = FlowLimits {
        log_max: 1 << 20,
        window: 100 << 10,
    };
    let mut outbound = Outbound::new(SettlementLevel::Processed, limits, 77);
    let mut sent = Sent::new();
    outbound.connect(&mut sent);
    let body = |sequence: u64| vec![sequence as u8; 1000 + sequence as usize];
    for sequence in 0..200 {
        let body = body(sequence);
        outbound
            .write(message(TAG, &body), &mut sent)
            .expect("room");
    }
    sent.take_opening();
    // Another zipper, or the same one anew: the former heads are not valid any more.
    outbound.connect(&mut sent);
    let opening = sent.take_opening();
    for sequence in 200..400 {
        let body = body(sequence);
        outbound
            .write(message(TAG, &body), &mut sent)
            .expect("room");
    }
    outbound
        .handle(announcement(&opening), &mut sent)
        .expect("valid");
    let (mut next, mut batches) = (0, Vec::new());
    while !outbound.is_done() {
        let from = next;
        for (_, bytes) in sent.messages.drain(..).filter(|(lane, _)| *lane == DATA) {
            let read = RoutedMessage::read(&bytes).expect("a message");
            assert_eq!((read.label, read.sequence), (opening.label, next));
            assert!(bytes[read.body_at..] == body(next));
            next += 1;
        }
        batches.push((next, sent.batches));
        let is_window = (40..=100).contains(&(next - from)) || next == 400;
        assert!(is_window, "from {from} to {next}");
        let settled = progress(&opening, next, next);
        outbound.handle(settled, &mut sent).expect("valid");
    }
    assert_eq!(next, 400);
    let of_former = batches.iter().filter(|(next, _)| *next <= 200);
    assert!(
        of_former.map(|(_, batches)| batches).all(|it| *it == 0),
        "{batches:?}"
    );
    assert!(sent.batches > 2, "{batches:?}");
}
