//! A source, one zipper, and a function that reads: each with threads of its own.

use bytes::Bytes;
use selvedge_driver::Identity;
use selvedge_zipper::client::{Client, Options};
use selvedge_zipper::tag::Tag;
use selvedge_zipper::zipper::{self, Zipper};

use crate::Load;

const TAG: Tag = Tag(0x10);

/// Messages from a source by a zipper to a function: one way, counted where they are read.
#[derive(Debug)]
pub struct Hop {
    source: Client,
    sink: Client,
    payload: Bytes,
    /// How many may be under way: 1 measures the time of one.
    window: u64,
    // Held, not used: dropped, it ends.
    _zipper: Zipper,
}

impl Hop {
    /// Messages of `len` bytes, of which so many are under way at once.
    #[must_use]
    pub fn new(scheme: &str, len: usize, window: u64) -> Self {
        let identity = Identity::generate().expect("randomness");
        let mut options = zipper::Options::new("bench", identity);
        let address = format!("{scheme}://127.0.0.1:0").parse();
        options.listen = vec![address.expect("an address")];
        let zipper = Zipper::start(options).expect("a zipper");
        let at = || zipper.addresses().to_vec();
        let sink = Client::connect(Options::function("sink", vec![TAG], at()));
        let source = Client::connect(Options::source("source", at()));
        Self {
            source: source.expect("it lets everybody in"),
            sink: sink.expect("it lets everybody in"),
            payload: vec![7; len].into(),
            window,
            _zipper: zipper,
        }
    }
}

impl Load for Hop {
    fn run(&mut self, count: u64) {
        let Self {
            source,
            sink,
            payload,
            window,
            ..
        } = self;
        if *window == 1 {
            for _ in 0..count {
                source.write(TAG, payload.clone()).expect("it is open");
                sink.read().expect("it is open");
            }
            return;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..count {
                    source.write(TAG, payload.clone()).expect("it is open");
                }
            });
            for _ in 0..count {
                sink.read().expect("it is open");
            }
        });
    }
}
