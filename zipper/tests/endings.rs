//! How zippers and clients end: every loss is reported.

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use selvedge_client::{Client, ClientOptions, SlowConsumerPolicy};
use selvedge_zipper::zipper::Zipper;

use crate::support::{
    IN, PATIENCE, function, options, plain_source, read, source, start, text, until_known, write,
};

#[test]
fn a_function_that_is_killed_while_its_buffer_is_full_holds_nobody_once_another_takes_over() {
    another_takes_over(true);
}

#[test]
fn another_takes_over_from_a_killed_function_that_was_the_only_one() {
    another_takes_over(false);
}

#[test]
fn another_takes_over_what_waits_although_its_source_has_left() {
    let mut options = options("z");
    options.send_buffer = 64 << 10;
    let zipper = start(options);
    let mut killed = sink_process(&zipper, "sink");
    until_known(&zipper, IN);
    killed.kill().expect("it runs");
    killed.wait().expect("it ends");
    let (source, count) = (plain_source(&zipper), 300);
    for number in 0..count {
        write(&source, IN, &format!("{number:01000}"));
    }
    assert!(source.close(PATIENCE), "the zipper has them");
    let (began, other) = (Instant::now(), function(&zipper, "sink", IN));
    let number = |client| text(&read(client)).parse::<u64>().expect("a number");
    let first = number(&other);
    assert!(first < 66, "{first}");
    for expected in first + 1..count {
        assert_eq!(number(&other), expected);
    }
    let elapsed = began.elapsed();
    assert!(
        elapsed < PATIENCE / 2,
        "as long as one is away: {elapsed:?}"
    );
}

/// Messages go to a function that is killed, and to a witness or not; then another one comes.
fn another_takes_over(has_witness: bool) {
    let mut options = options("z");
    options.send_buffer = 64 << 10;
    let zipper = start(options);
    let mut killed = sink_process(&zipper, "sink");
    until_known(&zipper, IN);
    let witness = has_witness.then(|| function(&zipper, "witness", IN));
    killed.kill().expect("it runs");
    killed.wait().expect("it ends");
    let source = plain_source(&zipper);
    let count = 1000;
    for number in 0..count {
        write(&source, IN, &format!("{number:01000}"));
    }
    let deadline = Instant::now() + PATIENCE;
    while zipper.stats().delivered < 60 {
        assert!(Instant::now() < deadline, "its buffer does not fill");
        std::thread::yield_now();
    }
    let other = function(&zipper, "sink", IN);
    let began = Instant::now();
    let number = |client| text(&read(client)).parse::<u64>().expect("a number");
    let first = number(&other);
    // So many there is room for in the buffer of the one that was killed.
    assert!(first < 66, "{first}");
    for expected in first + 1..count {
        assert_eq!(number(&other), expected);
    }
    for expected in 0..count * u64::from(has_witness) {
        assert_eq!(number(witness.as_ref().expect("there is one")), expected);
    }
    let elapsed = began.elapsed();
    assert!(
        elapsed < Duration::from_secs(15),
        "until the other was given up: {elapsed:?}"
    );
}

/// Reads in a process of its own, which can be killed.
fn sink_process(zipper: &Zipper, name: &str) -> Child {
    let at = zipper.addresses()[1].to_string();
    Command::new(env!("CARGO_BIN_EXE_zipper"))
        .args(["sink", "-z", &at, "--observe", "0x10", "--name", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts")
}

#[test]
fn what_a_client_could_not_deliver_before_its_end_is_counted() {
    for (connect, expected) in [
        (plain_source as fn(&Zipper) -> Client, [2, 0]),
        (source, [0, 2]),
    ] {
        let zipper = start(options("z"));
        let source = connect(&zipper);
        drop(zipper);
        until_gone(&source);
        for text in ["waits", "waits too"] {
            write(&source, IN, text);
        }
        assert!(!source.close(Duration::from_millis(1)));
        assert_eq!(
            [source.uncertain(), source.outcomes().unsettled()],
            expected
        );
    }
}

#[test]
fn what_a_zipper_that_closes_has_not_delivered_its_source_counts() {
    for connect in [plain_source as fn(&Zipper) -> Client, source] {
        let zipper = start(options("z"));
        let (sink, source) = (function(&zipper, "sink", IN), connect(&zipper));
        let (sent, got) = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut sent = 0_u32;
                while source.write(IN, sent.to_be_bytes()).is_ok() {
                    sent += 1;
                }
                sent
            });
            let (first, has_read) = std::sync::mpsc::channel();
            // All the time: a sink that does not read is waited for.
            let sink = &sink;
            let read = move || {
                let data = sink.read().ok()?;
                let _is_awaited = first.send(());
                Some(data.payload)
            };
            let reading = scope.spawn(move || std::iter::from_fn(read).collect::<Vec<_>>());
            // What it has not read when its zipper closes is not processed.
            let is_reading = has_read.recv_timeout(PATIENCE);
            let closed = zipper.close(PATIENCE);
            // Before anything is looked at: the threads would go on for ever.
            let _not_delivered = source.close(Duration::ZERO);
            sink.stop();
            let got = reading.join().expect("it does not panic");
            assert!(closed && is_reading.is_ok());
            (writing.join().expect("it does not panic"), got)
        });
        let expected = (0..got.len() as u32).map(|it| it.to_be_bytes().to_vec());
        assert!(
            got.iter().cloned().map(Vec::from).eq(expected),
            "they are not in order"
        );
        let (sent, outcomes) = (u64::from(sent), source.outcomes());
        let uncounted = source.uncertain() + outcomes.unsettled();
        let delivered = got.len() as u64;
        assert!(delivered > 0);
        let all = delivered..=delivered + uncounted;
        assert!(
            all.contains(&sent),
            "{sent} sent, {delivered} delivered, {uncounted} uncertain or unsettled"
        );
        assert!(outcomes.total().settled <= delivered, "{outcomes:?}");
    }
}

