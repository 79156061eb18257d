//! Messages that no group receives, because the source may not write them.

use selvedge_client::settlement::{
    AbandonReason, DeclinedRange, FlowLimits, FlowOutcome, GroupId, InstanceId, Recipients,
    RouteEpoch, SequenceSet, SettlementError, SourceFlow,
};
use selvedge_zipper::settlement::{EntryFlow, SourceOutput};

use crate::cases::{
    bind, confirm, drain, entry, fresh, live, none, offer, report, source, spec, t,
};

fn forbidden(messages: std::ops::Range<u64>) -> DeclinedRange {
    DeclinedRange {
        reason: AbandonReason::Forbidden,
        messages: messages.into(),
    }
}

/// What was routed last, and everything that was declined.
fn routed(outputs: Vec<SourceOutput>) -> (u64, Vec<DeclinedRange>) {
    let mut all = (0, Vec::new());
    for output in outputs {
        if let SourceOutput::Routed { routed, declined } = output {
            all.0 = routed;
            all.1.extend(declined);
        }
    }
    all
}

/// The route to the instance.
const ROUTE: RouteEpoch = RouteEpoch {
    attachment: 1,
    route: 1,
};

/// A flow with one instance, which has been sent ten messages.
fn flow_with_messages() -> EntryFlow {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    for sequence in 0..10 {
        assert_eq!(live(&mut flow, sequence), [(1, sequence, false)]);
    }
    drain(&mut flow);
    flow
}

/// A source that has sent messages, which no group observes.
fn unobserved(messages: usize) -> SourceFlow {
    let mut source = SourceFlow::new(FlowLimits::default());
    for _ in 0..messages {
        source.push(&[1], 0).expect("there is room");
    }
    source.attach();
    source.handle_recipients(Recipients {
        version: 1,
        groups: Vec::new(),
    });
    while source.poll_message(1).is_some() {}
    source
}

#[test]
fn what_a_source_may_not_write_is_declined() {
    let mut flow = entry(fresh());
    flow.forbid(t(1));
    let announced = drain(&mut flow);
    assert!(matches!(announced[..], [SourceOutput::Announce(_)]));
    flow.handle_confirmed(1);
    flow.decline(5, AbandonReason::Forbidden);
    let routed = routed(drain(&mut flow));
    assert_eq!(routed, (5, vec![forbidden(0..5)]));
    let mut source = unobserved(5);
    let result = source.handle_routed(routed.0, &routed.1);
    assert_eq!((result, source.is_done()), (Ok(()), true));
    let expected = FlowOutcome {
        forbidden: 5,
        ..FlowOutcome::default()
    };
    assert_eq!(source.outcome(), expected);
}

#[test]
fn declined_messages_are_reported_once_for_each_reason() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[]);
    confirm(&mut flow);
    for reason in [
        AbandonReason::Forbidden,
        AbandonReason::TooDeep,
        AbandonReason::Forbidden,
    ] {
        flow.decline(1, reason);
    }
    let too_deep = DeclinedRange {
        reason: AbandonReason::TooDeep,
        messages: (1..2).into(),
    };
    let forbidden = DeclinedRange {
        reason: AbandonReason::Forbidden,
        messages: [0..1, 2..3].into_iter().collect(),
    };
    let expected = (3, vec![forbidden, too_deep]);
    assert_eq!(routed(drain(&mut flow)), expected);
}

#[test]
fn a_source_that_loses_its_permission_learns_what_was_processed_before() {
    let mut flow = flow_with_messages();
    flow.handle_refused(GroupId(0), InstanceId(1), 6..10);
    flow.forbid(t(2));
    // What had no room is not sent any more.
    flow.handle_room(GroupId(0), InstanceId(1), 1 << 20);
    let outputs = drain(&mut flow);
    let abandoned = SourceOutput::Abandoned {
        group: GroupId(0),
        messages: (6..10).into(),
        reason: AbandonReason::Forbidden,
    };
    assert_eq!(outputs[0], abandoned);
    assert!(matches!(outputs[1..], [SourceOutput::Announce(_)]));
    flow.decline(1, AbandonReason::Forbidden);
    let outputs = drain(&mut flow);
    assert_eq!(routed(outputs), (11, vec![forbidden(10..11)]));
    // What is on its way is settled.
    flow.handle_report(
        t(1),
        GroupId(0),
        InstanceId(1),
        &report(ROUTE, (0..4).into()),
    );
    let settled = SourceOutput::Settled {
        group: GroupId(0),
        messages: (0..4).into(),
    };
    assert_eq!(drain(&mut flow), [settled]);
    // A lease later, the rest is given up.
    flow.handle_timeout(t(40));
    let outputs = drain(&mut flow);
    let is_given_up = |it: &SourceOutput| {
        matches!(it, SourceOutput::Abandoned { messages, reason, .. }
            if *messages == (4..6).into() && *reason == AbandonReason::Forbidden)
    };
    assert!(outputs.iter().any(is_given_up), "{outputs:?}");
}

