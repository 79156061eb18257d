//! Single cases that the stories reach rarely or never.

use selvedge_client::settlement::*;
use selvedge_hub::Instant;
use selvedge_zipper::settlement::*;
use std::time::Duration;

pub(crate) fn t(s: u64) -> Instant {
    Instant::from_origin(Duration::from_secs(s))
}
pub(crate) fn offer(
    live_from: u64,
    sent_max: u64,
    members: &[u64],
    floor: u64,
    settled: SequenceSet,
    uncertain: u64,
) -> FlowOffer {
    FlowOffer {
        attachment: 2,
        live_from,
        sent_max,
        groups_end: 1,
        groups: vec![GroupOffer {
            recipients: RecipientGroup {
                group: GroupId(0),
                name: "g".into(),
                only: None,
                from: 0,
                until: None,
                members: members.iter().map(|&i| InstanceId(i)).collect(),
                uncertain_below: uncertain,
            },
            floor,
            settled,
        }],
    }
}
pub(crate) fn spec(redelivers: bool, members: &[u64]) -> GroupSpec {
    GroupSpec {
        name: "g".into(),
        only: None,
        redelivers,
        members: members.iter().map(|&i| InstanceId(i)).collect(),
        others: Vec::new(),
    }
}
pub(crate) fn drain(flow: &mut EntryFlow) -> Vec<SourceOutput> {
    std::iter::from_fn(|| flow.poll_source_output()).collect()
}
pub(crate) fn instance_outputs(flow: &mut EntryFlow) -> Vec<InstanceOutput> {
    std::iter::from_fn(|| flow.poll_instance_output()).collect()
}
pub(crate) fn fresh() -> FlowOffer {
    FlowOffer {
        attachment: 1,
        live_from: 0,
        sent_max: 0,
        groups_end: 0,
        groups: vec![],
    }
}
/// The epoch that an instance is to be bound with.
pub(crate) fn epoch(flow: &mut EntryFlow, i: u64) -> RouteEpoch {
    let outputs = instance_outputs(flow);
    let is_bind =
        |it: &&InstanceOutput| it.instance == InstanceId(i) && it.kind == InstanceOutputKind::Bind;
    outputs.iter().rfind(is_bind).expect("it is bound").epoch
}
pub(crate) fn report(epoch: RouteEpoch, processed: SequenceSet) -> ReceivingReport {
    ReceivingReport {
        epoch,
        kind: ReportKind::News,
        processed,
        held: none(),
        end: 0,
        stamp: 1,
        progress: 0,
    }
}
pub(crate) fn answer(
    flow: &mut EntryFlow,
    i: u64,
    processed: SequenceSet,
    held: SequenceSet,
    end: u64,
) {
    let report = ReceivingReport {
        kind: ReportKind::Answer,
        held,
        end,
        ..report(epoch(flow, i), processed)
    };
    flow.handle_report(t(10), GroupId(0), InstanceId(i), &report);
}
pub(crate) fn bind(
    flow: &mut EntryFlow,
    i: u64,
    processed: SequenceSet,
    held: SequenceSet,
    end: u64,
) {
    flow.handle_route(t(1), InstanceId(i));
    answer(flow, i, processed, held, end);
}
pub(crate) fn live(flow: &mut EntryFlow, sequence: u64) -> Vec<(u64, u64, bool)> {
    let mut deliveries = Vec::new();
    assert!(flow.handle_live(sequence, |it| deliveries.push(it)));
    let sent = deliveries.iter();
    sent.map(|it| (it.instance.0, it.sequence, it.is_redelivery))
        .collect()
}
pub(crate) fn resent(
    flow: &mut EntryFlow,
    request: &ResendRequest,
    sequence: u64,
) -> Option<(u64, u64, bool)> {
    let delivery = flow.handle_resent(request.group, request.token, sequence);
    delivery.map(|it| (it.instance.0, it.sequence, it.is_redelivery))
}
pub(crate) fn entry(offer: FlowOffer) -> EntryFlow {
    EntryFlow::new(t(1), EntrySettings::default(), offer).expect("a valid offer")
}
pub(crate) fn confirm(flow: &mut EntryFlow) {
    drain(flow);
    flow.handle_confirmed(u64::MAX)
}
pub(crate) fn resend(out: &[SourceOutput]) -> Option<ResendRequest> {
    out.iter().rev().find_map(|o| match o {
        SourceOutput::Resend(r) => Some(r.clone()),
        _ => None,
    })
}
pub(crate) fn none() -> SequenceSet {
    SequenceSet::default()
}

