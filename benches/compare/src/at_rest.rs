//! What a process costs that has nothing to do. Shared by the two programs `idle`, so that what they
//! print was counted alike.

use std::alloc::System;
use std::time::{Duration, Instant};

use stats_alloc::Region;

/// How long the process is watched.
const WATCHED: Duration = Duration::from_secs(5);

/// What handshakes leave behind goes within moments.
const MOMENTS: Duration = Duration::from_secs(2);

/// The head of the table of `what`.
pub(crate) fn begin(what: &str) {
    println!("\n**Idle, {what}**\n");
    println!("| | bytes each | wake-ups a second | processor |\n|---|---|---|---|");
}

/// Waits until the process is at rest, and prints what each of so many `ends` costs from then on. `cpu` is
/// the processor time of this process so far.
pub(crate) fn watch(name: &str, ends: usize, region: &Region<'_, System>, cpu: fn() -> Duration) {
    // Not a test: being idle is what is measured.
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

/// How often threads of this process went to sleep of their own will (proc(5)).
fn switches() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let counts = tasks.filter_map(|task| {
        let path = task.ok()?.path().join("status");
        // A thread may end while they are listed.
        let status = std::fs::read_to_string(path).ok()?;
        let line = status.lines().find(|it| it.starts_with("voluntary_ctxt"))?;
        line.split_whitespace().last()?.parse::<u64>().ok()
    });
    counts.sum()
}