#[test]
fn a_source_that_has_its_permission_again_is_received_from_then_on() {
    let mut flow = flow_with_messages();
    flow.forbid(t(2));
    assert!(!flow.is_observed());
    flow.decline(1, AbandonReason::Forbidden);
    flow.set_groups(t(3), &[spec(true, &[1])]);
    confirm(&mut flow);
    drain(&mut flow);
    flow.keep_route(t(3), InstanceId(1));
    let mut deliveries = 0;
    assert!(flow.handle_live(11, |_| deliveries += 1));
    assert!(flow.is_observed());
    // It waits for the instance.
    flow.set_groups(t(3), &[spec(true, &[1])]);
    let outputs = drain(&mut flow);
    let is_abandoned = |it: &SourceOutput| matches!(it, SourceOutput::Abandoned { .. });
    assert!(!outputs.iter().any(is_abandoned), "{outputs:?}");
}

/// It may invent what it presents.
#[test]
fn what_a_source_presents_without_permission_is_requested_for_no_instance() {
    let mut flow = entry(offer(5, 5, &[1], 0, none(), 0));
    flow.forbid(t(1));
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    let outputs = drain(&mut flow);
    let abandoned = SourceOutput::Abandoned {
        group: GroupId(0),
        messages: (0..5).into(),
        reason: AbandonReason::Forbidden,
    };
    assert_eq!(outputs, [abandoned]);
}

/// The group need not wait for it.
#[test]
fn a_group_is_over_although_its_last_message_was_declined() {
    let mut flow = flow_with_messages();
    flow.decline(1, AbandonReason::Forbidden);
    let processed = report(ROUTE, (0..10).into());
    flow.handle_report(t(1), GroupId(0), InstanceId(1), &processed);
    flow.forbid(t(2));
    drain(&mut flow);
    assert_eq!(flow.poll_timeout(), None);
}

#[test]
fn declined_messages_are_reported_in_parts_of_256_ranges() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    drain(&mut flow);
    for pair in 0..600 {
        flow.decline(1, AbandonReason::Forbidden);
        live(&mut flow, 2 * pair + 1);
    }
    let outputs = drain(&mut flow);
    let reports = outputs.iter().filter_map(|it| match it {
        SourceOutput::Routed { routed, declined } => Some((*routed, declined)),
        _ => None,
    });
    let mut all = SequenceSet::default();
    for (routed, declined) in reports {
        for it in declined {
            assert!(it.messages.ranges().len() <= 256);
            assert!(it.messages.last() < Some(routed));
            all.insert_all(&it.messages);
        }
    }
    let expected: SequenceSet = (0..600).map(|pair| 2 * pair..2 * pair + 1).collect();
    assert_eq!(all, expected);
}

#[test]
fn declined_messages_must_belong_to_what_is_routed_now() {
    let mut s = source(4);
    assert_eq!(
        s.handle_routed(3, &[forbidden(2..3)]),
        Err(SettlementError::OutOfRange)
    );
    let mut s = unobserved(4);
    assert_eq!(
        s.handle_routed(2, &[forbidden(2..3)]),
        Err(SettlementError::OutOfRange)
    );
    assert_eq!(s.handle_routed(2, &[forbidden(1..2)]), Ok(()));
    assert_eq!(
        s.handle_routed(4, &[forbidden(1..3)]),
        Err(SettlementError::OutOfRange)
    );
    assert_eq!((s.outcome().unobserved, s.outcome().forbidden), (1, 1));
}

/// Messages behind one that is not settled have left the log, and their outcome is not counted yet.
#[test]
fn a_log_that_is_given_up_counts_what_has_left_it() {
    let mut s = source(6);
    let group = GroupId(0);
    s.handle_settled(group, &(2..3).into())
        .expect("it was sent");
    let stalled = AbandonReason::InstanceStalled;
    s.handle_abandoned(group, &(3..5).into(), stalled)
        .expect("they were sent");
    assert_eq!(s.give_up(|_, _, _| {}), 3);
    let expected = FlowOutcome {
        settled: 1,
        instance_stalled: 2,
        ..FlowOutcome::default()
    };
    assert_eq!(s.outcome(), expected);
}