#[test]
fn a_message_of_a_dead_instance_is_flagged_in_the_answer_to_a_request() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    for s in 0..3 {
        live(&mut flow, s);
    }
    // 1 changes its route, what was in flight is lost.
    bind(&mut flow, 1, none(), none(), 0);
    let r = resend(&drain(&mut flow)).expect("resend");
    bind(&mut flow, 2, none(), none(), 0);
    assert_eq!(live(&mut flow, 3), [(2, 3, false)]);
    // 2 handles 3 and dies.
    flow.handle_death(t(2), InstanceId(2));
    let sent: Vec<_> = (0..4).filter_map(|s| resent(&mut flow, &r, s)).collect();
    assert!(sent.contains(&(1, 3, true)), "{sent:?}");
}

#[test]
fn what_an_instance_has_reported_before_it_left_is_sent_before_its_end_is_announced() {
    // Unless it is settled by then, the next entry zipper does not learn what an instance that has left has processed.
    let mut flow = entry(offer(5, 5, &[1, 2], 0, none(), 0));
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    bind(&mut flow, 1, (0..5).into(), none(), 5);
    flow.handle_leave(t(1), InstanceId(1));
    let settled = SourceOutput::Settled {
        group: GroupId(0),
        messages: (0..5).into(),
    };
    let outputs = drain(&mut flow);
    assert_eq!(outputs[0], settled);
    assert!(matches!(outputs[1], SourceOutput::Announce(_)));
}

#[test]
fn what_an_earlier_entry_zipper_may_have_sent_is_flagged_in_an_answer() {
    let mut flow = entry(offer(50, 100, &[1, 2], 0, (0..30).into(), 0));
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 30);
    // 2 has handled 55 from the former entry zipper, and dies.
    flow.handle_death(t(1), InstanceId(2));
    let r = resend(&drain(&mut flow)).expect("resend");
    for s in 50..56 {
        live(&mut flow, s);
    }
    let sent: Vec<_> = (30..56).filter_map(|s| resent(&mut flow, &r, s)).collect();
    assert!(sent.contains(&(1, 55, true)));
}

/// 1 is bound again, and has dropped what it held. Returns how 10 is sent to it.
fn sent_after_a_drop(flow: &mut EntryFlow) -> Option<(u64, u64, bool)> {
    bind(flow, 1, none(), none(), 0);
    let r = resend(&drain(flow)).expect("a request");
    resent(flow, &r, 10)
}

#[test]
fn a_redelivery_stays_one_when_the_next_entry_zipper_sends_it_again() {
    // An instance that is gone may have had what 1 holds, as the former entry zipper has announced.
    let mut flow = entry(offer(20, 20, &[1], 10, none(), 20));
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), (10..20).into(), 20);
    assert_eq!(sent_after_a_drop(&mut flow), Some((1, 10, true)));
}

#[test]
fn a_redelivery_stays_one_if_the_source_did_not_learn_of_the_loss() {
    // What 1 holds was sent to it after 2 had died.
    let mut flow = entry(offer(20, 20, &[1, 2], 10, none(), 0));
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), (10..20).into(), 20);
    flow.handle_death(t(1), InstanceId(2));
    assert_eq!(announced(&mut flow)[0].uncertain_below, 20);
    assert_eq!(sent_after_a_drop(&mut flow), Some((1, 10, true)));
}

