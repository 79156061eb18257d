//! When a member counts as stalled, and when it is asked for a report.

use std::time::Duration;

use selvedge_client::settlement::{
    AbandonReason, GroupId, InstanceId, ReceivingReport, ReportKind, RouteEpoch, SequenceSet,
};
use selvedge_hub::Instant;
use selvedge_zipper::settlement::{
    EntryFlow, GroupSpec, InstanceOutput, InstanceOutputKind, SlowState, SourceOutput,
};

use crate::cases::{
    answer, bind, confirm, drain, entry, fresh, instance_outputs, live, none, spec,
};

/// In half seconds.
pub(crate) fn at(halves: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(500 * halves))
}

/// A flow with one instance, which has been sent messages and has processed none.
pub(crate) struct Held {
    pub(crate) flow: EntryFlow,
    epoch: RouteEpoch,
    /// In half seconds.
    pub(crate) now: u64,
    progress: u64,
    /// What the source was sent when the instance had stalled.
    outputs: Vec<SourceOutput>,
}

impl Held {
    fn new() -> Self {
        Self::with(spec(true, &[1]))
    }

    pub(crate) fn with(spec: GroupSpec) -> Self {
        let mut flow = entry(fresh());
        flow.set_groups(at(2), &[spec]);
        confirm(&mut flow);
        bind(&mut flow, 1, none(), none(), 0);
        instance_outputs(&mut flow);
        for sequence in 0..10 {
            let sent = live(&mut flow, sequence);
            assert_eq!(sent, [(1, sequence, false)]);
        }
        Self {
            flow,
            epoch: RouteEpoch {
                attachment: 1,
                route: 1,
            },
            now: 2,
            progress: 0,
            outputs: Vec::new(),
        }
    }

    fn report(&mut self, processed: SequenceSet) {
        let report = ReceivingReport {
            epoch: self.epoch,
            kind: ReportKind::News,
            processed,
            held: none(),
            end: 0,
            stamp: self.now,
            progress: self.progress,
        };
        self.flow
            .handle_report(at(self.now), GroupId(0), InstanceId(1), &report);
    }

    /// The source waits for so many seconds. The instance answers to each question, and processes so many messages of
    /// other flows meanwhile. Returns the number of seconds after which it is removed as stalled.
    pub(crate) fn wait(&mut self, seconds: u64, processed: u64, answers: bool) -> Option<u64> {
        for half in 0..2 * seconds {
            self.now += 1;
            if half % 2 == 0 {
                self.flow.handle_waiting(at(self.now));
            }
            self.flow.handle_timeout(at(self.now));
            self.outputs = drain(&mut self.flow);
            for output in instance_outputs(&mut self.flow) {
                let InstanceOutput { epoch, kind, .. } = output;
                match kind {
                    InstanceOutputKind::Stalled(_) => return Some(half.div_ceil(2)),
                    InstanceOutputKind::Bind => self.epoch = epoch,
                    InstanceOutputKind::Ask if answers => {
                        self.progress += processed;
                        self.report(none());
                    }
                    _ => {}
                }
            }
        }
        None
    }

    fn state(&self) -> Option<SlowState> {
        let slow = self.flow.slow_members(at(self.now));
        slow.first().map(|it| it.state)
    }
}

#[test]
fn a_source_waits_until_it_has_not_reported_so_for_three_seconds() {
    let mut flow = Held::new().flow;
    assert!(!flow.is_waited_for());
    for reported in [2, 7] {
        flow.handle_waiting(at(reported));
        flow.handle_timeout(at(reported + 5));
        assert!(flow.is_waited_for());
    }
    assert_eq!(flow.slow_members(at(12)).len(), 1);
    flow.handle_timeout(at(13));
    assert!(!flow.is_waited_for());
    assert_eq!(flow.slow_members(at(13)), []);
}

#[test]
fn an_instance_that_answers_and_processes_nothing_has_stalled_after_ten_seconds() {
    let stalled = Held::new().wait(60, 0, true);
    assert!(matches!(stalled, Some(10..=12)), "{stalled:?}");
}

