//! A source, one zipper, and functions that read, each with its own threads.

use std::sync::Arc;

use bytes::Bytes;
use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions, SettlementLevel};
use selvedge_driver::{Address, Driver, DriverConfig, Identity};
use selvedge_zipper::zipper::{self, Zipper};

use crate::Workload;

/// The tag that the functions observe.
pub const TAG: Tag = Tag(0x10);

/// A zipper that listens on a free port.
#[must_use]
pub fn start_zipper(scheme: &str) -> Zipper {
    let identity = Identity::generate().expect("randomness");
    let mut options = zipper::ZipperOptions::new("bench", identity);
    let address = format!("{scheme}://127.0.0.1:0").parse();
    options.listen = vec![address.expect("an address")];
    Zipper::start(options).expect("a zipper")
}

/// A source connected to the zipper at one of these addresses.
#[must_use]
pub fn source(at: Vec<Address>) -> Client {
    source_with(at, None)
}

/// The same, whose messages are settled at a level.
#[must_use]
pub fn source_with(at: Vec<Address>, level: Option<SettlementLevel>) -> Client {
    let options = ClientOptions {
        level,
        ..ClientOptions::source("source", at)
    };
    Client::connect(options).expect("the zipper has no token")
}

/// `count` functions with distinct names, each of which receives a copy of each message. They share a
/// worker.
#[must_use]
pub fn sinks(count: usize, at: &[Address]) -> Vec<Client> {
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("a thread"));
    let sink = |number| {
        let mut options = ClientOptions::function(format!("sink {number}"), vec![TAG], at.to_vec());
        options.driver = Some(Arc::clone(&driver));
        Client::connect(options).expect("the zipper has no token")
    };
    (0..count).map(sink).collect()
}

/// Messages in one direction from a source through a zipper to functions, counted by the readers.
#[derive(Debug)]
pub struct Hop {
    source: Client,
    sinks: Vec<Client>,
    payload: Bytes,
    /// The limit of messages in flight: 1 measures the latency of one.
    window: u64,
    // Kept because dropping it stops it.
    _zipper: Zipper,
}

impl Hop {
    /// Messages of `len` bytes to one function, with a limit of messages in flight (0: no limit).
    #[must_use]
    pub fn new(scheme: &str, len: usize, window: u64) -> Self {
        Self::fan_out(scheme, len, window, 1)
    }

    /// The same to several functions, each of which receives a copy of every message.
    #[must_use]
    pub fn fan_out(scheme: &str, len: usize, window: u64, functions: usize) -> Self {
        let zipper = start_zipper(scheme);
        Self {
            sinks: sinks(functions, zipper.addresses()),
            source: source(zipper.addresses().to_vec()),
            payload: vec![7; len].into(),
            window,
            _zipper: zipper,
        }
    }
}

impl Workload for Hop {
    fn run(&mut self, count: u64) {
        let Self {
            source,
            sinks,
            payload,
            window,
            ..
        } = self;
        let read_from = |sink: &Client| drop(sink.read().expect("it is open"));
        if *window == 1 {
            for _ in 0..count {
                source.write(TAG, &*payload).expect("it is open");
                sinks.iter().for_each(read_from);
            }
            return;
        }
        std::thread::scope(|scope| {
            for sink in sinks {
                scope.spawn(|| (0..count).for_each(|_| read_from(sink)));
            }
            for _ in 0..count {
                source.write(TAG, &*payload).expect("it is open");
            }
        });
    }
}