#[test]
fn what_two_instances_have_is_flagged_and_goes_to_no_third_one() {
    let mut flow = entry(offer(20, 20, &[1, 2], 10, none(), 0));
    flow.set_groups(t(1), &[spec(true, &[1, 2, 3])]);
    confirm(&mut flow);
    // 2 had begun with 10 when its lease ended, and 1 holds it since.
    bind(&mut flow, 2, none(), (10..11).into(), 11);
    bind(&mut flow, 1, none(), (10..20).into(), 20);
    bind(&mut flow, 3, none(), none(), 0);
    flow.handle_death(t(1), InstanceId(2));
    assert_eq!(resend(&drain(&mut flow)), None, "1 has it");
    assert_eq!(sent_after_a_drop(&mut flow), Some((1, 10, true)));
    let delivery = flow.handle_resent(GroupId(0), 1, 11).expect("a request");
    assert!(!delivery.is_redelivery, "2 did not have it");
}

#[test]
fn a_redelivery_stays_one_when_its_instance_leaves_in_order() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    live(&mut flow, 0);
    flow.handle_death(t(1), InstanceId(1)); // has handled 0
    flow.set_groups(t(1), &[spec(true, &[2])]);
    confirm(&mut flow);
    bind(&mut flow, 2, none(), none(), 0);
    let r = resend(&drain(&mut flow)).expect("a request");
    assert_eq!(resent(&mut flow, &r, 0), Some((2, 0, true)));
    flow.handle_resend_end(r.group, r.token, 0, 0);
    flow.handle_leave(t(1), InstanceId(2)); // has not processed it
    flow.set_groups(t(1), &[spec(true, &[3])]);
    confirm(&mut flow);
    bind(&mut flow, 3, none(), none(), 0);
    let r = resend(&drain(&mut flow)).expect("a request");
    assert_eq!(resent(&mut flow, &r, 0), Some((3, 0, true)));
}

#[test]
fn missing_messages_that_arrive_later_are_requested() {
    let mut flow = entry(offer(50, 70, &[1, 2], 50, none(), 0));
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), (60..70).into(), 70);
    bind(&mut flow, 2, none(), none(), 50);
    flow.handle_death(t(1), InstanceId(1));
    let sent: usize = (50..70).map(|s| live(&mut flow, s).len()).sum();
    let out = drain(&mut flow);
    assert!(
        resend(&out).is_some() || sent > 0,
        "nothing will ever happen"
    );
}

#[test]
fn an_instance_that_leaves_in_order_abandons_nothing() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(false, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    live(&mut flow, 0);
    bind(&mut flow, 2, none(), none(), 0);
    drain(&mut flow);
    flow.handle_leave(t(1), InstanceId(1));
    let out = drain(&mut flow);
    assert!(
        !out.iter()
            .any(|o| matches!(o, SourceOutput::Abandoned { .. })),
        "{out:?}"
    );
}