/// Waits until a client has noticed that its zipper has gone.
fn until_gone(client: &Client) {
    let deadline = Instant::now() + PATIENCE;
    while client.scheme().is_some() {
        assert!(Instant::now() < deadline, "it does not notice");
        std::thread::yield_now();
    }
}

#[test]
fn a_function_whose_zipper_has_gone_ends_at_once() {
    ends_at_once(false);
}

#[test]
fn a_function_whose_zipper_has_gone_reads_no_more_although_what_it_wrote_waits() {
    ends_at_once(true);
}

fn ends_at_once(has_written: bool) {
    let zipper = start(options("z"));
    let sink = function(&zipper, "sink", IN);
    let source = source(&zipper);
    write(&source, IN, "the last");
    assert_eq!(text(&read(&sink)), "the last");
    drop(source);
    drop(zipper);
    // It would introduce itself again.
    until_gone(&sink);
    if has_written {
        write(&sink, IN, "waits");
    }
    let reading = std::thread::scope(|scope| {
        let reading = scope.spawn(|| sink.read_timeout(PATIENCE));
        let stopped = Instant::now();
        sink.stop();
        assert!(reading.join().expect("it reads").is_err());
        stopped.elapsed()
    });
    assert!(reading < PATIENCE / 2, "it lingers: {reading:?}");
}

#[test]
fn a_function_that_finishes_leaves_nothing_that_is_counted_as_lost() {
    let zipper = start(options("z"));
    for _ in 0..20 {
        let function = function(&zipper, "function", IN);
        function.finish();
        assert!(function.read_timeout(PATIENCE).is_err());
        assert!(function.close(PATIENCE));
    }
    let watch = zipper.watch();
    assert!(zipper.close(PATIENCE));
    assert_eq!(watch.stats().undelivered, 0);
}

#[test]
fn a_function_that_drops_the_oldest_messages_finishes_with_the_last_one() {
    let zipper = start(options("z"));
    let slow = Client::connect(ClientOptions {
        slow_consumer: SlowConsumerPolicy::DropOldest,
        ..ClientOptions::function("slow", vec![IN], zipper.addresses().to_vec())
    });
    let slow = slow.expect("the zipper lets it in");
    until_known(&zipper, IN);
    let source = Client::connect(ClientOptions {
        level: None,
        ..ClientOptions::source("source", zipper.addresses().to_vec())
    });
    let (source, count) = (source.expect("the zipper lets it in"), 20_000);
    for number in 0..count {
        write(&source, IN, &format!("{number:01000}"));
    }
    assert!(source.close(PATIENCE), "it is not held back");
    // Its zipper has up to 1 MiB that was not sent yet.
    slow.finish();
    let (mut received, mut last) = (0, None);
    while let Ok(data) = slow.read_timeout(PATIENCE) {
        let number = text(&data).parse::<u64>().expect("a number");
        assert!(last < Some(number), "{number} behind {last:?}");
        (received, last) = (received + 1, Some(number));
    }
    assert!(slow.close(PATIENCE));
    assert_eq!(last, Some(count - 1));
    let stats = zipper.stats();
    assert!(stats.no_room > 0, "{stats:?}");
    assert_eq!((received + stats.no_room, stats.undelivered), (count, 0));
}
