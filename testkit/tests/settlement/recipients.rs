//! Groups that begin and end, and the routes to their instances.

use std::time::Duration;

use selvedge_client::settlement::*;
use selvedge_zipper::settlement::*;

use crate::cases::*;

fn named(name: &str, only: Option<u64>, members: &[u64]) -> GroupSpec {
    GroupSpec {
        name: name.into(),
        only: only.map(InstanceId),
        ..spec(true, members)
    }
}

/// Where each announced group begins and ends; `None` if there is nothing to announce.
fn announced(flow: &mut EntryFlow) -> Option<Vec<(String, u64, Option<u64>)>> {
    let outputs = drain(flow);
    let groups = outputs.into_iter().rev().find_map(|it| match it {
        SourceOutput::Announce(recipients) => Some(recipients.groups),
        _ => None,
    });
    let listed = |it: RecipientGroup| (it.name, it.from, it.until);
    groups.map(|groups| groups.into_iter().map(listed).collect())
}

/// The instances that are to be bound.
fn binds(flow: &mut EntryFlow) -> Vec<(GroupId, u64)> {
    let outputs = instance_outputs(flow).into_iter();
    let binds = outputs.filter(|it| it.kind == InstanceOutputKind::Bind);
    binds.map(|it| (it.group, it.instance.0)).collect()
}

#[test]
fn a_group_that_settles_no_more_ends_unless_it_is_that_of_a_listed_instance() {
    let mut flow = entry(fresh());
    let each = |instance| named("h", Some(instance), &[instance]);
    flow.set_groups(t(1), &[spec(true, &[1]), each(2), each(3)]);
    assert!(!flow.is_confirmed());
    confirm(&mut flow);
    assert!(flow.is_confirmed());
    assert!(flow.has_group("g"));
    assert!(!flow.has_group("h"), "its instances do not share messages");
    live(&mut flow, 0);
    let close = |flow: &mut EntryFlow, name: &str| {
        let names = std::iter::once(name);
        flow.close_groups(names, |it| it == InstanceId(2));
    };
    close(&mut flow, "h");
    let ends = |g, h3| {
        let ends = [("g", 0, g), ("h", 0, None), ("h", 0, h3)];
        Some(
            ends.map(|(name, from, until)| (name.to_owned(), from, until))
                .to_vec(),
        )
    };
    assert_eq!(announced(&mut flow), ends(None, Some(1)));
    close(&mut flow, "g");
    assert!(!flow.has_group("g"));
    assert_eq!(announced(&mut flow), ends(Some(1), Some(1)));
    live(&mut flow, 1);
    for name in ["g", "h", "i"] {
        close(&mut flow, name);
    }
    assert_eq!(announced(&mut flow), None, "nothing has changed");
}

#[test]
fn a_new_group_begins_at_once_if_it_does_not_replace_another_one() {
    // An earlier entry zipper may have sent messages up to 100.
    let mut flow = entry(offer(50, 100, &[1], 50, none(), 0));
    let each = named("g", Some(1), &[1]);
    flow.set_groups(t(1), &[each, named("other", None, &[2])]);
    let expected = [("g", 0, Some(100)), ("g", 100, None), ("other", 50, None)];
    let expected = expected.map(|(name, from, until)| (name.to_owned(), from, until));
    assert_eq!(announced(&mut flow), Some(expected.to_vec()));
}

#[test]
fn an_instance_is_bound_when_it_joins_if_there_is_a_way_to_it() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    flow.handle_route(t(1), InstanceId(1));
    assert_eq!(binds(&mut flow), [(GroupId(0), 1)]);
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    assert_eq!(binds(&mut flow), [], "there is no way to it");
    let other = named("other", None, &[1, 2]);
    flow.set_groups(t(1), &[spec(true, &[1, 2]), other]);
    assert_eq!(binds(&mut flow), [(GroupId(1), 1)]);
}

