//! What a flow costs its zipper and its source, and what a recipient costs the others.

use std::time::Duration;

use selvedge_client::settlement::*;
use selvedge_zipper::settlement::*;

use crate::cases::*;

/// A flow with these members, all of them bound.
fn bound(members: &[u64]) -> EntryFlow {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, members)]);
    confirm(&mut flow);
    for &member in members {
        bind(&mut flow, member, none(), none(), 0);
    }
    drain(&mut flow);
    instance_outputs(&mut flow);
    flow
}

#[test]
fn many_changes_are_one_announcement() {
    let mut flow = entry(fresh());
    for count in 1..=100 {
        let members: Vec<u64> = (0..count).collect();
        flow.set_groups(t(1), &[spec(true, &members)]);
    }
    let outputs = drain(&mut flow);
    let [SourceOutput::Announce(recipients)] = &outputs[..] else {
        panic!("{outputs:?}");
    };
    assert_eq!(recipients.groups[0].members.len(), 100);
}

#[test]
fn many_reports_are_one_output_and_no_set_has_more_than_256_ranges() {
    let mut flow = bound(&[1, 2]);
    for sequence in 0..2000 {
        live(&mut flow, sequence);
    }
    flow.handle_route(t(1), InstanceId(1));
    let route = epoch(&mut flow, 1);
    for at in 0..600 {
        let one = 3 * at..3 * at + 1;
        flow.handle_report(t(1), GroupId(0), InstanceId(1), &report(route, one.into()));
    }
    let outputs = drain(&mut flow);
    let settled = outputs.iter().filter_map(|it| match it {
        SourceOutput::Settled { messages, .. } => Some(messages.ranges().len()),
        _ => None,
    });
    assert_eq!(settled.collect::<Vec<_>>(), [256, 256, 88]);
}

#[test]
fn a_full_instance_holds_up_neither_its_group_nor_another_one() {
    let mut flow = entry(fresh());
    let mut other = spec(true, &[3]);
    other.name = "other".into();
    flow.set_groups(t(1), &[spec(true, &[1, 2]), other]);
    confirm(&mut flow);
    for member in [1, 2, 3] {
        flow.handle_route(t(1), InstanceId(member));
        let route = epoch(&mut flow, member);
        let answer = ReceivingReport {
            kind: ReportKind::Answer,
            ..report(route, none())
        };
        for group in [0, 1] {
            flow.handle_report(t(1), GroupId(group), InstanceId(member), &answer);
        }
    }
    let sent = live(&mut flow, 0);
    assert_eq!(sent.len(), 2);
    let full = sent[0].0;
    flow.handle_refused(GroupId(0), InstanceId(full), 0..1);
    drain(&mut flow);
    for sequence in 1..1000 {
        let sent = live(&mut flow, sequence);
        let members: Vec<_> = sent.iter().map(|it| it.0).collect();
        assert_eq!(members, [3 - full, 3], "message {sequence}");
    }
    assert_eq!(resend(&drain(&mut flow)), None);
    flow.handle_room(GroupId(0), InstanceId(full), 6400);
    let request = resend(&drain(&mut flow)).expect("there is room");
    assert_eq!(
        (request.ranges.clone(), request.bytes),
        ((0..1).into(), 6400)
    );
    assert_eq!(resent(&mut flow, &request, 0), Some((full, 0, false)));
}

#[test]
fn the_answer_to_a_request_is_as_long_as_the_room_of_the_instance() {
    let mut s = source(100);
    let request = |bytes| ResendRequest {
        group: GroupId(0),
        token: 1,
        ranges: (0..50).into(),
        from: Some(90),
        bytes,
    };
    // A message of 10 bytes counts 74.
    for (bytes, count) in [(0, 1), (74 * 7, 7), (u64::MAX, 60)] {
        s.handle_resend(request(bytes)).expect("it is accepted");
        let mut sent = 0;
        while let Some(SourceMessage::Resent { .. }) = s.poll_message(10) {
            sent += 1;
        }
        assert_eq!(sent, count);
    }
}

#[test]
fn a_request_with_many_ranges_is_divided_and_keeps_the_order() {
    let mut flow = bound(&[1]);
    for sequence in 0..2000 {
        live(&mut flow, sequence);
    }
    flow.handle_route(t(2), InstanceId(1));
    let held: SequenceSet = (0..600).map(|at| 3 * at..3 * at + 1).collect();
    let route = epoch(&mut flow, 1);
    for part in 0..3 {
        let range = part * 600..part * 600 + 600;
        let answer = ReceivingReport {
            kind: if part < 2 {
                ReportKind::Part
            } else {
                ReportKind::Answer
            },
            held: held.within(range),
            ..report(route, none())
        };
        flow.handle_report(t(1), GroupId(0), InstanceId(1), &answer);
    }
    let mut last = None;
    for is_complete in [false, false, true] {
        let request = resend(&drain(&mut flow)).expect("a request");
        assert!(request.ranges.ranges().len() <= RANGES_MAX);
        assert_eq!(request.from.is_some(), is_complete);
        for sequence in request.ranges.ranges().flatten() {
            let (_, sequence, _) = resent(&mut flow, &request, sequence).expect("it is missing");
            assert!(last < Some(sequence));
            last = Some(sequence);
        }
        flow.handle_resend_end(request.group, request.token, 0, 0);
    }
    assert_eq!(resend(&drain(&mut flow)), None);
}

#[test]
fn an_instance_that_reports_nothing_is_bound_again() {
    let mut flow = bound(&[1]);
    live(&mut flow, 0);
    let (mut now, mut binds) = (t(1), 0);
    while now < t(20) {
        now = flow.poll_timeout().expect("a time limit");
        flow.handle_timeout(now);
        let outputs = instance_outputs(&mut flow);
        binds += outputs
            .iter()
            .filter(|it| it.kind == InstanceOutputKind::Bind)
            .count();
        assert!(binds > 0 || now <= t(12), "the message is lost for ever");
    }
    // After 10 s, then 2, 4, 8 s later.
    assert!((2..6).contains(&binds), "{binds} binds");
}

