//! The duration of a 64-byte round trip between processes: raw, over endpoints, through a zipper; blocking
//! or polling, on an idle machine or beside an endless loop.
//!
//! `cargo run --release -p selvedge-benches --bin latency -- [--rounds 5] [--count 5000]
//! [--other PROGRAM] MODE...`
//!
//! A mode names the carrier: `raw`, `quic`, `tcp`, `tcp+plain`, `udp`, or `zipper-quic` and so on (three
//! processes, both clients block); then `/spin` (poll for up to 50 us before sleeping), `/thread` (both ends
//! block in `recv`; otherwise an inbox responds on its worker), `/hog` (beside an endless loop). With
//! `--other` each mode also runs in another build of this program, in the same rounds.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this program does"
)]

mod cost;
mod ends;
mod mode;
mod raw;
mod relay;

use std::path::PathBuf;

use cost::{Summary, median};
use ends::{Child, Responder};
use mode::RoundTripMode;

/// Round trips that are not counted.
const WARM_UP: usize = 1000;

const DEFAULT: [&str; 12] = [
    "raw",
    "tcp+plain",
    "quic",
    "raw/spin",
    "tcp+plain/spin",
    "quic/spin",
    "raw/hog",
    "raw/spin/hog",
    "tcp+plain/hog",
    "tcp+plain/spin/hog",
    "quic/hog",
    "quic/spin/hog",
];

struct LatencyArgs {
    rounds: usize,
    count: usize,
    programs: Vec<PathBuf>,
    modes: Vec<RoundTripMode>,
}

fn args(mut words: impl Iterator<Item = String>) -> LatencyArgs {
    let this = std::env::current_exe().expect("a program");
    let mut args = LatencyArgs {
        rounds: 5,
        count: 5000,
        programs: vec![this],
        modes: Vec::new(),
    };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().and_then(|it| it.parse().ok());
            value.expect("a number behind the option")
        };
        match word.as_str() {
            "--rounds" => args.rounds = number(),
            "--count" => args.count = number(),
            "--other" => args
                .programs
                .insert(0, words.next().expect("a program").into()),
            mode => args.modes.push(mode.parse().expect("a mode")),
        }
    }
    if args.modes.is_empty() {
        args.modes = DEFAULT.map(|it| it.parse().expect("a mode")).to_vec();
    }
    args
}

fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut words = std::env::args().skip(1).peekable();
    match words.peek().map(String::as_str) {
        Some("far") => far(&words.skip(1).collect::<Vec<_>>()),
        Some("near") => near(&words.skip(1).collect::<Vec<_>>()),
        Some("hog") => hog(),
        _ => compare(&args(words)),
    }
}

/// The responding process. It ends with its parent.
fn far(words: &[String]) {
    let mode: RoundTripMode = words[0].parse().expect("a mode");
    let far: Box<dyn Responder> = match (&mode, words[1].as_str()) {
        (mode, _) if mode.carrier == "raw" => Box::new(raw::RawResponder::start(mode)),
        (mode, "zipper") => Box::new(relay::ZipperProcess::start(mode)),
        (mode, "function") => Box::new(relay::FunctionResponder::start(mode, &words[2])),
        (mode, _) => Box::new(ends::EndpointResponder::start(mode, &words[2])),
    };
    println!("{}", far.address());
    cost::wait_for_parent();
}

/// The requesting process, which prints its result.
fn near(words: &[String]) {
    let mode: RoundTripMode = words[0].parse().expect("a mode");
    let count = words[1].parse().expect("a number");
    let mut near = ends::near(&mode);
    let _hog = mode.hog.then(|| Child::start(&["hog"]));
    near.run(WARM_UP);
    let before = near.cpu();
    let times = near.run(count);
    let cpu = (near.cpu() - before) / count as u64;
    println!("{}", Summary::new(times, cpu).line());
}

fn hog() {
    std::thread::spawn(|| {
        cost::wait_for_parent();
        std::process::exit(0);
    });
    loop {
        std::hint::black_box(0);
    }
}

fn compare(args: &LatencyArgs) {
    let mut runs = vec![vec![Vec::new(); args.programs.len()]; args.modes.len()];
    for round in 0..args.rounds {
        for (mode, runs) in args.modes.iter().zip(&mut runs) {
            for (program, runs) in args.programs.iter().zip(runs) {
                let output = std::process::Command::new(program)
                    .args(["near", &mode.to_string(), &args.count.to_string()])
                    .stderr(std::process::Stdio::inherit())
                    .output()
                    .expect("it starts");
                let line = String::from_utf8(output.stdout).expect("text");
                if let Some(summary) = Summary::read(&line) {
                    runs.push(summary);
                } else {
                    eprintln!("round {round}: {mode} failed");
                }
            }
        }
    }
    println!("| mode | p50 us | p50 over runs | p99 us | p99.9 us | CPU us, both | p50 of raw |");
    println!("|---|---|---|---|---|---|---|");
    let raw_of = |mode: &RoundTripMode| {
        let at = args.modes.iter().position(|it| mode.raw() == *it)?;
        runs[at].last().map(|runs| median(runs, |it| it.p50).1)
    };
    for (mode, runs) in args.modes.iter().zip(&runs) {
        for (at, runs) in runs.iter().enumerate().filter(|(_, it)| !it.is_empty()) {
            let ((low, p50, high), us) = (median(runs, |it| it.p50), |ns: f64| ns / 1e3);
            let other = if at + 1 < args.programs.len() {
                " (other)"
            } else {
                ""
            };
            println!(
                "| {mode}{other} | {:.1} | {:.1} to {:.1} | {:.0} | {:.0} | {:.1} | {} |",
                us(p50),
                us(low),
                us(high),
                us(median(runs, |it| it.p99).1),
                us(median(runs, |it| it.p999).1),
                us(median(runs, |it| it.cpu).1),
                raw_of(mode).map_or_else(String::new, |raw| format!("{:.2}", p50 / raw)),
            );
        }
    }
}
