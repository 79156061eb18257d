//! Defects of earlier zippers, each with its number in the list of known defects: with settlement they do not
//! occur.

use std::time::Duration;

use selvedge_client::wire::settlement::SettlementLevel;
use selvedge_client::{Policy, Tag};

use crate::fabric::{Fabric, Topology, ms};
use crate::member::{MemberConfig, Writing};

const IN: Tag = Tag(0x10);
const OUT: Tag = Tag(0x20);
const OTHER: Tag = Tag(0x30);

pub(crate) fn client(
    name: &str,
    home: usize,
    observes: &[Tag],
    emits: Option<Tag>,
) -> MemberConfig {
    MemberConfig {
        name: name.into(),
        home,
        others: Vec::new(),
        knows_key: true,
        observes: observes.to_vec(),
        target: None,
        policy: Policy::Nearest,
        emits,
        acknowledges: false,
        redelivers: true,
    }
}

/// A whole fabric with these clients.
pub(crate) fn fabric(
    seed: u64,
    topology: Topology,
    count: usize,
    send_buffer: u64,
    clients: &[MemberConfig],
) -> Fabric {
    let mut fabric = Fabric::new(seed, topology, count);
    fabric.send_buffer = send_buffer;
    // A sink that does not read stays connected: what it costs others is the question here.
    fabric.stalled_max = Duration::from_secs(3600);
    fabric.settle_messages(SettlementLevel::Received, true);
    (0..count).for_each(|at| fabric.start_zipper(at));
    for config in clients {
        fabric.join(config.clone());
    }
    assert!(fabric.run_until(Duration::from_secs(30), Fabric::is_whole));
    fabric.run(ms(1000));
    let now = fabric.processes.now();
    fabric.ledger.settle(now);
    fabric
}

pub(crate) fn write(
    fabric: &mut Fabric,
    number: usize,
    tag: Tag,
    pause: Duration,
    len: usize,
    count: u32,
) {
    let now = fabric.processes.now();
    let writing = Writing {
        tags: vec![tag],
        targets: vec![None],
        pause,
        len,
        long_each: None,
        left: count,
    };
    fabric.member(number).write(now, writing);
}

/// Ends a source in order. Returns whether it reports that everything was delivered.
pub(crate) fn close_source(fabric: &mut Fabric, number: usize) -> bool {
    for _ in 0..3000 {
        let client = fabric.member(number).client().expect("it is connected");
        if let Some(is_delivered) = client.try_close() {
            return is_delivered;
        }
        fabric.run(ms(20));
    }
    panic!("the source does not end")
}

/// How many of a source's messages a function has not read after an orderly restart of their zipper, and
/// whether the source reports that all were delivered.
fn restart(seed: u64) -> (u64, bool) {
    let clients = [
        client("double", 0, &[IN], Some(OUT)),
        client("sink", 0, &[OUT], None),
        client("source", 0, &[], None),
    ];
    let mut fabric = fabric(seed, Topology::Chain, 1, 16 << 20, &clients);
    write(&mut fabric, 2, IN, ms(20), 100, 400);
    // Between two messages: none is on its way.
    fabric.run(ms(2010));
    assert!(fabric.close_zipper(0, Duration::from_secs(10)));
    fabric.run(ms(4000));
    fabric.start_zipper(0);
    fabric.run(Duration::from_secs(30));
    let (written, read) = fabric.ledger.counts(IN, "double");
    assert_eq!(written, 400);
    (written - read, close_source(&mut fabric, 2))
}

#[test]
fn case_1_an_orderly_restart_loses_nothing() {
    let outcomes: Vec<_> = (0..10).map(|seed| (seed, restart(seed))).collect();
    println!("case 1: (seed, (lost, reported as delivered)): {outcomes:?}");
    let is_right = |(_, outcome): &(u64, (u64, bool))| *outcome == (0, true);
    assert!(outcomes.iter().all(is_right), "{outcomes:?}");
}

#[test]
fn case_2_what_was_on_its_way_through_a_crashed_relay_takes_another_route() {
    let clients = [
        client("sink", 2, &[IN], None),
        client("source", 0, &[], None),
    ];
    let mut outcomes = Vec::new();
    for relay in [1, 3] {
        let mut fabric = fabric(2, Topology::Ring, 4, 16 << 20, &clients);
        write(&mut fabric, 1, IN, ms(20), 100, 300);
        fabric.run(ms(2000));
        fabric.crash_zipper(relay, true);
        fabric.run(Duration::from_secs(60));
        let (written, read) = fabric.ledger.counts(IN, "sink");
        assert_eq!(written, 300);
        outcomes.push((relay, written - read, close_source(&mut fabric, 1)));
    }
    println!("case 2: seed 2: (relay, lost, reported as delivered): {outcomes:?}");
    let is_right =
        |(_, lost, is_delivered): &(usize, u64, bool)| (*lost, *is_delivered) == (0, true);
    assert!(outcomes.iter().all(is_right), "{outcomes:?}");
}

