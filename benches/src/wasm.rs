//! One call of a WebAssembly function that copies its input, in wasm-host and in bare wasmtime.

mod bare;
mod emitting;

use bytes::Bytes;
use selvedge_wasm_host::{FunctionConfig, Host, HostConfig, Instance};

use crate::Workload;

pub use bare::{BareComponent, BareCore};
pub use emitting::{EmittingComponent, EmittingCore};

/// The tag that a guest is called with.
const TAG: u32 = 0x10;

/// The core module that a zipper can run; its outputs have the tag 0x20.
pub const CORE: &str = include_str!("wasm/core.wat");

const COMPONENT: &str = include_str!("wasm/component.wat");

/// An instance in wasm-host, as a zipper's runner uses it. Its outputs are read and dropped.
#[derive(Debug)]
pub struct HostedGuest {
    instance: Instance,
    payload: Bytes,
}

impl HostedGuest {
    /// A core module, called with `len` bytes.
    #[must_use]
    pub fn core(len: usize) -> Self {
        Self::new(CORE, len)
    }

    /// A component, called with `len` bytes.
    #[must_use]
    pub fn component(len: usize) -> Self {
        Self::new(COMPONENT, len)
    }

    fn new(text: &str, len: usize) -> Self {
        Self {
            instance: instance(text),
            payload: vec![7; len].into(),
        }
    }
}

/// A running guest with the default limits.
#[must_use]
pub fn instance(text: &str) -> Instance {
    let host = Host::new(HostConfig::default()).expect("an engine");
    let wasm = wat::parse_str(text).expect("the text is valid");
    let function = host.load_bytes(&wasm, FunctionConfig::named("bench"));
    let instance = function.expect("a guest").instantiate();
    instance.expect("a guest that starts")
}

impl Workload for HostedGuest {
    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let outputs = self.instance.handle(TAG, &self.payload);
            let mut outputs = outputs.expect("it does not fail");
            let output = outputs.next().expect("it answers");
            assert_eq!(output.payload.len(), self.payload.len());
        }
    }
}