#[test]
fn an_instance_that_processes_messages_of_other_flows_has_not_stalled() {
    let mut held = Held::new();
    assert_eq!(held.wait(120, 1, true), None);
    // It is shown nevertheless.
    assert_eq!(held.state(), Some(SlowState::Stuck));
    let stalled = held.wait(60, 0, true);
    assert!(matches!(stalled, Some(9..=16)), "{stalled:?}");
}

/// The time is kept in two bytes.
#[test]
fn an_instance_that_has_not_proceeded_for_two_hours_is_shown_as_slow_for_more_than_one() {
    let mut held = Held::new();
    assert_eq!(held.wait(7200, 1, true), None);
    let slow = held.flow.slow_members(at(held.now));
    let time = at(held.now).duration_since(slow[0].since);
    assert!(time > Duration::from_secs(3600), "{time:?}");
}

/// It could not be informed, and would go on with what it has while others receive that, too.
#[test]
fn an_instance_that_reports_news_is_not_slow_any_more() {
    let mut held = Held::new();
    held.report((0..1).into());
    assert_eq!(held.wait(5, 0, true), None);
    assert_eq!(held.state(), Some(SlowState::Stuck));
    assert_eq!(held.flow.slow_members(at(held.now))[0].messages, 9);
    held.report((1..2).into());
    assert_eq!(held.state(), None);
}

#[test]
fn an_instance_that_does_not_answer_is_shown_as_silent() {
    let mut held = Held::new();
    assert_eq!(held.wait(6, 0, false), None);
    assert_eq!(held.state(), Some(SlowState::Stuck));
    assert_eq!(held.wait(3, 0, false), None);
    assert_eq!(held.state(), Some(SlowState::Silent));
    held.report(none());
    assert_eq!(held.state(), Some(SlowState::Stuck));
}

#[test]
fn an_instance_that_has_nothing_to_process_is_not_slow() {
    let mut held = Held::new();
    held.report((0..10).into());
    held.progress = 1;
    assert_eq!(held.wait(20, 5, true), None);
    assert_eq!(held.state(), None);
    assert_eq!(held.progress, 1, "it was not asked");
    held.flow.handle_route_lost(at(held.now), InstanceId(1));
    assert_eq!(held.wait(20, 0, true), None);
    assert_eq!(held.state(), None);
    // The source has not sent again what was lost.
    let mut held = Held::new();
    bind(&mut held.flow, 1, none(), none(), 0);
    held.epoch.route = 2;
    assert_eq!(held.wait(20, 0, true), None);
    assert_eq!(held.state(), None);
}

#[test]
fn an_instance_without_a_route_has_not_stalled() {
    let mut held = Held::new();
    assert_eq!(held.wait(8, 0, true), None);
    held.flow.handle_route_lost(at(held.now), InstanceId(1));
    assert_eq!(held.wait(4, 0, true), None);
    assert_eq!(held.state(), Some(SlowState::Unbound));
    held.flow.handle_route(at(held.now), InstanceId(1));
    answer(&mut held.flow, 1, none(), (0..10).into(), 10);
    held.epoch.route = 2;
    // The time without a route does not count.
    let stalled = held.wait(60, 0, true);
    assert!(matches!(stalled, Some(2..=5)), "{stalled:?}");
}

#[test]
fn an_instance_that_is_asked_and_does_not_answer_is_bound_again_and_has_not_stalled() {
    let mut held = Held::new();
    assert_eq!(held.wait(9, 0, false), None);
    assert_eq!(held.epoch.route, 1);
    assert_eq!(held.wait(15, 0, false), None);
    assert!(held.epoch.route > 1);
}

#[test]
fn an_instance_that_answers_is_not_bound_again() {
    let mut held = Held::new();
    assert_eq!(held.wait(60, 1, true), None);
    assert_eq!(held.epoch.route, 1);
}

/// The reasons for which messages are abandoned, with their numbers.
fn abandoned(outputs: &[SourceOutput]) -> Vec<(AbandonReason, u64)> {
    let abandoned = outputs.iter().filter_map(|it| match it {
        SourceOutput::Abandoned {
            messages, reason, ..
        } => Some((*reason, messages.ranges().map(|it| it.end - it.start).sum())),
        _ => None,
    });
    abandoned.collect()
}

