//! The cost of an idle process. Shared by the two programs `idle`, so that both count alike.

use std::alloc::System;
use std::time::{Duration, Instant};

use stats_alloc::Region;

/// The duration of the observation.
const WATCHED: Duration = Duration::from_secs(5);

/// Remains of handshakes are released within this time.
const MOMENTS: Duration = Duration::from_secs(2);

/// The table header for `what`.
pub(crate) fn begin(what: &str) {
    println!("\n**Idle, {what}**\n");
    println!("| | bytes each | wake-ups a second | processor |\n|---|---|---|---|");
}

/// Waits until the process is at rest and prints the cost of each of `ends` from then on. `cpu` is the CPU
/// time of this process so far.
pub(crate) fn watch(name: &str, ends: usize, region: &Region<'_, System>, cpu: fn() -> Duration) {
    // Not a test: idleness is measured.
    std::thread::park_timeout(MOMENTS);
    let bytes = held(region) / ends;
    let (before, cpu_before, began) = (switches(), cpu(), Instant::now());
    std::thread::park_timeout(WATCHED);
    let seconds = began.elapsed().as_secs_f64();
    let wakes = (switches() - before) as f64 / seconds;
    let busy = (cpu() - cpu_before).as_secs_f64() / seconds * 100.0;
    println!("| {name} | {bytes} | {wakes:.0} | {busy:.1} % |");
}

fn held(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change
        .bytes_allocated
        .saturating_sub(change.bytes_deallocated)
}

/// Voluntary context switches of this process's threads (proc(5)).
fn switches() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let counts = tasks.filter_map(|task| {
        let path = task.ok()?.path().join("status");
        // A thread may end during the listing.
        let status = std::fs::read_to_string(path).ok()?;
        let line = status.lines().find(|it| it.starts_with("voluntary_ctxt"))?;
        line.split_whitespace().last()?.parse::<u64>().ok()
    });
    counts.sum()
}
