//! Long messages, which have a lane of their own.

use super::*;

/// Flows with usual limits, and the opening that follows the first one.
fn with_long_messages(level: SettlementLevel) -> (Outbound, Sent) {
    let mut outbound = Outbound::new(level, FlowLimits::default(), 77);
    let mut sent = Sent::new();
    outbound.connect(&mut sent);
    (outbound, sent)
}

/// What the zipper announces for the flow that was opened with that label and attachment.
fn announced(label: u32, attachment: u32) -> SettlementMessage {
    let opening = FlowOpening {
        label,
        process: 77,
        tag: TAG,
        target: None,
        level: SettlementLevel::Processed,
        offer: crate::settlement::FlowOffer {
            attachment,
            live_from: 0,
            sent_max: 0,
            groups_end: 0,
            groups: Vec::new(),
        },
    };
    announcement(&opening)
}

fn lanes(expected: &[(LaneId, &str)]) -> Vec<(LaneId, String)> {
    let owned = |&(lane, what): &(LaneId, &str)| (lane, what.to_owned());
    expected.iter().map(owned).collect()
}

const LONG: &[u8] = &[0; BULK_LEN_MIN];

#[test]
fn a_flow_that_begins_with_a_long_message_is_opened_on_the_bulk_lane() {
    let (mut outbound, mut sent) = with_long_messages(SettlementLevel::Accepted);
    outbound.write(message(TAG, LONG), &mut sent).expect("room");
    assert_eq!(sent.take_lanes(), lanes(&[(BULK, "open 0 from 0")]));
    outbound.handle(announced(0, 1), &mut sent).expect("valid");
    outbound.write(message(TAG, b"1"), &mut sent).expect("room");
    let expected = lanes(&[(CONTROL, "confirm 0"), (BULK, "0"), (BULK, "1")]);
    assert_eq!(sent.take_lanes(), expected);
}

#[test]
fn a_long_message_moves_its_flow_to_the_bulk_lane_once_everything_before_is_routed() {
    let (mut outbound, mut sent) = with_long_messages(SettlementLevel::Processed);
    outbound.write(message(TAG, b"0"), &mut sent).expect("room");
    let opening = sent.take_opening();
    outbound.handle(announced(0, 1), &mut sent).expect("valid");
    outbound.write(message(TAG, LONG), &mut sent).expect("room");
    outbound.write(message(TAG, b"2"), &mut sent).expect("room");
    let expected = lanes(&[(CONTROL, "confirm 0"), (DATA, "0")]);
    assert_eq!(sent.take_lanes(), expected);
    let routed = progress(&opening, 1, 0);
    outbound.handle(routed, &mut sent).expect("valid");
    let expected = lanes(&[(DATA, "close 0"), (BULK, "open 1 from 1")]);
    assert_eq!(sent.take_lanes(), expected);
    // What the zipper has for the former attachment is ignored.
    assert_eq!(outbound.handle(announced(0, 1), &mut sent), Ok(false));
    outbound.handle(announced(1, 2), &mut sent).expect("valid");
    let expected = lanes(&[(CONTROL, "confirm 1"), (BULK, "1"), (BULK, "2")]);
    assert_eq!(sent.take_lanes(), expected);
    outbound.write(message(TAG, b"3"), &mut sent).expect("room");
    // It stays there.
    outbound.connect(&mut sent);
    let expected = lanes(&[(BULK, "3"), (BULK, "open 2 from 1")]);
    assert_eq!(sent.take_lanes(), expected);
}

#[test]
fn what_is_settled_once_it_is_routed_stays_on_its_lane() {
    let (mut outbound, mut sent) = with_long_messages(SettlementLevel::Accepted);
    outbound.write(message(TAG, b"0"), &mut sent).expect("room");
    outbound.handle(announced(0, 1), &mut sent).expect("valid");
    sent.take();
    outbound.write(message(TAG, LONG), &mut sent).expect("room");
    assert_eq!(sent.take_lanes(), lanes(&[(DATA, "1")]));
}

#[test]
fn a_bulk_lane_without_room_does_not_hold_back_short_messages_of_other_flows() {
    let (mut outbound, mut sent) = with_long_messages(SettlementLevel::Processed);
    sent.full = Some(BULK);
    outbound.write(message(TAG, LONG), &mut sent).expect("room");
    let other = message(Tag(0x11), b"0");
    outbound.write(other, &mut sent).expect("room");
    assert_eq!(sent.take_lanes(), lanes(&[(DATA, "open 0 from 0")]));
    sent.full = Some(DATA);
    outbound.pump(&mut sent);
    assert_eq!(sent.take_lanes(), lanes(&[(BULK, "open 1 from 0")]));
}
