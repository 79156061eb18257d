//! Signals to processes that wait for others: their logs, exit codes and the count of lost messages.

#[path = "processes/logged.rs"]
mod logged;

use std::io::{Read, Write};
use std::process::{Command, Output};

use logged::Process;
use rustix::process::{Pid, Signal, kill_process};

impl Process {
    /// Starts a zipper with the smallest send buffer, and returns its address.
    fn serve() -> (Self, String) {
        let settings = [
            "listen=['tcp://127.0.0.1:0']",
            "limits.send_buffer_bytes=65536",
        ];
        let mut zipper = Self::start(&["serve", "--set", settings[0], "--set", settings[1]]);
        let at = zipper.wait_for_start();
        (zipper, at)
    }

    /// Starts and kills a sink, so that its messages wait in the zipper.
    fn killed_sink(at: &str) {
        let args = [
            "sink",
            "-z",
            at,
            "--observe",
            "0x10",
            "-n",
            "slow",
            "--log",
            "info",
        ];
        let mut sink = Self::start(&args);
        sink.wait_for_log("reading");
    }

    fn source(at: &str) -> Self {
        Self::source_with(at, &[])
    }

    /// A source whose messages are not settled: they wait in the zipper.
    fn plain_source(at: &str) -> Self {
        Self::source_with(at, &["--level", "none"])
    }

    fn source_with(at: &str, args: &[&str]) -> Self {
        let source = ["source", "-z", at, "--tag", "0x10", "--log", "info"];
        Self::start(&[&source, args].concat())
    }

    fn write(&mut self, count: usize) {
        let input = "x".repeat(999) + "\n";
        let mut stdin = self.child.stdin.take().expect("it is open");
        stdin
            .write_all(input.repeat(count).as_bytes())
            .expect("it reads");
    }

    fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for the end, and returns the exit code and the whole log.
    fn end(mut self) -> (Option<i32>, String) {
        self.log.read_to_string(&mut self.logged).expect("text");
        let status = self.child.wait().expect("it ends");
        (status.code(), std::mem::take(&mut self.logged))
    }
}

