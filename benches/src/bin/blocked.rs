//! What one consumer costs 99 others that reads nothing, takes a second for each message, or is a guest that fails or
//! reaches its time limit with every message: their rate and latency beside it, and without it.
//!
//! `cargo run --release -p selvedge-benches --bin blocked [seconds [rate [zipper]]]`
//!
//! One source writes `rate` messages of 64 bytes per second (default 20,000, in all) for `seconds` (default 10),
//! to 100 consumers; then again with one of them blocked, slow or failing from the start. Everything is in this process, but for
//! the guest, which the program `zipper` runs (default: `target/release/zipper`); the zippers and the clients have a worker each.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use selvedge_client::tag::Tag;
use selvedge_client::wire::Policy;
use selvedge_client::{Client, ClientOptions, ReadError, SlowConsumerPolicy};
use selvedge_hub::{Address, Driver, DriverConfig, Identity};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};

const CONSUMERS: usize = 100;

/// Where the consumers are, and which messages are for them.
#[derive(Debug, Clone, Copy)]
struct Scene {
    name: &'static str,
    /// Whether they are at another zipper than the source.
    is_across_link: bool,
    /// Whether each has a tag of its own.
    has_own_tags: bool,
    /// Whether they share the messages of one name; otherwise each gets all messages of its tag.
    share: bool,
    /// What the zipper does for a consumer without room.
    policy: SlowConsumerPolicy,
}

impl Scene {
    /// The name of a consumer.
    fn consumer(&self, at: usize) -> String {
        match self.share {
            true => "consumer".to_owned(),
            false => format!("consumer-{at}"),
        }
    }
}

/// What the first consumer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstConsumer {
    /// It reads as fast as the others.
    Reads,
    /// It takes a second for each message.
    TimesOut,
    /// It reads nothing.
    IsBlocked,
    /// It is a guest, run by the command `zipper`, that does this with each message.
    Guest(&'static str),
}

/// Guests of the core ABI, by what they do.
const GUEST_TIMES_OUT: &str = "(loop (br 0)) (i32.const 0)";
const GUEST_FAILS: &str = "unreachable";

const SCENES: [Scene; 6] = [
    Scene {
        name: "one name and tag",
        is_across_link: false,
        has_own_tags: false,
        share: true,
        policy: SlowConsumerPolicy::Hold,
    },
    Scene {
        name: "one name and tag, across a link",
        is_across_link: true,
        has_own_tags: false,
        share: true,
        policy: SlowConsumerPolicy::Hold,
    },
    Scene {
        name: "a tag for each",
        is_across_link: false,
        has_own_tags: true,
        share: false,
        policy: SlowConsumerPolicy::Hold,
    },
    Scene {
        name: "a tag for each, across a link",
        is_across_link: true,
        has_own_tags: true,
        share: false,
        policy: SlowConsumerPolicy::Hold,
    },
    Scene {
        name: "one tag, all get all, drop-newest",
        is_across_link: false,
        has_own_tags: false,
        share: false,
        policy: SlowConsumerPolicy::DropNewest,
    },
    Scene {
        name: "the same, across a link",
        is_across_link: true,
        has_own_tags: false,
        share: false,
        policy: SlowConsumerPolicy::DropNewest,
    },
];

/// A guest in a process of its own, which ends with this.
struct GuestProcess(Child);

impl GuestProcess {
    fn start(handle: &str, scene: Scene, tag: Tag, zippers: &[Address]) -> Self {
        let text = format!(
            r#"(module (memory (export "memory") 1)
                 (func (export "alloc") (param i32) (result i32) (i32.const 1024))
                 (func (export "handle") (param i32 i32 i32) (result i32) {handle}))"#
        );
        let module = wat::parse_str(text).expect("it is valid");
        let file = std::env::temp_dir().join(format!("selvedge-{}.wasm", std::process::id()));
        std::fs::write(&file, module).expect("the folder for temporary files can be written");
        let program = std::env::args().nth(3);
        let mut command = Command::new(program.as_deref().unwrap_or("target/release/zipper"));
        command
            .arg("run")
            .arg(file)
            .args(["--name", &scene.consumer(0)]);
        if scene.policy == SlowConsumerPolicy::DropNewest {
            command.args(["--when-slow", "drop-newest"]);
        }
        command.args(["--policy", "round-robin", "--observe", &tag.to_string()]);
        for zipper in zippers {
            command.args(["-z", &zipper.to_string()]);
        }
        let (out, errors) = (Stdio::null(), Stdio::null());
        let started = command.stdout(out).stderr(errors).spawn();
        Self(started.expect("zipper is built, or its path is the third argument"))
    }
}

impl Drop for GuestProcess {
    fn drop(&mut self) {
        // This fails only if the process has ended already.
        let _ended = self.0.kill();
        let _waited = self.0.wait();
    }
}

fn zipper(name: &str, identity: Identity, mesh: Vec<Neighbour>) -> Zipper {
    let options = ZipperOptions {
        listen: vec!["tcp://127.0.0.1:0".parse().expect("an address")],
        mesh,
        ..ZipperOptions::new(name, identity)
    };
    Zipper::start(options).expect("it starts")
}

