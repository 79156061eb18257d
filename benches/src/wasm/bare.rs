//! Bare wasmtime with the shortest interface: bytes are an argument and a result.

use bytes::Bytes;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Memory, Module, Store, TypedFunc};

use crate::Workload;

pub(super) fn engine() -> Engine {
    // The settings of wasm-host.
    let mut config = Config::new();
    config.epoch_interruption(true).shared_memory(false);
    Engine::new(&config).expect("an engine")
}

/// An allocation in the guest, one call, and a copy of the result.
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
        let wasm = wat::parse_str(include_str!("bare_core.wat")).expect("the text is valid");
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

impl Workload for BareCore {
    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let answer = self.call().expect("it does not fail");
            assert_eq!(answer.len(), self.payload.len());
        }
    }
}

/// Bytes in and out through the canonical ABI.
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
        let text = include_str!("bare_component.wat");
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

impl Workload for BareComponent {
    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let answer = self.process.call(&mut self.store, (self.payload,));
            let (answer,) = answer.expect("it does not fail");
            assert_eq!(answer.len(), self.payload.len());
        }
    }
}
