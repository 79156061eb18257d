//! Which instance of a group receives which message.

use selvedge_client::settlement::{GroupId, InstanceId, ReceivingReport, ReportKind};
use selvedge_zipper::settlement::{EntryFlow, GroupSpec};

use crate::cases::{
    bind, confirm, drain, entry, epoch, fresh, live, none, offer, report, resend, resent, spec, t,
};

/// A flow whose messages 40 to 49 no instance has, and that expects 50.
fn recovered(spec: GroupSpec) -> EntryFlow {
    let mut flow = entry(offer(50, 100, &[1, 2], 0, (0..40).into(), 0));
    flow.set_groups(t(1), &[spec]);
    confirm(&mut flow);
    flow
}

#[test]
fn messages_wait_for_an_instance_that_can_take_them_in_order() {
    let mut flow = recovered(spec(true, &[1, 2]));
    bind(&mut flow, 2, none(), none(), 40);
    flow.handle_route_lost(t(1), InstanceId(2));
    bind(&mut flow, 1, none(), (80..100).into(), 100);
    assert_eq!(resend(&drain(&mut flow)), None);
    bind(&mut flow, 2, none(), none(), 40);
    let request = resend(&drain(&mut flow)).expect("it can be sent to");
    assert_eq!(resent(&mut flow, &request, 40), Some((2, 40, false)));
}

#[test]
fn an_instance_that_is_not_selected_takes_what_no_selected_one_can_take_in_order() {
    let mut flow = recovered(GroupSpec {
        others: vec![InstanceId(1)],
        ..spec(true, &[2])
    });
    bind(&mut flow, 1, none(), none(), 40);
    bind(&mut flow, 2, none(), (80..100).into(), 100);
    let request = resend(&drain(&mut flow)).expect("they are missing");
    assert_eq!(resent(&mut flow, &request, 40), Some((1, 40, false)));
}

#[test]
fn a_live_message_goes_to_the_instance_that_can_take_it_in_order() {
    // 1 holds what the former entry zipper has sent later.
    let mut flow = entry(offer(50, 100, &[1, 2], 50, none(), 0));
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), (60..70).into(), 70);
    bind(&mut flow, 2, none(), none(), 50);
    let sent: Vec<_> = (50..80).flat_map(|it| live(&mut flow, it)).collect();
    let expected = (50..60).chain(70..80).map(|it| (2, it, false));
    assert_eq!(sent, expected.collect::<Vec<_>>());
}

#[test]
fn a_message_that_has_not_arrived_is_not_requested() {
    let mut flow = entry(offer(60, 70, &[1, 2], 60, none(), 0));
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    bind(&mut flow, 1, none(), (60..70).into(), 70);
    bind(&mut flow, 2, none(), none(), 60);
    flow.handle_death(t(1), InstanceId(1));
    assert_eq!(resend(&drain(&mut flow)), None);
    live(&mut flow, 60);
    flow.handle_room(GroupId(0), InstanceId(2), 1000);
    let request = resend(&drain(&mut flow)).expect("one has arrived");
    assert_eq!(request.ranges, (60..61).into());
    assert_eq!(resent(&mut flow, &request, 60), Some((2, 60, true)));
}

#[test]
fn an_instance_that_reports_nothing_is_given_512_messages_more_than_others_and_not_the_next_block()
{
    let mut flow = entry(fresh());
    flow.set_groups(t(1), &[spec(true, &[1, 2])]);
    confirm(&mut flow);
    flow.handle_route(t(1), InstanceId(2));
    let route = epoch(&mut flow, 2);
    let answer = ReceivingReport {
        kind: ReportKind::Answer,
        ..report(route, none())
    };
    flow.handle_report(t(1), GroupId(0), InstanceId(2), &answer);
    bind(&mut flow, 1, none(), none(), 0);
    let mut blocked = 0;
    for sequence in 0..20 * 256 {
        match live(&mut flow, sequence)[..] {
            [(1, ..)] => blocked += 1,
            _ => {
                let one = report(route, (sequence..sequence + 1).into());
                flow.handle_report(t(1), GroupId(0), InstanceId(2), &one);
            }
        }
    }
    assert_eq!(blocked, 3 * 256);
    // The only instance of a group is given everything.
    flow.handle_leave(t(1), InstanceId(2));
    for sequence in 20 * 256..25 * 256 {
        assert_eq!(live(&mut flow, sequence), [(1, sequence, false)]);
    }
}
