//! What endpoints cost that have nothing to do: memory each, and how often the process wakes up.
//!
//! `cargo run --release -p selvedge-benches --bin idle [endpoints [scheme]]`
//!
//! Bytes are those that the allocator has handed out; what the kernel keeps for sockets is not in
//! them. Both ends are in this process, on one worker.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::alloc::System;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use selvedge_benches::many::PingStreams;
use selvedge_benches::measure::cpu;
use selvedge_driver::{Config, Driver, Identity, session};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How long the process is watched.
const WATCHED: Duration = Duration::from_secs(5);

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

fn watch(name: &str, endpoints: usize, bytes: usize) {
    let (before, cpu_before, began) = (switches(), cpu(), Instant::now());
    // Not a test: being idle is what is measured.
    std::thread::park_timeout(WATCHED);
    let seconds = began.elapsed().as_secs_f64();
    let wakes = (switches() - before) as f64 / seconds;
    let busy = (cpu() - cpu_before).as_secs_f64() / seconds * 100.0;
    println!(
        "| {name} | {} | {wakes:.0} | {busy:.1} % |",
        bytes / endpoints
    );
}

fn main() {
    let wanted = std::env::args()
        .nth(1)
        .map(|it| it.parse().expect("a number"));
    let endpoints: usize = wanted.unwrap_or(10_000);
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("up to the maximum is allowed");
    println!("\n**Idle, {endpoints} endpoints on one worker**\n");
    println!("| | bytes each | wake-ups a second | processor |\n|---|---|---|---|");
    sessions_alone(endpoints);
    let only = std::env::args().nth(2);
    let wanted = |scheme: &&str| only.as_ref().is_none_or(|only| only == scheme);
    for scheme in ["tcp+plain", "tcp", "quic"].into_iter().filter(wanted) {
        let region = Region::new(ALLOCATOR);
        let load = PingStreams::new(scheme, 1, endpoints / 2, 1, 1);
        // What the handshakes left behind goes within moments.
        std::thread::park_timeout(Duration::from_secs(2));
        watch(&format!("{scheme}, {endpoints}"), endpoints, held(&region));
        drop(load);
    }
}

fn sessions_alone(endpoints: usize) {
    let driver = Driver::new(Config::default()).expect("threads");
    let [a, b] = [(); 2].map(|()| Identity::generate().expect("randomness").node_id());
    let region = Region::new(ALLOCATOR);
    let config = session::Config::default();
    let made: Result<Vec<_>, _> = (0..endpoints)
        .map(|_| driver.endpoint(config.clone(), a, b))
        .collect();
    let made = made.expect("it runs");
    watch("never attached", endpoints, held(&region));
    drop(made);
}
