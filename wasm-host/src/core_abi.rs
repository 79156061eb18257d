//! Core modules: the implementation of the ABI in `ABI.md`.

use wasmtime::{Caller, Engine, InstancePre, Linker, Memory, Store, TypedFunc};

use crate::budget::{AbortReason, CallKind};
use crate::call::{CallError, StartError};
use crate::log::Level;
use crate::state::{GuestState, GuestTemplate, begin, describe};

/// The module name of every import that the host provides to core guests.
pub(crate) const IMPORT_MODULE: &str = "selvedge";
/// The functions in that module.
pub(crate) const IMPORTS: [&str; 4] = ["config_get", "emit", "emit_to", "log"];

/// What a core guest must export, with types as printed by `load::describe`.
pub(crate) const EXPORTS: [(&str, &str); 3] = [
    ("memory", "memory"),
    ("alloc", "func(i32) -> i32"),
    ("handle", "func(i32, i32, i32) -> i32"),
];
/// What a core guest may export.
pub(crate) const OPTIONAL_EXPORTS: [(&str, &str); 4] = [
    ("_initialize", "func()"),
    ("init", "func() -> i32"),
    ("observe_count", "func() -> i32"),
    ("observe_at", "func(i32) -> i32"),
];

/// The result of `config_get` for a key that is not set.
const ABSENT: i32 = -1;
/// The only result of the emit functions: an exceeded limit ends the call instead.
const ACCEPTED: i32 = 0;

/// A running core guest.
pub(crate) struct CoreGuest {
    pub(crate) store: Store<GuestState>,
    instance: wasmtime::Instance,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    handle: TypedFunc<(u32, u32, u32), i32>,
}

impl CoreGuest {
    /// Instantiates the module and runs its initialisers, each with its own deadline.
    pub(crate) fn start(
        pre: &InstancePre<GuestState>,
        template: &GuestTemplate,
    ) -> Result<Self, StartError> {
        let mut store = template.store();
        begin(&mut store, CallKind::Start);
        let instance = pre.instantiate(&mut store);
        let instance = instance.map_err(|e| failed("instantiation", &e, &store))?;
        // The loader has checked these exports and their types.
        let memory = instance.get_memory(&mut store, "memory");
        let alloc = instance.get_typed_func(&mut store, "alloc");
        let handle = instance.get_typed_func(&mut store, "handle");
        let (Some(memory), Ok(alloc), Ok(handle)) = (memory, alloc, handle) else {
            let reason = "its exports changed after loading".into();
            return Err(start_error("instantiation", CallError::Trapped { reason }));
        };
        store.data_mut().memory = Some(memory);
        let mut guest = Self {
            store,
            instance,
            memory,
            alloc,
            handle,
        };
        guest.run_optional::<()>("_initialize")?;
        let code = guest.run_optional::<i32>("init")?.unwrap_or(0);
        if code != 0 {
            let cause = CallError::GuestError {
                code,
                message: String::new(),
            };
            return Err(start_error("init", cause));
        }
        Ok(guest)
    }

    /// Calls the guest with one message. Its outputs are in the store afterwards.
    pub(crate) fn handle(&mut self, tag: u32, payload: &[u8]) -> Result<(), CallError> {
        begin(&mut self.store, CallKind::Message);
        let limit = self.store.data().budget.limits().memory_bytes;
        let Ok(len) = u32::try_from(payload.len()) else {
            return Err(CallError::InputTooLarge {
                bytes: payload.len(),
                limit,
            });
        };
        let code = self.enter(tag, payload, len);
        match code.map_err(|e| describe(&e, self.store.data()))? {
            0 => Ok(()),
            code => Err(CallError::GuestError {
                code,
                message: String::new(),
            }),
        }
    }

    fn enter(&mut self, tag: u32, payload: &[u8], len: u32) -> wasmtime::Result<i32> {
        let pointer = self.alloc.call(&mut self.store, len)?;
        let memory = self.memory.data_mut(&mut self.store);
        slice_mut(memory, pointer, len)?.copy_from_slice(payload);
        self.handle.call(&mut self.store, (tag, pointer, len))
    }

    /// The tags that the guest declares; none if it exports no `observe_count`.
    pub(crate) fn observe(&mut self, limit: usize) -> Result<Vec<u32>, StartError> {
        let count = self.run_optional::<i32>("observe_count")?.unwrap_or(0);
        let count = usize::try_from(count).unwrap_or(0);
        if count == 0 {
            return Ok(Vec::new());
        }
        let at = self
            .instance
            .get_typed_func::<i32, i32>(&mut self.store, "observe_at");
        let at = at.map_err(|e| failed("observe", &e, &self.store))?;
        let mut tags = Vec::with_capacity(count.min(limit));
        // One more than the limit, so that the loader can detect that there are too many.
        for index in 0..count.min(limit + 1) {
            begin(&mut self.store, CallKind::Start);
            let index = i32::try_from(index).unwrap_or(i32::MAX);
            let tag = at.call(&mut self.store, index);
            // Tags are unsigned; WebAssembly has one 32-bit integer type.
            tags.push(
                tag.map_err(|e| failed("observe", &e, &self.store))?
                    .cast_unsigned(),
            );
        }
        Ok(tags)
    }

