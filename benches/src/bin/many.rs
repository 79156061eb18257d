//! The cost of a message as endpoints grow from 2 to 10,000, beside raw sockets.
//!
//! `cargo run --release -p selvedge-benches --bin many [title [rounds]]`
//!
//! Each number of endpoints has its own processes, one after another: in a single process the 10,000 would
//! send their last acknowledgements and heartbeats while the two are measured.
//! `--bin many -- load pairs` is one such process: it prints wall and CPU time per message, in ns; with a
//! number of messages as further argument it moves that many without reading the clock, for a profiler.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use selvedge_benches::many::{PingStreams, RoundRobin};
use selvedge_benches::measure::{Cost, alone, median, time};
use selvedge_benches::{Workload, raw};

/// The numbers of pairs that take turns, or are busy at once.
const PAIRS: [usize; 3] = [1, 50, 5000];

/// The messages in flight on each busy pair.
const UNDER_WAY: u64 = 16;

const SCHEME: &str = "tcp+plain";

/// The workloads by name, with their titles in the tables.
const LOADS: [(&str, &str); 4] = [
    ("turns", "By turns, endpoints on one worker"),
    ("raw-turns", "By turns, raw sockets on one poll"),
    ("busy", "All busy, endpoints on one worker"),
    ("raw-busy", "All busy, raw sockets on one poll"),
];

/// The default number of rounds.
const ROUNDS: usize = 5;

fn load_of(name: &str, pairs: usize) -> Option<Box<dyn Workload>> {
    let heartbeat = Duration::from_secs(1);
    let in_flight = UNDER_WAY as usize;
    Some(match name {
        "turns" => Box::new(RoundRobin::new(SCHEME, pairs, heartbeat)),
        "raw-turns" => Box::new(raw::TcpRoundRobin::new(pairs)),
        "busy" => Box::new(PingStreams::new(SCHEME, 1, pairs, UNDER_WAY, 64)),
        "raw-busy" => Box::new(raw::TcpStreams::new(pairs, in_flight, 64)),
        _ => return None,
    })
}

fn main() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("up to the maximum is allowed");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, second] = [0, 1].map(|at| arguments.get(at).map_or("", |it| it));
    let number = second.parse().ok();
    if let Some(pairs) = number
        && let Some(mut load) = load_of(first, pairs)
    {
        if let Some(count) = arguments.get(2) {
            load.run(count.parse().expect("a number of messages"));
            return;
        }
        let Cost { wall_ns, cpu_ns } = alone(load.as_mut());
        println!("{wall_ns:.1} {cpu_ns:.1}");
        return;
    }
    for (name, title) in LOADS {
        if title.contains(first) {
            compare(name, title, number.unwrap_or(ROUNDS));
        }
    }
}

/// One process with one workload.
fn measured(name: &str, pairs: usize) -> Cost {
    let this = std::env::current_exe().expect("it runs");
    let output = Command::new(this).arg(name).arg(pairs.to_string()).output();
    let output = output.expect("it can be started again");
    let text = String::from_utf8(output.stdout).expect("it prints numbers");
    let numbers: Vec<f64> = text
        .split_whitespace()
        .filter_map(|it| it.parse().ok())
        .collect();
    let [wall_ns, cpu_ns] = numbers[..] else {
        panic!("no figures of {name} with {pairs} pairs: {text}");
    };
    Cost { wall_ns, cpu_ns }
}

fn compare(name: &str, title: &str, rounds: usize) {
    let rounds: Vec<[Cost; PAIRS.len()]> = (0..rounds.max(1))
        .map(|_| PAIRS.map(|pairs| measured(name, pairs)))
        .collect();
    println!("\n**{title}**\n");
    println!("| | per message | of 2 | CPU per message | of 2 |");
    println!("|---|---|---|---|---|");
    for (at, pairs) in PAIRS.iter().enumerate() {
        let of = |pick: fn(&Cost) -> f64| {
            let (_, own, _) = median(rounds.iter().map(|round| pick(&round[at])).collect());
            let ratios = rounds
                .iter()
                .map(|round| pick(&round[at]) / pick(&round[0]));
            let (low, middle, high) = median(ratios.collect());
            format!("{} | {middle:.2} ({low:.2} to {high:.2})", time(own))
        };
        println!(
            "| {} | {} | {} |",
            2 * pairs,
            of(|cost| cost.wall_ns),
            of(|cost| cost.cpu_ns)
        );
    }
}
