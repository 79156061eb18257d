//! Numeric functions: guests that map one number to one number.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wasmtime::{Func, FuncType, InstancePre, Linker, Module, Store, TypedFunc, Val, ValType};

use crate::budget::CallKind;
use crate::call::{CallError, StartError};
use crate::core_abi::failed;
use crate::function::FunctionConfig;
use crate::host::HostShared;
use crate::instance::StopHandle;
use crate::load::{self, LoadError, WasmKind};
use crate::state::{GuestState, GuestTemplate, begin, describe};
use crate::stats::FunctionStats;

/// The type of the parameter or the result of a numeric function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are WebAssembly's own")]
pub enum NumericType {
    F32,
    F64,
    I32,
    I64,
}

impl NumericType {
    fn of(value: &ValType) -> Option<Self> {
        match value {
            ValType::F32 => Some(Self::F32),
            ValType::F64 => Some(Self::F64),
            ValType::I32 => Some(Self::I32),
            ValType::I64 => Some(Self::I64),
            ValType::V128 | ValType::Ref(_) => None,
        }
    }
}

impl std::fmt::Display for NumericType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::I32 => "i32",
            Self::I64 => "i64",
        })
    }
}

/// The parameter and the result of a function of one number, or `None` for any other function.
pub(crate) fn signature(function: &FuncType) -> Option<(NumericType, NumericType)> {
    let mut parameters = function.params();
    let mut results = function.results();
    match (
        parameters.next(),
        parameters.next(),
        results.next(),
        results.next(),
    ) {
        (Some(parameter), None, Some(result), None) => {
            Some((NumericType::of(&parameter)?, NumericType::of(&result)?))
        }
        _ => None,
    }
}

/// A running guest that maps one number to one number, for example `triple(f64) -> f64`.
///
/// It has the deadline and memory limit of an [`Instance`](crate::Instance), and is recycled after the
/// same failures. It may import nothing. The types of its parameter and of its result are f64, f32,
/// i32 or i64.
#[derive(Debug)]
pub struct NumericFunction {
    code: NumericCode,
    template: GuestTemplate,
    guest: Option<NumericGuest>,
    stats: FunctionStats,
}

#[derive(Clone)]
struct NumericCode {
    pre: InstancePre<GuestState>,
    export: Arc<str>,
    parameter: NumericType,
    result: NumericType,
}

impl std::fmt::Debug for NumericCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({}) -> {}", self.export, self.parameter, self.result)
    }
}

struct NumericGuest {
    store: Store<GuestState>,
    entry: EntryPoint,
}

impl std::fmt::Debug for NumericGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guest").field(self.store.data()).finish()
    }
}

/// The guest's function: the most usual type is called without dynamic values.
enum EntryPoint {
    F64(TypedFunc<f64, f64>),
    Any(Func),
}

impl NumericFunction {
    pub(crate) fn load(
        shared: &Arc<HostShared>,
        wasm: &[u8],
        export: &str,
        config: FunctionConfig,
    ) -> Result<Self, LoadError> {
        if load::kind(wasm)? != WasmKind::Module {
            return Err(LoadError::WrongKind);
        }
        load::check_complexity(wasm, &config.limits)?;
        let (module, _) = load::module(shared, wasm)?;
        let (parameter, result) = find(&module, export)?;
        load::refuse_imports(&module)?;
        let pre = Linker::new(&shared.engine)
            .instantiate_pre(&module)
            .map_err(|error| LoadError::Invalid {
                reason: format!("{error:#}"),
            })?;
        let code = NumericCode {
            pre,
            export: export.into(),
            parameter,
            result,
        };
        let FunctionConfig {
            name,
            limits,
            config,
        } = config;
        let template =
            GuestTemplate::new(Arc::clone(shared), name.into(), Arc::new(config), limits);
        let guest = NumericGuest::start(&code, &template).map_err(LoadError::Start)?;
        Ok(Self {
            code,
            template,
            guest: Some(guest),
            stats: FunctionStats::default(),
        })
    }

    /// Calls the guest with one number and returns its result. Blocks at most for the deadline and two
    /// ticks.
    ///
    /// An f32 parameter receives the nearest f32; an i64 result above 2^53 is rounded to the nearest
    /// f64.
    ///
    /// # Errors
    /// [`CallError::NotRepresentable`] if the parameter is an integer and `value` is not one of that
    /// type; otherwise as [`Instance::handle`](crate::Instance::handle).
    pub fn call(&mut self, value: f64) -> Result<f64, CallError> {
        self.stats.calls += 1;
        let result = self.run(value);
        match &result {
            Ok(_) => self.stats.handled += 1,
            Err(error) => {
                self.stats.count_failure(error);
                if error.recycled() && self.guest.take().is_some() {
                    self.stats.recycled += 1;
                }
            }
        }
        result
    }

    fn run(&mut self, value: f64) -> Result<f64, CallError> {
        if self.template.stop.load(Ordering::Relaxed) {
            return Err(CallError::Stopped);
        }
        let guest = match &mut self.guest {
            Some(guest) => guest,
            empty @ None => {
                let guest = NumericGuest::start(&self.code, &self.template);
                empty.insert(guest.map_err(CallError::Restart)?)
            }
        };
        let argument = from_f64(value, self.code.parameter)?;
        begin(&mut guest.store, CallKind::Message);
        let result = guest.entry.call(&mut guest.store, argument);
        result.map_err(|error| describe(&error, guest.store.data()))
    }

