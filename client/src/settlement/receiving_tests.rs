//! Tests of the receiving side of a flow.

use super::*;

const FIRST: RouteEpoch = RouteEpoch {
    attachment: 1,
    route: 1,
};
const SECOND: RouteEpoch = RouteEpoch {
    attachment: 1,
    route: 2,
};

fn at(seconds: u64) -> Instant {
    Instant::from_origin(Duration::from_secs(seconds))
}

/// A flow that is bound and may process messages until 28 s.
fn bound() -> ReceivingFlow {
    let mut flow = ReceivingFlow::default();
    flow.bind(at(1), FIRST).expect("the first route");
    let report = flow.poll_report(at(1), 0).expect("the answer");
    flow.handle_renew(FIRST, report.stamp);
    flow
}

#[test]
fn a_message_is_new_once_whichever_routes_bring_it() {
    let mut flow = ReceivingFlow::default();
    assert_eq!(flow.receive(FIRST, 0), Receipt::Superseded);
    let mut flow = bound();
    assert_eq!(flow.receive(FIRST, 0), Receipt::New);
    assert_eq!(flow.receive(FIRST, 0), Receipt::Duplicate);
    flow.process(0);
    assert_eq!(flow.receive(FIRST, 0), Receipt::Duplicate);
    assert_eq!(flow.receive(FIRST, 1), Receipt::New);
    assert_eq!(flow.bind(at(2), SECOND), Some(SequenceSet::default()));
    let report = flow.poll_report(at(2), 0).expect("the answer");
    assert_eq!(report.kind, ReportKind::Answer);
    assert_eq!(report.processed, SequenceSet::from(0..1));
    assert_eq!(report.held, SequenceSet::from(1..2));
    assert_eq!(report.end, 2);
    assert_eq!(flow.receive(FIRST, 2), Receipt::Superseded);
    assert_eq!(flow.receive(SECOND, 1), Receipt::Duplicate);
    assert!(flow.bind(at(2), FIRST).is_none());
    assert!(flow.bind(at(2), SECOND).is_some(), "no later one was bound");
}

#[test]
fn a_report_ends_behind_the_last_message_that_was_accepted() {
    let mut flow = bound();
    flow.raise_floor(5);
    assert_eq!(flow.receive(FIRST, 4), Receipt::Duplicate, "it was removed");
    for (sequence, end) in [(5, 6), (6, 7), (9, 10), (8, 10)] {
        assert_eq!(flow.receive_and_process(FIRST, sequence), Receipt::New);
        let report = flow.poll_report(at(1), 0).expect("news");
        assert_eq!(report.end, end);
    }
    flow.raise_floor(7);
    assert_eq!(flow.receive(FIRST, 7), Receipt::New, "it was not removed");
}

#[test]
fn messages_are_taken_in_order_from_the_bound_route_only() {
    let mut flow = bound();
    assert!(!flow.may_take(SECOND, 0));
    assert!(flow.may_take(FIRST, SEQUENCE_MAX - 1) && !flow.may_take(FIRST, SEQUENCE_MAX));
    assert!(flow.may_take(FIRST, 0));
    flow.take(0..2, true);
    flow.take(2..5, false);
    assert!(flow.may_take(FIRST, 5) && !flow.may_take(FIRST, 4));
    let report = flow.poll_report(at(1), 0).expect("two were processed");
    assert_eq!(report.processed, SequenceSet::from(0..2));
    assert_eq!(report.end, 5);
    assert_eq!(flow.process_begun(), 3);
    flow.raise_floor(6);
    assert!(flow.may_take(FIRST, 6) && !flow.may_take(FIRST, 5));
    flow.fence();
    assert!(!flow.may_take(FIRST, 6));
}

#[test]
fn a_flow_that_is_asked_on_its_route_reports_without_news() {
    let mut flow = bound();
    flow.handle_ask(SECOND);
    assert_eq!(flow.poll_report(at(1), 0), None);
    flow.handle_ask(FIRST);
    let report = flow.poll_report(at(1), 5).expect("it was asked");
    assert_eq!((report.kind, report.progress), (ReportKind::News, 5));
    assert_eq!(flow.poll_report(at(1), 5), None);
}

#[test]
fn what_the_source_has_removed_is_forgotten_and_stays_a_duplicate() {
    let mut flow = bound();
    for sequence in 0..4 {
        flow.receive(FIRST, sequence);
    }
    flow.process(0);
    flow.process(1);
    flow.raise_floor(2);
    assert_eq!(flow.receive(FIRST, 1), Receipt::Duplicate);
    assert_eq!(flow.poll_report(at(1), 0), None);
    flow.process(2);
    let report = flow.poll_report(at(1), 0).expect("one was processed");
    assert_eq!(report.processed, SequenceSet::from(2..3));
    assert_eq!(flow.poll_report(at(1), 0), None);
}

#[test]
fn a_flow_is_forgettable_once_it_is_idle_and_the_source_has_removed_everything() {
    let mut flow = bound();
    let state = |flow: &ReceivingFlow| (flow.is_idle(), flow.is_forgettable());
    assert_eq!(state(&flow), (true, true));
    for sequence in 0..2 {
        flow.receive(FIRST, sequence);
    }
    assert_eq!(state(&flow), (false, false));
    flow.process(0);
    assert!(flow.begin(1));
    flow.raise_floor(2);
    assert_eq!(state(&flow), (false, false), "it is being processed");
    flow.receive(FIRST, 2);
    flow.process(1);
    assert_eq!(state(&flow), (false, false), "one is held");
    flow.process(2);
    assert_eq!(state(&flow), (true, false));
    flow.raise_floor(3);
    assert_eq!(state(&flow), (true, true));
}