#[test]
fn messages_that_were_never_sent_to_a_dead_instance_are_not_abandoned() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(false, &[1])]);
    for s in 0..5 {
        live(&mut flow, s);
    }
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0); // a request, not yet answered
    flow.set_groups(t(1), &[spec(false, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 2, none(), none(), 0);
    drain(&mut flow);
    flow.handle_death(t(1), InstanceId(1));
    let out = drain(&mut flow);
    assert!(
        !out.iter()
            .any(|o| matches!(o, SourceOutput::Abandoned { .. })),
        "{out:?}"
    );
}

pub(crate) fn source(n: usize) -> SourceFlow {
    let mut s = SourceFlow::new(FlowLimits {
        log_max: 100 << 20,
        window: 100 << 20,
    });
    for _ in 0..n {
        s.push(&[0; 10], 0).expect("there is room");
    }
    s.attach();
    s.handle_recipients(Recipients {
        version: 1,
        groups: vec![RecipientGroup {
            group: GroupId(0),
            name: "g".into(),
            only: None,
            from: 0,
            until: None,
            members: vec![InstanceId(1)],
            uncertain_below: 0,
        }],
    });
    while s.poll_message(usize::MAX).is_some() {}
    s.handle_routed(n as u64, &[]).expect("it was sent");
    s
}

#[test]
fn requested_messages_that_are_settled_meanwhile_are_skipped() {
    let n = 200_000;
    let mut s = source(n);
    s.handle_resend(ResendRequest {
        group: GroupId(0),
        token: 1,
        ranges: (0..n as u64).into(),
        from: None,
        bytes: u64::MAX,
    })
    .expect("it is accepted");
    s.handle_settled(GroupId(0), &(0..n as u64).into())
        .expect("it is accepted");
}

#[test]
fn empty_messages_fill_a_log() {
    let mut s = SourceFlow::new(FlowLimits {
        log_max: 1000,
        window: 1000,
    });
    let n = (0..1_000_000)
        .take_while(|_| s.push(&[], 0).is_ok())
        .count();
    assert!(n < 1_000_000);
}

#[test]
fn an_instance_cannot_report_what_was_never_sent() {
    let mut s = source(3);
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    for q in 0..3 {
        live(&mut flow, q);
    }
    bind(&mut flow, 1, (0..u64::MAX).into(), none(), u64::MAX);
    for o in drain(&mut flow) {
        if let SourceOutput::Settled { group, messages } = o {
            s.handle_settled(group, &messages)
                .expect("the source blames the entry zipper");
        }
    }
}
#[test]
fn a_base_beyond_what_has_arrived_is_limited() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    flow.handle_base(u64::MAX);
    drain(&mut flow);
    drain(&mut flow);
}
#[test]
fn the_largest_number_of_a_group_is_accepted() {
    let mut s = SourceFlow::new(FlowLimits::default());
    s.attach();
    s.handle_recipients(Recipients {
        version: 1,
        groups: vec![RecipientGroup {
            group: GroupId(u32::MAX),
            name: "g".into(),
            only: None,
            from: 0,
            until: None,
            members: vec![],
            uncertain_below: 0,
        }],
    });
}
#[test]
fn the_largest_sequence_number_is_discarded() {
    let mut r = ReceivingFlow::default();
    let e = RouteEpoch {
        attachment: 1,
        route: 1,
    };
    r.bind(t(1), e);
    r.receive(e, u64::MAX);
}
#[test]
fn messages_do_not_wait_for_an_instance_that_cannot_take_them_in_order() {
    let mut flow = entry(offer(50, 100, &[1, 2], 0, (0..40).into(), 0));
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 2, none(), (70..80).into(), 80);
    flow.handle_route_lost(t(1), InstanceId(2));
    bind(&mut flow, 1, none(), (80..100).into(), 100);
    let out = drain(&mut flow);
    assert!(resend(&out).is_some(), "40..50 wait up to 30 s");
}

#[test]
fn an_offer_that_cannot_exist_is_refused() {
    let valid = offer(5, 10, &[1], 0, SequenceSet::default(), 0);
    let mut twice = valid.clone();
    twice.groups.push(valid.groups[0].clone());
    let invalid = [
        offer(11, 10, &[1], 0, SequenceSet::default(), 0),
        offer(u64::MAX, u64::MAX, &[1], 0, SequenceSet::default(), 0),
        offer(5, 10, &[1, 1], 0, SequenceSet::default(), 0),
        offer(5, 10, &[1], 0, (9..11).into(), 0),
        FlowOffer {
            groups_end: u32::MAX,
            ..valid.clone()
        },
        FlowOffer {
            groups_end: 0,
            ..valid.clone()
        },
        twice,
    ];
    let new = |offer| EntryFlow::new(t(1), EntrySettings::default(), offer);
    assert!(new(valid).is_ok());
    for offer in invalid {
        assert_eq!(new(offer.clone()).err(), Some(InvalidOffer), "{offer:?}");
    }
}

