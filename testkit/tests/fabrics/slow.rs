//! Functions that drop messages for which they have no room: nothing waits for them.

use std::time::Duration;

use selvedge_client::wire::settlement::SettlementLevel;
use selvedge_client::{SlowConsumerPolicy, Tag};

use crate::fabric::{Fabric, Topology, ms};
use crate::known::{client, close_source, write};
use crate::member::MemberConfig;

const IN: Tag = Tag(0x10);
const OTHER: Tag = Tag(0x30);

const COUNT: u32 = 4000;

/// The numbers of the members, behind that of a function that keeps up: one with a policy, and a source.
const SLOW: usize = 1;
const SOURCE: usize = 2;

/// With this seed, all zippers have all features.
const SEED: u64 = 22;

/// With this one, the first zipper is of the version before.
const OLD_SEED: u64 = 21;

/// The source is at the first of two zippers.
fn fabric(level: Option<SettlementLevel>, policy: SlowConsumerPolicy, home: usize) -> Fabric {
    fabric_of(SEED, level, policy, home)
}

fn fabric_of(
    seed: u64,
    level: Option<SettlementLevel>,
    policy: SlowConsumerPolicy,
    home: usize,
) -> Fabric {
    let mut fabric = Fabric::new(seed, Topology::Chain, 2);
    fabric.send_buffer = 512 << 10;
    fabric.level = level;
    (0..2).for_each(|at| fabric.start_zipper(at));
    fabric.join(client("normal", home, &[IN], None));
    fabric.slow_consumer = policy;
    fabric.join(client("slow", home, &[IN], None));
    fabric.slow_consumer = SlowConsumerPolicy::Hold;
    fabric.join(MemberConfig {
        knows_key: false,
        ..client("source", 0, &[], None)
    });
    assert!(fabric.run_until(Duration::from_secs(30), Fabric::is_whole));
    fabric.run(ms(1000));
    let now = fabric.processes.now();
    fabric.ledger.settle(now);
    fabric
}

fn without_room(fabric: &Fabric) -> u64 {
    let stats = (0..2).flat_map(|at| fabric.stats(at));
    stats.map(|it| it.no_room).sum()
}

/// Runs a fabric whose slow function reads nothing until everything is written, and then everything. Returns the
/// numbers of the first and the last message that are missing at it.
fn gap(level: Option<SettlementLevel>, policy: SlowConsumerPolicy, home: usize) -> (u32, u32) {
    let shown = format!("{level:?}, {policy:?}, home {home}");
    let mut fabric = fabric(level, policy, home);
    fabric.member(SLOW).set_reading(false, Duration::ZERO);
    write(&mut fabric, SOURCE, IN, ms(1), 3000, COUNT);
    fabric.run(Duration::from_secs(8));
    assert!(!fabric.member(SOURCE).is_writing(), "held back: {shown}");
    let count = u64::from(COUNT);
    assert_eq!(
        fabric.ledger.counts(IN, "normal"),
        (count, count),
        "{shown}"
    );
    assert!(close_source(&mut fabric, SOURCE), "{shown}");
    fabric.member(SLOW).set_reading(true, Duration::ZERO);
    fabric.run(Duration::from_secs(5));
    let (_, read) = fabric.ledger.counts(IN, "slow");
    let dropped = without_room(&fabric);
    assert!(dropped > 0, "it has room: {shown}");
    assert_eq!(read + dropped, count, "{shown}");
    let missing = fabric.ledger.missing();
    let numbers = missing.iter().map(|(_, stamp)| stamp.number);
    let (first, last) = (numbers.clone().min(), numbers.max());
    first.zip(last).expect("messages were dropped")
}

const LEVELS: [Option<SettlementLevel>; 2] = [None, Some(SettlementLevel::Processed)];

#[test]
fn a_function_that_drops_the_newest_messages_has_the_first_ones_and_holds_no_source() {
    for level in LEVELS {
        for home in [0, 1] {
            let (first, last) = gap(level, SlowConsumerPolicy::DropNewest, home);
            assert!(first > 500, "{first}");
            assert_eq!(last, COUNT - 1);
        }
    }
}

#[test]
fn a_function_that_drops_the_oldest_messages_has_the_last_ones_and_holds_no_source() {
    for level in LEVELS {
        for home in [0, 1] {
            let (_, last) = gap(level, SlowConsumerPolicy::DropOldest, home);
            // A backlog of 4 MiB, and not much more.
            let kept = COUNT - 1 - last;
            assert!((1300..1400).contains(&kept), "{kept}");
        }
    }
}

