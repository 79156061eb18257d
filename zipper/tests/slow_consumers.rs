//! Processes that are slow, by their policy.

#[path = "processes/logged.rs"]
mod logged;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Command;

use logged::Process;
use rustix::process::{Pid, Signal, kill_process};
use selvedge_client::{Client, ClientOptions, SettlementLevel, Tag, addresses};

const COUNT: usize = 20_000;

fn signal(process: &Process, signal: Signal) {
    let pid = Pid::from_child(&process.child);
    kill_process(pid, signal).expect("it runs");
}

fn sink(at: &str, args: &[&str]) -> Process {
    let sink = ["sink", "-z", at, "--observe", "0x10", "--log", "info"];
    let mut sink = Process::start(&[&sink, args].concat());
    sink.wait_for_log("reading");
    sink
}

/// Waits until the functions with that name are listed, and returns the lines.
fn functions(at: &str, count: usize) -> String {
    loop {
        let ls = Command::new(env!("CARGO_BIN_EXE_zipper"))
            .args(["ls", "functions", "-z", at, "--output", "json"])
            .output()
            .expect("it runs");
        let listed = String::from_utf8(ls.stdout).expect("text");
        if listed.lines().count() == count {
            return listed;
        }
    }
}

/// A sink that drops the newest messages is stopped while a source writes 20 MB for a normal sink.
fn stopped_sink(level: &str, policy: &str) {
    let settings = [
        "listen=['tcp://127.0.0.1:0']",
        "limits.send_buffer_bytes=1048576",
    ];
    let mut zipper = Process::start(&["serve", "--set", settings[0], "--set", settings[1]]);
    let at = zipper.wait_for_start();
    let stopped = sink(&at, &["-n", "stopped", "--when-slow", policy]);
    let mut normal = sink(&at, &["-n", "normal", "--count", &COUNT.to_string()]);
    functions(&at, 2);
    signal(&stopped, Signal::STOP);
    let source = ["source", "-z", &at, "--tag", "0x10", "--level", level];
    let mut source = Process::start(&source);
    let mut stdin = source.child.stdin.take().expect("it is open");
    let stdout = normal.child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(stdout).lines();
        lines.map(|line| line.expect("text")).collect::<Vec<_>>()
    });
    for n in 0..COUNT {
        let line = format!("{n:01000}\n");
        stdin.write_all(line.as_bytes()).expect("it reads");
    }
    drop(stdin);
    let mut log = String::new();
    source.log.read_to_string(&mut log).expect("text");
    let status = source.child.wait().expect("it ends");
    assert!(status.success(), "{level} {policy}: {log}");
    let read = reader.join().expect("all are lines");
    let expected = (0..COUNT).map(|n| format!("{n:01000}"));
    assert!(
        read.iter().cloned().eq(expected),
        "{level} {policy}: {}",
        read.len()
    );
    let listed = functions(&at, 1);
    let row: serde_json::Value = serde_json::from_str(&listed).expect("a row");
    assert_eq!(row["when_slow"], policy, "{listed}");
    assert!(row["dropped"].as_u64() > Some(0), "{listed}");
    signal(&stopped, Signal::CONT);
}

#[test]
fn a_stopped_sink_that_drops_messages_holds_neither_source_nor_other_sinks() {
    for level in ["processed", "none"] {
        for policy in ["drop-newest", "drop-oldest"] {
            stopped_sink(level, policy);
        }
    }
}

/// Case 10: a function that emits its own tag stands still without a log line.
#[test]
fn case_10_a_function_that_writes_a_tag_that_it_observes_is_logged() {
    for level in [None, Some(SettlementLevel::Processed)] {
        let mut zipper = Process::start(&["serve", "--set", "listen=['tcp://127.0.0.1:0']"]);
        let at = zipper.wait_for_start();
        let cycle = Client::connect(ClientOptions {
            level,
            ..ClientOptions::function("cycle", vec![Tag(0x10)], addresses(&at).expect("valid"))
        });
        let cycle = cycle.expect("the zipper lets it in");
        functions(&at, 1);
        cycle.write(Tag(0x10), "again").expect("it is connected");
        let line = zipper.wait_for_log("a function writes a tag that it observes");
        assert!(line.contains("cycle") && line.contains("0x0010"), "{line}");
    }
}