#[test]
fn an_instance_that_no_router_lists_receives_nothing() {
    let mut flow = entry(offer(0, 0, &[66], 0, SequenceSet::default(), 0));
    flow.set_groups(t(1), &[]);
    confirm(&mut flow);
    bind(
        &mut flow,
        66,
        SequenceSet::default(),
        SequenceSet::default(),
        0,
    );
    assert_eq!(live(&mut flow, 0), []);
}

#[test]
fn a_block_of_live_messages_ends_before_those_that_the_group_has() {
    // Another instance has processed 60..70 from a former entry zipper.
    let mut flow = entry(offer(50, 100, &[1], 50, (60..70).into(), 0));
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 50);
    let mut block = Vec::new();
    assert_eq!(flow.live_block(100, |it| block.push(it.sequence)), 10);
    assert_eq!(block, [50]);
    let sent: Vec<_> = (50..100).flat_map(|s| live(&mut flow, s)).collect();
    let expected = (50..60).chain(70..100).map(|s| (1, s, false));
    assert_eq!(sent, expected.collect::<Vec<_>>());
}

#[test]
fn a_block_of_live_messages_ends_before_the_first_one_of_a_group() {
    let mut offer = offer(50, 100, &[1], 0, none(), 0);
    offer.groups[0].recipients.from = 60;
    let mut flow = entry(offer);
    flow.set_groups(t(1), &[spec(true, &[1])]);
    assert_eq!(flow.live_block(100, |_| {}), 10);
}

#[test]
fn a_report_that_cannot_be_true_is_ignored() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    flow.handle_route(t(1), InstanceId(1));
    let epoch = epoch(&mut flow, 1);
    for sequence in 0..600 {
        live(&mut flow, sequence);
    }
    let mut answer = |processed: SequenceSet, held: SequenceSet, end| {
        let answer = ReceivingReport {
            kind: ReportKind::Answer,
            held,
            end,
            ..report(epoch, processed)
        };
        flow.handle_report(t(1), GroupId(0), InstanceId(1), &answer);
        // Whether the answer has counted: then what is missing is requested.
        resend(&drain(&mut flow)).is_some()
    };
    let many = || -> SequenceSet { (0..257).map(|it| 2 * it..2 * it + 1).collect() };
    assert!(!answer((599..601).into(), none(), 600));
    assert!(!answer(none(), (599..601).into(), 600));
    assert!(!answer(none(), none(), 601));
    assert!(!answer(many(), none(), 600));
    assert!(!answer(none(), many(), 600));
    assert!(answer((598..599).into(), (599..600).into(), 600));
}

#[test]
fn a_flow_whose_instances_are_bound_and_have_no_messages_has_no_time_limit() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    assert_eq!(flow.poll_timeout(), None);
    // It looks for what holds the source back.
    flow.handle_waiting(t(5));
    let look = t(5) + Duration::from_millis(500);
    assert_eq!(flow.poll_timeout(), Some(look));
}

#[test]
fn a_group_without_instances_is_given_up_after_ten_seconds() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[])]);
    confirm(&mut flow);
    live(&mut flow, 0);
    assert_eq!(flow.poll_timeout(), Some(t(11)));
    let is_abandoned = |flow: &mut EntryFlow| {
        let outputs = drain(flow);
        let reason = AbandonReason::NoSubscriber;
        let is_it = |it: &SourceOutput| matches!(it, SourceOutput::Abandoned { reason: why, .. } if *why == reason);
        outputs.iter().any(is_it)
    };
    flow.handle_timeout(t(10));
    assert!(!is_abandoned(&mut flow));
    flow.handle_timeout(t(11));
    assert!(is_abandoned(&mut flow));
    assert_eq!(flow.poll_timeout(), None);
}

