//! Tests of what a source sends in batches.

use super::*;
use crate::replies::{GROUP, recipients};

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
    let mut flow = waiting(100 << 10);
    announce(&mut flow);
    for number in 0..32 {
        assert_eq!(number_of(flow.poll_message(1024)), Some(number));
    }
    let request = ResendRequest {
        group: GROUP,
        token: 1,
        ranges: (3..4).into(),
        from: None,
        bytes: u64::MAX,
    };
    flow.handle_resend(request).expect("it was sent");
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
    let end = flow.poll_message(0);
    assert!(matches!(end, Some(SourceMessage::ResendEnd { .. })));
    assert!(flow.poll_batch(|_| true).is_some());
}