/// While it keeps up, nothing is dropped.
#[test]
fn a_function_with_a_drop_policy_that_keeps_up_receives_everything() {
    for policy in [
        SlowConsumerPolicy::DropOldest,
        SlowConsumerPolicy::DropNewest,
    ] {
        for level in LEVELS {
            let mut fabric = fabric(level, policy, 1);
            write(&mut fabric, SOURCE, IN, ms(1), 3000, COUNT);
            fabric.run(Duration::from_secs(8));
            let count = u64::from(COUNT);
            for name in ["normal", "slow"] {
                assert_eq!(fabric.ledger.counts(IN, name), (count, count), "{policy:?}");
            }
            assert_eq!(without_room(&fabric), 0);
        }
    }
}

/// What waits for a function is sent before its zipper ends.
#[test]
fn a_zipper_that_closes_delivers_the_backlog_of_its_functions() {
    let policy = SlowConsumerPolicy::DropOldest;
    let mut fabric = fabric(None, policy, 0);
    fabric.member(SLOW).set_reading(false, Duration::ZERO);
    write(&mut fabric, SOURCE, IN, ms(1), 3000, COUNT);
    fabric.run(Duration::from_secs(8));
    // It begins to read when the zipper ends.
    fabric.member(SLOW).set_reading(true, Duration::ZERO);
    fabric.close_zipper(0, Duration::from_secs(10));
    let (_, read) = fabric.ledger.counts(IN, "slow");
    let lost = fabric.stats(0).iter().map(|it| it.undelivered).sum::<u64>();
    assert_eq!((read + without_room(&fabric), lost), (u64::from(COUNT), 0));
}

/// They take part in no settlement: for its source, such a message has no recipient.
#[test]
fn what_only_functions_with_a_drop_policy_observe_counts_as_unobserved() {
    let policy = SlowConsumerPolicy::DropNewest;
    for home in [0, 1] {
        let mut fabric = fabric(Some(SettlementLevel::Processed), policy, home);
        fabric.slow_consumer = policy;
        fabric.join(client("tap", home, &[OTHER], None));
        assert!(fabric.run_until(Duration::from_secs(30), Fabric::is_whole));
        write(&mut fabric, SOURCE, OTHER, ms(1), 100, 1000);
        fabric.run(Duration::from_secs(3));
        assert_eq!(fabric.ledger.counts(OTHER, "tap"), (1000, 1000));
        let source = fabric.member(SOURCE).client().expect("it is connected");
        let total = source.outcomes().total();
        assert_eq!((total.settled, total.unobserved), (0, 1000));
    }
}

/// A zipper of the version before does not know the policy: its function holds the source back, and misses
/// nothing.
#[test]
fn at_a_zipper_of_the_version_before_a_function_with_a_drop_policy_holds() {
    let mut fabric = fabric_of(OLD_SEED, None, SlowConsumerPolicy::DropNewest, 0);
    fabric.member(SLOW).set_reading(false, Duration::ZERO);
    write(&mut fabric, SOURCE, IN, ms(1), 3000, COUNT);
    fabric.run(Duration::from_secs(8));
    assert!(fabric.ledger.counts(IN, "normal").1 < u64::from(COUNT));
    fabric.member(SLOW).set_reading(true, Duration::ZERO);
    fabric.run(Duration::from_secs(8));
    let all = (u64::from(COUNT), u64::from(COUNT));
    assert_eq!(fabric.ledger.counts(IN, "normal"), all);
    assert_eq!(fabric.ledger.counts(IN, "slow"), all);
}

/// It has not processed them, and no other instance comes.
#[test]
fn messages_of_a_function_that_stalls_are_abandoned_for_that_reason() {
    for home in [0, 1] {
        let policy = SlowConsumerPolicy::Hold;
        let mut fabric = fabric(Some(SettlementLevel::Processed), policy, home);
        fabric.member(SLOW).set_reading(false, Duration::ZERO);
        write(&mut fabric, SOURCE, IN, ms(1), 3000, COUNT);
        fabric.run(Duration::from_secs(60));
        let count = u64::from(COUNT);
        assert_eq!(fabric.ledger.counts(IN, "normal"), (count, count));
        let source = fabric.member(SOURCE).client().expect("it is connected");
        let outcomes = source.outcomes();
        let total = outcomes.total();
        assert!(total.instance_stalled > 0, "{total:?}");
        assert_eq!(total.abandoned(), total.instance_stalled);
        assert_eq!(total.settled + total.unobserved, count - total.abandoned());
    }
}