/// A flood for a sink that does not read, and 50 messages of `len` bytes a second for another sink. Returns
/// how many of 500 the other one has read while the first did not; then lets the first read again.
fn stall(mut fabric: Fabric, flooded: Tag, other: Tag, len: usize) -> u64 {
    fabric.member(0).set_reading(false, Duration::ZERO);
    write(&mut fabric, 2, flooded, ms(2), 100_000, 250);
    fabric.run(Duration::from_secs(10));
    let before = fabric.ledger.counts(other, "other").1;
    write(&mut fabric, 3, other, ms(20), len, 500);
    fabric.run(Duration::from_secs(20));
    let read = fabric.ledger.counts(other, "other").1 - before;
    fabric.member(0).set_reading(true, Duration::ZERO);
    let is_there = |fabric: &Fabric| fabric.ledger.missing().is_empty();
    assert!(fabric.run_until(Duration::from_secs(60), is_there));
    read
}

#[test]
fn case_7_a_sink_that_does_not_read_does_not_stall_other_tags_of_a_mesh_link() {
    let clients = [
        client("stalled", 1, &[IN], None),
        client("other", 1, &[OTHER], None),
        client("source", 0, &[], None),
        client("source", 0, &[], None),
    ];
    let fabric = fabric(7, Topology::Chain, 2, 256 << 10, &clients);
    let read = stall(fabric, IN, OTHER, 100);
    println!("case 7: seed 7: {read} of 500 messages of another tag have passed the link");
    assert!(read > 490, "{read}");
}

/// Plain data has no custody: what finds no room behind a link is dropped there, and counted. It does not
/// wait on the link, where everything else would wait behind it.
#[test]
fn case_7_plain_data_for_a_sink_that_does_not_read_stalls_no_mesh_link() {
    for (len, count) in [(100_000, 500), (2_000, 5_000)] {
        let clients = [
            client("stalled", 2, &[IN], None),
            client("other", 2, &[OTHER], None),
            client("source", 0, &[], None),
        ];
        let mut fabric = fabric(17, Topology::Chain, 3, 256 << 10, &clients);
        fabric.level = None;
        let plain = fabric.join(client("plain", 0, &[], None));
        assert!(fabric.run_until(Duration::from_secs(30), Fabric::is_whole));
        fabric.member(0).set_reading(false, Duration::ZERO);
        write(&mut fabric, plain, IN, ms(1), len, count);
        let is_written = |fabric: &Fabric| !fabric.members()[plain].is_writing();
        let limit = Duration::from_secs(60);
        assert!(fabric.run_until(limit, is_written), "it is held back");
        assert!(fabric.without_room() > 0, "the sink has room");
        write(&mut fabric, 2, OTHER, ms(20), 100, 500);
        fabric.run(Duration::from_secs(12));
        let (written, read) = fabric.ledger.counts(OTHER, "other");
        assert_eq!((written, read), (500, 500), "{len}");
        // What has reached the sink, and what was dropped, is everything.
        fabric.member(0).set_reading(true, Duration::ZERO);
        fabric.run(Duration::from_secs(10));
        let (written, read) = fabric.ledger.counts(IN, "stalled");
        let dropped: u64 = (0..3)
            .flat_map(|at| fabric.stats(at))
            .map(|it| it.no_room)
            .sum();
        assert_eq!((written, read), (count.into(), written - dropped), "{len}");
    }
}

/// On its own zipper, a full recipient holds its plain source back, which loses nothing.
#[test]
fn plain_data_waits_for_a_sink_of_the_same_zipper() {
    let clients = [client("slow", 0, &[IN], None)];
    let mut fabric = fabric(18, Topology::Chain, 2, 256 << 10, &clients);
    fabric.level = None;
    let plain = fabric.join(client("plain", 0, &[], None));
    assert!(fabric.run_until(Duration::from_secs(30), Fabric::is_whole));
    fabric.member(0).set_reading(false, Duration::ZERO);
    write(&mut fabric, plain, IN, ms(1), 100_000, 1000);
    fabric.run(Duration::from_secs(10));
    assert!(fabric.member(plain).is_writing(), "it is not held back");
    fabric.member(0).set_reading(true, Duration::ZERO);
    fabric.run(Duration::from_secs(60));
    assert_eq!(fabric.ledger.counts(IN, "slow"), (1000, 1000));
    assert_eq!(fabric.without_room(), 0);
}

#[test]
fn case_8_a_sink_that_does_not_read_does_not_stall_others_of_its_tag_on_one_zipper() {
    let clients = [
        client("stalled", 0, &[IN], None),
        client("other", 0, &[IN], None),
        client("source", 0, &[], None),
        client("source", 0, &[], None),
    ];
    let fabric = fabric(8, Topology::Chain, 1, 256 << 10, &clients);
    let read = stall(fabric, IN, IN, 10_000);
    println!("case 8: seed 8: {read} of 500 messages have reached the sink that reads");
    // The source sends 4 MiB beyond what a group has settled, and retains the rest.
    assert!(read > 400, "{read}");
}

/// The hub made an endpoint to the neighbour that had left, which the zipper aborted, and so on without end.
#[test]
fn a_zipper_that_closes_comes_to_rest_although_a_neighbour_leaves() {
    let clients = [
        client("stalled", 0, &[IN], None),
        client("source", 0, &[], None),
    ];
    let mut fabric = fabric(9, Topology::Chain, 2, 256 << 10, &clients);
    fabric.member(0).set_reading(false, Duration::ZERO);
    write(&mut fabric, 1, IN, ms(2), 100_000, 250);
    fabric.run(Duration::from_secs(2));
    // Messages of the source wait, so that its zipper goes on closing while the other one leaves.
    fabric.begin_close(0, Duration::from_secs(10));
    assert!(fabric.close_zipper(1, Duration::from_secs(5)));
    fabric.run(Duration::from_secs(1));
}