#[test]
fn messages_of_a_group_whose_only_instance_has_stalled_are_abandoned_for_that_reason() {
    let mut held = Held::new();
    held.wait(60, 0, true).expect("it has stalled");
    held.flow.set_groups(at(held.now), &[spec(true, &[])]);
    assert_eq!(abandoned(&held.outputs), [], "another one may connect");
    held.flow.handle_timeout(at(held.now + 20));
    let expected = [(AbandonReason::InstanceStalled, 10)];
    assert_eq!(abandoned(&drain(&mut held.flow)), expected);
}

#[test]
fn messages_that_a_stalled_instance_may_have_received_are_abandoned_for_that_reason() {
    let each = GroupSpec {
        only: Some(InstanceId(1)),
        ..spec(true, &[1])
    };
    for spec in [spec(false, &[1]), each] {
        let mut held = Held::with(spec);
        held.wait(60, 0, true).expect("it has stalled");
        let expected = [(AbandonReason::InstanceStalled, 10)];
        assert_eq!(abandoned(&held.outputs), expected);
    }
}

#[test]
fn a_group_whose_next_instance_dies_has_no_subscriber() {
    let mut held = Held::new();
    held.wait(60, 0, true).expect("it has stalled");
    held.flow.set_groups(at(held.now), &[spec(true, &[2])]);
    held.flow.handle_death(at(held.now), InstanceId(2));
    held.flow.handle_timeout(at(held.now + 20));
    let expected = [(AbandonReason::NoSubscriber, 10)];
    assert_eq!(abandoned(&drain(&mut held.flow)), expected);
}

/// Why the routes of an instance end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// There is no room, at once.
    Full,
    /// Something is lost, at once.
    Lossy,
    /// There is no room for the first time, and nothing arrives for 15 seconds.
    Cut,
}

impl Held {
    /// The source waits for so many seconds. Returns after how many of them the instance is removed as stalled.
    fn wait_for_room(&mut self, seconds: u64, way: Way) -> Option<u64> {
        let member = (GroupId(0), InstanceId(1));
        let lacks_room = way != Way::Lossy;
        let lose = |it: &mut Self| {
            it.flow
                .handle_loss(at(it.now), member, it.epoch, lacks_room)
        };
        lose(self);
        for half in 0..2 * seconds {
            self.now += 1;
            if half % 2 == 0 {
                self.flow.handle_waiting(at(self.now));
            }
            self.flow.handle_timeout(at(self.now));
            drain(&mut self.flow);
            for output in instance_outputs(&mut self.flow) {
                let InstanceOutput { epoch, kind, .. } = output;
                match kind {
                    InstanceOutputKind::Stalled(_) => return Some(half.div_ceil(2)),
                    InstanceOutputKind::Bind => self.epoch = epoch,
                    _ => continue,
                }
                if way == Way::Cut && half < 30 {
                    continue;
                }
                let answer = ReceivingReport {
                    epoch,
                    kind: ReportKind::Answer,
                    processed: none(),
                    held: none(),
                    end: 0,
                    stamp: self.now,
                    progress: self.progress,
                };
                let (group, id) = member;
                self.flow.handle_report(at(self.now), group, id, &answer);
                let outputs = instance_outputs(&mut self.flow);
                if outputs
                    .iter()
                    .any(|it| matches!(it.kind, InstanceOutputKind::Stalled(_)))
                {
                    return Some(half.div_ceil(2));
                }
                lose(self);
            }
        }
        None
    }
}

#[test]
fn an_instance_for_which_there_is_never_room_on_the_way_has_stalled_after_ten_seconds() {
    let stalled = Held::new().wait_for_room(60, Way::Full);
    // It is bound again every 2.6 seconds at last.
    assert!(matches!(stalled, Some(10..=14)), "{stalled:?}");
}

#[test]
fn an_instance_whose_routes_are_lost_has_not_stalled() {
    for way in [Way::Lossy, Way::Cut] {
        let stalled = Held::new().wait_for_room(20, way);
        assert_eq!(stalled, None, "{way:?}");
    }
}
