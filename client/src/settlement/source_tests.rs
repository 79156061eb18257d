//! Tests of what a source sends, and when it waits.

use bytes::Bytes;

use super::*;
use crate::replies::{GROUP, recipients};
use crate::settlement::RecipientGroup;

/// A flow with 100 messages of 1 KiB that wait, each with a head.
fn waiting(window: u64) -> SourceFlow {
    let limits = FlowLimits {
        log_max: 1 << 20,
        window,
    };
    let mut flow = SourceFlow::new(limits);
    flow.attach();
    for number in 0..100 {
        let payload = LoggedPayload::Copied(&[1; 1024]);
        let pushed = flow.push_with(payload, 0, |sequence| Some([sequence as u8]));
        assert_eq!(pushed, Ok(number));
    }
    flow
}

fn announce(flow: &mut SourceFlow) {
    flow.handle_recipients(Recipients {
        version: 1,
        groups: recipients(),
    });
}

/// A flow that has sent 32 messages.
fn sending() -> SourceFlow {
    let mut flow = waiting(100 << 10);
    announce(&mut flow);
    for number in 0..32 {
        assert_eq!(number_of(flow.poll_message(1024)), Some(number));
    }
    flow
}

/// Requests messages again.
fn request(
    ranges: std::ops::Range<u64>,
    from: impl Into<Option<u64>>,
    bytes: u64,
) -> ResendRequest {
    ResendRequest {
        group: GROUP,
        token: 1,
        ranges: ranges.into(),
        from: from.into(),
        bytes,
    }
}

fn number_of(message: Option<SourceMessage<'_>>) -> Option<u64> {
    match message {
        Some(SourceMessage::Live { sequence, .. }) => Some(sequence),
        _ => None,
    }
}

#[test]
fn a_batch_is_sent_only_when_the_flow_is_open_and_the_whole_batch_finds_window_and_room() {
    let mut flow = waiting(100 << 10);
    assert!(flow.poll_batch(|_| true).is_none(), "not announced");
    announce(&mut flow);
    // It was written without a head, because nothing waited.
    assert!(flow.poll_batch(|_| true).is_none());
    for number in 0..32 {
        assert_eq!(number_of(flow.poll_message(1024)), Some(number));
    }
    assert!(flow.poll_batch(|_| false).is_none(), "no room");
    let batch = flow.poll_batch(|_| true).expect("the second run");
    assert_eq!(batch.len(), 32 * (2 + 1 + 1024));
    assert!(
        flow.poll_batch(|_| true).is_none(),
        "no run begins here, or it is too short"
    );
    assert_eq!(number_of(flow.poll_message(1024)), Some(64));
    let window_of_40 = 40 * (1024 + 64);
    let mut flow = waiting(window_of_40);
    announce(&mut flow);
    for number in 0..40 {
        assert!(
            flow.poll_batch(|_| true).is_none(),
            "no window for a whole batch"
        );
        assert_eq!(number_of(flow.poll_message(1024)), Some(number));
    }
    assert_eq!(number_of(flow.poll_message(1024)), None);
}

#[test]
fn what_was_requested_is_sent_before_a_batch() {
    let mut flow = sending();
    flow.handle_resend(request(3..4, None, u64::MAX))
        .expect("it was sent");
    assert!(flow.poll_batch(|_| true).is_none());
    let resent = flow.poll_message(1024);
    assert!(matches!(
        resent,
        Some(SourceMessage::Resent { sequence: 3, .. })
    ));
    assert!(
        flow.poll_batch(|_| true).is_none(),
        "before the end of the answer"
    );
    assert_eq!(flow.next_len(), Some(0));
    let end = flow.poll_message(0);
    let is_end = |it| {
        matches!(
            it,
            SourceMessage::ResendEnd {
                complete_below: 4,
                ..
            }
        )
    };
    assert!(end.is_some_and(is_end));
    assert!(flow.poll_batch(|_| true).is_some());
}

#[test]
fn messages_behind_the_last_one_of_a_group_do_not_wait_for_it() {
    let mut flow = SourceFlow::new(FlowLimits::default());
    for _ in 0..2 {
        flow.push(b"x", 0).expect("there is room");
    }
    flow.attach();
    let mut groups: Vec<RecipientGroup> = recipients();
    groups[0].until = Some(1);
    flow.handle_recipients(Recipients { version: 1, groups });
    while flow.poll_message(10).is_some() {}
    flow.handle_routed(2, &[]).expect("they were sent");
    flow.handle_settled(GROUP, &(0..1).into())
        .expect("it was sent");
    assert!(flow.is_done());
    let outcome = flow.outcome();
    assert_eq!((outcome.settled, outcome.unobserved), (1, 1));
}

