//! What table changes cost: functions with many tags register at one of two zippers and leave, next to a
//! source and a function that exchange messages one at a time.
//!
//! `cargo run --release -p selvedge-benches --bin changes [functions [tags]]`
//!
//! Prints how long each phase takes until both zippers have the change, and the latency of the honest pair
//! in each phase.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use selvedge_benches::hop;
use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions};
use selvedge_driver::{Driver, DriverConfig, Identity};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};

const SCHEME: &str = "tcp+plain";

/// The first tag of the registered functions, of which each has tags of its own.
const FIRST_TAG: u32 = 0x10_0000;

/// How long the honest pair is measured before anything changes.
const QUIET: Duration = Duration::from_secs(2);

/// Only a defect takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The default numbers of functions and of tags of each.
const FUNCTIONS: usize = 100;
const TAGS: usize = 1024;

/// The number of threads that connect functions.
const THREADS: usize = 16;

/// The send times of the honest pair's messages, with their latencies.
type Latencies = Vec<(Instant, Duration)>;

fn main() {
    let argument = |at: usize, default| {
        let number = std::env::args().nth(at).and_then(|it| it.parse().ok());
        number.unwrap_or(default)
    };
    let (functions, tags) = (argument(1, FUNCTIONS), argument(2, TAGS));
    let (zipper, other) = pair();
    let (is_done, begin) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let honest = std::thread::spawn({
        let (at, is_done) = (zipper.addresses().to_vec(), Arc::clone(&is_done));
        let (sinks, source) = (hop::sinks(1, &at), hop::source(at));
        move || exchange(&source, &sinks[0], &is_done)
    });
    // Nothing else happens: this time is what is measured.
    std::thread::sleep(QUIET);
    let registers = Instant::now();
    let clients = register(&zipper, functions, tags);
    let both = [&zipper, &other];
    wait(&both, functions, tags, true);
    let known = Instant::now();
    std::thread::sleep(QUIET);
    let leaves = Instant::now();
    for client in &clients {
        assert!(client.close(PATIENCE), "the zipper acknowledges the end");
    }
    wait(&both, functions, tags, false);
    let gone = Instant::now();
    is_done.store(true, Ordering::Relaxed);
    let latencies = honest.join().expect("the honest pair works");
    println!("{functions} functions with {tags} tags each\n");
    println!("| phase | time | p50 | p99 | longest |\n|---|---|---|---|---|");
    for (name, from, to) in [
        ("before", begin, registers),
        ("register", registers, known),
        ("between", known, leaves),
        ("leave", leaves, gone),
    ] {
        report(name, from, to, &latencies);
    }
}

/// Two zippers, of which the second dials the first.
fn pair() -> (Zipper, Zipper) {
    let options = |name| {
        let mut options = ZipperOptions::new(name, Identity::generate().expect("randomness"));
        let address = format!("{SCHEME}://127.0.0.1:0").parse();
        options.listen = vec![address.expect("an address")];
        options
    };
    let (mut one, mut other) = (options("one"), options("other"));
    let neighbour = |options: &ZipperOptions, addresses| Neighbour {
        node: options.identity.node_id(),
        addresses,
    };
    one.mesh = vec![neighbour(&other, Vec::new())];
    let mut to_one = neighbour(&one, Vec::new());
    let one = Zipper::start(one).expect("a zipper");
    to_one.addresses = one.addresses().to_vec();
    other.mesh = vec![to_one];
    (one, Zipper::start(other).expect("a zipper"))
}

fn exchange(source: &Client, sink: &Client, is_done: &AtomicBool) -> Latencies {
    let mut latencies = Latencies::new();
    while !is_done.load(Ordering::Relaxed) {
        let sent = Instant::now();
        source
            .write(hop::TAG, &b"ping"[..])
            .expect("it is connected");
        sink.read_timeout(PATIENCE).expect("it arrives");
        latencies.push((sent, sent.elapsed()));
        // As a sensor would: otherwise the pair occupies one of few cores.
        std::thread::sleep(Duration::from_micros(200));
    }
    latencies
}

/// The first tag of a function.
fn first_tag(number: usize, tags: usize) -> u32 {
    FIRST_TAG + (number * tags) as u32
}

fn register(zipper: &Zipper, functions: usize, tags: usize) -> Vec<Client> {
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("a thread"));
    let connect = &|number: usize| {
        let first = first_tag(number, tags);
        let observed = (first..first + tags as u32).map(Tag).collect();
        let at = zipper.addresses().to_vec();
        let mut options = ClientOptions::function(format!("function {number}"), observed, at);
        options.driver = Some(Arc::clone(&driver));
        Client::connect(options).expect("the zipper has no token")
    };
    // In parallel, since each waits for several round trips.
    let numbers: Vec<usize> = (0..functions).collect();
    let part = functions.div_ceil(THREADS).max(1);
    std::thread::scope(|scope| {
        let parts = numbers
            .chunks(part)
            .map(|part| scope.spawn(|| part.iter().copied().map(connect).collect::<Vec<_>>()));
        let threads: Vec<_> = parts.collect();
        let clients = threads
            .into_iter()
            .flat_map(|it| it.join().expect("it connects"));
        clients.collect()
    })
}

/// Waits until the zippers reach all functions, or none.
fn wait(zippers: &[&Zipper], functions: usize, tags: usize, are_known: bool) {
    let deadline = Instant::now() + PATIENCE;
    for number in 0..functions {
        let tag = Tag(first_tag(number, tags));
        for zipper in zippers {
            while zipper.observers(tag).is_empty() == are_known {
                assert!(Instant::now() < deadline, "a zipper misses a change");
                // Each look takes the lock that is measured.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn report(name: &str, from: Instant, to: Instant, latencies: &Latencies) {
    let of_phase = latencies
        .iter()
        .filter(|(sent, _)| (from..to).contains(sent));
    let mut sorted: Vec<Duration> = of_phase.map(|(_, latency)| *latency).collect();
    sorted.sort_unstable();
    let at = |percent: usize| {
        let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(index).copied().unwrap_or_default()
    };
    println!(
        "| {name} | {:.1?} | {:.1?} | {:.1?} | {:.1?} |",
        to - from,
        at(50),
        at(99),
        at(100)
    );
}
