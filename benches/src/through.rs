//! A source, a zipper, a function that copies its input, and a sink; the function is native or
//! WebAssembly.

use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions};
use selvedge_driver::Identity;
use selvedge_zipper::runner::{Runner, RunnerGuest};
use selvedge_zipper::zipper::{self, Zipper};

use crate::{Workload, wasm};

const IN: Tag = Tag(0x10);

/// The output tag of the guest [`wasm::CORE`].
const OUT: Tag = Tag(0x20);

/// The kind of function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A loop over the client.
    Native,
    /// A core module in a runner.
    Wasm,
}

/// Messages from a source through a zipper to a function, and its outputs through the zipper to a sink. They are
/// not settled.
#[derive(Debug)]
pub struct Through {
    source: Client,
    sink: Client,
    function: Arc<Client>,
    working: Option<JoinHandle<()>>,
    payload: Bytes,
    // Kept because dropping it stops it.
    _zipper: Zipper,
}

impl Through {
    /// Messages of `len` bytes.
    #[must_use]
    pub fn new(scheme: &str, len: usize, work: Work) -> Self {
        let identity = Identity::generate().expect("randomness");
        let mut options = zipper::ZipperOptions::new("bench", identity);
        let address = format!("{scheme}://127.0.0.1:0").parse();
        options.listen = vec![address.expect("an address")];
        let zipper = Zipper::start(options).expect("a zipper");
        let at = || zipper.addresses().to_vec();
        let connect = |options| {
            let options = ClientOptions {
                level: None,
                ..options
            };
            Client::connect(options).expect("the zipper has no token")
        };
        let sink = connect(ClientOptions::function("sink", vec![OUT], at()));
        let function = Arc::new(connect(ClientOptions::function("copy", vec![IN], at())));
        let source = connect(ClientOptions::source("source", at()));
        let client = Arc::clone(&function);
        Self {
            source,
            sink,
            function,
            working: Some(std::thread::spawn(move || copy(&client, work))),
            payload: vec![7; len].into(),
            _zipper: zipper,
        }
    }
}

/// Copies messages until the client is stopped.
fn copy(client: &Client, work: Work) {
    match work {
        Work::Native => {
            while let Ok(data) = client.read() {
                let answer = Bytes::copy_from_slice(&data.payload);
                if client.write(OUT, answer).is_err() {
                    return;
                }
            }
        }
        Work::Wasm => {
            let guest = RunnerGuest::Function(Box::new(wasm::instance(wasm::CORE)));
            let _stopped = Runner::new(client, guest, "copy").run();
        }
    }
}

impl Workload for Through {
    fn run(&mut self, count: u64) {
        let Self {
            source,
            sink,
            payload,
            ..
        } = self;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..count {
                    source.write(IN, &*payload).expect("it is open");
                }
            });
            for _ in 0..count {
                sink.read().expect("it is open");
            }
        });
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        self.function.stop();
        if let Some(working) = self.working.take() {
            working.join().expect("it does not panic");
        }
    }
}
