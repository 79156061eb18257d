//! What strangers and hostile clients cost an honest pair: `zipper` in a process of its own, a source and a
//! function, and one attack after the other, on and off in turn.
//!
//! `cargo build --release --bin zipper && cargo run --release -p selvedge-benches --bin attacks [rounds [rate]]`
//!
//! The source writes `rate` messages of 64 bytes per second, by default 100,000, or with 0 as fast as it can.
//! For each attack: the rate of the pair beside it as a share of the rate alone (median of the rounds), how long
//! new honest clients took to connect meanwhile (median and longest), and the memory of the zipper at its
//! peak. The attackers need processor time, too: with few cores, the share contains that.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use selvedge_client::lanes::{CONTROL, DATA, PAYLOAD_MAX, session_config};
use selvedge_client::tag::Tag;
use selvedge_client::wire::WireMessage;
use selvedge_client::{Client, ClientOptions};
use selvedge_hub::{Address, Driver, DriverConfig, Endpoint, Identity, NodeId, dialers};

const TOKEN: &str = "right";
const HONEST: Tag = Tag(0x10);
const TURN: Duration = Duration::from_secs(2);

/// A zipper, killed when it is dropped.
struct ZipperAtWork {
    child: Child,
    node: NodeId,
    address: Address,
}

impl ZipperAtWork {
    fn start() -> Self {
        let own = std::env::current_exe().expect("this program");
        let mut child = Command::new(own.with_file_name("zipper"))
            .args(["serve", "--log", "error"])
            .args(["--set", "listen=['tcp://127.0.0.1:0']"])
            .args(["--set", &format!("auth={{type: token, token: {TOKEN}}}")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("`cargo build --release --bin zipper` has made it");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [.., node, "listens", "on", address] = words[..] else {
            panic!("{line}");
        };
        Self {
            child,
            node: node.parse().expect("a key"),
            address: address.parse().expect("an address"),
        }
    }

    /// The largest resident memory so far, in MiB.
    fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).expect("it runs");
        let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
        let kib = line.and_then(|it| it.trim().strip_suffix(" kB"));
        kib.and_then(|it| it.parse::<u64>().ok()).expect("a number") >> 10
    }

    fn options(&self, options: ClientOptions) -> ClientOptions {
        ClientOptions {
            token: Some(TOKEN.into()),
            ..options
        }
    }

    fn source(&self) -> ClientOptions {
        self.options(ClientOptions::source("source", vec![self.address.clone()]))
    }

    fn function(&self, name: &str, tags: Vec<Tag>) -> ClientOptions {
        self.options(ClientOptions::function(
            name,
            tags,
            vec![self.address.clone()],
        ))
    }
}

