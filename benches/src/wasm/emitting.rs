//! Bare wasmtime with the guests of wasm-host, which write through a host function: the cost of the
//! interface alone, without limits, deadlines and counters.

use bytes::Bytes;
use wasmtime::component::{Component, ComponentType, Lift};
use wasmtime::{Caller, Engine, Memory, Module, Store, StoreContextMut, TypedFunc};

use super::bare::engine;
use super::{COMPONENT, CORE, TAG};
use crate::Workload;

/// A guest's memory and its outputs.
#[derive(Debug, Default)]
struct GuestMemory {
    memory: Option<Memory>,
    written: Vec<Bytes>,
}

fn store(engine: &Engine) -> Store<GuestMemory> {
    let mut store = Store::new(engine, GuestMemory::default());
    store.set_epoch_deadline(1);
    store
}

/// The core ABI.
pub struct EmittingCore {
    store: Store<GuestMemory>,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    handle: TypedFunc<(u32, u32, u32), i32>,
    payload: Bytes,
}

impl std::fmt::Debug for EmittingCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmittingCore").finish_non_exhaustive()
    }
}

fn emit(mut caller: Caller<'_, GuestMemory>, _tag: u32, at: u32, len: u32) -> i32 {
    let memory = caller
        .data()
        .memory
        .expect("it is set before the first call");
    let (bytes, state) = memory.data_and_store_mut(&mut caller);
    let payload = &bytes[at as usize..][..len as usize];
    state.written.push(Bytes::copy_from_slice(payload));
    0
}

impl EmittingCore {
    /// Called with `len` bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let engine = engine();
        let wasm = wat::parse_str(CORE).expect("the text is valid");
        let module = Module::new(&engine, wasm).expect("it compiles");
        let mut linker = wasmtime::Linker::new(&engine);
        let linked = linker.func_wrap("selvedge", "emit", emit);
        linked.expect("it is not there yet");
        let mut store = store(&engine);
        let instance = linker.instantiate(&mut store, &module).expect("it starts");
        let memory = instance.get_memory(&mut store, "memory");
        store.data_mut().memory = memory;
        let alloc = instance.get_typed_func(&mut store, "alloc");
        let handle = instance.get_typed_func(&mut store, "handle");
        Self {
            memory: memory.expect("it is exported"),
            alloc: alloc.expect("it is exported"),
            handle: handle.expect("it is exported"),
            store,
            payload: vec![7; len].into(),
        }
    }

    fn call(&mut self) -> wasmtime::Result<Option<Bytes>> {
        let Self { store, payload, .. } = self;
        let len = u32::try_from(payload.len())?;
        let at = self.alloc.call(&mut *store, len)?;
        self.memory.write(&mut *store, at as usize, payload)?;
        self.handle.call(&mut *store, (TAG, at, len))?;
        Ok(store.data_mut().written.pop())
    }
}

impl Workload for EmittingCore {
    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let answer = self.call().expect("it does not fail");
            assert_eq!(answer.map(|it| it.len()), Some(self.payload.len()));
        }
    }
}

/// The record `failure` of the world.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
struct GuestFailure {
    code: i32,
    message: String,
}

type HandleFunction =
    wasmtime::component::TypedFunc<(u32, &'static [u8]), (Result<(), GuestFailure>,)>;

/// The world of components.
pub struct EmittingComponent {
    store: Store<GuestMemory>,
    handle: HandleFunction,
    payload: &'static [u8],
}

impl std::fmt::Debug for EmittingComponent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmittingComponent").finish_non_exhaustive()
    }
}

impl EmittingComponent {
    /// Called with `len` bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let engine = engine();
        let wasm = wat::parse_str(COMPONENT).expect("the text is valid");
        let component = Component::new(&engine, wasm).expect("it compiles");
        let mut linker = wasmtime::component::Linker::new(&engine);
        let mut output = linker
            .instance("selvedge:function/output@0.1.0")
            .expect("it is not there yet");
        let emit = |mut store: StoreContextMut<'_, GuestMemory>, (_, payload): (u32, Vec<u8>)| {
            store.data_mut().written.push(payload.into());
            Ok(())
        };
        output.func_wrap("emit", emit).expect("it is not there yet");
        let mut store = store(&engine);
        let instance = linker.instantiate(&mut store, &component);
        let handle = instance
            .expect("it starts")
            .get_typed_func(&mut store, "handle");
        Self {
            handle: handle.expect("it is exported"),
            store,
            // Lives as long as the program: a typed function borrows its arguments for one lifetime.
            payload: vec![7; len].leak(),
        }
    }
}

impl Workload for EmittingComponent {
    fn run(&mut self, count: u64) {
        for _ in 0..count {
            let result = self.handle.call(&mut self.store, (TAG, self.payload));
            if let (Err(GuestFailure { code, message }),) = result.expect("it does not fail") {
                panic!("refused with code {code}: {message}");
            }
            let answer = self.store.data_mut().written.pop();
            assert_eq!(answer.map(|it| it.len()), Some(self.payload.len()));
        }
    }
}