#[test]
fn a_lease_does_not_begin_anew_when_the_instances_are_listed_again() {
    let lease = EntrySettings::default().lease.as_secs();
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    // There is no way to 2.
    bind(&mut flow, 1, none(), none(), 0);
    flow.set_groups(t(3), &[spec(true, &[1, 2])]);
    assert_eq!(flow.poll_timeout(), Some(t(1 + lease)));
    flow.handle_leave(t(4), InstanceId(2));
    for seconds in [5, 10] {
        flow.set_groups(t(seconds), &[spec(true, &[3])]);
        flow.handle_leave(t(seconds), InstanceId(3));
    }
    assert_eq!(flow.poll_timeout(), Some(t(5 + lease)));
}

#[test]
fn an_instance_that_is_bound_again_and_again_and_never_answers_loses_its_lease() {
    let end = 2 + EntrySettings::default().lease.as_secs();
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    assert_eq!(live(&mut flow, 0), [(1, 0, false)]);
    bind(&mut flow, 2, none(), none(), 0);
    flow.handle_route(t(2), InstanceId(1));
    for seconds in 3..end {
        flow.handle_timeout(t(seconds));
        instance_outputs(&mut flow);
        assert_eq!(resend(&drain(&mut flow)), None);
    }
    flow.handle_timeout(t(end));
    let request = resend(&drain(&mut flow)).expect("another instance receives it");
    assert_eq!(resent(&mut flow, &request, 0), Some((2, 0, true)));
}

#[test]
fn nothing_is_uncertain_any_more_once_it_is_abandoned() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(false, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    assert_eq!(live(&mut flow, 0), [(1, 0, false)]);
    drain(&mut flow);
    flow.handle_death(t(1), InstanceId(1));
    assert_eq!(announced(&mut flow)[0].uncertain_below, 0);
    // An instance that is gone may have had what none of those that the source knows has.
    let mut flow = entry(offer(5, 5, &[1], 0, none(), 5));
    flow.set_groups(t(1), &[spec(false, &[1])]);
    assert_eq!(announced(&mut flow)[0].uncertain_below, 5);
    bind(&mut flow, 1, none(), (0..3).into(), 3);
    let outputs = drain(&mut flow);
    let abandoned = SourceOutput::Abandoned {
        group: GroupId(0),
        messages: (3..5).into(),
        reason: AbandonReason::InstanceLost,
    };
    assert_eq!(outputs[0], abandoned);
    let is_end = |it: &SourceOutput| matches!(it, SourceOutput::Announce(it) if it.groups[0].uncertain_below == 0);
    assert!(outputs.iter().any(is_end), "{outputs:?}");
}

#[test]
fn messages_that_are_abandoned_for_two_reasons_at_once_are_reported_for_each() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(false, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    assert_eq!(live(&mut flow, 0), [(1, 0, false)]);
    drain(&mut flow);
    flow.handle_death(t(1), InstanceId(1));
    assert_eq!(live(&mut flow, 1), []);
    flow.forbid(t(1));
    let abandoned: Vec<_> = drain(&mut flow)
        .into_iter()
        .filter_map(|it| match it {
            SourceOutput::Abandoned {
                messages, reason, ..
            } => Some((reason, messages)),
            _ => None,
        })
        .collect();
    let expected = [
        (AbandonReason::InstanceLost, (0..1).into()),
        (AbandonReason::Forbidden, (1..2).into()),
    ];
    assert_eq!(abandoned, expected);
}

#[test]
fn the_source_is_not_asked_again_for_an_instance_that_has_reported_nothing() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    let probe = drain(&mut flow).into_iter().find_map(|it| match it {
        SourceOutput::Probe(number) => Some(number),
        _ => None,
    });
    flow.handle_alive(probe.expect("its lease is to begin"));
    assert_eq!(drain(&mut flow), []);
}

/// The groups of a flow as the source was informed of them last.
fn announced(flow: &mut EntryFlow) -> Vec<RecipientGroup> {
    let outputs = drain(flow);
    let announced = outputs.into_iter().rev().find_map(|it| match it {
        SourceOutput::Announce(recipients) => Some(recipients.groups),
        _ => None,
    });
    announced.expect("the groups have changed")
}

