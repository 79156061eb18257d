//! Zippers and clients for tests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use selvedge_client::tag::Tag;
use selvedge_client::wire::Data;
use selvedge_client::{Client, ClientOptions};
use selvedge_hub::Identity;
use selvedge_zipper::zipper::{Zipper, ZipperOptions};

/// Far longer than anything here takes; only a bug waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const IN: Tag = Tag(0x10);

pub(crate) fn identity() -> Identity {
    Identity::generate().expect("randomness")
}

pub(crate) fn options(name: &str) -> ZipperOptions {
    let mut options = ZipperOptions::new(name, identity());
    options.listen = ["quic://127.0.0.1:0", "tcp://127.0.0.1:0"]
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect();
    options
}

pub(crate) fn start(options: ZipperOptions) -> Zipper {
    Zipper::start(options).expect("a zipper")
}

pub(crate) fn source(zipper: &Zipper) -> Client {
    Client::connect(ClientOptions::source("source", zipper.addresses().to_vec()))
        .expect("the zipper lets it in")
}

/// A source whose messages are plain data: what zippers lose is counted, and not sent again.
pub(crate) fn plain_source(zipper: &Zipper) -> Client {
    let options = ClientOptions {
        level: None,
        ..ClientOptions::source("source", zipper.addresses().to_vec())
    };
    Client::connect(options).expect("the zipper lets it in")
}

pub(crate) fn function(zipper: &Zipper, name: &str, tag: Tag) -> Client {
    let at = zipper.addresses().to_vec();
    Client::connect(ClientOptions::function(name, vec![tag], at)).expect("the zipper lets it in")
}

pub(crate) fn text(data: &Data) -> String {
    String::from_utf8(data.payload.to_vec()).expect("text")
}

pub(crate) fn write(client: &Client, tag: Tag, text: &str) {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    client.write(tag, payload).expect("it is connected");
}

pub(crate) fn read(client: &Client) -> Data {
    client.read_timeout(PATIENCE).expect("a message")
}

/// Waits until a zipper knows that somebody observes a tag.
pub(crate) fn until_known(zipper: &Zipper, tag: Tag) {
    wait_until(&format!("nobody observes {tag}"), || {
        !zipper.observers(tag).is_empty()
    });
}

/// Waits until something is so; `what` describes that it is not.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}