#[test]
fn a_floor_is_sent_when_it_has_risen_by_1024_messages() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    for sequence in 0..3000 {
        live(&mut flow, sequence);
    }
    let mut floors = Vec::new();
    for base in 0..3000 {
        flow.handle_base(base);
        let outputs = instance_outputs(&mut flow);
        floors.extend(outputs.into_iter().map(|it| it.kind));
    }
    let expected = [1024, 2048].map(InstanceOutputKind::RaiseFloor);
    assert_eq!(floors, expected);
}

#[test]
fn an_instance_that_the_source_names_receives_nothing_until_a_router_lists_it() {
    let mut flow = entry(offer(50, 100, &[1], 0, (0..30).into(), 0));
    bind(&mut flow, 1, none(), none(), 30);
    assert_eq!(resend(&drain(&mut flow)), None);
    assert_eq!(live(&mut flow, 50), []);
    flow.set_groups(t(1), &[spec(true, &[1])]);
    let request = resend(&drain(&mut flow)).expect("it is listed");
    assert_eq!(request.ranges, (30..51).into());
}

#[test]
fn an_instance_that_has_lost_its_lease_is_a_member_of_its_group_again() {
    let lease = EntrySettings::default().lease.as_secs();
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[named("a", None, &[1]), named("b", None, &[2])]);
    flow.handle_timeout(t(1 + lease));
    let members = |flow: &mut EntryFlow| {
        let last = drain(flow).into_iter().rev().find_map(|it| match it {
            SourceOutput::Announce(recipients) => Some(recipients.groups),
            _ => None,
        });
        let groups = last.expect("they have changed").into_iter();
        groups.map(|it| it.members).collect::<Vec<_>>()
    };
    assert_eq!(members(&mut flow), [[], []]);
    flow.handle_route(t(1 + lease), InstanceId(2));
    assert_eq!(members(&mut flow), [vec![], vec![InstanceId(2)]]);
    assert_eq!(binds(&mut flow), [(GroupId(1), 2)]);
}

#[test]
fn an_instance_that_is_a_group_of_its_own_and_has_lost_its_lease_is_no_group_until_it_returns() {
    let end = t(1 + EntrySettings::default().lease.as_secs());
    let specs = [named("a", Some(1), &[1])];
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &specs);
    assert!(flow.is_observed());
    flow.handle_timeout(end);
    flow.set_groups(end, &specs);
    assert!(!flow.is_observed());
    flow.handle_route(end, InstanceId(1));
    assert!(flow.is_observed());
}

#[test]
fn an_instance_is_bound_again_at_once_after_a_loss_and_after_a_pause_when_it_is_lost_again() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    flow.handle_route(t(1), InstanceId(1));
    let first = epoch(&mut flow, 1);
    let lose = |flow: &mut EntryFlow, at, route| {
        flow.handle_loss(at, (GroupId(0), InstanceId(1)), route, false);
    };
    lose(&mut flow, t(2), first);
    let second = epoch(&mut flow, 1);
    assert_ne!(first, second);
    lose(&mut flow, t(2), first);
    assert_eq!(binds(&mut flow), [], "the present route has lost nothing");
    lose(&mut flow, t(2), second);
    assert_eq!(binds(&mut flow), []);
    let again = t(2) + Duration::from_millis(80);
    assert_eq!(flow.poll_timeout(), Some(again));
    flow.handle_timeout(again);
    assert_eq!(binds(&mut flow), [(GroupId(0), 1)]);
}