/// Returns the number before a text.
fn number_before(text: &str, words: &str) -> u64 {
    let (before, _) = text.split_once(words).unwrap_or_else(|| panic!("{text}"));
    let number = before.rsplit(|it: char| !it.is_ascii_digit()).next();
    number
        .and_then(|it| it.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

const COUNT: usize = 300;

#[test]
fn a_second_signal_ends_a_zipper_that_names_its_waiting_connections_and_counts_losses() {
    let (mut zipper, at) = Process::serve();
    Process::killed_sink(&at);
    let mut source = Process::plain_source(&at);
    source.write(COUNT);
    // The zipper has accepted everything; most of it exceeds the send buffer of the sink.
    let (code, logged) = source.end();
    assert_eq!(code, Some(0), "{logged}");
    zipper.terminate();
    let warning = zipper.wait_for_log("waiting at most 6 s");
    assert!(
        warning.contains("slow (") && warning.contains("away"),
        "{warning}"
    );
    zipper.terminate();
    let (code, logged) = zipper.end();
    assert_eq!(code, Some(130), "{logged}");
    let lost = number_before(&logged, " messages may be lost");
    assert_eq!(lost, COUNT as u64, "{logged}");
}

#[test]
fn a_second_signal_ends_a_source_that_counts_what_was_not_acknowledged() {
    for (level, waiting, lost) in [
        (
            "processed",
            "waiting until every message is settled",
            " were not settled",
        ),
        (
            "none",
            "waiting until the zipper acknowledges",
            " may be lost",
        ),
    ] {
        let (zipper, at) = Process::serve();
        let mut source = Process::source_with(&at, &["--level", level]);
        source.wait_for_log("connected");
        drop(zipper);
        source.wait_for_log("connection lost");
        source.write(COUNT);
        let warning = source.wait_for_log(waiting);
        assert!(warning.contains("cannot be reached"), "{warning}");
        source.terminate();
        source.wait_for_log("a second signal ends this");
        source.terminate();
        let (code, logged) = source.end();
        assert_eq!(code, Some(130), "{logged}");
        let uncertain = number_before(&logged, &format!(" of {COUNT} messages{lost}"));
        assert_eq!(uncertain, COUNT as u64, "{logged}");
    }
}

#[test]
fn a_source_waits_under_backpressure_until_everything_is_acknowledged() {
    let (_zipper, at) = Process::serve();
    Process::killed_sink(&at);
    let mut source = Process::plain_source(&at);
    // More than the buffers of the zipper and the connection windows hold.
    source.write(20_000);
    let warning = source.wait_for_log("waiting until the zipper acknowledges");
    assert!(warning.contains("backpressure"), "{warning}");
    // Another sink with the same name takes over.
    let sink: Output = Command::new(env!("CARGO_BIN_EXE_zipper"))
        .args(["sink", "-z", &at, "--observe", "0x10", "-n", "slow"])
        .args(["--count", "19000"])
        .output()
        .expect("it starts");
    assert_eq!(sink.stdout.len(), 19_000 * 1000);
    let (code, logged) = source.end();
    assert_eq!(code, Some(0), "{logged}");
}

#[test]
fn a_source_waits_for_a_function_that_is_suspended_and_loses_nothing() {
    let (mut zipper, at) = Process::serve();
    let sink = ["sink", "-z", &at, "--observe", "0x10", "--log", "info"];
    let count = COUNT.to_string();
    let mut sink = Process::start(&[&sink[..], &["--count", &count]].concat());
    sink.wait_for_log("reading");
    sink.signal(Signal::STOP);
    let mut source = Process::source(&at);
    source.write(COUNT);
    let warning = source.wait_for_log("waiting until every message is settled");
    assert!(
        warning.contains("functions are slow or away") && warning.contains("unsettled=300"),
        "{warning}"
    );
    sink.signal(Signal::CONT);
    let mut printed = Vec::new();
    let stdout = sink.child.stdout.as_mut().expect("it is piped");
    stdout.read_to_end(&mut printed).expect("bytes");
    assert_eq!(printed.len(), COUNT * 1000);
    let (code, logged) = source.end();
    assert_eq!(code, Some(0), "{logged}");
    let (code, logged) = sink.end();
    assert_eq!(code, Some(0), "{logged}");
    assert!(logged.contains("received=300 redelivered=0"), "{logged}");
    zipper.terminate();
    zipper.wait_for_log("shutdown requested");
    let (code, logged) = zipper.end();
    assert_eq!(code, Some(0), "{logged}");
}

const SERVE: [&str; 3] = ["serve", "--set", "listen=['tcp://127.0.0.1:0']"];

#[test]
fn a_zipper_ends_gracefully_when_its_terminal_closes() {
    // The tests may run under nohup themselves, and a child inherits that.
    let mut zipper = Process::spawn(
        Command::new("env")
            .args(["--default-signal=HUP", env!("CARGO_BIN_EXE_zipper")])
            .args(SERVE)
            .args(["--log", "info"]),
    );
    zipper.wait_for_start();
    zipper.signal(Signal::HUP);
    zipper.wait_for_log("SIGHUP");
    let (code, logged) = zipper.end();
    assert_eq!(code, Some(0), "{logged}");
}

#[test]
fn a_zipper_under_nohup_ignores_that_its_terminal_closes() {
    let mut zipper = Process::spawn(
        Command::new("nohup")
            .arg(env!("CARGO_BIN_EXE_zipper"))
            .args(SERVE)
            .args(["--log", "info"]),
    );
    zipper.wait_for_start();
    zipper.signal(Signal::HUP);
    zipper.signal(Signal::TERM);
    zipper.wait_for_log("shutdown requested signal=\"SIGTERM\"");
    let (code, logged) = zipper.end();
    assert_eq!(code, Some(0), "{logged}");
    assert!(!logged.contains("SIGHUP"), "{logged}");
}

/// Ends every command within 3 s of its first signal, of which 1 s is for delivering.
const LIMIT: [&str; 2] = ["--shutdown-timeout", "3"];

#[test]
fn a_shutdown_ends_by_itself_while_the_zipper_is_down() {
    let (zipper, at) = Process::serve();
    let connect = |args: &[&str]| {
        let log = ["-z", &at, "--log", "info"];
        let mut client = Process::start(&[args, &log, &LIMIT].concat());
        client.wait_for_log("connected");
        client
    };
    let guest = format!(
        "{}/../examples/guests/prebuilt/triple.wasm",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut source = connect(&["source", "--tag", "0x10"]);
    let sink = connect(&["sink", "--observe", "0x10"]);
    let run = connect(&[
        "run",
        "--observe",
        "0x10",
        "--export",
        "triple",
        "--emit",
        "0x11",
        &guest,
    ]);
    drop(zipper);
    source.wait_for_log("connection lost");
    source.write(COUNT);
    source.wait_for_log("waiting until every message is settled");
    source.terminate();
    source.wait_for_log("the graceful shutdown is ended after 1 s");
    let (code, logged) = source.end();
    assert_eq!(code, Some(1), "{logged}");
    let uncertain = number_before(&logged, &format!(" of {COUNT} messages"));
    assert_eq!(uncertain, COUNT as u64, "{logged}");
    // These have nothing to deliver.
    for mut client in [sink, run] {
        client.wait_for_log("connection lost");
        client.terminate();
        let (code, logged) = client.end();
        assert_eq!(code, Some(0), "{logged}");
    }
}

#[test]
fn a_zipper_with_messages_for_an_absent_client_ends_by_itself() {
    let settings = ["listen=['tcp://127.0.0.1:0']"];
    let serve = ["serve", "--set", settings[0]];
    let mut zipper = Process::start(&[&serve[..], &LIMIT].concat());
    let at = zipper.wait_for_start();
    Process::killed_sink(&at);
    let mut source = Process::plain_source(&at);
    source.write(COUNT);
    let (code, logged) = source.end();
    assert_eq!(code, Some(0), "{logged}");
    zipper.terminate();
    zipper.wait_for_log("the graceful shutdown is ended after 1 s");
    let (code, logged) = zipper.end();
    assert_eq!(code, Some(1), "{logged}");
    let lost = number_before(&logged, " messages may be lost");
    assert_eq!(lost, COUNT as u64, "{logged}");
}

#[test]
fn a_sink_whose_output_is_not_read_ends_by_itself() {
    let (_zipper, at) = Process::serve();
    let sink = ["sink", "-z", &at, "--observe", "0x10", "--log", "info"];
    let mut sink = Process::start(&[&sink[..], &LIMIT].concat());
    sink.wait_for_log("reading");
    // It counts as processed only once the sink has printed it.
    let mut source = Process::source_with(&at, &["--level", "received"]);
    let mut stdin = source.child.stdin.take().expect("it is open");
    // Longer than a pipe holds.
    stdin.write_all(&[b'x'; 1 << 20]).expect("it reads");
    drop(stdin);
    let (code, logged) = source.end();
    assert_eq!(code, Some(0), "{logged}");
    let stdout = sink.child.stdout.as_mut().expect("it is piped");
    stdout.read_exact(&mut [0]).expect("the sink writes");
    sink.terminate();
    let (code, logged) = sink.end();
    assert_eq!(code, Some(1), "{logged}");
    assert!(
        logged.contains("the process did not end in time"),
        "{logged}"
    );
}

#[test]
fn a_process_that_is_asked_to_end_before_a_zipper_answers_ends_at_once() {
    let clients = [
        (&["sink", "--observe", "0x10"][..], 0),
        (&["source", "--tag", "0x10"], 1),
    ];
    for (args, code) in clients {
        let wait = ["-z", "tcp://127.0.0.1:1", "--wait"];
        let mut client = Process::start(&[args, &wait].concat());
        client.wait_for_log("no zipper answers yet");
        client.terminate();
        let (ended, logged) = client.end();
        assert_eq!(ended, Some(code), "{logged}");
        assert!(logged.contains("before a zipper"), "{logged}");
    }
}

#[test]
#[ignore = "waits 33 s until a zipper forgets its client: .ci/hosts runs it beside other tests that wait"]
fn case_6_a_sink_that_was_suspended_reports_what_happened() {
    let (mut zipper, at) = Process::serve();
    let sink = ["sink", "-z", &at, "--observe", "0x10", "--log", "info"];
    let mut sink = Process::start(&sink);
    sink.wait_for_log("reading");
    sink.signal(Signal::STOP);
    zipper.wait_for_log("forgot a guest that was disconnected for too long");
    sink.signal(Signal::CONT);
    sink.wait_for_log("the zipper has lost the session of this client");
    sink.terminate();
    let (code, logged) = sink.end();
    assert_eq!(code, Some(1), "{logged}");
    let expected = "messages for this sink may be lost, in an unknown number";
    assert!(logged.contains(expected), "{logged}");
    assert!(
        logged.contains("this process was suspended for 3"),
        "{logged}"
    );
}
