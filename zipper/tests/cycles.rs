//! Cycles of functions: what has passed too many of them is dropped, counted, logged and reported.

#[allow(dead_code, reason = "a part of it is used")]
#[path = "processes/logged.rs"]
mod logged;
#[allow(dead_code, reason = "a part of it is used")]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use logged::Process;
use rustix::process::{Pid, Signal, kill_process};
use selvedge_client::settlement::FlowOutcome;
use selvedge_client::{AcknowledgeMode, Client, ClientOptions, Tag};
use selvedge_zipper::zipper::{Neighbour, Zipper};
use support::{IN, PATIENCE, options, read, source, start, text, until_known, wait_until, write};

const BACK: Tag = Tag(0x11);

/// Two zippers that are neighbours.
fn pair() -> [Zipper; 2] {
    let (mut first, mut second) = (options("first"), options("second"));
    let neighbour = |node, addresses| vec![Neighbour { node, addresses }];
    first.mesh = neighbour(second.identity.node_id(), Vec::new());
    let node = first.identity.node_id();
    let first = start(first);
    second.mesh = neighbour(node, first.addresses().to_vec());
    [first, start(second)]
}

/// A function that acknowledges the messages that it has processed.
fn acknowledging(zipper: &Zipper, name: &str, tag: Tag) -> Client {
    let options = ClientOptions::function(name, vec![tag], zipper.addresses().to_vec());
    let function = Client::connect(ClientOptions {
        acknowledge: AcknowledgeMode::ByCall,
        ..options
    });
    function.expect("the zipper lets it in")
}

/// A function that writes each message that it reads, until it is ended. It returns what has become of these.
struct Forwarder {
    handled: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<FlowOutcome>,
}

impl Forwarder {
    fn start(zipper: &Zipper, name: &str, (observed, written): (Tag, Tag)) -> Self {
        let function = acknowledging(zipper, name, observed);
        let (handled, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let thread = std::thread::spawn({
            let (handled, is_over) = (Arc::clone(&handled), Arc::clone(&is_over));
            move || {
                forward(&function, written, &handled, &is_over);
                assert!(function.flush(PATIENCE));
                function.outcomes().total()
            }
        });
        Self {
            handled,
            is_over,
            thread,
        }
    }

    fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    fn end(self) -> FlowOutcome {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it forwards")
    }
}

fn forward(function: &Client, written: Tag, handled: &AtomicU64, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        if let Ok(data) = function.read_timeout(Duration::from_millis(20)) {
            handled.fetch_add(1, Ordering::Relaxed);
            function.write(written, data.payload).expect("it is open");
            function.acknowledge_all();
        }
    }
}

#[test]
fn a_cycle_of_two_functions_at_two_zippers_ends_after_eight() {
    let [first, second] = pair();
    let there = Forwarder::start(&first, "there", (IN, BACK));
    let back = Forwarder::start(&second, "back", (BACK, IN));
    for zipper in [&first, &second] {
        until_known(zipper, IN);
        until_known(zipper, BACK);
    }
    let source = source(&first);
    for _ in 0..100 {
        write(&source, IN, "x");
    }
    assert!(source.flush(PATIENCE));
    wait_until("the cycle is not cut", || second.stats().too_deep == 100);
    assert_eq!((there.handled(), back.handled()), (400, 400));
    // The source is not concerned, and neither is the function whose messages are permitted.
    assert_eq!(source.outcomes().total().settled, 100);
    let settled = |settled, too_deep| FlowOutcome {
        settled,
        too_deep,
        ..FlowOutcome::default()
    };
    assert_eq!(there.end(), settled(400, 0));
    assert_eq!(back.end(), settled(300, 100));
    assert_eq!(first.stats().too_deep, 0);
}

