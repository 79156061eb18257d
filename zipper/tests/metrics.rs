//! The pages of a zipper process for supervisors: metrics, health and readiness.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions};

/// Far longer than anything here takes; only a bug waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A zipper with pages, killed when it is dropped.
struct MonitoredZipper {
    child: Child,
    address: String,
    pages: String,
}

impl MonitoredZipper {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_zipper"))
            .args(["serve", "--log", "error"])
            .args(["--set", "listen=['tcp://127.0.0.1:0']"])
            .args(["--set", "metrics=127.0.0.1:0"])
            .args(["--set", "limits.send_buffer_bytes=65536"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let address = line_behind(&mut stdout, "listens on ");
        let pages = line_behind(&mut stdout, "metrics are at http://");
        let pages = pages.trim_end_matches("/metrics").to_owned();
        Self {
            child,
            address,
            pages,
        }
    }

    /// The status and the body of a page.
    fn page(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.pages).expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    /// The value of a series.
    fn value(&self, series: &str) -> Option<u64> {
        let (status, text) = self.page("/metrics");
        assert_eq!(status, 200, "{text}");
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().expect("a whole number"))
    }

    fn wait_until(&self, series: &str, is_expected: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !self.value(series).is_some_and(&is_expected) {
            let (_, text) = self.page("/metrics");
            assert!(Instant::now() < deadline, "{series} in\n{text}");
            std::thread::yield_now();
        }
    }

    /// Writes until messages wait here for the function `slow`, which does not read. Returns how many were
    /// written.
    fn fill(&self, source: &Client, tag: Tag) -> u64 {
        let queued = "selvedge_zipper_peer_queued_bytes{role=\"function\",name=\"slow\"}";
        let (deadline, mut written) = (Instant::now() + PATIENCE, 0);
        while self.value(queued).is_none_or(|it| it < 32 << 10) {
            for _ in 0..100 {
                written += u64::from(source.try_write(tag, [7; 8000]).is_ok());
            }
            assert!(Instant::now() < deadline, "nothing is queued");
        }
        written
    }

    fn client(&self, options: impl FnOnce(Vec<selvedge_hub::Address>) -> ClientOptions) -> Client {
        let address = self.address.parse().expect("an address");
        Client::connect(options(vec![address])).expect("it is admitted")
    }
}

impl Drop for MonitoredZipper {
    fn drop(&mut self) {
        let _already_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A source of plain data: zippers hold no messages that are settled.
fn plain_source(zippers: Vec<selvedge_hub::Address>) -> ClientOptions {
    ClientOptions {
        level: None,
        ..ClientOptions::source("sensor", zippers)
    }
}

fn line_behind(stdout: &mut BufReader<ChildStdout>, text: &str) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("text");
    let (_, behind) = line.split_once(text).unwrap_or_else(|| panic!("{line}"));
    behind.trim().to_owned()
}

#[test]
fn the_metrics_show_peers_messages_and_the_backlog_of_a_reader_that_is_away() {
    const TAG: Tag = Tag(0x10);
    let zipper = MonitoredZipper::start();
    let sink = zipper.client(|at| ClientOptions::function("slow", vec![TAG], at));
    let source = zipper.client(plain_source);
    zipper.wait_until(
        "selvedge_zipper_peers{role=\"function\",state=\"connected\"}",
        |it| it == 1,
    );
    zipper.wait_until(
        "selvedge_zipper_peers{role=\"source\",state=\"connected\"}",
        |it| it == 1,
    );
    // The sink reads nothing, so its window and the send buffer of the zipper fill up.
    let unacknowledged =
        "selvedge_zipper_peer_unacknowledged_bytes{role=\"function\",name=\"slow\"}";
    let written = zipper.fill(&source, TAG);
    let sent = "selvedge_zipper_sent_messages_total{peer_role=\"function\"}";
    zipper.wait_until(sent, |it| it > 0 && it <= written);
    assert!(zipper.value(unacknowledged).is_some());
    drop(sink);
}

#[test]
fn a_zipper_is_ready_until_it_drains_and_healthy_all_the_time() {
    let mut zipper = MonitoredZipper::start();
    assert_eq!(zipper.page("/readyz"), (200, "ready\n".into()));
    assert_eq!(zipper.page("/healthz"), (200, "ok\n".into()));
    assert_eq!(zipper.page("/").0, 404);
    // What it holds for an absent sink delays its end.
    let sink = zipper.client(|at| ClientOptions::function("slow", vec![Tag(1)], at));
    let source = zipper.client(plain_source);
    let queued = "selvedge_zipper_peer_connections{role=\"function\",name=\"slow\"}";
    zipper.wait_until(queued, |it| it == 1);
    // Until the source finds no room after several pages, either: then the window of the sink is full.
    let deadline = Instant::now() + PATIENCE;
    loop {
        while source.try_write(Tag(1), [7; 8000]).is_ok() {}
        zipper.fill(&source, Tag(1));
        let is_full =
            || zipper.page("/readyz").0 == 200 && source.try_write(Tag(1), [7; 8000]).is_err();
        if (0..10).all(|_| is_full()) {
            break;
        }
        assert!(Instant::now() < deadline, "the source is not held back");
    }
    kill_process(Pid::from_child(&zipper.child), Signal::TERM).expect("it runs");
    let deadline = Instant::now() + PATIENCE;
    while zipper.page("/readyz").0 == 200 {
        assert!(Instant::now() < deadline, "it is still ready");
    }
    assert_eq!(zipper.page("/readyz"), (503, "draining\n".into()));
    assert_eq!(zipper.page("/healthz"), (200, "draining\n".into()));
    assert_eq!(zipper.value("selvedge_zipper_ready"), Some(0));
    drop((sink, source));
    let _already_ended = zipper.child.kill();
}
