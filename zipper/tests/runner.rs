//! A guest in a runner: what it answers arrives in order and once.

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use selvedge_client::tag::Tag;
use selvedge_client::{AcknowledgeMode, Client, ClientOptions, SettlementLevel};
use selvedge_hub::Identity;
use selvedge_wasm_host::{FunctionConfig, Host, HostConfig};
use selvedge_zipper::runner::{Runner, RunnerCounts, RunnerGuest};
use selvedge_zipper::zipper::{self, Zipper};

/// Far longer than anything here takes; only a bug waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
const IN: Tag = Tag(0x10);
const OUT: Tag = Tag(0x11);

fn zipper() -> Zipper {
    let identity = Identity::generate().expect("randomness");
    let mut options = zipper::ZipperOptions::new("zipper", identity);
    options.listen = vec!["tcp://127.0.0.1:0".parse().expect("an address")];
    Zipper::start(options).expect("a zipper")
}

fn connect(options: ClientOptions) -> Client {
    Client::connect(options).expect("the zipper lets it in")
}

/// Answers a number with three times the number.
fn triple() -> RunnerGuest {
    let wasm = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/guests/prebuilt/triple.wasm"
    );
    let host = Host::new(HostConfig::default()).expect("a host");
    let function = host.load_numeric(wasm, "triple", FunctionConfig::named("triple"));
    RunnerGuest::Numeric {
        function: Box::new(function.expect("the guest loads")),
        emit: OUT,
    }
}

/// Writes `message` of each number and reads as many answers from a warm guest.
fn answers(
    count: u32,
    message: impl Fn(u32) -> String + Sync,
    answers: usize,
) -> (Vec<Bytes>, RunnerCounts) {
    let zipper = zipper();
    let at = || zipper.addresses().to_vec();
    let sink = connect(ClientOptions::function("sink", vec![OUT], at()));
    let function = connect(ClientOptions::function("triple", vec![IN], at()));
    let source = connect(ClientOptions::source("source", at()));
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            let mut runner = Runner::new(&function, triple(), "triple");
            let _stopped = runner.run();
            runner.counts()
        });
        scope.spawn(|| {
            for number in 0..count {
                let message = message(number);
                source.write(IN, message).expect("it is open");
            }
        });
        let read = || sink.read_timeout(PATIENCE).map(|data| data.payload);
        let read: Result<_, _> = (0..answers).map(|_| read()).collect();
        // Before anything is looked at: the threads would wait for ever.
        function.stop();
        source.stop();
        let counts = working.join().expect("it does not panic");
        (read.expect("all answers"), counts)
    })
}

#[test]
fn each_message_is_answered_once_and_in_order() {
    let count = 20_000;
    let (answers, counts) = answers(count, |number| number.to_string(), count as usize);
    let expected: Vec<String> = (0..count).map(|it| (3 * it).to_string()).collect();
    assert_eq!(answers, expected);
    let all = u64::from(count);
    assert_eq!(
        (counts.handled, counts.failed, counts.written),
        (all, 0, all)
    );
}

#[test]
fn a_function_that_finishes_has_answered_all_that_was_for_it() {
    let zipper = zipper();
    let at = || zipper.addresses().to_vec();
    let sink = connect(ClientOptions::function("sink", vec![OUT], at()));
    // Of messages that are settled, those that it has not read go to another instance.
    let plain = |options| {
        connect(ClientOptions {
            level: None,
            ..options
        })
    };
    let function = plain(ClientOptions::function("triple", vec![IN], at()));
    let source = plain(ClientOptions::source("source", at()));
    let counts = thread::scope(|scope| {
        let working = scope.spawn(|| {
            let mut runner = Runner::new(&function, triple(), "triple");
            let _finished = runner.run();
            assert!(function.close(PATIENCE));
            runner.counts()
        });
        scope.spawn(|| {
            let mut number = 0_u64;
            while source.write(IN, number.to_string()).is_ok() {
                number += 1;
            }
        });
        let read = |_| sink.read_timeout(PATIENCE).map(|data| data.payload);
        let first: Result<Vec<_>, _> = (0..1000).map(read).collect();
        function.finish();
        let counts = working.join();
        // Before anything is looked at: its thread would write for ever.
        assert!(source.close(PATIENCE));
        let counts = counts.expect("it does not panic");
        let rest: Result<Vec<_>, _> = (1000..counts.handled).map(read).collect();
        let answers = [first.expect("answers"), rest.expect("all answers")].concat();
        let expected: Vec<String> = (0..counts.handled).map(|it| (3 * it).to_string()).collect();
        assert_eq!(answers, expected);
        counts
    });
    let (handled, stats) = (counts.handled, zipper.stats());
    assert_eq!((counts.written, counts.unsent), (handled, 0));
    // Each answer came from the function, and went to the sink.
    assert_eq!(stats.received, 2 * handled + stats.unobserved);
    assert_eq!((stats.unreachable, stats.undelivered), (0, 0));
    assert_eq!(sink.read_timeout(Duration::ZERO).ok(), None);
}

