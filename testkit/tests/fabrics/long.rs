//! Long messages, which must not hold back the short ones of other flows.

use std::time::Duration;

use selvedge_client::Tag;

use crate::fabric::{Topology, ms};
use crate::known::{client, fabric, write};

const LONG: Tag = Tag(0x10);
const SHORT: Tag = Tag(0x11);

/// Each link of the fabric carries 64 KiB per ms, so a long message takes 128 ms on each of two links that both flows
/// use: between the zippers, and to the sink.
#[test]
fn short_messages_pass_long_ones_of_another_flow() {
    let clients = [
        client("sink", 1, &[LONG, SHORT], None),
        client("long", 0, &[], None),
        client("short", 0, &[], None),
    ];
    let mut fabric = fabric(19, Topology::Chain, 2, 16 << 20, &clients);
    write(&mut fabric, 2, SHORT, Duration::ZERO, 100, 1);
    fabric.run(ms(100));
    write(&mut fabric, 1, LONG, Duration::ZERO, 8 << 20, 20);
    let mut waits = Vec::new();
    for number in 1..150 {
        write(&mut fabric, 2, SHORT, Duration::ZERO, 100, 1);
        let begin = fabric.processes.now();
        while fabric.ledger.counts(SHORT, "sink").1 <= number {
            fabric.run(ms(1));
            let waited = fabric.processes.now() - begin;
            assert!(waited < Duration::from_secs(10), "message {number} is lost");
        }
        waits.push(fabric.processes.now() - begin);
        fabric.run(ms(5));
    }
    waits.sort_unstable();
    let (_, read) = fabric.ledger.counts(LONG, "sink");
    println!("{read} long messages; waits of short ones {waits:?}");
    assert!((3..20).contains(&read), "{read} long messages were read");
    assert!(waits.last().is_some_and(|it| *it < ms(20)), "{waits:?}");
}
