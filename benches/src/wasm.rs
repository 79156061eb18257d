//! One call of a WebAssembly function that copies its input: by wasm-host, and by bare wasmtime.

use bytes::Bytes;
use selvedge_wasm_host::{FunctionConfig, Host, HostConfig, Instance};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Memory, Module, Store, TypedFunc};

use crate::Load;

/// The tag that a guest is called with.
const TAG: u32 = 0x10;

/// The core module that a zipper can run; its answers have the tag 0x20.
pub const CORE: &str = include_str!("wasm/core.wat");

/// An instance under wasm-host, as a zipper's runner uses it: what it wrote is taken, and dropped.
#[derive(Debug)]
pub struct Hosted {
    instance: Instance,
    payload: Bytes,
}

impl Hosted {
    /// A core module, called with `len` bytes.
    #[must_use]
    pub fn core(len: usize) -> Self {
        Self::new(CORE, len)
    }

    /// A component, called with `len` bytes.
    #[must_use]
    pub fn component(len: usize) -> Self {
        Self::new(include_str!("wasm/component.wat"), len)
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

impl Load for Hosted {
    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let outputs = self.instance.handle(TAG, &self.payload);
            let mut outputs = outputs.expect("it does not fail");
            let output = outputs.next().expect("it answers");
            assert_eq!(output.payload.len(), self.payload.len());
        }
    }
}

fn engine() -> Engine {
    // As wasm-host has it.
    let mut config = Config::new();
    config.epoch_interruption(true).shared_memory(false);
    Engine::new(&config).expect("an engine")
}

/// Room in the guest, one call of it, and a copy of the answer.
pub struct BareCore {
    store: Store<()>,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    process: TypedFunc<(u32, u32), u64>,
    payload: Bytes,
}

impl std::fmt::Debug for BareCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareCore").finish_non_exhaustive()
    }
}

impl BareCore {
    /// Called with `len` bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let engine = engine();
        let wasm = wat::parse_str(include_str!("wasm/bare_core.wat")).expect("the text is valid");
        let module = Module::new(&engine, wasm).expect("it compiles");
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).expect("it starts");
        let memory = instance.get_memory(&mut store, "memory");
        let alloc = instance.get_typed_func(&mut store, "alloc");
        let process = instance.get_typed_func(&mut store, "process");
        Self {
            memory: memory.expect("it is exported"),
            alloc: alloc.expect("it is exported"),
            process: process.expect("it is exported"),
            store,
            payload: vec![7; len].into(),
        }
    }

    fn call(&mut self) -> wasmtime::Result<Bytes> {
        let Self { store, payload, .. } = self;
        let len = u32::try_from(payload.len())?;
        let at = self.alloc.call(&mut *store, len)?;
        self.memory.write(&mut *store, at as usize, payload)?;
        let place = self.process.call(&mut *store, (at, len))?;
        let (at, len) = ((place >> 32) as usize, place as u32 as usize);
        let answer = &self.memory.data(&*store)[at..at + len];
        Ok(Bytes::copy_from_slice(answer))
    }
}

impl Load for BareCore {
    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let answer = self.call().expect("it does not fail");
            assert_eq!(answer.len(), self.payload.len());
        }
    }
}

/// Bytes in and out by the canonical ABI.
pub struct BareComponent {
    store: Store<()>,
    process: wasmtime::component::TypedFunc<(&'static [u8],), (Vec<u8>,)>,
    payload: &'static [u8],
}

impl std::fmt::Debug for BareComponent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareComponent").finish_non_exhaustive()
    }
}

impl BareComponent {
    /// Called with `len` bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let engine = engine();
        let text = include_str!("wasm/bare_component.wat");
        let wasm = wat::parse_str(text).expect("the text is valid");
        let component = Component::new(&engine, wasm).expect("it compiles");
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        let instance = Linker::new(&engine).instantiate(&mut store, &component);
        let instance = instance.expect("it starts");
        let process = instance.get_typed_func(&mut store, "process");
        Self {
            process: process.expect("it is exported"),
            store,
            // Lives as long as the program: a typed function borrows its arguments for one lifetime.
            payload: vec![7; len].leak(),
        }
    }
}

impl Load for BareComponent {
    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let answer = self.process.call(&mut self.store, (self.payload,));
            let (answer,) = answer.expect("it does not fail");
            assert_eq!(answer.len(), self.payload.len());
        }
    }
}
