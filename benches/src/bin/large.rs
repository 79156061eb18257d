//! How long small messages wait behind large ones of another flow, on one link between two zippers.
//!
//! `cargo run --release -p selvedge-benches --bin large [seconds [MiB]]`
//!
//! One flow has messages of 60 MiB without a pause, another one 1,000 messages of 64 bytes per second. First each has a
//! source and a function of its own, so they share the link; then both have the same source and function. All
//! links are TCP on loopback.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions};
use selvedge_hub::{Address, Identity};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};

const SMALL: Tag = Tag(0x10);
const LARGE: Tag = Tag(0x11);

/// Nothing arrives for so long once nothing is written.
const PAUSE: Duration = Duration::from_secs(2);

fn zipper(name: &str, identity: Identity, mesh: Vec<Neighbour>) -> Zipper {
    let options = ZipperOptions {
        listen: vec!["tcp://127.0.0.1:0".parse().expect("an address")],
        mesh,
        ..ZipperOptions::new(name, identity)
    };
    Zipper::start(options).expect("it starts")
}

fn main() {
    let number = |at, default| {
        let text = std::env::args().nth(at);
        text.map_or(default, |it| it.parse().expect("a number"))
    };
    let (time, mib) = (Duration::from_secs(number(1, 10)), number(2, 60) as usize);
    let [home, entry] = [(); 2].map(|()| Identity::generate().expect("randomness"));
    let neighbour = |node, addresses| vec![Neighbour { node, addresses }];
    let (home_id, entry_id) = (home.node_id(), entry.node_id());
    let home = zipper("home", home, neighbour(entry_id, Vec::new()));
    let at_home: Vec<Address> = home.addresses().to_vec();
    let entry = zipper("entry", entry, neighbour(home_id, at_home.clone()));
    let function = |name, tags| {
        let options = ClientOptions::function(name, tags, at_home.clone());
        Client::connect(options).expect("it is admitted")
    };
    let source = |name| {
        let options = ClientOptions::source(name, entry.addresses().to_vec());
        Client::connect(options).expect("it is admitted")
    };
    let await_functions = || {
        for tag in [SMALL, LARGE] {
            while entry.observers(tag).is_empty() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    };
    {
        let reads = [
            function("small", vec![SMALL]),
            function("large", vec![LARGE]),
        ];
        let writes = ["small-source", "large-source"].map(source);
        await_functions();
        println!("a source and a function for each:");
        measure([&writes[0], &writes[1]], &reads.each_ref(), time, mib);
    }
    while !(entry.observers(SMALL).is_empty() && entry.observers(LARGE).is_empty()) {
        thread::sleep(Duration::from_millis(1));
    }
    let (reads, writes) = (function("both", vec![SMALL, LARGE]), source("both-source"));
    await_functions();
    println!("of the same source, for the same function:");
    measure([&writes, &writes], &[&reads], time, mib);
}

/// Measures the small messages of the first source alone, and beside the large ones of the second one.
fn measure(writes: [&Client; 2], reads: &[&Client], time: Duration, mib: usize) {
    for is_beside in [false, true] {
        let (mut waits, count) = thread::scope(|scope| {
            let is_over = AtomicBool::new(false);
            let epoch = Instant::now();
            let start = |&from| scope.spawn(move || read_waits(from, epoch));
            let reading: Vec<_> = reads.iter().map(start).collect();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let payload = vec![7; mib << 20];
                    while is_beside && !is_over.load(Ordering::Relaxed) {
                        writes[1].write(LARGE, &payload).expect("it is open");
                    }
                });
                write_times(writes[0], epoch, time);
                is_over.store(true, Ordering::Relaxed);
            });
            let (mut waits, mut count) = (Vec::new(), 0);
            for reading in reading {
                let (of_one, large) = reading.join().expect("it does not panic");
                waits.extend(of_one);
                count += large;
            }
            (waits, count)
        });
        waits.sort_unstable();
        let at = |share: usize| waits[(waits.len() - 1) * share / 1000] as f64 / 1e3;
        println!(
            "  {} messages beside {count} of {mib} MiB: median {:.2} ms, 99 % {:.2} ms, longest {:.2} ms",
            waits.len(),
            at(500),
            at(990),
            at(1000)
        );
    }
}

/// The time between writing and reading of each small message, in microseconds, and the number of large ones.
fn read_waits(from: &Client, epoch: Instant) -> (Vec<u64>, usize) {
    let (mut waits, mut large) = (Vec::new(), 0);
    while let Ok(message) = from.read_timeout(PAUSE) {
        if message.tag == LARGE {
            large += 1;
            continue;
        }
        let sent = message.payload.first_chunk().copied();
        let sent = u64::from_be_bytes(sent.expect("a time"));
        waits.push(epoch.elapsed().as_micros() as u64 - sent);
    }
    (waits, large)
}

/// Writes 1,000 times per second.
fn write_times(to: &Client, epoch: Instant, time: Duration) {
    while epoch.elapsed() < time {
        let mut payload = [0; 64];
        let now = epoch.elapsed().as_micros() as u64;
        payload[..8].copy_from_slice(&now.to_be_bytes());
        to.write(SMALL, payload).expect("it is open");
        thread::sleep(Duration::from_millis(1));
    }
}
