//! Processes that are told to end while they cannot: what they say, and that each message is counted.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A process whose log is read line by line; killed at the end.
struct Process {
    child: Child,
    log: BufReader<ChildStderr>,
    said: String,
}

impl Process {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_zipper"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        Self {
            child,
            log,
            said: String::new(),
        }
    }

    /// A zipper that holds as little as may be set for each client, and its address.
    fn serve() -> (Self, String) {
        let settings = [
            "listen=['tcp://127.0.0.1:0']",
            "limits.send_buffer_bytes=65536",
        ];
        let mut serving = Self::start(&["serve", "--set", settings[0], "--set", settings[1]]);
        let stdout = serving.child.stdout.as_mut().expect("it is piped");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("it says where it listens");
        let at = line.split("listens on ").nth(1).expect("an address");
        (serving, at.trim().to_owned())
    }

    /// A sink that is there no more, for which messages wait.
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
        sink.until_said("reading");
    }

    fn source(at: &str) -> Self {
        Self::start(&["source", "-z", at, "--tag", "0x10", "--log", "info"])
    }

    fn write(&mut self, count: usize) {
        let input = "x".repeat(999) + "\n";
        let mut stdin = self.child.stdin.take().expect("it is open");
        stdin
            .write_all(input.repeat(count).as_bytes())
            .expect("it reads");
    }

    /// Waits until its log has a line with that.
    fn until_said(&mut self, says: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.log.read_line(&mut line).expect("text");
            assert!(read > 0, "it ended and never said {says:?}: {}", self.said);
            self.said += &line;
            if line.contains(says) {
                return line;
            }
        }
    }

    fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("it runs");
    }

    /// Its exit code, and all that it has said.
    fn end(mut self) -> (Option<i32>, String) {
        self.log.read_to_string(&mut self.said).expect("text");
        let status = self.child.wait().expect("it ends");
        (status.code(), std::mem::take(&mut self.said))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The number before these words.
fn number_before(text: &str, words: &str) -> u64 {
    let (before, _) = text.split_once(words).unwrap_or_else(|| panic!("{text}"));
    let number = before.rsplit(|it: char| !it.is_ascii_digit()).next();
    number
        .and_then(|it| it.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

const COUNT: usize = 300;

#[test]
fn a_zipper_that_is_told_twice_to_end_says_whom_it_waited_for_and_what_is_lost() {
    let (mut serving, at) = Process::serve();
    Process::killed_sink(&at);
    let mut source = Process::source(&at);
    source.write(COUNT);
    // All is with the zipper, and most of it has no room in what waits for the sink.
    let (code, said) = source.end();
    assert_eq!(code, Some(0), "{said}");
    serving.terminate();
    let waits = serving.until_said("waiting at most 30 s");
    assert!(
        waits.contains("slow (") && waits.contains("away"),
        "{waits}"
    );
    serving.terminate();
    let (code, said) = serving.end();
    assert_eq!(code, Some(130), "{said}");
    let lost = number_before(&said, " messages may be lost");
    assert_eq!(lost, COUNT as u64, "{said}");
}

#[test]
fn a_source_that_is_told_twice_to_end_says_what_it_waited_for_and_what_is_lost() {
    let (serving, at) = Process::serve();
    let mut source = Process::source(&at);
    source.until_said("connected");
    drop(serving);
    source.until_said("connection lost");
    source.write(COUNT);
    let waits = source.until_said("waiting for the zipper");
    assert!(waits.contains("cannot be reached"), "{waits}");
    source.terminate();
    source.until_said("a second signal ends this");
    source.terminate();
    let (code, said) = source.end();
    assert_eq!(code, Some(130), "{said}");
    let uncertain = number_before(&said, &format!(" of {COUNT} messages"));
    assert_eq!(uncertain, COUNT as u64, "{said}");
}

#[test]
fn a_source_waits_for_a_zipper_that_holds_it_back_until_everything_is_taken() {
    let (_serving, at) = Process::serve();
    Process::killed_sink(&at);
    let mut source = Process::source(&at);
    // More than the zipper and its windows hold.
    source.write(20_000);
    let waits = source.until_said("waiting for the zipper");
    assert!(waits.contains("holds this client back"), "{waits}");
    // Another one of that name takes over.
    let sink: Output = Command::new(env!("CARGO_BIN_EXE_zipper"))
        .args(["sink", "-z", &at, "--observe", "0x10", "-n", "slow"])
        .args(["--count", "19000"])
        .output()
        .expect("it starts");
    assert_eq!(sink.stdout.len(), 19_000 * 1000);
    let (code, said) = source.end();
    assert_eq!(code, Some(0), "{said}");
}