#[test]
fn an_instance_that_left_unnoticed_is_awaited_for_a_lease_at_most() {
    let mut flow = entry(offer(10, 20, &[1, 2], 0, none(), 0));
    flow.set_groups(t(1), &[spec(true, &[2])]);
    confirm(&mut flow);
    bind(&mut flow, 2, none(), none(), 0);
    assert_eq!(resend(&drain(&mut flow)), None);
    flow.handle_timeout(t(30));
    assert_eq!(resend(&drain(&mut flow)), None);
    flow.handle_timeout(t(1) + LEASE);
    assert!(resend(&drain(&mut flow)).is_some());
}

#[test]
fn an_expired_instance_is_a_member_again_when_there_is_a_way_to_it() {
    for is_listed_again in [false, true] {
        let mut flow = bound(&[1]);
        flow.handle_route_lost(t(2), InstanceId(1));
        flow.handle_timeout(t(2) + LEASE);
        if is_listed_again {
            flow.set_groups(t(33), &[spec(true, &[1])]);
        }
        let outputs = drain(&mut flow);
        let is_empty = |it: &SourceOutput| match it {
            SourceOutput::Announce(recipients) => recipients.groups[0].members.is_empty(),
            _ => false,
        };
        assert!(outputs.iter().any(is_empty), "{outputs:?}");
        assert_eq!(instance_outputs(&mut flow).len(), 1, "the former route");
        flow.handle_route(t(40), InstanceId(1));
        confirm(&mut flow);
        answer(&mut flow, 1, none(), none(), 0);
        assert_eq!(live(&mut flow, 0), [(1, 0, false)]);
    }
}

#[test]
fn a_lease_is_renewed_with_a_stamp_from_before_the_answered_probe() {
    let mut flow = bound(&[1, 2]);
    let outputs = |flow: &mut EntryFlow| -> Vec<_> {
        let outputs = instance_outputs(flow).into_iter();
        outputs.map(|it| it.kind).collect()
    };
    flow.handle_alive(1);
    assert_eq!(outputs(&mut flow), [InstanceOutputKind::Renew(1); 2]);
    flow.handle_alive(1);
    assert_eq!(outputs(&mut flow), []);
    let route = RouteEpoch {
        attachment: 1,
        route: 1,
    };
    let send = |flow: &mut EntryFlow, stamp| {
        let report = ReceivingReport {
            stamp,
            ..report(route, none())
        };
        flow.handle_report(t(1), GroupId(0), InstanceId(1), &report);
    };
    // It is early.
    send(&mut flow, 2);
    assert_eq!(drain(&mut flow), []);
    send(&mut flow, 6_000_000);
    assert_eq!(drain(&mut flow), [SourceOutput::Probe(2)]);
    send(&mut flow, 20_000_000);
    flow.handle_alive(1);
    assert_eq!(outputs(&mut flow), [], "it has answered the former probe");
    flow.handle_alive(2);
    // The other one has sent no later stamp.
    assert_eq!(outputs(&mut flow), [InstanceOutputKind::Renew(6_000_000)]);
    // The stamp that came during the probe needs another one.
    assert_eq!(drain(&mut flow), [SourceOutput::Probe(3)]);
}

#[test]
fn a_source_settles_routed_messages_if_it_needs_no_more() {
    let mut s = SourceFlow::new(FlowLimits::default()).settling_when_routed();
    s.push(&[1], 7).expect("there is room");
    s.attach();
    let group = offer(0, 0, &[1], 0, none(), 0).groups.remove(0);
    s.handle_recipients(Recipients {
        version: 1,
        groups: vec![group.recipients],
    });
    let message = s.poll_message(1).expect("it is open");
    assert!(matches!(message, SourceMessage::Live { flags: 7, .. }));
    assert!(!s.is_done());
    s.handle_routed(1, &[]).expect("it was sent");
    assert!(s.is_done());
    assert_eq!(s.outcome().settled, 1);
}

#[test]
fn abandoned_messages_are_counted_by_reason() {
    let mut s = source(7);
    for (messages, reason) in [
        (0..3, AbandonReason::NoSubscriber),
        (3..5, AbandonReason::InstanceStalled),
        (5..6, AbandonReason::InstanceLost),
    ] {
        s.handle_abandoned(GroupId(0), &messages.into(), reason)
            .expect("they were sent");
    }
    s.handle_settled(GroupId(0), &(6..7).into())
        .expect("it was sent");
    let expected = FlowOutcome {
        settled: 1,
        instance_lost: 1,
        instance_stalled: 2,
        no_subscriber: 3,
        ..FlowOutcome::default()
    };
    assert_eq!(s.outcome(), expected);
}

#[test]
fn messages_of_a_former_attachment_are_recognised() {
    let mut s = source(1);
    let flow = entry(fresh());
    assert!(s.is_current(1) && flow.is_current(1));
    s.attach();
    assert!(!s.is_current(1) && s.is_current(2));
    assert!(!flow.is_current(2));
}

#[test]
fn a_message_that_does_not_fit_stays() {
    let mut s = SourceFlow::new(FlowLimits::default());
    s.push(&[0; 100], 0).expect("there is room");
    s.attach();
    s.handle_recipients(Recipients {
        version: 1,
        groups: vec![],
    });
    assert_eq!(s.poll_message(99), None);
    assert!(s.poll_message(100).is_some());
    assert_eq!(LEASE, Duration::from_secs(30));
}
