//! Tests of the encoding of settlement.

use proptest::prelude::*;

use super::*;
use crate::settlement::{
    AbandonReason, DeclinedRange, FlowOffer, GroupId, GroupOffer, InstanceId, ReceivingReport,
    RecipientGroup, ReportKind, ResendRequest, RouteEpoch, SequenceSet,
};
use crate::tag::Tag;
use crate::wire::DropPolicy;

fn group(number: u32) -> RecipientGroup {
    RecipientGroup {
        group: GroupId(number),
        name: "sink".into(),
        only: (number == 2).then_some(InstanceId(7)),
        from: 3,
        until: (number == 1).then_some(9),
        members: vec![InstanceId(7), InstanceId(u64::MAX)],
        uncertain_below: 5,
    }
}

fn set() -> SequenceSet {
    [1..4, 9..10, 100..u64::MAX].into_iter().collect()
}

const LABEL: u32 = 0x0102_0304;
const ATTACHMENT: u32 = 2;

fn messages() -> Vec<SettlementMessage> {
    [of_the_source(), for_the_source(), of_routes()].concat()
}

fn of_the_source() -> Vec<SettlementMessage> {
    let (label, attachment) = (LABEL, ATTACHMENT);
    vec![
        SettlementMessage::FlowOpen(FlowOpening {
            label,
            process: 5,
            tag: Tag(0x10),
            target: Some("t".into()),
            level: SettlementLevel::Processed,
            offer: FlowOffer {
                attachment,
                live_from: 4,
                sent_max: 6,
                groups_end: 3,
                groups: vec![GroupOffer {
                    recipients: group(1),
                    floor: 4,
                    settled: set(),
                }],
            },
        }),
        SettlementMessage::ResendEnd {
            label,
            group: GroupId(1),
            token: 9,
            base: 4,
            complete_below: 6,
        },
        SettlementMessage::Confirm {
            label,
            attachment,
            version: 8,
        },
        SettlementMessage::Base { label, base: 7 },
        SettlementMessage::Alive {
            label,
            attachment,
            probe: 3,
        },
        SettlementMessage::FlowClose { label },
        SettlementMessage::Waiting { label, attachment },
    ]
}

fn for_the_source() -> Vec<SettlementMessage> {
    let (label, attachment) = (LABEL, ATTACHMENT);
    vec![
        SettlementMessage::Announce(Announcement {
            label,
            attachment,
            version: 8,
            groups: vec![group(1), group(2)],
        }),
        SettlementMessage::Progress(FlowProgress {
            label,
            attachment,
            routed: 9,
            declined: vec![DeclinedRange {
                reason: AbandonReason::Forbidden,
                messages: set(),
            }],
            settled: vec![(GroupId(1), set())],
            abandoned: vec![AbandonedRange {
                group: GroupId(2),
                reason: AbandonReason::InstanceLost,
                messages: set(),
            }],
        }),
        SettlementMessage::Resend(ResendMessage {
            label,
            attachment,
            request: ResendRequest {
                group: GroupId(1),
                token: 5,
                from: Some(200),
                bytes: 4096,
                ranges: set(),
            },
        }),
        SettlementMessage::Probe {
            label,
            attachment,
            probe: 3,
        },
    ]
}

fn of_routes() -> Vec<SettlementMessage> {
    let epoch = RouteEpoch {
        attachment: ATTACHMENT,
        route: 3,
    };
    let label = LABEL;
    vec![
        SettlementMessage::Bind(RouteBinding {
            label,
            epoch,
            flow: FlowId {
                source: [3; 32],
                process: 5,
                tag: Tag(0x10),
                target: None,
            },
            group: GroupId(1),
            level: SettlementLevel::Received,
            instance: InstanceId(6),
            home: [4; 32],
            name: "sink".into(),
            hops_left: 16,
        }),
        SettlementMessage::Unbind { label },
        SettlementMessage::RaiseFloor { label, floor: 9 },
        SettlementMessage::Renew { label, stamp: 10 },
        SettlementMessage::Stalled(StalledMessage {
            label,
            tag: Tag(0x10),
            source: [7; 32],
            messages: 3,
            millis: 10_000,
        }),
        SettlementMessage::Ask { label },
        SettlementMessage::Report(ReportMessage {
            label,
            is_leaving: false,
            report: ReceivingReport {
                epoch,
                kind: ReportKind::Answer,
                stamp: 11,
                progress: 13,
                end: 12,
                processed: set(),
                held: SequenceSet::default(),
            },
        }),
        SettlementMessage::RouteLost {
            label,
            reason: RouteLossReason::NoRoom,
        },
        SettlementMessage::Instance(InstanceNotice {
            instance: InstanceId(6),
            redelivers: true,
        }),
        SettlementMessage::Observer(DropPolicy::Newest),
    ]
}

#[test]
fn each_message_has_one_encoding_and_no_shorter_or_longer_one_is_accepted() {
    for message in messages() {
        let bytes = message.encode().expect("it is within its limits");
        assert!(is_settlement(&bytes));
        assert_eq!(SettlementMessage::decode(bytes.clone()), Ok(message));
        for len in 0..bytes.len() {
            let cut = SettlementMessage::decode(bytes.slice(..len));
            assert!(cut.is_err(), "{bytes:?} cut to {len}");
        }
        let longer = [&bytes[..], &[0]].concat();
        let refused = SettlementMessage::decode(longer.into());
        assert_eq!(refused, Err(WireError::Trailing(1)));
    }
}