#[test]
fn a_chain_of_seven_functions_is_no_cycle() {
    let [first, second] = pair();
    let tag = |number: u32| Tag(0x20 + number);
    let chain: Vec<_> = (0..7)
        .map(|number| {
            let zipper = [&first, &second][number as usize % 2];
            Forwarder::start(
                zipper,
                &format!("f{number}"),
                (tag(number), tag(number + 1)),
            )
        })
        .collect();
    let sink = support::function(&second, "sink", tag(7));
    for zipper in [&first, &second] {
        (0..8).for_each(|number| until_known(zipper, tag(number)));
    }
    let source = source(&first);
    for number in 0..100 {
        write(&source, tag(0), &number.to_string());
    }
    for number in 0..100 {
        assert_eq!(text(&read(&sink)), number.to_string());
    }
    for function in chain {
        let expected = FlowOutcome {
            settled: 100,
            ..FlowOutcome::default()
        };
        // The last one is settled once the sink has read behind it.
        let _nothing_more = sink.try_read();
        assert_eq!(function.end(), expected);
    }
    assert_eq!(first.stats().too_deep + second.stats().too_deep, 0);
}

/// A function that handles several messages at once states to which of them an output belongs.
#[test]
fn a_message_is_written_with_the_depth_of_the_one_that_was_read_last_or_with_a_given_one() {
    let zipper = start(options("z"));
    let function = acknowledging(&zipper, "f", IN);
    let sinks = ["one", "two"].map(|name| support::function(&zipper, name, BACK));
    let source = source(&zipper);
    let depth = || {
        let depths = sinks.each_ref().map(|sink| {
            let message = sink.receive().expect("a message");
            message.depth()
        });
        assert_eq!(depths[0], depths[1]);
        depths[0]
    };
    function.write(BACK, "before it reads").expect("it is open");
    assert_eq!(depth(), 0);
    source
        .write_at_depth(4, IN, None, None, b"deep")
        .expect("it is open");
    write(&source, IN, "not deep");
    let deep = function.receive().expect("a message");
    assert_eq!((deep.depth(), deep.payload()), (4, &b"deep"[..]));
    function.write(BACK, "").expect("it is open");
    assert_eq!(depth(), 5);
    assert_eq!(function.receive().expect("a message").depth(), 0);
    function.write_with(BACK, None, None, "").expect("open");
    assert_eq!(depth(), 1);
    function
        .write_at_depth(deep.depth() + 1, BACK, None, None, b"")
        .expect("it is open");
    assert_eq!(depth(), 5);
    // In a batch, each has the depth with which it was appended.
    let mut batch = selvedge_client::OutgoingBatch::default();
    let append = |batch: &mut _| function.append(batch, BACK, None, None, b"");
    append(&mut batch).expect("it is short");
    source
        .write_at_depth(6, IN, None, None, b"")
        .expect("it is open");
    assert_eq!(function.receive().expect("a message").depth(), 6);
    append(&mut batch).expect("it is short");
    function.write_batch(&mut batch).expect("it is open");
    assert_eq!((depth(), depth()), (1, 7));
}

/// Both observe what the other writes, and there is no limit: what a client writes that acknowledges nothing belongs to
/// no message that it has read.
#[test]
fn a_client_that_asks_and_one_that_answers_are_no_cycle() {
    let zipper = start(options("z"));
    let asking = support::function(&zipper, "asking", BACK);
    let answering = support::function(&zipper, "answering", IN);
    for number in 0..100_u32 {
        write(&asking, IN, &number.to_string());
        let question = read(&answering);
        write(&answering, BACK, &text(&question));
        assert_eq!(text(&read(&asking)), number.to_string());
    }
    assert_eq!(zipper.stats().too_deep, 0);
}

/// Case 10: it writes two messages of the tag that it observes for each that it reads.
#[test]
fn case_10_a_function_that_writes_its_own_tag_twice_per_message_is_cut_off() {
    let zipper = start(options("z"));
    let function = support::function(&zipper, "f", IN);
    let source = source(&zipper);
    write(&source, IN, "x");
    let mut handled = 0;
    // 1 + 2 + 4 and so on, at eight depths.
    while handled < 255 {
        read(&function);
        handled += 1;
        (0..2).for_each(|_| write(&function, IN, "x"));
    }
    assert!(function.flush(PATIENCE));
    assert!(function.read_timeout(Duration::from_millis(100)).is_err());
    assert_eq!(zipper.stats().too_deep, 256);
    assert_eq!(source.outcomes().total().settled, 1);
}

