//! Round trips through a zipper: a client here, the zipper and a function in their own processes.

use std::time::Instant;

use bytes::Bytes;
use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions};
use selvedge_driver::{Address, Identity};
use selvedge_zipper::zipper::{self, Zipper};

use crate::ends::{Child, Requester, Responder};
use crate::mode::RoundTripMode;
use crate::{ends, raw};

const ASK: Tag = Tag(0x10);
const ANSWER: Tag = Tag(0x11);

/// The zipper.
pub(crate) struct ZipperProcess(Zipper);

impl ZipperProcess {
    pub(crate) fn start(mode: &RoundTripMode) -> Self {
        let identity = Identity::generate().expect("randomness");
        let mut options = zipper::ZipperOptions::new("bench", identity);
        let address = format!("{}://127.0.0.1:0", mode.carrier).parse();
        options.spin = ends::spin(mode);
        options.listen = vec![address.expect("an address")];
        Self(Zipper::start(options).expect("a zipper"))
    }
}

impl Responder for ZipperProcess {
    fn address(&self) -> String {
        self.0.addresses()[0].to_string()
    }
}

fn client(mode: &RoundTripMode, name: &str, tag: Tag, at: &str) -> Client {
    let at: Address = at.parse().expect("an address");
    let mut options = ClientOptions::function(name, vec![tag], vec![at]);
    options.spin = ends::spin(mode);
    // Plain data, as the other modes have it.
    options.level = None;
    Client::connect(options).expect("the zipper has no token")
}

/// The function that responds.
pub(crate) struct FunctionResponder(String);

impl FunctionResponder {
    pub(crate) fn start(mode: &RoundTripMode, zipper: &str) -> Self {
        let client = client(mode, "answer", ASK, zipper);
        std::thread::spawn(move || {
            while let Ok(data) = client.read() {
                client.write(ANSWER, data.payload).expect("it is open");
            }
        });
        Self(zipper.into())
    }
}

impl Responder for FunctionResponder {
    fn address(&self) -> String {
        self.0.clone()
    }
}

/// The client that sends requests. It observes the responses, so for the zipper it is a function, too.
pub(crate) struct ZipperRequester {
    client: Client,
    function: Child,
    zipper: Child,
}

impl ZipperRequester {
    pub(crate) fn start(mode: &RoundTripMode) -> Self {
        let name = mode.to_string();
        let zipper = Child::start(&["far", &name, "zipper"]);
        let client = client(mode, "ask", ANSWER, &zipper.address);
        let function = Child::start(&["far", &name, "function", &zipper.address]);
        Self {
            client,
            function,
            zipper,
        }
    }
}

impl Requester for ZipperRequester {
    fn run(&mut self, count: usize) -> Vec<u64> {
        let payload = Bytes::from_static(&[7; raw::LEN]);
        let trip = |_| {
            let before = Instant::now();
            let written = self.client.write(ASK, payload.clone());
            written.expect("it is open");
            self.client.read().expect("it is open");
            before.elapsed().as_nanos() as u64
        };
        (0..count).map(trip).collect()
    }

    fn others(&self) -> Vec<u32> {
        vec![self.function.pid(), self.zipper.pid()]
    }
}
