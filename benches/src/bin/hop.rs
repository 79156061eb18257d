//! One zipper in three processes: a source, a zipper, and one process with all functions.
//!
//! `hop <scheme> <length> <functions> <seconds> [settled]` prints one line: copies read per second, and the CPU
//! time of all three processes per copy. With `settled`, messages are settled when they are processed.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use selvedge_benches::hop::{TAG, sinks, source_with, start_zipper};
use selvedge_client::{Client, SettlementLevel};

/// Until windows and chunks have reached their final size.
const WARM_UP: Duration = Duration::from_millis(400);

/// Ends with its parent process, which holds the other end of its input.
struct RoleProcess(Child);

impl RoleProcess {
    fn start(role: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let command = command.arg(role).args(arguments).stdin(Stdio::piped());
        Self(command.stdout(Stdio::piped()).spawn().expect("a process"))
    }

    fn line(&mut self) -> String {
        let output = self.0.stdout.as_mut().expect("a pipe");
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .expect("the process prints a line");
        line.trim().to_owned()
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        self.0.kill().expect("it is a child");
        self.0.wait().expect("it is a child");
    }
}

/// User and system time of a process: ticks of 10 ms (proc(5), /proc/pid/stat).
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux");
    let (_, fields) = stat.rsplit_once(") ").expect("the name ends");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

fn wait_for_end_of_input() {
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("a pipe");
}

fn run_zipper(scheme: &str) {
    let zipper = start_zipper(scheme);
    println!("{}", zipper.addresses()[0]);
    wait_for_end_of_input();
}

fn run_source(address: &str, len: usize, level: Option<SettlementLevel>) {
    let source = source_with(vec![address.parse().expect("an address")], level);
    let payload = Bytes::from(vec![7; len]);
    thread::spawn(|| {
        wait_for_end_of_input();
        std::process::exit(0);
    });
    loop {
        source.write(TAG, &payload).expect("it is open");
    }
}

/// Reads until the end and publishes the count every thousandth message, so that counting costs nothing.
fn read_all(sink: &Client, count: &AtomicU64) {
    loop {
        for _ in 0..1000 {
            if sink.read().is_err() {
                return;
            }
        }
        count.fetch_add(1000, Ordering::Relaxed);
    }
}

fn measure(scheme: &str, len: &str, functions: usize, seconds: f64, level: &[&str]) {
    let mut zipper = RoleProcess::start("zipper", &[scheme]);
    let address = zipper.line();
    let sinks = sinks(functions, &[address.parse().expect("an address")]);
    let count = AtomicU64::new(0);
    thread::scope(|scope| {
        for sink in &sinks {
            scope.spawn(|| read_all(sink, &count));
        }
        let writer = RoleProcess::start("source", &[&[&address, len], level].concat());
        let processes = [std::process::id(), zipper.0.id(), writer.0.id()];
        let used = || processes.map(cpu);
        thread::sleep(WARM_UP);
        let (began, from, before) = (Instant::now(), count.load(Ordering::Relaxed), used());
        thread::sleep(Duration::from_secs_f64(seconds));
        let (took, to, after) = (began.elapsed(), count.load(Ordering::Relaxed), used());
        let copies = (to - from) as f64;
        let per = |at: usize| (after[at] - before[at]).as_nanos() as f64 / copies;
        println!(
            "{scheme} {len} B to {functions} {}: {:.3} M/s, CPU {:.0} ns (functions {:.0}, zipper {:.0}, source {:.0})",
            level.first().unwrap_or(&"plain"),
            copies / took.as_secs_f64() / 1e6,
            per(0) + per(1) + per(2),
            per(0),
            per(1),
            per(2),
        );
        sinks.iter().for_each(Client::stop);
    });
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["zipper", scheme] => run_zipper(scheme),
        ["source", address, len, ref level @ ..] => {
            let level = level.first().map(|_| SettlementLevel::Processed);
            run_source(address, len.parse().expect("a length"), level);
        }
        [scheme, len, functions, seconds, ref level @ ..] => measure(
            scheme,
            len,
            functions.parse().expect("how many functions"),
            seconds.parse().expect("how many seconds"),
            level,
        ),
        _ => println!("usage: hop <scheme> <length> <functions> <seconds> [settled]"),
    }
}