/// What the consumers other than the first one have seen: messages, and the 99th percentile of their latency.
fn run(scene: Scene, time: Duration, rate: u64, first: FirstConsumer) -> (u64, Duration) {
    let [home, entry] = [(); 2].map(|()| Identity::generate().expect("randomness"));
    let neighbour = |node, addresses| vec![Neighbour { node, addresses }];
    let (home_id, entry_id) = (home.node_id(), entry.node_id());
    let home = zipper("home", home, neighbour(entry_id, Vec::new()));
    let addresses: Vec<Address> = home.addresses().to_vec();
    let entry = scene
        .is_across_link
        .then(|| zipper("entry", entry, neighbour(home_id, addresses.clone())));
    let driver = || Arc::new(Driver::new(DriverConfig::default()).expect("threads"));
    let shared = driver();
    let tag = |at: usize| {
        Tag(if scene.has_own_tags {
            0x10 + at as u32
        } else {
            0x10
        })
    };
    let connect = |at: usize| {
        Client::connect(ClientOptions {
            driver: Some(Arc::clone(&shared)),
            policy: Policy::RoundRobin,
            slow_consumer: scene.policy,
            ..ClientOptions::function(scene.consumer(at), vec![tag(at)], addresses.clone())
        })
    };
    let guest = match first {
        FirstConsumer::Guest(handle) => {
            Some(GuestProcess::start(handle, scene, tag(0), &addresses))
        }
        _ => None,
    };
    let consumers: Vec<Client> = (usize::from(guest.is_some())..CONSUMERS)
        .map(|at| connect(at).expect("it is admitted"))
        .collect();
    let at = entry.as_ref().unwrap_or(&home).addresses().to_vec();
    let source = Client::connect(ClientOptions {
        driver: Some(driver()),
        ..ClientOptions::source("source", at)
    });
    let source = source.expect("it is admitted");
    let home_state = home.watch();
    while home_state.connections().len() <= CONSUMERS {
        thread::sleep(Duration::from_millis(1));
    }
    for number in 0..CONSUMERS {
        let zipper = entry.as_ref().unwrap_or(&home);
        while zipper.observers(tag(number)).is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let is_over = AtomicBool::new(false);
    let epoch = Instant::now();
    thread::scope(|scope| {
        let reading = scope.spawn(|| read(&consumers, first, epoch, &is_over));
        write(&source, &scene, (epoch, time, rate), tag);
        is_over.store(true, Ordering::Relaxed);
        source.stop();
        let mut latencies = reading.join().expect("it does not panic");
        let taken = home.stats().delivered - latencies.len() as u64;
        assert!(
            guest.is_none() || taken > 0,
            "the guest has received nothing"
        );
        latencies.sort_unstable();
        let p99 = latencies.get(latencies.len() * 99 / 100).copied();
        let p99 = Duration::from_micros(p99.unwrap_or(u64::MAX));
        (latencies.len() as u64, p99)
    })
}

/// Reads with all consumers. Returns the latencies of all but the first, in microseconds.
fn read(
    consumers: &[Client],
    first: FirstConsumer,
    epoch: Instant,
    is_over: &AtomicBool,
) -> Vec<u64> {
    let (mut latencies, mut first_at) = (Vec::new(), Instant::now());
    let is_first_here = !matches!(first, FirstConsumer::Guest(_));
    let skipped = usize::from(is_first_here && first != FirstConsumer::Reads);
    while !is_over.load(Ordering::Relaxed) {
        if first == FirstConsumer::TimesOut && first_at.elapsed() >= Duration::from_secs(1) {
            let _is_none = consumers[0].try_receive();
            first_at = Instant::now();
        }
        for (at, consumer) in consumers.iter().enumerate().skip(skipped) {
            loop {
                match consumer.try_receive() {
                    Ok(message) if at > 0 || !is_first_here => {
                        let sent = message.payload().first_chunk().copied();
                        let sent = u64::from_be_bytes(sent.expect("a time"));
                        latencies.push(epoch.elapsed().as_micros() as u64 - sent);
                    }
                    Ok(_) => {}
                    Err(ReadError::TimedOut) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        thread::sleep(Duration::from_micros(200));
    }
    latencies
}

/// Writes until the time is over, to all tags in turn.
fn write(
    source: &Client,
    scene: &Scene,
    (epoch, time, rate): (Instant, Duration, u64),
    tag: impl Fn(usize) -> Tag,
) {
    // Every consumer that gets all messages costs as much.
    let rate = match scene.share || scene.has_own_tags {
        true => rate,
        false => rate / CONSUMERS as u64,
    };
    let (begin, mut written) = (epoch.elapsed(), 0_u64);
    while epoch.elapsed() - begin < time {
        let due = (epoch.elapsed() - begin).as_micros() as u64 * rate / 1_000_000;
        while written < due {
            let mut payload = [0; 64];
            let now = epoch.elapsed().as_micros() as u64;
            payload[..8].copy_from_slice(&now.to_be_bytes());
            // One tag that is blocked must not block the others: the writer of all of them does not wait.
            let _is_accepted = source.try_write(tag(written as usize % CONSUMERS), payload);
            written += 1;
        }
        thread::sleep(Duration::from_micros(500));
    }
}

fn main() {
    let number = |at, default| {
        let text = std::env::args().nth(at);
        text.map_or(default, |it| it.parse().expect("a number"))
    };
    let (time, rate) = (Duration::from_secs(number(1, 10)), number(2, 20_000));
    println!(
        "{:36} p99 alone | beside a slow one | beside a blocked one | beside a guest that times out | that fails",
        "99 consumers"
    );
    let firsts = [
        FirstConsumer::TimesOut,
        FirstConsumer::IsBlocked,
        FirstConsumer::Guest(GUEST_TIMES_OUT),
        FirstConsumer::Guest(GUEST_FAILS),
    ];
    for scene in SCENES {
        let (alone, p99_alone) = run(scene, time, rate, FirstConsumer::Reads);
        print!("{:36} {p99_alone:9.1?}", scene.name);
        for first in firsts {
            let (beside, p99) = run(scene, time, rate, first);
            print!(" | {:7.2} {p99:9.1?}", beside as f64 / alone as f64);
        }
        println!();
    }
}