/// A group that an earlier entry zipper may have sent messages up to 100, and that ends when 50 has not arrived
/// yet, because its instances receive every message each from then on.
fn replaced_group() -> EntryFlow {
    let mut flow = entry(offer(50, 100, &[1], 50, none(), 0));
    let each = GroupSpec {
        only: Some(InstanceId(1)),
        ..spec(true, &[1])
    };
    flow.set_groups(t(1), &[each]);
    flow
}

#[test]
fn a_group_that_has_ended_includes_what_an_earlier_entry_zipper_may_have_sent_it() {
    let mut flow = replaced_group();
    let groups = announced(&mut flow);
    assert_eq!((groups[0].from, groups[0].until), (0, Some(100)));
    flow.handle_confirmed(u64::MAX);
    for sequence in 50..100 {
        live(&mut flow, sequence);
    }
    // The instance has processed some of them.
    bind(&mut flow, 1, (50..80).into(), none(), 80);
    let settled = drain(&mut flow).into_iter().find_map(|it| match it {
        SourceOutput::Settled { group, messages } => Some((group, messages)),
        _ => None,
    });
    assert_eq!(settled, Some((GroupId(0), (50..80).into())));
}

#[test]
fn groups_of_one_name_do_not_overlap_after_one_has_ended() {
    let mut flow = replaced_group();
    let groups = announced(&mut flow);
    assert_eq!(groups.len(), 2);
    assert_eq!(groups[0].until, Some(groups[1].from));
    flow.handle_confirmed(u64::MAX);
    flow.handle_route(t(1), InstanceId(1));
    let outputs = instance_outputs(&mut flow);
    for bind in outputs
        .iter()
        .filter(|it| it.kind == InstanceOutputKind::Bind)
    {
        let answer = ReceivingReport {
            kind: ReportKind::Answer,
            end: if bind.group == GroupId(0) { 50 } else { 0 },
            ..report(bind.epoch, none())
        };
        flow.handle_report(t(10), bind.group, InstanceId(1), &answer);
    }
    // The instance is in both groups, and receives each message as a member of one of them.
    let sent: Vec<_> = (50..150).flat_map(|s| live(&mut flow, s)).collect();
    let expected: Vec<_> = (50..150).map(|s| (1, s, false)).collect();
    assert_eq!(sent, expected);
}

#[test]
fn what_the_source_has_removed_from_its_log_is_not_requested_again() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    for sequence in 0..10 {
        live(&mut flow, sequence);
    }
    // The route is lost with the messages. Without a level of settlement for them, the log has none any more.
    bind(&mut flow, 1, none(), none(), 0);
    let request = resend(&drain(&mut flow)).expect("they are missing");
    flow.handle_resend_end(request.group, request.token, 10, 0);
    assert_eq!(resend(&drain(&mut flow)), None);
    assert_eq!(live(&mut flow, 10), [(1, 10, false)]);
}

#[test]
fn an_instance_that_is_not_listed_any_more_loses_its_messages_a_lease_later() {
    let lease = EntrySettings::default().lease.as_secs();
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    for sequence in 0..5 {
        live(&mut flow, sequence);
    }
    // It stays connected.
    flow.set_groups(t(5), &[spec(true, &[2])]);
    confirm(&mut flow);
    bind(&mut flow, 2, none(), none(), 0);
    flow.handle_timeout(t(4 + lease));
    assert_eq!(resend(&drain(&mut flow)), None);
    assert_eq!(flow.poll_timeout(), Some(t(5 + lease)));
    flow.handle_timeout(t(5 + lease));
    let is_bind = |it: &InstanceOutput| it.kind == InstanceOutputKind::Bind;
    assert!(!instance_outputs(&mut flow).iter().any(is_bind));
    let request = resend(&drain(&mut flow)).expect("another instance receives them");
    let sent: Vec<_> = (0..5).map(|s| resent(&mut flow, &request, s)).collect();
    let expected: Vec<_> = (0..5).map(|s| Some((2, s, true))).collect();
    assert_eq!(sent, expected);
}

