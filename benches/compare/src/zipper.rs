//! Selvedge through one zipper: sources and functions are clients with default settings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions};
use selvedge_driver::{Driver, DriverConfig, Identity};
use selvedge_zipper::zipper::{self, Zipper};

use crate::job::Job;

const QUESTION: Tag = Tag(0x10);
const ANSWER: Tag = Tag(0x11);

/// The messages that each of many threads counts locally first: they share the meter's cache line, which
/// would cost as much as reading. The peers' clients count once per read.
const COUNTED_TOGETHER: u64 = 32;

/// How the workers of a zipper or client wait.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    /// The default: they poll for a while before they sleep, if that pays off.
    Default,
    /// They sleep at once.
    Blocking,
}

impl Wait {
    const fn spin(self, default: Duration) -> Duration {
        match self {
            Self::Default => default,
            Self::Blocking => Duration::ZERO,
        }
    }
}

/// The zipper.
pub(crate) fn route(job: &Job, scheme: &str, wait: Wait) {
    let identity = Identity::generate().expect("randomness");
    let mut options = zipper::ZipperOptions::new("compare", identity);
    options.spin = wait.spin(options.spin);
    let at = format!("{scheme}://127.0.0.1:0");
    options.listen = vec![at.parse().expect("an address")];
    let zipper = Zipper::start(options).expect("a port and threads");
    job.ready(&zipper.addresses()[0].to_string());
    loop {
        std::thread::park();
    }
}

fn options(job: &Job, name: &str, observed: Option<Tag>) -> ClientOptions {
    let zippers = vec![job.address().parse().expect("the zipper reported it")];
    match observed {
        Some(tag) => ClientOptions::function(name, vec![tag], zippers),
        None => ClientOptions::source(name, zippers),
    }
}

fn connect(job: &Job, name: &str, observed: Option<Tag>, wait: Wait) -> Client {
    let mut options = options(job, name, observed);
    options.spin = wait.spin(options.spin);
    Client::connect(options).expect("it lets everybody in")
}

/// A function that reads.
pub(crate) fn count(job: &Job) {
    let client = connect(job, "sink", Some(QUESTION), Wait::Default);
    job.ready("");
    while let Ok(data) = client.read() {
        job.meter.add(1, data.payload.len());
    }
}

/// Several functions with distinct names, each of which receives every message. They share one worker, as in a
/// process with many functions, and as the subscribers of the peers do.
pub(crate) fn count_each(job: &Job, subscribers: usize) {
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("a thread"));
    let clients: Vec<_> = (0..subscribers)
        .map(|number| {
            let mut options = options(job, &format!("sink-{number}"), Some(QUESTION));
            options.driver = Some(Arc::clone(&driver));
            Client::connect(options).expect("it lets everybody in")
        })
        .collect();
    job.ready("");
    let threads = clients.into_iter().map(|client| {
        let meter = Arc::clone(&job.meter);
        std::thread::spawn(move || {
            let (mut messages, mut bytes) = (0, 0);
            while let Ok(data) = client.read() {
                messages += 1;
                bytes += data.payload.len();
                if messages == COUNTED_TOGETHER {
                    meter.add_shared(messages, bytes);
                    (messages, bytes) = (0, 0);
                }
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().expect("reading does not panic");
    }
}

/// A source.
pub(crate) fn flood(job: &Job) {
    let client = connect(job, "source", None, Wait::Default);
    let payload = Bytes::from(job.payload());
    job.ready("");
    while client.write(QUESTION, &payload).is_ok() {}
}

/// A function that responds on another tag.
pub(crate) fn echo(job: &Job, wait: Wait) {
    let client = connect(job, "answerer", Some(QUESTION), wait);
    job.ready("");
    while let Ok(data) = client.read() {
        client.write(ANSWER, data.payload).expect("it is open");
    }
}

/// Sends requests, one at a time.
pub(crate) fn ask(job: &Job, wait: Wait) {
    let client = connect(job, "asker", Some(ANSWER), wait);
    let payload = Bytes::from(job.payload());
    job.ready("");
    loop {
        let asked = Instant::now();
        if client.write(QUESTION, &payload).is_err() || client.read().is_err() {
            return;
        }
        job.meter.trip(asked.elapsed());
    }
}