impl Drop for ZipperAtWork {
    fn drop(&mut self) {
        let _has_ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Writes as many messages per second, or without a limit as fast as the client accepts them.
fn write(source: &Client, rate: Option<u64>) {
    let (began, mut written) = (Instant::now(), 0);
    loop {
        let due = rate.map_or(u64::MAX, |it| {
            began.elapsed().as_millis() as u64 * it / 1000
        });
        while written < due {
            if source.write(HONEST, [7; 64]).is_err() {
                return;
            }
            written += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// A source and a function.
struct HonestPair {
    source: Arc<Client>,
    sink: Arc<Client>,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl HonestPair {
    fn start(zipper: &ZipperAtWork, rate: Option<u64>) -> Self {
        let connect = |options| Arc::new(Client::connect(options).expect("it is admitted"));
        let sink = connect(zipper.function("sink", vec![HONEST]));
        let source = connect(zipper.source());
        let received = Arc::new(AtomicU64::new(0));
        let reading = {
            let (sink, received) = (Arc::clone(&sink), Arc::clone(&received));
            move || {
                while sink.receive().is_ok() {
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let writing = {
            let source = Arc::clone(&source);
            move || write(&source, rate)
        };
        let threads = vec![thread::spawn(reading), thread::spawn(writing)];
        Self {
            source,
            sink,
            received,
            threads,
        }
    }

    /// Messages per second during one turn.
    fn rate(&self) -> f64 {
        let (before, began) = (self.received.load(Ordering::Relaxed), Instant::now());
        thread::sleep(TURN);
        let count = self.received.load(Ordering::Relaxed) - before;
        count as f64 / began.elapsed().as_secs_f64()
    }

    fn end(self) {
        self.source.stop();
        self.sink.stop();
        for thread in self.threads {
            thread.join().expect("it does not panic");
        }
    }
}

/// An attack runs in threads of its own until `is_over`.
type Attack = fn(&ZipperAtWork, &AtomicBool);

const ATTACKS: [(&str, Attack); 6] = [
    ("2,000 half-open connections", half_open),
    ("strangers without introduction", mute_strangers),
    ("strangers that send 64 MiB", pushing_strangers),
    ("wrong tokens", wrong_tokens),
    ("a flood of Goaway", goaways),
    ("functions with 1,024 tags come and go", restless_functions),
];

fn half_open(zipper: &ZipperAtWork, is_over: &AtomicBool) {
    let place = zipper.address.as_socket().expect("an IP address");
    let mut open = std::collections::VecDeque::new();
    while !is_over.load(Ordering::Relaxed) {
        let Ok(stream) = TcpStream::connect_timeout(&place, TURN) else {
            continue;
        };
        open.push_back(stream);
        if open.len() > 2_000 {
            open.pop_front();
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Connects endpoints that do not introduce themselves, and lets each do something.
fn strangers(zipper: &ZipperAtWork, is_over: &AtomicBool, act: impl Fn(&Endpoint)) {
    let driver = Driver::new(DriverConfig::default()).expect("threads");
    let mut open = std::collections::VecDeque::new();
    while !is_over.load(Ordering::Relaxed) {
        let identity = Identity::generate().expect("randomness");
        let dialers = dialers(&identity);
        let Ok(connected) = driver.dial_blocking(&dialers, &zipper.address, Some(zipper.node))
        else {
            continue;
        };
        let session = session_config(64 << 20, PAYLOAD_MAX);
        let endpoint = driver.endpoint(session, identity.node_id(), zipper.node);
        let endpoint = endpoint.expect("the driver runs");
        if endpoint.attach(connected).is_ok() {
            act(&endpoint);
        }
        open.push_back(endpoint);
        if open.len() > 500 {
            open.pop_front();
        }
    }
}

fn mute_strangers(zipper: &ZipperAtWork, is_over: &AtomicBool) {
    strangers(zipper, is_over, |_| {});
}

fn pushing_strangers(zipper: &ZipperAtWork, is_over: &AtomicBool) {
    let payload = Bytes::from(vec![0; 1 << 20]);
    strangers(zipper, is_over, |endpoint| {
        while endpoint.try_send(DATA, payload.clone()).is_ok() {}
    });
}

fn wrong_tokens(zipper: &ZipperAtWork, is_over: &AtomicBool) {
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("threads"));
    while !is_over.load(Ordering::Relaxed) {
        let refused = Client::connect(ClientOptions {
            token: Some("wrong".into()),
            timeout: Duration::from_millis(500),
            driver: Some(Arc::clone(&driver)),
            ..zipper.source()
        });
        assert!(refused.is_err(), "the token is wrong");
    }
}

fn goaways(zipper: &ZipperAtWork, is_over: &AtomicBool) {
    let goaway = WireMessage::Goaway {
        message: "x".repeat(1024),
    };
    let goaway = goaway.encode().expect("it is short");
    strangers(zipper, is_over, |endpoint| {
        for _ in 0..1_000 {
            if is_over.load(Ordering::Relaxed) || endpoint.send(CONTROL, goaway.clone()).is_err() {
                return;
            }
        }
    });
}

fn restless_functions(zipper: &ZipperAtWork, is_over: &AtomicBool) {
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("threads"));
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        let functions = (0..100).map(|at| {
            let first = 0x1000 + (number * 100 + at) % 900 * 1024;
            let tags = (first..first + 1024).map(Tag).collect();
            Client::connect(ClientOptions {
                driver: Some(Arc::clone(&driver)),
                ..zipper.function(&format!("f{at}"), tags)
            })
        });
        drop(functions.collect::<Vec<_>>());
        number += 1;
    }
}

/// How long new clients take to be admitted, until the attack is over.
fn connect_times(zipper: &ZipperAtWork, is_over: &AtomicBool) -> Vec<Duration> {
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("threads"));
    let mut times = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let admitted = Client::connect(ClientOptions {
            driver: Some(Arc::clone(&driver)),
            ..zipper.source()
        });
        times.push(began.elapsed());
        if let Err(error) = admitted {
            println!("  a new client was not admitted: {error}");
        }
        thread::sleep(Duration::from_millis(100));
    }
    times
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(name: &str, attack: Attack, rounds: usize, rate: Option<u64>) {
    let zipper = ZipperAtWork::start();
    let pair = HonestPair::start(&zipper, rate);
    pair.rate();
    let before = zipper.peak_memory();
    let (mut shares, mut times) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let alone = pair.rate();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| attack(&zipper, &is_over));
            let connecting = scope.spawn(|| connect_times(&zipper, &is_over));
            shares.push(pair.rate() / alone);
            is_over.store(true, Ordering::Relaxed);
            times.extend(connecting.join().expect("it does not panic"));
        });
    }
    times.sort();
    let (middle, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{name:38} {:.2}  {:6.0} ms {:6.0} ms  {before} -> {} MiB",
        median(&mut shares),
        middle.as_secs_f64() * 1e3,
        longest.as_secs_f64() * 1e3,
        zipper.peak_memory()
    );
    pair.end();
}

fn main() {
    let number = |at| {
        let text = std::env::args().nth(at);
        text.map(|it| it.parse::<u64>().expect("a number"))
    };
    let rounds = number(1).unwrap_or(5) as usize;
    let rate = Some(number(2).unwrap_or(100_000)).filter(|it| *it > 0);
    println!("{:38} rate  connect median and max  memory", "attack");
    measure("none but new clients", |_, _| {}, rounds, rate);
    for (name, attack) in ATTACKS {
        measure(name, attack, rounds, rate);
    }
}