/// It arrives while no instance of its group is there, and is requested later.
#[test]
fn a_message_that_is_sent_again_keeps_its_depth() {
    let zipper = start(options("z"));
    let sink = || support::function(&zipper, "sink", IN);
    let first = sink();
    let source = source(&zipper);
    write(&source, IN, "");
    assert_eq!(first.receive().expect("a message").depth(), 0);
    assert!(first.try_read().is_err());
    assert!(source.flush(PATIENCE));
    assert!(first.close(PATIENCE));
    drop(first);
    wait_until("it is known", || zipper.observers(IN).is_empty());
    for depth in [3, 0, 7] {
        let written = source.write_at_depth(depth, IN, None, None, b"");
        written.expect("it is open");
    }
    let second = sink();
    let depths = [(); 3].map(|()| second.receive().expect("a message").depth());
    assert_eq!(depths, [3, 0, 7]);
}

fn triple(at: &str, name: &str, (observed, emitted): (&str, &str)) -> Process {
    let guest = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/guests/prebuilt/triple.wasm"
    );
    let mut function = Process::start(&[
        "run",
        "-z",
        at,
        "--name",
        name,
        "--observe",
        observed,
        "--emit",
        emitted,
        "--export",
        "triple",
        guest,
    ]);
    let stdout = function.child.stdout.as_mut().expect("it is piped");
    let started = BufReader::new(stdout).lines().next();
    let started = started.expect("a line").expect("text");
    assert!(started.starts_with("function "), "{started}");
    function
}

/// The part of the name of a metric, and its value.
fn metric(page: &str, series: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(page).expect("it listens");
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let line = answer.lines().find(|line| line.contains(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn operators_see_a_cycle_in_the_log_and_in_a_metric_and_the_function_reports_it() {
    let mut zipper = Process::start(&[
        "serve",
        "--set",
        "listen=['tcp://127.0.0.1:0']",
        "--set",
        "metrics=127.0.0.1:0",
        "--set",
        "limits.function_depth=4",
    ]);
    let stdout = zipper.child.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(stdout).lines();
    let mut behind = |text: &str| {
        let line = lines.next().expect("a line").expect("text");
        let (_, behind) = line.split_once(text).expect("an address");
        behind.trim_end_matches("/metrics").to_owned()
    };
    let (at, pages) = (behind("listens on "), behind("metrics are at http://"));
    let there = triple(&at, "there", ("0x10", "0x11"));
    let mut back = triple(&at, "back", ("0x11", "0x10"));
    let mut source = Process::start(&["source", "-z", &at, "--tag", "0x10"]);
    let mut stdin = source.child.stdin.take().expect("it is piped");
    stdin.write_all(b"1\n2\n").expect("it reads");
    drop(stdin);
    assert!(source.child.wait().expect("it ends").success());
    let line = zipper.wait_for_log("functions form a cycle");
    for expected in [
        "name=\"back\"",
        "tag=0x0010",
        "observers=\"there\"",
        "depth=4",
    ] {
        assert!(line.contains(expected), "{line}");
    }
    let series = "selvedge_zipper_dropped_messages_total{error_type=\"too_deep\"}";
    wait_until("the messages are not counted", || {
        metric(&pages, series) == Some(2)
    });
    kill_process(Pid::from_child(&back.child), Signal::TERM).expect("it runs");
    back.wait_for_log("2 results were refused: they had passed as many functions");
    assert_eq!(back.child.wait().expect("it ends").code(), Some(1));
    drop(there);
    // It was logged once.
    zipper.child.kill().expect("it runs");
    let mut rest = String::new();
    zipper.log.read_to_string(&mut rest).expect("text");
    assert!(!rest.contains("functions form a cycle"), "{rest}");
}
