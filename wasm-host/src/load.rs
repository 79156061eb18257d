//! From bytes to code that may run here: what it is, whether it fits, what it wants.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use wasmparser::Payload;
use wasmtime::component::Component;
use wasmtime::{ExternType, InstancePre, Module};

use crate::call::StartError;
use crate::component::{self, StreamFunctionPre};
use crate::core_abi;
use crate::host::Shared;
use crate::limits::GuestLimits;
use crate::numeric;
use crate::state::GuestState;

/// Why a function was not loaded. Retrying the same bytes helps only after [`Read`](Self::Read) and,
/// on an overloaded machine, [`Start`](Self::Start); otherwise the guest must be built anew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The guest imports what this host does not grant, for example WASI.
    #[error("the guest imports {import}, which is not granted; granted are {granted}")]
    ImportNotGranted {
        /// `module.name` of a core module, the interface of a component.
        import: String,
        /// What may be imported.
        granted: String,
    },
    /// The bytes begin as WebAssembly but are damaged, or use a feature that is off.
    #[error("not valid WebAssembly: {reason}")]
    Invalid {
        /// What the compiler said.
        reason: String,
    },
    /// An export that the contract demands is missing.
    #[error(
        "the guest does not export {export} ({expected}); it exports {}",
        list(found)
    )]
    MissingExport {
        /// Its name.
        export: String,
        /// What it should be.
        expected: String,
        /// What the guest exports instead.
        found: Vec<String>,
    },
    /// The bytes are not WebAssembly at all.
    #[error("not WebAssembly: {looks_like}")]
    NotWasm {
        /// What they look like.
        looks_like: &'static str,
    },
    /// The module only has functions of numbers: [`Host::load_numeric`](crate::Host::load_numeric)
    /// runs it.
    #[error(
        "the guest handles no messages, but has functions of one number: {}",
        list(exports)
    )]
    OnlyNumeric {
        /// Their names.
        exports: Vec<String>,
    },
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The guest loaded but could not be started on trial.
    #[error(transparent)]
    Start(StartError),
    /// The file is larger than [`GuestLimits::module_bytes`](crate::Limits::module_bytes).
    #[error("{bytes} bytes are more than the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Compiling the guest would take too long: it has more functions than
    /// [`GuestLimits::module_functions`](crate::Limits::module_functions), or a larger one than
    /// [`GuestLimits::function_bytes`](crate::Limits::function_bytes).
    #[error("too much to compile: {what} is {size}, the limit is {limit}")]
    TooComplex {
        /// What there is too much of.
        what: &'static str,
        /// How much there is, as far as it was counted.
        size: u32,
        /// The limit.
        limit: u32,
    },
    /// The guest observes too many tags.
    #[error("the guest observes more than {limit} tags")]
    TooManyTags {
        /// How many are allowed.
        limit: usize,
    },
    /// The guest follows no contract that this host knows.
    #[error(
        "the guest follows no known contract: a component exports observe and handle, \
         a core module memory, alloc and handle; this one exports {}",
        list(found)
    )]
    UnknownAbi {
        /// What it exports.
        found: Vec<String>,
    },
    /// An export has another type than the contract demands.
    #[error("the guest exports {export} as {found}, expected is {expected}")]
    WrongExport {
        /// Its name.
        export: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A numeric function was asked of a component; only core modules have them.
    #[error("the guest is a component, a numeric function is a core module")]
    WrongKind,
    /// An import or export of a component has another type than the world says, for example because
    /// it was built against another version.
    #[error("the component does not fit the world selvedge:function/stream-function: {reason}")]
    WrongWorld {
        /// What does not fit.
        reason: String,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".into()
    } else {
        names.join(", ")
    }
}

/// Exports named in an error; the rest is left out.
const NAMES_MAX: usize = 32;

/// What the first eight bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    Component,
    Module,
}

pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read {
        path: path.into(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    check_size(file.metadata().map_err(failed)?.len(), limit)?;
    let mut wasm = Vec::new();
    // The file may grow after it was measured, and a pipe has no length.
    file.take(limit.saturating_add(1))
        .read_to_end(&mut wasm)
        .map_err(failed)?;
    check_size(wasm.len() as u64, limit)?;
    Ok(wasm)
}

pub(crate) fn check_size(bytes: u64, limit: u64) -> Result<(), LoadError> {
    if bytes > limit {
        Err(LoadError::TooLarge { bytes, limit })
    } else {
        Ok(())
    }
}

pub(crate) fn header(wasm: &[u8]) -> Result<Header, LoadError> {
    let looks_like = match wasm {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => return Ok(Header::Module),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => return Ok(Header::Component),
        [0, b'a', b's', b'm', ..] => "WebAssembly of an unknown version, or cut off",
        [] => "the file is empty",
        [0x7f, b'E', b'L', b'F', ..] => "native or precompiled code, which is never trusted",
        [b'(', ..] => "WebAssembly text, which must be assembled first",
        _ => "unknown bytes",
    };
    Err(LoadError::NotWasm { looks_like })
}

/// Refuses what would take too long to compile, by counting and without compiling.
pub(crate) fn check_complexity(wasm: &[u8], limits: &GuestLimits) -> Result<(), LoadError> {
    let mut functions = 0_u32;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|error| LoadError::Invalid {
            reason: error.to_string(),
        })?;
        // A component's modules are parsed in place, so their functions add up.
        match payload {
            Payload::CodeSectionStart { count, .. } => {
                functions = functions.saturating_add(count);
                let limit = limits.module_functions;
                if functions > limit {
                    let what = "the number of functions";
                    return Err(LoadError::TooComplex {
                        what,
                        size: functions,
                        limit,
                    });
                }
            }
            Payload::CodeSectionEntry(body) => {
                let size = u32::try_from(body.range().len()).unwrap_or(u32::MAX);
                let limit = limits.function_bytes;
                if size > limit {
                    let what = "the largest function in bytes";
                    return Err(LoadError::TooComplex { what, size, limit });
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn invalid(error: &wasmtime::Error) -> LoadError {
    LoadError::Invalid {
        reason: format!("{error:#}"),
    }
}

/// Compiles a core module, or takes it from the cache; tells which.
pub(crate) fn module(shared: &Shared, wasm: &[u8]) -> Result<(Module, bool), LoadError> {
    let Shared { engine, cache, .. } = shared;
    if let Some(module) = cache.as_ref().and_then(|cache| cache.module(engine, wasm)) {
        return Ok((module, true));
    }
    let module = Module::from_binary(engine, wasm).map_err(|error| invalid(&error))?;
    if let Some(cache) = cache {
        cache.store(engine, wasm, || module.serialize());
    }
    Ok((module, false))
}

/// Compiles a component, or takes it from the cache; tells which.
pub(crate) fn component(shared: &Shared, wasm: &[u8]) -> Result<(Component, bool), LoadError> {
    let Shared { engine, cache, .. } = shared;
    if let Some(component) = cache
        .as_ref()
        .and_then(|cache| cache.component(engine, wasm))
    {
        return Ok((component, true));
    }
    let component = Component::from_binary(engine, wasm).map_err(|error| invalid(&error))?;
    if let Some(cache) = cache {
        cache.store(engine, wasm, || component.serialize());
    }
    Ok((component, false))
}

/// Checks a component against the world and resolves its imports.
pub(crate) fn link_component(
    shared: &Shared,
    component: &Component,
) -> Result<StreamFunctionPre<GuestState>, LoadError> {
    let engine = &shared.engine;
    let ty = component.component_type();
    for (import, _) in ty.imports(engine) {
        if !import.starts_with(component::IMPORT_PACKAGE) {
            let granted = "output, config and logging of selvedge:function".into();
            return Err(LoadError::ImportNotGranted {
                import: import.into(),
                granted,
            });
        }
    }
    let found = || {
        ty.exports(engine)
            .map(|(name, _)| name.into())
            .take(NAMES_MAX)
            .collect()
    };
    let has = |name| ty.get_export(engine, name).is_some();
    if !has("handle") && !has("observe") {
        return Err(LoadError::UnknownAbi { found: found() });
    }
    let exports = [
        (
            "handle",
            "func(tag: u32, payload: list<u8>) -> result<_, failure>",
        ),
        ("observe", "func() -> list<u32>"),
    ];
    for (export, expected) in exports {
        if !has(export) {
            let (export, expected) = (export.into(), expected.into());
            return Err(LoadError::MissingExport {
                export,
                expected,
                found: found(),
            });
        }
    }
    let wrong = |error: wasmtime::Error| LoadError::WrongWorld {
        reason: format!("{error:#}"),
    };
    let linker = component::linker(engine).map_err(wrong)?;
    let pre = linker.instantiate_pre(component).map_err(wrong)?;
    StreamFunctionPre::new(pre).map_err(wrong)
}

/// Checks a core module against the ABI and resolves its imports.
pub(crate) fn link_module(
    shared: &Shared,
    module: &Module,
) -> Result<InstancePre<GuestState>, LoadError> {
    if module.get_export("handle").is_none() {
        let exports = numeric_exports(module);
        return Err(match exports.is_empty() {
            true => LoadError::UnknownAbi {
                found: export_names(module),
            },
            false => LoadError::OnlyNumeric { exports },
        });
    }
    for import in module.imports() {
        let granted = import.module() == core_abi::IMPORT_MODULE
            && core_abi::IMPORTS.contains(&import.name());
        if !granted {
            return Err(import_not_granted(&import));
        }
    }
    for (export, expected) in core_abi::EXPORTS {
        let Some(found) = module.get_export(export) else {
            return Err(LoadError::MissingExport {
                export: export.into(),
                expected: expected.into(),
                found: export_names(module),
            });
        };
        check_type(export, expected, &found)?;
    }
    for (export, expected) in core_abi::OPTIONAL_EXPORTS {
        if let Some(found) = module.get_export(export) {
            check_type(export, expected, &found)?;
        }
    }
    let linker = core_abi::linker(&shared.engine).map_err(|error| invalid(&error))?;
    // What can still fail here is an import of the right name and the wrong type.
    linker
        .instantiate_pre(module)
        .map_err(|error| invalid(&error))
}

/// A numeric function imports nothing.
pub(crate) fn refuse_imports(module: &Module) -> Result<(), LoadError> {
    match module.imports().next() {
        None => Ok(()),
        Some(import) => {
            let import = format!("{}.{}", import.module(), import.name());
            Err(LoadError::ImportNotGranted {
                import,
                granted: "none to a numeric function".into(),
            })
        }
    }
}

fn import_not_granted(import: &wasmtime::ImportType<'_>) -> LoadError {
    let names = core_abi::IMPORTS.map(|name| format!("{}.{name}", core_abi::IMPORT_MODULE));
    LoadError::ImportNotGranted {
        import: format!("{}.{}", import.module(), import.name()),
        granted: names.join(", "),
    }
}

fn check_type(export: &str, expected: &str, found: &ExternType) -> Result<(), LoadError> {
    let found = describe(found);
    if found == expected {
        return Ok(());
    }
    Err(LoadError::WrongExport {
        export: export.into(),
        expected: expected.into(),
        found,
    })
}

pub(crate) fn export_names(module: &Module) -> Vec<String> {
    module
        .exports()
        .map(|export| export.name().into())
        .take(NAMES_MAX)
        .collect()
}

fn numeric_exports(module: &Module) -> Vec<String> {
    module
        .exports()
        .filter(|export| {
            export
                .ty()
                .func()
                .is_some_and(|ty| numeric::signature(ty).is_some())
        })
        .map(|export| export.name().into())
        .take(NAMES_MAX)
        .collect()
}

/// The type of an export in words, the same as the contract's tables use.
pub(crate) fn describe(ty: &ExternType) -> String {
    match ty {
        ExternType::Func(function) => {
            let join = |types: Vec<String>| types.join(", ");
            let parameters = join(function.params().map(|ty| ty.to_string()).collect());
            let results: Vec<String> = function.results().map(|ty| ty.to_string()).collect();
            match results.as_slice() {
                [] => format!("func({parameters})"),
                [result] => format!("func({parameters}) -> {result}"),
                _ => format!("func({parameters}) -> ({})", join(results)),
            }
        }
        ExternType::Memory(memory) if memory.is_64() => "64-bit memory".into(),
        ExternType::Memory(_) => "memory".into(),
        ExternType::Table(_) => "table".into(),
        ExternType::Global(_) => "global".into(),
        ExternType::Tag(_) => "exception tag".into(),
    }
}