#[test]
fn an_instance_is_bound_again_at_once_after_it_has_reported_news() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    live(&mut flow, 0);
    flow.handle_route(t(1), InstanceId(1));
    let mut route = epoch(&mut flow, 1);
    let kinds = [
        (ReportKind::Answer, none(), true),
        (ReportKind::Answer, (0..1).into(), false),
        (ReportKind::News, none(), false),
        (ReportKind::News, (0..1).into(), true),
    ];
    for (seconds, (kind, processed, is_at_once)) in (2..).zip(kinds) {
        let report = ReceivingReport {
            kind,
            ..report(route, processed)
        };
        let member = (GroupId(0), InstanceId(1));
        flow.handle_report(t(seconds), member.0, member.1, &report);
        flow.handle_loss(t(seconds), member, route, false);
        let is_due = |flow: &EntryFlow| flow.poll_timeout() < Some(t(seconds + 1));
        assert_eq!(!is_due(&flow), is_at_once, "{kind:?}");
        flow.handle_timeout(t(seconds + 1));
        route = epoch(&mut flow, 1);
    }
}

#[test]
fn an_instance_that_is_not_selected_any_more_receives_no_new_messages() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), none(), 0);
    assert_eq!(live(&mut flow, 0), [(1, 0, false)]);
    let preferred = GroupSpec {
        others: vec![InstanceId(1)],
        ..spec(true, &[2])
    };
    flow.set_groups(t(1), &[preferred]);
    confirm(&mut flow);
    assert_eq!(live(&mut flow, 1), []);
    bind(&mut flow, 2, none(), none(), 0);
    let request = resend(&drain(&mut flow)).expect("it has waited for this one");
    assert_eq!(resent(&mut flow, &request, 1), Some((2, 1, false)));
}

#[test]
fn the_routes_of_a_group_that_is_over_are_unbound() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    // One answers, and the other one does not.
    let routes = [1, 2].map(|instance| {
        flow.handle_route(t(1), InstanceId(instance));
        epoch(&mut flow, instance)
    });
    let answer = ReceivingReport {
        kind: ReportKind::Answer,
        ..report(routes[0], none())
    };
    flow.handle_report(t(1), GroupId(0), InstanceId(1), &answer);
    assert_eq!(live(&mut flow, 0), [(1, 0, false)]);
    flow.close_groups(["g"].into_iter(), |_| false);
    let news = report(routes[0], (0..1).into());
    flow.handle_report(t(1), GroupId(0), InstanceId(1), &news);
    instance_outputs(&mut flow);
    drain(&mut flow);
    let mut unbound: Vec<_> = instance_outputs(&mut flow)
        .into_iter()
        .filter(|it| it.kind == InstanceOutputKind::Unbind)
        .map(|it| (it.instance.0, it.epoch))
        .collect();
    unbound.sort_unstable_by_key(|it| it.0);
    assert_eq!(unbound, [(1, routes[0]), (2, routes[1])]);
}

#[test]
fn only_an_answer_on_the_present_route_is_the_answer_to_a_bind() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1])]);
    confirm(&mut flow);
    flow.handle_route(t(1), InstanceId(1));
    let first = epoch(&mut flow, 1);
    flow.handle_route(t(1), InstanceId(1));
    let second = epoch(&mut flow, 1);
    live(&mut flow, 0);
    for (route, requested) in [(first, None), (second, Some((0..1).into()))] {
        let answer = ReceivingReport {
            kind: ReportKind::Answer,
            ..report(route, none())
        };
        flow.handle_report(t(1), GroupId(0), InstanceId(1), &answer);
        let request = resend(&drain(&mut flow));
        assert_eq!(request.map(|it| it.ranges), requested);
    }
}

#[test]
fn instances_take_turns_of_256_messages_although_their_blocks_are_closed_earlier() {
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    for instance in [1, 2] {
        bind(&mut flow, instance, none(), none(), 0);
    }
    let mut bursts = Vec::new();
    while flow.expected() < 3 * 256 {
        let mut to = None;
        let count = flow.live_block(100, |it| to = Some(it.instance.0));
        flow.advance(count);
        // Closes the block.
        flow.handle_confirmed(0);
        bursts.push((to, count));
    }
    let turn = |instance| [100, 100, 56].map(|count| (Some(instance), count));
    assert_eq!(bursts, [turn(2), turn(1), turn(2)].concat());
}
