//! Selvedge through one or two zippers: sources and functions are clients with default settings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions, SettlementLevel};
use selvedge_driver::{Driver, DriverConfig, Identity};
use selvedge_zipper::zipper::{Neighbour, Zipper, ZipperOptions};

use crate::job::Job;

const QUESTION: Tag = Tag(0x10);
const ANSWER: Tag = Tag(0x11);

/// The messages that each of many threads counts locally first: they share the meter's cache line, which
/// would cost as much as reading. The peers' clients count once per read.
const COUNTED_TOGETHER: u64 = 32;

/// Longer payloads are kept by a client that has them as `Bytes`.
const COPIED_MAX: usize = 4 << 10;

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
    serve(job, zipper_options(identity, scheme, wait))
}

/// One of the two zippers of a chain, which are the first processes of a program. The second dials the first; each
/// knows the key of the other, which follows from the number of its process.
pub(crate) fn route_chained(job: &Job, scheme: &str, wait: Wait) {
    let identity = |part: usize| Identity::from_seed(&[part as u8; 32]).expect("32 bytes");
    let (own, other) = (job.order.part, 1 - job.order.part);
    let mut options = zipper_options(identity(own), scheme, wait);
    let addresses = job.order.addresses.iter();
    options.mesh = vec![Neighbour {
        node: identity(other).node_id(),
        addresses: addresses
            .map(|at| at.parse().expect("the zipper reported it"))
            .collect(),
    }];
    serve(job, options)
}

fn zipper_options(identity: Identity, scheme: &str, wait: Wait) -> ZipperOptions {
    let mut options = ZipperOptions::new("compare", identity);
    options.spin = wait.spin(options.spin);
    let at = format!("{scheme}://127.0.0.1:0");
    options.listen = vec![at.parse().expect("an address")];
    options
}

fn serve(job: &Job, options: ZipperOptions) -> ! {
    let zipper = Zipper::start(options).expect("a port and threads");
    job.ready(&zipper.addresses()[0].to_string());
    loop {
        std::thread::park();
    }
}

/// Sources connect to the first zipper, functions to the last one. Messages are not settled, like those of the
/// peers, unless a row is about that.
fn options(job: &Job, name: &str, observed: Option<Tag>) -> ClientOptions {
    let zippers = |at: &str| vec![at.parse().expect("the zipper reported it")];
    let options = match observed {
        Some(tag) => ClientOptions::function(name, vec![tag], zippers(job.far_address())),
        None => ClientOptions::source(name, zippers(job.address())),
    };
    ClientOptions {
        level: None,
        ..options
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
    flood_with(job, connect(job, "source", None, Wait::Default));
}

/// A source whose messages are settled.
pub(crate) fn flood_settled(job: &Job) {
    let mut options = options(job, "source", None);
    options.level = Some(SettlementLevel::Processed);
    flood_with(job, Client::connect(options).expect("it lets everybody in"));
}

fn flood_with(job: &Job, client: Client) {
    let payload = Bytes::from(job.payload());
    job.ready("");
    // Short payloads are copied in either case.
    if payload.len() > COPIED_MAX {
        while client.write_bytes(QUESTION, payload.clone()).is_ok() {}
    } else {
        while client.write(QUESTION, &payload).is_ok() {}
    }
}

/// A function that responds on another tag.
pub(crate) fn echo(job: &Job, wait: Wait) {
    echo_with(job, connect(job, "answerer", Some(QUESTION), wait));
}

/// The same with answers that are settled.
pub(crate) fn echo_settled(job: &Job) {
    echo_with(job, connect_settled(job, "answerer", QUESTION));
}

fn echo_with(job: &Job, client: Client) {
    job.ready("");
    while let Ok(data) = client.read() {
        client.write(ANSWER, data.payload).expect("it is open");
    }
}

/// Sends requests, one at a time.
pub(crate) fn ask(job: &Job, wait: Wait) {
    ask_with(job, connect(job, "asker", Some(ANSWER), wait));
}

/// The same with messages that are settled, in both directions.
pub(crate) fn ask_settled(job: &Job) {
    ask_with(job, connect_settled(job, "asker", ANSWER));
}

fn connect_settled(job: &Job, name: &str, observed: Tag) -> Client {
    let mut options = options(job, name, Some(observed));
    options.level = Some(SettlementLevel::Processed);
    Client::connect(options).expect("it lets everybody in")
}

fn ask_with(job: &Job, client: Client) {
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