#[test]
fn a_source_waits_if_it_has_written_a_million_messages_since_the_first_one_that_is_not_settled() {
    let limits = FlowLimits {
        log_max: u64::MAX,
        window: u64::MAX,
    };
    let mut flow = SourceFlow::new(limits);
    flow.attach();
    announce(&mut flow);
    let write = |flow: &mut SourceFlow| {
        flow.push(&[], 0).expect("there is room");
        assert!(flow.poll_message(0).is_some());
    };
    (1..SPAN_WAITING).for_each(|_| write(&mut flow));
    assert!(!flow.is_waiting());
    write(&mut flow);
    assert!(flow.is_waiting());
    flow.handle_routed(1, &[]).expect("it was sent");
    flow.handle_settled(GROUP, &(0..1).into())
        .expect("it was sent");
    assert!(!flow.is_waiting());
}

#[test]
fn a_source_waits_for_the_window_or_when_its_log_has_refused_a_message() {
    let mut flow = waiting(100 << 10);
    announce(&mut flow);
    assert!(!flow.is_waiting());
    let mut flow = waiting(1024 + 64);
    announce(&mut flow);
    assert!(!flow.is_waiting());
    assert_eq!(number_of(flow.poll_message(1024)), Some(0));
    assert!(flow.is_waiting());
    let mut flow = SourceFlow::new(FlowLimits {
        log_max: 64,
        window: 1000,
    });
    flow.push(&[], 0).expect("there is room");
    assert!(!flow.is_waiting());
    flow.push(&[], 0).expect_err("the log is full");
    assert!(flow.is_waiting());
}

#[test]
fn a_source_does_not_wait_any_more_when_messages_have_left_its_log_behind_others() {
    let payload = Bytes::from(vec![1; 5000]);
    let mut flow = SourceFlow::new(FlowLimits {
        log_max: 3 * cost_of(payload.len()),
        window: 1 << 20,
    });
    flow.attach();
    announce(&mut flow);
    let write =
        |flow: &mut SourceFlow| flow.push_with(LoggedPayload::Kept(&payload), 0, |_| None::<&[u8]>);
    for number in 0..3 {
        assert_eq!(write(&mut flow), Ok(number));
        assert!(flow.poll_message(5000).is_some());
    }
    assert!(write(&mut flow).is_err() && flow.is_waiting());
    flow.handle_routed(3, &[]).expect("they were sent");
    flow.handle_settled(GROUP, &(1..2).into())
        .expect("it was sent");
    assert!(!flow.is_waiting());
}

#[test]
fn a_group_without_messages_delays_none() {
    let mut flow = SourceFlow::new(FlowLimits::default());
    for _ in 0..2 {
        flow.push(b"x", 0).expect("there is room");
    }
    flow.attach();
    let mut groups: Vec<RecipientGroup> = recipients();
    groups.push(RecipientGroup {
        group: GroupId(GROUP.0 + 1),
        from: 1,
        until: Some(1),
        ..groups[0].clone()
    });
    flow.handle_recipients(Recipients { version: 1, groups });
    while flow.poll_message(10).is_some() {}
    flow.handle_routed(2, &[]).expect("they were sent");
    flow.handle_settled(GROUP, &(0..2).into())
        .expect("they were sent");
    assert!(flow.is_done());
}

#[test]
fn messages_that_the_present_entry_zipper_has_not_been_sent_cannot_be_requested() {
    let mut flow = waiting(100 << 10);
    announce(&mut flow);
    for number in 0..4 {
        assert_eq!(number_of(flow.poll_message(1024)), Some(number));
    }
    flow.handle_routed(2, &[]).expect("they were sent");
    assert!(!flow.is_routed());
    // The messages that are not routed are sent again.
    flow.attach();
    announce(&mut flow);
    assert!(flow.is_routed());
    let request = |ranges, from| request(ranges, from, u64::MAX);
    let out_of_range = Err(SettlementError::OutOfRange);
    assert_eq!(flow.handle_resend(request(0..3, 2)), out_of_range);
    assert_eq!(flow.handle_resend(request(0..2, 3)), out_of_range);
    assert_eq!(flow.handle_resend(request(0..2, 2)), Ok(()));
}

#[test]
fn an_answer_ends_when_it_has_the_bytes_that_were_requested() {
    let mut flow = sending();
    flow.handle_resend(request(0..10, None, 2500))
        .expect("they were sent");
    assert_eq!(flow.poll_message(1023), None, "no room");
    for expected in 0..2 {
        let resent = flow.poll_message(2000);
        let is_next =
            |it| matches!(it, SourceMessage::Resent { sequence, .. } if sequence == expected);
        assert!(resent.is_some_and(is_next));
    }
    let end = flow.poll_message(1024);
    let is_end = |it| {
        matches!(
            it,
            SourceMessage::ResendEnd {
                complete_below: 2,
                ..
            }
        )
    };
    assert!(end.is_some_and(is_end));
}

#[test]
fn the_next_length_is_that_of_a_message_that_can_be_sent() {
    let mut flow = waiting(1024 + 64);
    assert_eq!(flow.next_len(), None, "not announced");
    announce(&mut flow);
    assert_eq!(flow.next_len(), Some(1024));
    assert_eq!(number_of(flow.poll_message(1024)), Some(0));
    assert_eq!(flow.next_len(), None, "no window");
}
