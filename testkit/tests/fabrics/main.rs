//! Whole fabrics in virtual time: zippers, sources, functions and sinks as they are, without a thread and
//! without a socket. A seed gives the same story each time. [`ledger`] states what is checked.

mod fabric;
mod known;
mod ledger;
mod long;
mod member;
mod outcomes;
mod rows;
mod slow;
mod story;

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The seeds to run: `FABRIC_SEEDS=FROM..TO`.
fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("FABRIC_SEEDS") else {
        return 0..2000;
    };
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.expect("FABRIC_SEEDS is FROM..TO")
}

#[test]
fn m4_fabrics_deliver_exactly_once_or_report_whatever_befalls_them() {
    let (begin, seeds) = (Instant::now(), seeds());
    let (next, total) = (AtomicU64::new(seeds.start), Mutex::new([0; 4]));
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, |it| it.get().min(8));
    let run = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            // The panic has printed the story.
            match catch_unwind(|| story::run(seed)) {
                Ok(outcome) => {
                    let story::Outcome {
                        copies,
                        redeliveries,
                        repeated,
                        abandoned,
                        ..
                    } = outcome;
                    let mut total = total.lock().expect("no panic holds it");
                    for (sum, more) in
                        total
                            .iter_mut()
                            .zip([copies, redeliveries, repeated, abandoned])
                    {
                        *sum += more;
                    }
                }
                Err(_) => {
                    eprintln!("seed {seed} has failed");
                    failed.lock().expect("no panic holds it").push(seed);
                }
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(run)));
    let [copies, redeliveries, repeated, abandoned] = total.into_inner().expect("as above");
    let mut failed = failed.into_inner().expect("as above");
    failed.sort_unstable();
    println!(
        "fabrics: seeds {seeds:?}, {copies} copies, {redeliveries} redeliveries, {repeated} repeated, {abandoned} messages \
         abandoned, in {:?}",
        begin.elapsed()
    );
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
    // Outcomes that are allowed, and have to be rare.
    assert!(copies > 20 * (redeliveries + abandoned) || seeds.end - seeds.start < 100);
    assert!(copies > 100 * repeated || seeds.end - seeds.start < 100);
    assert!(copies > 0);
}

#[test]
fn a_seed_gives_the_same_story_each_time() {
    let outcomes: BTreeSet<_> = (0..3).map(|_| story::run(11)).collect();
    assert_eq!(outcomes.len(), 1);
    assert_ne!(story::run(11), story::run(12));
}