#[test]
fn news_repeat_what_is_contiguous_and_nothing_else() {
    let mut flow = bound();
    for sequence in [0, 1, 5, 6] {
        flow.receive_and_process(FIRST, sequence);
    }
    flow.poll_report(at(1), 0).expect("news");
    flow.receive_and_process(FIRST, 7);
    let report = flow.poll_report(at(1), 0).expect("news");
    assert_eq!(report.processed, SequenceSet::from(5..8));
}

#[test]
fn an_answer_with_many_ranges_comes_in_parts_that_are_complete() {
    let mut flow = bound();
    for sequence in 0..1000 {
        flow.receive(FIRST, 3 * sequence);
        flow.receive_and_process(FIRST, 3 * sequence + 1);
    }
    assert!(flow.begin(3));
    flow.bind(at(2), SECOND).expect("a later route");
    let (mut processed, mut held) = (SequenceSet::default(), SequenceSet::default());
    loop {
        let report = flow.poll_report(at(2), 0).expect("a part");
        assert!(report.processed.ranges().len() <= RANGES_MAX);
        assert!(report.held.ranges().len() <= RANGES_MAX);
        processed.insert_all(&report.processed);
        held.insert_all(&report.held);
        if report.kind == ReportKind::Answer {
            break;
        }
    }
    assert_eq!(held, (0..1000).map(|it| 3 * it..3 * it + 1).collect());
    let expected = (0..1000).map(|it| 3 * it + 1..3 * it + 2).collect();
    assert_eq!(processed, expected);
}

#[test]
fn nothing_is_processed_before_and_after_the_lease() {
    let mut flow = ReceivingFlow::default();
    flow.bind(at(1), FIRST).expect("the first route");
    let report = flow.poll_report(at(1), 0).expect("the answer");
    assert!(!flow.may_process(at(2)));
    // It asks for the lease, once.
    assert!(flow.poll_report(at(2), 0).is_some());
    assert!(!flow.may_process(at(2)));
    assert_eq!(flow.poll_report(at(2), 0), None);
    flow.handle_renew(SECOND, report.stamp);
    assert!(!flow.may_process(at(2)), "it was not bound to that route");
    flow.handle_renew(FIRST, report.stamp);
    assert!(flow.may_process(at(27)));
    assert!(!flow.may_process(at(28)));
    // A stamp that was never sent.
    flow.handle_renew(FIRST, u64::MAX);
    assert!(!flow.may_process(at(28)));
}

#[test]
fn what_is_held_without_a_lease_is_dropped_when_another_route_is_bound() {
    let mut flow = bound();
    for sequence in 0..3 {
        flow.receive(FIRST, sequence);
    }
    assert!(flow.begin(0));
    let dropped = flow.bind(at(40), SECOND).expect("a later route");
    assert_eq!(dropped, SequenceSet::from(1..3));
    assert!(!flow.begin(1));
    let report = flow.poll_report(at(40), 0).expect("the answer");
    assert_eq!(report.held, SequenceSet::from(0..1));
    assert_eq!(flow.receive(SECOND, 0), Receipt::Duplicate);
    assert_eq!(flow.receive(SECOND, 1), Receipt::New);
    flow.process(0);
    let news = flow.poll_report(at(40), 0).expect("news");
    assert_eq!(news.processed, SequenceSet::from(0..1));
}

#[test]
fn an_instance_that_leaves_reports_everything_once_more_and_accepts_nothing() {
    let mut flow = bound();
    assert_eq!(flow.receive_and_process(FIRST, 0), Receipt::New);
    assert_eq!(flow.receive(FIRST, 1), Receipt::New);
    flow.poll_report(at(1), 0).expect("news");
    assert_eq!(flow.leave(), SequenceSet::from(1..2));
    let report = flow.poll_report(at(1), 0).expect("the last report");
    assert_eq!(report.kind, ReportKind::Answer);
    assert_eq!(report.processed, SequenceSet::from(0..1));
    assert_eq!((report.held, report.end), (SequenceSet::default(), 1));
    assert_eq!(flow.receive(FIRST, 1), Receipt::Superseded);
    assert_eq!(flow.poll_report(at(1), 0), None);
}

#[test]
fn a_flow_that_holds_messages_reports_every_two_seconds_until_it_is_fenced() {
    let mut flow = bound();
    assert_eq!(flow.poll_timeout(), None);
    flow.receive(FIRST, 0);
    let (mut now, mut reports) = (at(1), 0);
    while let Some(timeout) = flow.poll_timeout() {
        assert!(flow.handle_timeout(now).is_empty(), "too early");
        assert_eq!(flow.poll_report(now, 0), None);
        now = timeout;
        let dropped = flow.handle_timeout(now);
        reports += usize::from(flow.poll_report(now, 0).is_some());
        assert!(dropped.is_empty() || dropped == SequenceSet::from(0..1));
        assert!(reports < 100, "it holds the message for ever");
    }
    // 27 s of its lease, and a further lease.
    assert!(now >= at(58) && now <= at(62), "{now:?}");
    assert!(!flow.begin(0));
    assert_eq!(flow.receive(FIRST, 1), Receipt::Superseded);
}