#[test]
fn a_message_that_the_guest_fails_on_takes_no_other_with_it() {
    let message = |number: u32| match number % 3 {
        1 => "one".to_owned(),
        _ => number.to_string(),
    };
    let (answers, counts) = answers(3000, message, 2000);
    let expected: Vec<String> = (0..3000)
        .filter(|it| it % 3 != 1)
        .map(|it| (3 * it).to_string())
        .collect();
    assert_eq!(answers, expected);
    assert_eq!((counts.handled, counts.failed), (2000, 1000));
}

#[test]
fn messages_are_settled_once_their_answers_are_written_or_the_guest_has_failed_on_them() {
    let zipper = zipper();
    let at = || zipper.addresses().to_vec();
    let sink = connect(ClientOptions::function("sink", vec![OUT], at()));
    let function = connect(ClientOptions {
        acknowledge: AcknowledgeMode::ByCall,
        level: Some(SettlementLevel::Processed),
        ..ClientOptions::function("triple", vec![IN], at())
    });
    let source = connect(ClientOptions {
        level: Some(SettlementLevel::Processed),
        ..ClientOptions::source("source", at())
    });
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            let mut runner = Runner::new(&function, triple(), "triple");
            let _stopped = runner.run();
            runner.counts()
        });
        for number in 0..1000 {
            let message = match number % 10 {
                0 => "no number".to_owned(),
                _ => number.to_string(),
            };
            source.write(IN, message).expect("it is open");
        }
        let is_settled = source.flush(PATIENCE);
        let answers: Vec<_> = (0..900).map(|_| sink.read_timeout(PATIENCE)).collect();
        let are_answers_settled = function.flush(PATIENCE);
        // Before anything is looked at: the thread would wait for ever.
        function.stop();
        let counts = working.join().expect("it does not panic");
        assert!(is_settled && are_answers_settled);
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!((counts.handled, counts.failed), (900, 100));
    });
    assert_eq!(source.outcomes().total().settled, 1000);
    assert_eq!(function.outcomes().total().settled, 900);
}

/// A source and a function whose messages are settled.
fn settled(options: ClientOptions) -> Client {
    connect(ClientOptions {
        level: Some(SettlementLevel::Processed),
        acknowledge: AcknowledgeMode::ByCall,
        ..options
    })
}

#[test]
fn what_a_function_has_not_answered_before_it_ends_another_instance_answers() {
    let zipper = zipper();
    let at = || zipper.addresses().to_vec();
    let sink = connect(ClientOptions::function("sink", vec![OUT], at()));
    let first = settled(ClientOptions::function("triple", vec![IN], at()));
    let source = settled(ClientOptions::source("source", at()));
    let count = 20_000_u32;
    let run = |function: &Client| {
        let mut runner = Runner::new(function, triple(), "triple");
        let _ended = runner.run();
        let is_settled = function.close(PATIENCE);
        (runner.counts(), is_settled)
    };
    let (mut answers, first_counts) = thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                source.write(IN, number.to_string()).expect("it is open");
            }
        });
        // The function ends after 1000 answers; those that it has written then wait for the sink.
        let (note, noted) = mpsc::channel();
        let sink = &sink;
        let reading = scope.spawn(move || {
            let read = |number| {
                if number == 1000 {
                    note.send(()).expect("it is awaited");
                }
                sink.read_timeout(PATIENCE).map(|data| data.payload)
            };
            (0..count).map(read).collect::<Result<Vec<_>, _>>()
        });
        let running = scope.spawn(|| run(&first));
        noted.recv_timeout(PATIENCE).expect("answers");
        first.finish();
        let (first_counts, is_settled) = running.join().expect("it does not panic");
        let second = Arc::new(settled(ClientOptions::function("triple", vec![IN], at())));
        let ended = Arc::clone(&second);
        let running = scope.spawn(move || run(&second));
        let answers = reading.join().expect("it does not panic");
        let is_all = source.flush(PATIENCE);
        // Before anything is looked at: the thread would wait for ever.
        ended.stop();
        let (second_counts, _) = running.join().expect("it does not panic");
        assert!(is_settled && is_all, "{is_settled} {is_all}");
        assert_eq!(second_counts.redelivered, 0);
        (answers.expect("all answers"), first_counts)
    });
    assert!(first_counts.handled < u64::from(count), "{first_counts:?}");
    let expected: BTreeSet<String> = (0..count).map(|it| (3 * it).to_string()).collect();
    answers.sort_unstable();
    assert!(answers.iter().eq(expected.iter().map(String::as_bytes)));
}
