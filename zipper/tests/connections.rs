//! Clients and zippers as processes: zippers that start late, restart with another key, or are full.

#[path = "processes/logged.rs"]
mod logged;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use logged::Process;
use rustix::process::{Pid, Signal, kill_process};
use selvedge_client::wire::Rejection;
use selvedge_client::{Client, ClientOptions, ConnectError, addresses};
use selvedge_hub::{Driver, DriverConfig};

impl Process {
    /// Starts a zipper that is listening when this returns. Returns its address, too.
    fn serve(listen: &str, settings: &[&str]) -> (Self, String) {
        let listen = format!("listen=['{listen}']");
        let mut args = vec!["serve", "--set", &listen];
        args.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
        let mut zipper = Self::start(&args);
        let at = zipper.wait_for_start();
        (zipper, at)
    }

    fn write(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is open");
        stdin.write_all(line.as_bytes()).expect("it reads");
    }

    /// Ends the input and waits for the end. Returns the exit code, the output and the whole log.
    fn end(mut self) -> (Option<i32>, String, String) {
        drop(self.child.stdin.take());
        self.log.read_to_string(&mut self.logged).expect("text");
        let mut output = String::new();
        let mut stdout = self.child.stdout.take().expect("it is piped");
        stdout.read_to_string(&mut output).expect("text");
        let status = self.child.wait().expect("it ends");
        (status.code(), output, std::mem::take(&mut self.logged))
    }
}

/// An address at which nothing listens.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("tcp://{}", listener.local_addr().expect("an address"))
}

#[test]
fn case_19_a_client_waits_for_a_zipper_that_is_not_up_yet() {
    for (limit, logged) in [
        (&["--wait"][..], "no zipper answers yet; waiting"),
        (&["--timeout", "60"], "no zipper answers yet; dialing again"),
    ] {
        let at = free_address();
        let start = |args: &[&str]| {
            let at = ["-z", &at, "--log", "info"];
            let mut client = Process::start(&[args, &at, limit].concat());
            client.wait_for_log(logged);
            client
        };
        let mut source = start(&["source", "--tag", "0x10"]);
        let mut sink = start(&["sink", "--observe", "0x10", "--count", "1"]);
        let (_zipper, _) = Process::serve(&at, &[]);
        sink.wait_for_log("reading");
        source.write("late\n");
        let (code, output, logged) = source.end();
        assert_eq!(code, Some(0), "{logged}");
        assert_eq!(
            output,
            "sent 1 messages, 4 bytes, to zipper zipper: 1 settled\n"
        );
        let (code, output, logged) = sink.end();
        assert_eq!((code, &*output), (Some(0), "late\n"), "{logged}");
    }
}

#[test]
fn case_20_a_client_follows_a_zipper_that_returns_with_another_key() {
    let (mut zipper, at) = Process::serve("tcp://127.0.0.1:0", &[]);
    zipper.wait_for_log("without `identity` the zipper has a new key at each start");
    let start = |args: &[&str]| Process::start(&[args, &["-z", &at, "--log", "info"]].concat());
    let mut source = start(&["source", "--tag", "0x10"]);
    let mut sink = start(&["sink", "--observe", "0x10", "--count", "1"]);
    source.wait_for_log("connected");
    sink.wait_for_log("reading");
    drop(zipper);
    source.wait_for_log("connection lost");
    let (_zipper, _) = Process::serve(&at, &[]);
    for client in [&mut sink, &mut source] {
        client.wait_for_log("moved to a zipper with another key");
    }
    source.write("to the new one\n");
    let (code, output, logged) = source.end();
    assert_eq!(code, Some(0), "{logged}");
    assert!(output.ends_with(": 1 settled\n"), "{output}");
    // Nothing was lost, although its first zipper is gone.
    let (code, output, logged) = sink.end();
    assert_eq!((code, &*output), (Some(0), "to the new one\n"), "{logged}");
}

#[test]
fn case_18_a_source_moves_to_another_zipper_when_its_own_is_gone() {
    let (one, first) = Process::serve("tcp://127.0.0.1:0", &["name=first"]);
    let (other, second) = Process::serve("tcp://127.0.0.1:0", &["name=second"]);
    let source = [
        "source", "--tag", "0x10", "--log", "info", "-z", &first, "-z", &second,
    ];
    let mut source = Process::start(&source);
    source.wait_for_log("connected");
    // Either may have answered first.
    let is_at_first = source.logged.contains(first.trim_start_matches("tcp://"));
    let (gone, kept, at, name) = match is_at_first {
        true => (one, other, &second, "second"),
        false => (other, one, &first, "first"),
    };
    let sink = ["sink", "-z", at, "--observe", "0x10", "--count", "2"];
    let mut sink = Process::start(&[&sink[..], &["--log", "info"]].concat());
    sink.wait_for_log("reading");
    // What a frozen zipper has not settled moves with the source.
    kill_process(Pid::from_child(&gone.child), Signal::STOP).expect("it runs");
    source.write("before\n");
    drop(gone);
    source.wait_for_log("moved to a zipper with another key");
    source.write("after\n");
    let (code, output, logged) = source.end();
    assert_eq!(code, Some(0), "{logged}");
    let expected = format!("sent 2 messages, 11 bytes, to zipper {name}: 2 settled\n");
    assert_eq!(output, expected);
    let (code, output, logged) = sink.end();
    assert_eq!((code, &*output), (Some(0), "before\nafter\n"), "{logged}");
    drop(kept);
}

#[test]
fn case_21_a_full_zipper_is_reported_as_full() {
    let (_zipper, at) = Process::serve("tcp://127.0.0.1:0", &["limits.clients=1"]);
    let mut sink = Process::start(&["sink", "-z", &at, "--observe", "0x10", "--log", "info"]);
    sink.wait_for_log("reading");
    let source = ["source", "-z", &at, "--tag", "0x10", "--timeout", "1"];
    let (code, _, logged) = Process::start(&source).end();
    assert_eq!(code, Some(4), "{logged}");
    let expected =
        "the zipper refuses this client: this zipper has its maximum of 1 clients (code 503)";
    assert!(logged.contains(expected), "{logged}");
    // The place of a client that was killed is free again, although it did not close its connection.
    drop(sink);
    let source = ["source", "-z", &at, "--tag", "0x10", "--timeout", "60"];
    let (code, _, logged) = Process::start(&source).end();
    assert_eq!(code, Some(0), "{logged}");
}

#[test]
fn case_21_a_zipper_with_few_file_descriptors_refuses_clients_with_the_reason() {
    let serve = format!(
        "ulimit -n 40; exec {} serve --set \"listen=['tcp://127.0.0.1:0']\"",
        env!("CARGO_BIN_EXE_zipper")
    );
    let mut zipper = Process::spawn(Command::new("sh").args(["-c", &serve]));
    zipper.wait_for_log("limits.clients is reduced");
    let at = addresses(&zipper.wait_for_start()).expect("an address");
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("a driver"));
    let connect = |timeout| {
        Client::connect(ClientOptions {
            driver: Some(Arc::clone(&driver)),
            timeout,
            ..ClientOptions::source("source", at.clone())
        })
    };
    let patience = Duration::from_secs(30);
    let clients: Vec<Client> = (0..20)
        .map(|_| connect(patience).expect("there is room"))
        .collect();
    match connect(Duration::from_secs(1)) {
        Err(ConnectError::Rejected { code, message }) => {
            assert_eq!(code, Rejection::Full as u16, "{message}");
        }
        other => panic!("{other:?}"),
    }
    drop(clients);
    assert!(connect(patience).is_ok());
}