#[test]
fn a_set_with_too_many_ranges_is_not_encoded() {
    let many = (0..=SET_RANGES_MAX as u64).map(|at| 2 * at..2 * at + 1);
    let message = SettlementMessage::Resend(ResendMessage {
        label: 1,
        attachment: 1,
        request: ResendRequest {
            group: GroupId(1),
            token: 1,
            from: None,
            bytes: 1,
            ranges: many.collect(),
        },
    });
    let (len, max) = (SET_RANGES_MAX + 1, SET_RANGES_MAX);
    assert_eq!(message.encode(), Err(WireError::TooLong { len, max }));
}

#[test]
fn ranges_that_are_empty_or_touch_or_overflow_are_refused() {
    let encoded = |ranges: &[(u64, u64)]| {
        let mut bytes = vec![0x2a];
        bytes.extend_from_slice(&[0; 25]);
        bytes.extend_from_slice(&(ranges.len() as u16).to_be_bytes());
        for (start, len) in ranges {
            bytes.extend_from_slice(&start.to_be_bytes());
            bytes.extend_from_slice(&len.to_be_bytes());
        }
        SettlementMessage::decode(bytes.into())
    };
    assert!(encoded(&[(1, 2), (4, 1)]).is_ok());
    for refused in [
        &[(1, 0)][..],
        &[(1, 2), (3, 1)],
        &[(5, 1), (1, 1)],
        &[(u64::MAX, 1)],
    ] {
        assert_eq!(encoded(refused), Err(WireError::Redundant), "{refused:?}");
    }
}

proptest! {
    #[test]
    fn a_header_is_read_as_it_was_written(
        label in any::<u32>(),
        sequence in any::<u64>(),
        shift in 0..64_u32,
        is_redelivery: bool,
        has_trace: bool,
        depth in 0..=MESSAGE_DEPTH_MAX,
        payload in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let sequence = sequence >> shift;
        let marks = MessageMarks { is_redelivery, has_trace, depth };
        let header = RoutedHeader::new(label, sequence, marks);
        let bytes = [header.bytes(), &payload].concat();
        let read = RoutedMessage::read(&bytes).expect("it was written");
        let expected = RoutedMessage {
            label,
            sequence,
            is_redelivery,
            has_trace,
            depth,
            resent: None,
            body_at: header.bytes().len(),
        };
        prop_assert_eq!(read, expected);
        prop_assert_eq!(RoutedMessage::label_of(&bytes), Some(label));
        let relabelled = [&RoutedMessage::relabelled(&bytes, 77)[..], &bytes[6..]].concat();
        let read = RoutedMessage::read(&relabelled).expect("it was written");
        prop_assert_eq!(read, RoutedMessage { label: 77, ..expected });
        let header = ResentHeader::new(label, sequence, (GroupId(8), 9), marks);
        let bytes = [header.bytes(), &payload].concat();
        let read = RoutedMessage::read(&bytes).expect("it was written");
        prop_assert_eq!(read.resent, Some((GroupId(8), 9)));
        prop_assert_eq!((read.label, read.sequence, read.depth), (label, sequence, depth));
        prop_assert_eq!(&bytes[read.body_at..], &payload[..]);
        prop_assert_eq!(RoutedMessage::label_of(&bytes), None);
    }

    #[test]
    fn arbitrary_bytes_are_read_without_a_panic_and_written_as_they_were(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0x20..0x3b_u8) {
        let bytes: Bytes = [&[kind][..], &bytes].concat().into();
        if let Ok(message) = SettlementMessage::decode(bytes.clone()) {
            prop_assert_eq!(message.encode().expect("it was decoded"), &bytes);
        }
        if let Some(read) = RoutedMessage::read(&bytes) {
            let _decoded = read.split_body(bytes);
        }
    }
}

#[test]
fn a_step_is_added_to_the_trace_in_front_of_a_payload() {
    let mut body = Vec::new();
    put_trace(&[("a".into(), 1)], &mut body).expect("it is short");
    body.extend_from_slice(b"payload");
    let body = append_trace_step(body.into(), "b", 2).expect("it has a trace");
    let marks = MessageMarks {
        has_trace: true,
        depth: 3,
        ..MessageMarks::default()
    };
    let header = RoutedHeader::new(1, 2, marks);
    let bytes: Bytes = [header.bytes(), &body].concat().into();
    let read = RoutedMessage::read(&bytes).expect("it was written");
    let (trace, payload) = read.split_body(bytes).expect("it has a trace");
    assert_eq!(trace, Some(vec![("a".into(), 1), ("b".into(), 2)]));
    assert_eq!(&payload[..], b"payload");
}

#[test]
fn a_depth_has_one_encoding_and_costs_nothing_at_sources() {
    let header = |depth| {
        let marks = MessageMarks {
            depth,
            ..MessageMarks::default()
        };
        RoutedHeader::new(1, 2, marks).bytes().to_vec()
    };
    assert_eq!(header(0), [0x21, 0, 0, 0, 0, 1, 2]);
    assert_eq!(header(5), [0x21, 2, 0, 0, 0, 1, 2, 5]);
    // None is written as 0, and none is greater than the greatest one.
    for depth in [0, MESSAGE_DEPTH_MAX + 1, u8::MAX] {
        assert_eq!(RoutedMessage::read(&[0x21, 2, 0, 0, 0, 1, 2, depth]), None);
    }
    assert_eq!(RoutedMessage::read(&header(5)[..7]), None);
}
