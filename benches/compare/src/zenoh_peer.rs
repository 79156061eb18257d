//! zenoh, peer to peer or through a router, as in its examples for latency and throughput.

use std::sync::Arc;
use std::time::{Duration, Instant};

use zenoh::bytes::ZBytes;
use zenoh::pubsub::Publisher;
use zenoh::qos::CongestionControl;
use zenoh::{Config, Session, Wait};

use crate::certificate;
use crate::job::{Job, free_address};

const QUESTION: &str = "compare/question";
const ANSWER: &str = "compare/answer";

/// How a session finds the others.
enum Meet {
    Listen {
        mode: &'static str,
        at: String,
        /// Those that it connects to as well.
        to: Vec<String>,
    },
    Connect {
        mode: &'static str,
        at: String,
    },
}

fn open(job: &Job, meet: &Meet) -> Session {
    let mut config = Config::default();
    let mut set = |key: &str, value: &str| {
        config.insert_json5(key, value).expect("a setting of zenoh");
    };
    let folder = &job.order.folder;
    let shown = format!("{:?}", certificate::certificate(folder));
    set("scouting/multicast/enabled", "false");
    set("scouting/gossip/enabled", "false");
    set("transport/link/tls/root_ca_certificate", &shown);
    match meet {
        Meet::Listen { mode, at, to } => {
            set("mode", &format!("{mode:?}"));
            set("listen/endpoints", &format!("[{at:?}]"));
            set("connect/endpoints", &format!("{to:?}"));
            set("transport/link/tls/listen_certificate", &shown);
            let key = format!("{:?}", certificate::key(folder));
            set("transport/link/tls/listen_private_key", &key);
        }
        Meet::Connect { mode, at } => {
            set("mode", &format!("{mode:?}"));
            set("listen/endpoints", "[]");
            set("connect/endpoints", &format!("[{at:?}]"));
        }
    }
    zenoh::open(config).wait().expect("zenoh opens")
}

fn listen(job: &Job, mode: &'static str, scheme: &str) -> (Session, String) {
    let at = format!("{scheme}/{}", free_address());
    let meet = Meet::Listen {
        mode,
        at: at.clone(),
        to: job.order.addresses.clone(),
    };
    (open(job, &meet), at)
}

/// With a router, both ends are its clients.
fn connect(job: &Job, mode: &'static str, at: &str) -> Session {
    let at = at.to_owned();
    open(job, &Meet::Connect { mode, at })
}

/// The work, the same peer to peer and through a router.
fn publisher(session: &Session, key: &'static str, is_express: bool) -> Publisher<'static> {
    let publisher = session
        .declare_publisher(key)
        .congestion_control(CongestionControl::Block)
        .express(is_express);
    publisher.wait().expect("a key")
}

fn forever() -> ! {
    loop {
        std::thread::park();
    }
}

/// A router, connected to those that started before.
pub(crate) fn route(job: &Job, scheme: &str) {
    let (_session, at) = listen(job, "router", scheme);
    job.ready(&at);
    forever()
}

fn answer(session: &Session) {
    let publisher = publisher(session, ANSWER, true);
    let subscriber = session
        .declare_subscriber(QUESTION)
        .callback(move |sample| {
            let put = publisher.put(sample.payload().clone()).wait();
            put.expect("the session is open");
        });
    subscriber.background().wait().expect("a key");
}

/// Echoes each message to the requesting peer.
pub(crate) fn echo(job: &Job, scheme: &str) {
    let (session, at) = listen(job, "peer", scheme);
    answer(&session);
    job.ready(&at);
    forever()
}

/// The same as a client of a router.
pub(crate) fn echo_routed(job: &Job) {
    let session = connect(job, "client", job.address());
    answer(&session);
    job.ready("");
    forever()
}

/// Sends requests, one at a time.
pub(crate) fn ask(job: &Job, mode: &'static str) {
    let session = connect(job, mode, job.address());
    let subscriber = session.declare_subscriber(ANSWER).wait().expect("a key");
    let publisher = publisher(&session, QUESTION, true);
    let payload = ZBytes::from(job.payload());
    let ask = || publisher.put(payload.clone()).wait().expect("it is open");
    // Requests are lost until both sides know the other's subscriptions.
    loop {
        ask();
        let answered = subscriber.recv_timeout(Duration::from_millis(100));
        if answered.is_ok_and(|answer| answer.is_some()) {
            break;
        }
    }
    job.ready("");
    loop {
        let asked = Instant::now();
        ask();
        if subscriber.recv().is_err() {
            return;
        }
        job.meter.trip(asked.elapsed());
    }
}

fn subscribe(job: &Job, session: &Session) {
    let meter = Arc::clone(&job.meter);
    let subscriber = session
        .declare_subscriber(QUESTION)
        .callback(move |sample| {
            meter.add_shared(1, sample.payload().len());
        });
    subscriber.background().wait().expect("a key");
}

/// Counts received messages.
pub(crate) fn count(job: &Job, scheme: &str) {
    let (session, at) = listen(job, "peer", scheme);
    subscribe(job, &session);
    job.ready(&at);
    forever()
}

/// The same as a client of the last router.
pub(crate) fn count_routed(job: &Job) {
    let session = connect(job, "client", job.far_address());
    subscribe(job, &session);
    job.ready("");
    forever()
}

/// Publishes as fast as congestion control allows.
pub(crate) fn flood(job: &Job, mode: &'static str) {
    let session = connect(job, mode, job.address());
    let publisher = publisher(&session, QUESTION, false);
    let payload = ZBytes::from(job.payload());
    job.ready("");
    while publisher.put(payload.clone()).wait().is_ok() {}
}