/// With the level `accepted` the source forgets a group before the entry zipper does.
#[test]
fn news_of_a_group_whose_messages_have_left_the_log_are_ignored() {
    let limits = FlowLimits {
        log_max: 10_000,
        window: 10_000,
    };
    let mut source = SourceFlow::new(limits).settling_when_routed();
    source.attach();
    let announce = |source: &mut SourceFlow, version, until| {
        let mut recipients = offer(0, 0, &[1], 0, none(), 0).groups.remove(0).recipients;
        recipients.until = until;
        source.handle_recipients(Recipients {
            version,
            groups: vec![recipients],
        });
    };
    announce(&mut source, 1, None);
    source.push(b"x", 0).expect("the log is empty");
    assert!(source.poll_message(100).is_some());
    announce(&mut source, 2, Some(1));
    assert_eq!(source.handle_routed(1, &[]), Ok(()));
    assert!(source.is_done());
    let one = || SequenceSet::from(0..1);
    let request = |group| ResendRequest {
        group: GroupId(group),
        token: 3,
        ranges: one(),
        from: Some(1),
        bytes: 1000,
    };
    assert_eq!(source.handle_settled(GroupId(0), &one()), Ok(()));
    assert_eq!(source.handle_resend(request(0)), Ok(()));
    let answer = SourceMessage::ResendEnd {
        group: GroupId(0),
        token: 3,
        base: 1,
        complete_below: 0,
    };
    assert_eq!(source.poll_message(100), Some(answer));
    // One that was never announced.
    let unknown = Err(SettlementError::UnknownGroup);
    assert_eq!(source.handle_settled(GroupId(1), &one()), unknown);
    assert_eq!(source.handle_resend(request(1)), unknown);
}

/// It was reported when the instance was no member yet, so its lease has ended without a route.
#[test]
fn an_instance_that_has_lost_its_lease_is_a_member_again_when_its_way_is_still_there() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    flow.handle_timeout(t(40));
    drain(&mut flow);
    flow.handle_confirmed(u64::MAX);
    assert_eq!(live(&mut flow, 0), []);
    flow.keep_route(t(41), InstanceId(1));
    answer(&mut flow, 1, none(), none(), 0);
    confirm(&mut flow);
    let request = resend(&drain(&mut flow)).expect("the message waits for it");
    assert_eq!(resent(&mut flow, &request, 0), Some((1, 0, false)));
}

#[test]
fn what_settles_when_it_is_routed_is_routed_once_it_is_on_its_way() {
    let routed = |flow: &mut EntryFlow| {
        let last = drain(flow).into_iter().rev().find_map(|it| match it {
            SourceOutput::Routed { routed, .. } => Some(routed),
            _ => None,
        });
        last.unwrap_or(0)
    };
    let mut flow = entry(fresh()).settling_when_routed();
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    assert_eq!(live(&mut flow, 0), []);
    assert_eq!(routed(&mut flow), 0, "it waits for the instance");
    bind(&mut flow, 1, none(), none(), 0);
    let request = resend(&drain(&mut flow)).expect("a request");
    assert_eq!(resent(&mut flow, &request, 0), Some((1, 0, false)));
    flow.handle_resend_end(request.group, request.token, 0, 0);
    assert_eq!(routed(&mut flow), 1);
    assert_eq!(live(&mut flow, 1), [(1, 1, false)]);
    flow.handle_refused(GroupId(0), InstanceId(1), 1..2);
    assert_eq!(routed(&mut flow), 0, "it waits for room");
    flow.handle_room(GroupId(0), InstanceId(1), 1000);
    let request = resend(&drain(&mut flow)).expect("a request");
    assert_eq!(resent(&mut flow, &request, 1), Some((1, 1, false)));
    flow.handle_resend_end(request.group, request.token, 0, 1);
    assert_eq!(routed(&mut flow), 2);
}
