//! Rows of the catalogue of tests for meshes that name their topology or fault exactly; `story.rs` draws them.

use std::time::Duration;

use selvedge_client::Tag;
use selvedge_client::lanes::HOPS_MAX;
use selvedge_client::wire::settlement::SettlementLevel;

use crate::fabric::{Fabric, MemberEnd, Topology, ms};
use crate::known::{client, close_source, write};
use crate::member::MemberConfig;

const IN: Tag = Tag(0x10);

/// A fabric with these clients, which are not connected yet.
fn fabric(
    topology: Topology,
    count: usize,
    level: Option<SettlementLevel>,
    clients: &[MemberConfig],
) -> Fabric {
    let mut fabric = Fabric::new(1, topology, count);
    if let Some(level) = level {
        fabric.settle_messages(level, true);
    }
    (0..count).for_each(|at| fabric.start_zipper(at));
    for config in clients {
        fabric.join(config.clone());
    }
    fabric
}

fn until_whole(fabric: &mut Fabric) {
    assert!(fabric.run_until(Duration::from_secs(30), Fabric::is_whole));
    let now = fabric.processes.now();
    fabric.ledger.settle(now);
}

/// A function at each zipper, and a source at each. The ledger fails the fabric at the second copy.
#[test]
fn m1_each_function_gets_each_message_once_in_rings_meshes_chains_and_double_rings() {
    let topologies = [
        (Topology::Ring, 3),
        (Topology::Mesh, 5),
        (Topology::Chain, 4),
        (Topology::DoubleRing, 5),
    ];
    for (topology, count) in topologies {
        for level in [None, Some(SettlementLevel::Processed)] {
            let functions = (0..count).map(|at| client(&format!("f{at}"), at, &[IN], None));
            let sources = (0..count).map(|at| client("source", at, &[], None));
            let clients: Vec<_> = functions.chain(sources).collect();
            let mut fabric = fabric(topology, count, level, &clients);
            until_whole(&mut fabric);
            for source in count..2 * count {
                write(&mut fabric, source, IN, ms(5), 100, 100);
            }
            fabric.run(Duration::from_secs(10));
            for at in 0..count {
                let counts = fabric.ledger.counts(IN, &format!("f{at}"));
                let expected = 100 * count as u64;
                let what = format!("{topology:?} of {count}, {level:?}, function {at}");
                assert_eq!(counts, (expected, expected), "{what}");
            }
        }
    }
}

/// One zipper more, and the interest does not get that far.
#[test]
fn m1_a_message_takes_sixteen_links_and_no_more() {
    let links = usize::from(HOPS_MAX);
    let clients = [
        client("near", links, &[IN], None),
        client("far", links + 1, &[IN], None),
        client("source", 0, &[], None),
    ];
    for level in [None, Some(SettlementLevel::Processed)] {
        let mut fabric = fabric(Topology::Chain, links + 2, level, &clients);
        fabric.run(Duration::from_secs(30));
        write(&mut fabric, 2, IN, ms(5), 100, 50);
        fabric.run(Duration::from_secs(60));
        let read = ["near", "far"].map(|name| fabric.ledger.counts(IN, name).1);
        assert_eq!(read, [50, 0], "{level:?}");
    }
}

/// The second line of the row: no other zipper is restarted.
#[test]
fn m2_messages_flow_two_seconds_after_each_zipper_of_a_chain_has_restarted() {
    const COUNT: usize = 4;
    let clients = [
        client("sink", COUNT - 1, &[IN], None),
        client("source", 0, &[], None),
    ];
    for is_crash in [false, true] {
        for level in [None, Some(SettlementLevel::Processed)] {
            let mut fabric = fabric(Topology::Chain, COUNT, level, &clients);
            until_whole(&mut fabric);
            for at in 0..COUNT {
                let now = fabric.processes.now();
                fabric.ledger.excuse(now);
                match is_crash {
                    true => fabric.crash_zipper(at, false),
                    false => assert!(fabric.close_zipper(at, Duration::from_secs(5))),
                }
                fabric.run(ms(500));
                fabric.start_zipper(at);
                let began = fabric.processes.now();
                let what = format!("crash: {is_crash}, {level:?}, zipper {at}");
                assert!(
                    fabric.run_until(Duration::from_secs(2), Fabric::is_whole),
                    "{what}: the interest is not back"
                );
                let now = fabric.processes.now();
                fabric.ledger.settle(now);
                let before = fabric.ledger.counts(IN, "sink").1;
                write(&mut fabric, 1, IN, ms(1), 100, 1);
                let has_read = |fabric: &Fabric| fabric.ledger.counts(IN, "sink").1 > before;
                assert!(
                    fabric.run_until(Duration::from_secs(2) - (now - began), has_read),
                    "{what}: no message arrives"
                );
            }
        }
    }
}

/// What the instance had, goes to another one with a flag, or is reported, as its group wants it.
#[test]
fn m8_what_an_instance_held_when_it_died_is_redelivered_or_reported() {
    for redelivers in [true, false] {
        let instance = |name: &str, home| MemberConfig {
            acknowledges: true,
            redelivers,
            ..client(name, home, &[IN], None)
        };
        let clients = [
            instance("f", 0),
            instance("f", 1),
            client("source", 0, &[], None),
        ];
        let level = Some(SettlementLevel::Processed);
        let mut fabric = fabric(Topology::Chain, 2, level, &clients);
        until_whole(&mut fabric);
        write(&mut fabric, 2, IN, ms(1), 100, 2000);
        fabric.run(ms(500));
        // What is sent to it from now on has arrived, and is not processed.
        fabric.member(0).set_reading(false, Duration::ZERO);
        fabric.run(ms(500));
        fabric.end_member(0, MemberEnd::Killed);
        fabric.run(Duration::from_secs(60));
        let reported = fabric.check_outcomes();
        let (written, read) = fabric.ledger.counts(IN, "f");
        assert_eq!(written, 2000);
        assert_eq!(reported.settled + reported.abandoned, written);
        match redelivers {
            true => assert_eq!((read, reported.abandoned), (written, 0)),
            false => {
                assert!(reported.abandoned > 0);
                assert_eq!(read + reported.abandoned, written);
            }
        }
        let is_settled = reported.abandoned == 0;
        assert_eq!(close_source(&mut fabric, 2), is_settled);
    }
}
