//! Functions that hold a source back, and that stall, with real zippers and clients.

#[allow(dead_code, reason = "a part of it is used")]
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use selvedge_client::wire::{AdminQuery, AdminRow, AdminValue};
use selvedge_client::{AdminClient, Client, ClientOptions, SettlementLevel};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};
use support::{IN, PATIENCE, options, start, until_known, wait_until};

/// More than a window of messages of this length. So are 512, which a blocked function keeps.
const LEN: usize = 20 << 10;
const COUNT: u64 = 2000;

fn impatient(name: &str) -> ZipperOptions {
    ZipperOptions {
        stalled_max: Duration::from_secs(2),
        ..options(name)
    }
}

fn source(zipper: &Zipper) -> Client {
    let connected = Client::connect(ClientOptions {
        level: Some(SettlementLevel::Processed),
        ..ClientOptions::source("source", zipper.addresses().to_vec())
    });
    connected.expect("the zipper lets it in")
}

fn function(zipper: &Zipper) -> Client {
    support::function(zipper, "f", IN)
}

fn payload(number: u64) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(LEN, 0);
    payload
}

fn number(payload: &[u8]) -> u64 {
    let number = payload[..8].try_into();
    u64::from_be_bytes(number.expect("a number"))
}

/// Reads until it is ended. Returns the numbers.
fn reading(function: Client, is_over: &Arc<AtomicBool>) -> JoinHandle<BTreeSet<u64>> {
    let is_over = Arc::clone(is_over);
    std::thread::spawn(move || {
        let mut numbers = BTreeSet::new();
        while !is_over.load(Ordering::Relaxed) {
            if let Ok(data) = function.read_timeout(Duration::from_millis(20)) {
                numbers.insert(number(&data.payload));
            }
        }
        numbers
    })
}

/// A source of `entry` writes to functions of `home`, one of which reads nothing.
fn the_others_receive_everything(entry: &Zipper, home: &Zipper) {
    let blocked = function(home);
    let normal = function(home);
    until_known(entry, IN);
    let source = source(entry);
    // Both are known before much is written.
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = reading(normal, &is_over);
    for number in 0..COUNT {
        source.write(IN, payload(number)).expect("it is open");
    }
    assert!(source.flush(PATIENCE), "the blocked one holds it back");
    let total = source.outcomes().total();
    assert_eq!((total.settled, total.abandoned()), (COUNT, 0));
    assert_eq!(home.stats().stalled, 1);
    is_over.store(true, Ordering::Relaxed);
    let numbers = reader.join().expect("it has read");
    assert_eq!(numbers.len() as u64, COUNT);
    // It has lost what it had, and is there again once it reads.
    source.write(IN, payload(COUNT)).expect("it is open");
    let data = blocked.read_timeout(PATIENCE).expect("a message");
    assert_eq!(number(&data.payload), COUNT);
    assert!(source.flush(PATIENCE));
}

#[test]
fn a_function_that_stalls_is_disconnected_and_the_others_receive_everything() {
    let zipper = start(impatient("z"));
    the_others_receive_everything(&zipper, &zipper);
}

#[test]
fn a_function_that_stalls_is_disconnected_by_its_zipper_when_the_source_is_at_another_one() {
    let (mut home, mut entry) = (impatient("home"), impatient("entry"));
    let neighbour = |node, addresses| vec![Neighbour { node, addresses }];
    home.mesh = neighbour(entry.identity.node_id(), Vec::new());
    let node = home.identity.node_id();
    let home = start(home);
    entry.mesh = neighbour(node, home.addresses().to_vec());
    let entry = start(entry);
    the_others_receive_everything(&entry, &home);
}

#[test]
fn a_function_that_holds_a_source_back_is_listed_until_it_reads() {
    let zipper = start(options("z"));
    let function = function(&zipper);
    let source = source(&zipper);
    let operator = support::source(&zipper);
    let mut operator = AdminClient::from(operator);
    let mut slow = || -> Vec<AdminRow> {
        let rows = operator.list(AdminQuery::Slow, PATIENCE);
        rows.expect("it is permitted")
    };
    assert_eq!(slow(), []);
    // More than a window, and less than a log.
    let count = COUNT * 3 / 10;
    for number in 0..count {
        source.write(IN, payload(number)).expect("it is open");
    }
    let mut rows = Vec::new();
    wait_until("it is not listed", || {
        rows = slow();
        !rows.is_empty()
    });
    let [row] = &rows[..] else {
        panic!("{rows:?}");
    };
    assert_eq!(row.get("name"), Some(&AdminValue::Text("f".into())));
    assert_eq!(row.get("tag"), Some(&AdminValue::Tags(vec![IN])));
    assert_eq!(row.get("sources"), Some(&AdminValue::Number(1)));
    assert!(row.get("client").is_some(), "{row:?}");
    assert_eq!(zipper.watch().held_flows(), 1);
    for expected in 0..count {
        let data = function.read_timeout(PATIENCE).expect("a message");
        assert_eq!(number(&data.payload), expected);
    }
    assert!(source.flush(PATIENCE));
    wait_until("it is still listed", || slow().is_empty());
    assert_eq!(
        (zipper.watch().held_flows(), zipper.stats().stalled),
        (0, 0)
    );
}