    /// Starts another guest of the same code, with its own memory.
    ///
    /// # Errors
    /// [`StartError`] if the guest traps or exceeds a limit while it starts.
    pub fn fresh(&self) -> Result<Self, StartError> {
        let GuestTemplate {
            shared,
            config,
            limits,
            stop: _,
            log,
        } = &self.template;
        let template = GuestTemplate::new(
            Arc::clone(shared),
            Arc::clone(log.function()),
            Arc::clone(config),
            limits.clone(),
        );
        let guest = NumericGuest::start(&self.code, &template)?;
        let code = self.code.clone();
        Ok(Self {
            code,
            template,
            guest: Some(guest),
            stats: FunctionStats::default(),
        })
    }

    /// The types of the parameter and of the result.
    #[must_use]
    pub fn signature(&self) -> (NumericType, NumericType) {
        (self.code.parameter, self.code.result)
    }

    /// The counters. Those of outputs, host calls and log lines are always 0.
    #[must_use]
    pub fn stats(&self) -> FunctionStats {
        let memory_bytes = self
            .guest
            .as_ref()
            .map_or(0, |guest| guest.store.data().memory_bytes());
        FunctionStats {
            memory_bytes,
            ..self.stats
        }
    }

    /// The clock of the host: [`Instance::ticks`](crate::Instance::ticks).
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.template.shared.ticker.ticks().now()
    }

    /// A handle with which another thread can stop the function.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.template.stop))
    }
}

fn find(module: &Module, export: &str) -> Result<(NumericType, NumericType), LoadError> {
    const EXPECTED: &str = "a function of one number, such as func(f64) -> f64";
    match module.get_export(export) {
        None => Err(LoadError::MissingExport {
            export: export.into(),
            expected: EXPECTED.into(),
            found: load::export_names(module),
        }),
        Some(found) => found
            .func()
            .and_then(signature)
            .ok_or_else(|| LoadError::WrongExport {
                export: export.into(),
                expected: EXPECTED.into(),
                found: load::describe(&found),
            }),
    }
}

impl NumericGuest {
    fn start(code: &NumericCode, template: &GuestTemplate) -> Result<Self, StartError> {
        let mut store = template.store();
        begin(&mut store, CallKind::Start);
        let instance = code.pre.instantiate(&mut store);
        let instance = instance.map_err(|error| failed("instantiation", &error, &store))?;
        let entry = EntryPoint::resolve(&instance, &mut store, &code.export);
        let entry = entry.map_err(|error| failed("instantiation", &error, &store))?;
        Ok(Self { store, entry })
    }
}

impl EntryPoint {
    fn resolve(
        instance: &wasmtime::Instance,
        store: &mut Store<GuestState>,
        export: &str,
    ) -> wasmtime::Result<Self> {
        if let Ok(function) = instance.get_typed_func::<f64, f64>(&mut *store, export) {
            return Ok(Self::F64(function));
        }
        let function = instance.get_func(&mut *store, export);
        // The loader has checked that the export exists.
        function
            .map(Self::Any)
            .ok_or_else(|| wasmtime::Error::msg("its exports changed"))
    }

    fn call(&self, store: &mut Store<GuestState>, argument: Val) -> wasmtime::Result<f64> {
        match (self, argument) {
            (Self::F64(function), Val::F64(bits)) => function.call(store, f64::from_bits(bits)),
            (Self::F64(_), _) => Err(wasmtime::Error::msg("the argument has another type")),
            (Self::Any(function), argument) => {
                let mut results = [Val::I32(0)];
                function.call(store, &[argument], &mut results)?;
                to_f64(&results[0])
            }
        }
    }
}

/// Converts `value` to the type of the guest's parameter, if it is a value of that type.
fn from_f64(value: f64, wanted: NumericType) -> Result<Val, CallError> {
    let whole = |bound: f64| value.fract() == 0.0 && value >= -bound && value < bound;
    match wanted {
        NumericType::F64 => Ok(Val::F64(value.to_bits())),
        NumericType::F32 => Ok(Val::F32((value as f32).to_bits())),
        NumericType::I32 if whole(2f64.powi(31)) => Ok(Val::I32(value as i32)),
        NumericType::I64 if whole(2f64.powi(63)) => Ok(Val::I64(value as i64)),
        NumericType::I32 | NumericType::I64 => Err(CallError::NotRepresentable { value, wanted }),
    }
}

fn to_f64(value: &Val) -> wasmtime::Result<f64> {
    match value {
        Val::F64(bits) => Ok(f64::from_bits(*bits)),
        Val::F32(bits) => Ok(f64::from(f32::from_bits(*bits))),
        Val::I32(value) => Ok(f64::from(*value)),
        Val::I64(value) => Ok(*value as f64),
        _ => Err(wasmtime::Error::msg("the result is not a number")),
    }
}
