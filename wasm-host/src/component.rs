//! Components of the world in `wit/function.wit`.

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker, WasmList};
use wasmtime::{Store, StoreContextMut};

use crate::budget::CallKind;
use crate::call::{CallError, StartError};
use crate::core_abi::failed;
use crate::log::Level;
use crate::state::{GuestState, GuestTemplate, begin, describe};

use bindings::selvedge::function::{config, logging, types};
pub(crate) use bindings::{StreamFunction, StreamFunctionPre};

mod bindings {
    #![allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        unnameable_types,
        unused_qualifications,
        clippy::all,
        clippy::unwrap_used,
        clippy::too_many_lines,
        clippy::allow_attributes_without_reason,
        reason = "generated from wit/function.wit, which holds the documentation"
    )]
    wasmtime::component::bindgen!({
        path: "wit",
        world: "stream-function",
        // A host function ends the call when a limit is exceeded.
        imports: { default: trappable },
    });
}

/// The package of all imports that the host provides.
pub(crate) const IMPORT_PACKAGE: &str = "selvedge:function/";
/// The interface for outputs.
const OUTPUT: &str = "selvedge:function/output@0.1.0";
/// The maximum length of a failure message, in bytes.
const FAILURE_MESSAGE_BYTES_MAX: usize = 1024;

/// A running component.
pub(crate) struct ComponentGuest {
    pub(crate) store: Store<GuestState>,
    bindings: StreamFunction,
}

impl ComponentGuest {
    pub(crate) fn start(
        pre: &StreamFunctionPre<GuestState>,
        template: &GuestTemplate,
    ) -> Result<Self, StartError> {
        let mut store = template.store();
        begin(&mut store, CallKind::Start);
        match pre.instantiate(&mut store) {
            Ok(bindings) => Ok(Self { store, bindings }),
            Err(error) => Err(failed("instantiation", &error, &store)),
        }
    }

    /// Calls the guest with one message. Its outputs are in the store afterwards.
    pub(crate) fn handle(&mut self, tag: u32, payload: &[u8]) -> Result<(), CallError> {
        begin(&mut self.store, CallKind::Message);
        let result = self.bindings.call_handle(&mut self.store, tag, payload);
        match result.map_err(|e| describe(&e, self.store.data()))? {
            Ok(()) => Ok(()),
            Err(types::Failure { code, mut message }) => {
                message.truncate(message.floor_char_boundary(FAILURE_MESSAGE_BYTES_MAX));
                Err(CallError::GuestError { code, message })
            }
        }
    }

    pub(crate) fn observe(&mut self) -> Result<Vec<u32>, StartError> {
        begin(&mut self.store, CallKind::Start);
        let tags = self.bindings.call_observe(&mut self.store);
        tags.map_err(|e| failed("observe", &e, &self.store))
    }
}

/// The interfaces that a component may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    types::add_to_linker::<_, HasSelf<GuestState>>(&mut linker, |state| state)?;
    config::add_to_linker::<_, HasSelf<GuestState>>(&mut linker, |state| state)?;
    logging::add_to_linker::<_, HasSelf<GuestState>>(&mut linker, |state| state)?;
    // Not generated, so that a payload is checked in the guest's memory: nothing is allocated for a
    // payload that exceeds the limit.
    let mut output = linker.instance(OUTPUT)?;
    output.func_wrap("emit", |store, (tag, payload)| {
        emit(store, tag, None, &payload)
    })?;
    output.func_wrap("emit-to", |store, (tag, target, payload)| {
        emit(store, tag, Some(target), &payload)
    })?;
    Ok(linker)
}

fn emit(
    mut store: StoreContextMut<'_, GuestState>,
    tag: u32,
    target: Option<String>,
    payload: &WasmList<u8>,
) -> wasmtime::Result<()> {
    let budget = &mut store.data_mut().budget;
    budget.take_host_call()?;
    let target_len = target.as_ref().map_or(0, String::len);
    budget.take_output(payload.len().saturating_add(target_len))?;
    let bytes_left = budget.output_bytes_left();
    // Moved out of the store meanwhile: reading the payload in the guest's memory borrows the store.
    let mut outputs = std::mem::take(&mut store.data_mut().outputs);
    outputs.push(tag, target, payload.as_le_slice(&store), bytes_left);
    store.data_mut().outputs = outputs;
    Ok(())
}

impl types::Host for GuestState {}

impl config::Host for GuestState {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        self.budget.take_host_call()?;
        Ok(self.config(&key).cloned())
    }
}

impl logging::Host for GuestState {
    fn log(&mut self, level: logging::Level, message: String) -> wasmtime::Result<()> {
        self.budget.take_host_call()?;
        let level = match level {
            logging::Level::Trace => Level::Trace,
            logging::Level::Debug => Level::Debug,
            logging::Level::Info => Level::Info,
            logging::Level::Warn => Level::Warn,
            logging::Level::Error => Level::Error,
        };
        self.write_log(level, &message);
        Ok(())
    }
}