    fn run_optional<R: wasmtime::WasmResults>(
        &mut self,
        export: &'static str,
    ) -> Result<Option<R>, StartError> {
        let Ok(function) = self
            .instance
            .get_typed_func::<(), R>(&mut self.store, export)
        else {
            return Ok(None);
        };
        begin(&mut self.store, CallKind::Start);
        let result = function.call(&mut self.store, ());
        result
            .map(Some)
            .map_err(|e| failed(export, &e, &self.store))
    }
}

pub(crate) fn failed(
    step: &'static str,
    error: &wasmtime::Error,
    store: &Store<GuestState>,
) -> StartError {
    start_error(step, describe(error, store.data()))
}

fn start_error(step: &'static str, cause: CallError) -> StartError {
    StartError {
        step,
        cause: Box::new(cause),
    }
}

/// The functions that a core guest may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(IMPORT_MODULE, "emit", emit)?;
    linker.func_wrap(IMPORT_MODULE, "emit_to", emit_to)?;
    linker.func_wrap(IMPORT_MODULE, "log", log)?;
    linker.func_wrap(IMPORT_MODULE, "config_get", config_get)?;
    Ok(linker)
}

fn emit(
    mut caller: Caller<'_, GuestState>,
    tag: u32,
    pointer: u32,
    len: u32,
) -> wasmtime::Result<i32> {
    let (memory, state) = open(&mut caller)?;
    let payload = slice(memory, pointer, len)?;
    state.budget.take_output(payload.len())?;
    // Copied, since the guest may reuse its memory once this returns.
    state.push_output(tag, None, payload);
    Ok(ACCEPTED)
}

fn emit_to(
    mut caller: Caller<'_, GuestState>,
    tag: u32,
    pointer: u32,
    len: u32,
    target_pointer: u32,
    target_len: u32,
) -> wasmtime::Result<i32> {
    let (memory, state) = open(&mut caller)?;
    let payload = slice(memory, pointer, len)?;
    let target = slice(memory, target_pointer, target_len)?;
    state
        .budget
        .take_output(payload.len().saturating_add(target.len()))?;
    let target = str::from_utf8(target).map_err(|_| AbortReason::Utf8)?;
    state.push_output(tag, Some(target.into()), payload);
    Ok(ACCEPTED)
}

fn log(
    mut caller: Caller<'_, GuestState>,
    level: u32,
    pointer: u32,
    len: u32,
) -> wasmtime::Result<()> {
    let (memory, state) = open(&mut caller)?;
    let message = slice(memory, pointer, len)?;
    // Lossy, so that a line with an invalid byte is logged, too.
    state.write_log(Level::from_number(level), &String::from_utf8_lossy(message));
    Ok(())
}

fn config_get(
    mut caller: Caller<'_, GuestState>,
    key_pointer: u32,
    key_len: u32,
    buffer: u32,
    capacity: u32,
) -> wasmtime::Result<i32> {
    let (memory, state) = open(&mut caller)?;
    let key = slice(memory, key_pointer, key_len)?;
    let key = str::from_utf8(key).map_err(|_| AbortReason::Utf8)?;
    let Some(value) = state.config(key) else {
        return Ok(ABSENT);
    };
    let value = value.as_bytes();
    let buffer = slice_mut(memory, buffer, capacity)?;
    if let Some(room) = buffer.get_mut(..value.len()) {
        room.copy_from_slice(value);
    }
    Ok(i32::try_from(value.len())?)
}

/// Counts the host call and borrows the guest's memory and the host's state.
fn open<'a>(
    caller: &'a mut Caller<'_, GuestState>,
) -> wasmtime::Result<(&'a mut [u8], &'a mut GuestState)> {
    caller.data_mut().budget.take_host_call()?;
    // The memory is not known yet when a start function calls the host.
    let memory = match caller.data().memory {
        Some(memory) => memory,
        None => match caller
            .get_export("memory")
            .and_then(wasmtime::Extern::into_memory)
        {
            Some(memory) => memory,
            None => return Err(AbortReason::Pointer.into()),
        },
    };
    Ok(memory.data_and_store_mut(caller))
}

fn slice(memory: &[u8], pointer: u32, len: u32) -> Result<&[u8], AbortReason> {
    let start = pointer as usize;
    let end = start
        .checked_add(len as usize)
        .ok_or(AbortReason::Pointer)?;
    memory.get(start..end).ok_or(AbortReason::Pointer)
}

fn slice_mut(memory: &mut [u8], pointer: u32, len: u32) -> Result<&mut [u8], AbortReason> {
    let start = pointer as usize;
    let end = start
        .checked_add(len as usize)
        .ok_or(AbortReason::Pointer)?;
    memory.get_mut(start..end).ok_or(AbortReason::Pointer)
}
