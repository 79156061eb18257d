//! The cost of idle endpoints: memory per endpoint, and wake-ups of the process.
//!
//! `cargo run --release -p selvedge-benches --bin idle [endpoints [scheme]]`
//!
//! Bytes are those of the allocator, without the kernel's socket buffers. Both ends are in this process, on
//! one worker.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

#[path = "../../compare/src/at_rest.rs"]
mod at_rest;

use std::alloc::System;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use selvedge_benches::many::PingStreams;
use selvedge_benches::measure::cpu;
use selvedge_driver::{Driver, DriverConfig, Identity, SessionConfig};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

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
    at_rest::begin(&format!("{endpoints} endpoints on one worker"));
    sessions_alone(endpoints);
    let only = std::env::args().nth(2);
    let wanted = |scheme: &&str| only.as_ref().is_none_or(|only| only == scheme);
    for scheme in ["tcp+plain", "tcp", "quic"].into_iter().filter(wanted) {
        let region = Region::new(ALLOCATOR);
        let load = PingStreams::new(scheme, 1, endpoints / 2, 1, 1);
        at_rest::watch(&format!("{scheme}, {endpoints}"), endpoints, &region, cpu);
        drop(load);
    }
}

fn sessions_alone(endpoints: usize) {
    let driver = Driver::new(DriverConfig::default()).expect("threads");
    let [a, b] = [(); 2].map(|()| Identity::generate().expect("randomness").node_id());
    let region = Region::new(ALLOCATOR);
    let config = SessionConfig::default();
    let made: Result<Vec<_>, _> = (0..endpoints)
        .map(|_| driver.endpoint(config.clone(), a, b))
        .collect();
    let made = made.expect("it runs");
    at_rest::watch("never attached", endpoints, &region, cpu);
    drop(made);
}
