//! Functions of one number.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wasmtime::{Func, FuncType, InstancePre, Linker, Module, Store, TypedFunc, Val, ValType};

use crate::budget::Purpose;
use crate::call::{CallError, StartError};
use crate::core_abi::failed;
use crate::function::FunctionConfig;
use crate::host::Shared;
use crate::instance::StopHandle;
use crate::load::{self, Header, LoadError};
use crate::state::{Blueprint, GuestState, begin, describe};
use crate::stats::FunctionStats;

/// A type of number that a guest's function takes or returns.
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

/// A running guest that turns numbers into numbers, for example `triple(f64) -> f64`.
///
/// It is warm and held to the same deadline and memory limit as an [`Instance`](crate::Instance), and
/// recycled after the same failures. It may import nothing. The type of its parameter and of its
/// result may be f64, f32, i32 or i64.
#[derive(Debug)]
pub struct NumericFunction {
    code: Code,
    blueprint: Blueprint,
    guest: Option<Guest>,
    stats: FunctionStats,
}

#[derive(Clone)]
struct Code {
    pre: InstancePre<GuestState>,
    export: Arc<str>,
    parameter: NumericType,
    result: NumericType,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({}) -> {}", self.export, self.parameter, self.result)
    }
}

struct Guest {
    store: Store<GuestState>,
    entry: Entry,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guest").field(self.store.data()).finish()
    }
}

/// How the guest's function is entered: the usual type without the detour by dynamic values.
enum Entry {
    F64(TypedFunc<f64, f64>),
    Any(Func),
}

impl NumericFunction {
    pub(crate) fn load(
        shared: &Arc<Shared>,
        wasm: &[u8],
        export: &str,
        config: FunctionConfig,
    ) -> Result<Self, LoadError> {
        if load::header(wasm)? != Header::Module {
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
        let code = Code {
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
        let blueprint = Blueprint::new(Arc::clone(shared), name.into(), Arc::new(config), limits);
        let guest = Guest::start(&code, &blueprint).map_err(LoadError::Start)?;
        Ok(Self {
            code,
            blueprint,
            guest: Some(guest),
            stats: FunctionStats::default(),
        })
    }

    /// Hands the guest one number and gives its answer, under the deadline.
    ///
    /// An f32 parameter is given the nearest f32; an i64 result above 2^53 is rounded to the nearest
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
        if self.blueprint.stop.load(Ordering::Relaxed) {
            return Err(CallError::Stopped);
        }
        let guest = match &mut self.guest {
            Some(guest) => guest,
            empty @ None => {
                let guest = Guest::start(&self.code, &self.blueprint);
                empty.insert(guest.map_err(CallError::Restart)?)
            }
        };
        let argument = from_f64(value, self.code.parameter)?;
        begin(&mut guest.store, Purpose::Message);
        let result = guest.entry.call(&mut guest.store, argument);
        result.map_err(|error| describe(&error, guest.store.data()))
    }

    /// A second guest of the same code, with memory of its own.
    ///
    /// # Errors
    /// [`StartError`] if the guest traps or loops while it starts.
    pub fn fresh(&self) -> Result<Self, StartError> {
        let Blueprint {
            shared,
            config,
            limits,
            stop: _,
            log,
        } = &self.blueprint;
        let blueprint = Blueprint::new(
            Arc::clone(shared),
            Arc::clone(log.function()),
            Arc::clone(config),
            limits.clone(),
        );
        let guest = Guest::start(&self.code, &blueprint)?;
        let code = self.code.clone();
        Ok(Self {
            code,
            blueprint,
            guest: Some(guest),
            stats: FunctionStats::default(),
        })
    }

    /// The types of the parameter and of the result.
    #[must_use]
    pub fn signature(&self) -> (NumericType, NumericType) {
        (self.code.parameter, self.code.result)
    }

    /// What it has done so far. Outputs, host calls and log lines are always 0.
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

    /// The clock of its host: [`Instance::ticks`](crate::Instance::ticks).
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.blueprint.shared.ticker.ticks().now()
    }

    /// A handle by which another thread can stop it.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.blueprint.stop))
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

impl Guest {
    fn start(code: &Code, blueprint: &Blueprint) -> Result<Self, StartError> {
        let mut store = blueprint.store();
        begin(&mut store, Purpose::Start);
        let instance = code.pre.instantiate(&mut store);
        let instance = instance.map_err(|error| failed("instantiation", &error, &store))?;
        let entry = Entry::resolve(&instance, &mut store, &code.export);
        let entry = entry.map_err(|error| failed("instantiation", &error, &store))?;
        Ok(Self { store, entry })
    }
}

impl Entry {
    fn resolve(
        instance: &wasmtime::Instance,
        store: &mut Store<GuestState>,
        export: &str,
    ) -> wasmtime::Result<Self> {
        if let Ok(function) = instance.get_typed_func::<f64, f64>(&mut *store, export) {
            return Ok(Self::F64(function));
        }
        let function = instance.get_func(&mut *store, export);
        // The loader has checked that it is there.
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

/// `value` as the guest takes it, if it is a value of that type.
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
