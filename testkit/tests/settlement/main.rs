//! Settlement in virtual time: a source, entry zippers and instances, without a thread and without a
//! socket. A seed gives the same story each time. [`judge`] states what is checked.

mod assigning;
mod bounds;
mod cases;
mod declining;
mod faults;
mod holding;
mod judge;
mod link;
mod recipients;
mod returning;
mod routes;
mod stalling;
mod world;

use std::ops::Range;
use std::panic::catch_unwind;

use world::World;

/// The seeds to run: `SETTLEMENT_SEEDS=FROM..TO`.
fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("SETTLEMENT_SEEDS") else {
        return 0..400;
    };
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.expect("SETTLEMENT_SEEDS is FROM..TO")
}

#[test]
fn messages_are_settled_exactly_once_whatever_befalls_zippers_routes_and_instances() {
    let seeds = seeds();
    let (mut failed, mut handled) = (Vec::new(), 0);
    for seed in seeds.clone() {
        match catch_unwind(|| World::new(seed).run()) {
            Ok(count) => handled += count,
            Err(_) => {
                eprintln!("seed {seed} has failed");
                failed.push(seed);
            }
        }
    }
    println!("settlement: seeds {seeds:?}, {handled} messages handled");
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
    assert!(handled > 0);
}
