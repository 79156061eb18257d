//! Loads a guest: detects its kind, checks its size, exports and imports, and compiles it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use wasmparser::Payload;
use wasmtime::component::Component;
use wasmtime::{ExternType, InstancePre, Module};

use crate::call::StartError;
use crate::component::{self, StreamFunctionPre};
use crate::core_abi;
use crate::host::HostShared;
use crate::limits::GuestLimits;
use crate::numeric;
use crate::state::GuestState;

/// Why a function was not loaded. Retrying the same file helps only after [`Read`](Self::Read) and,
/// on an overloaded machine, [`Start`](Self::Start); otherwise the guest must be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The guest imports something that this host does not provide, for example WASI.
    #[error("the guest imports {import}, which this host does not provide; it provides {granted}")]
    ImportNotGranted {
        /// `module.name` of a core module, the interface of a component.
        import: String,
        /// The imports that the host provides.
        granted: String,
    },
    /// The file begins as WebAssembly but is damaged, or uses a feature that is disabled.
    #[error(
        "the file is damaged, or uses a WebAssembly feature that this host does not support: {reason}"
    )]
    Invalid {
        /// The message of the compiler.
        reason: String,
    },
    /// A required export is missing.
    #[error(
        "the guest does not export {export} ({expected}); it exports {}",
        list(found)
    )]
    MissingExport {
        /// Its name.
        export: String,
        /// Its required type.
        expected: String,
        /// The exports of the guest.
        found: Vec<String>,
    },
    /// The file is not WebAssembly.
    #[error("the file is not WebAssembly: {looks_like}")]
    NotWasm {
        /// What the file seems to be.
        looks_like: &'static str,
    },
    /// The module exports only numeric functions: use
    /// [`Host::load_numeric`](crate::Host::load_numeric).
    #[error(
        "the guest handles no messages; it exports functions of one number: {}",
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
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The guest could not be started.
    #[error(transparent)]
    Start(StartError),
    /// The file is larger than [`GuestLimits::module_bytes`](crate::GuestLimits::module_bytes).
    #[error("the file has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The size of the file.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Compiling the guest would take too long: it has more functions than
    /// [`GuestLimits::module_functions`](crate::GuestLimits::module_functions), or a larger one than
    /// [`GuestLimits::function_bytes`](crate::GuestLimits::function_bytes).
    #[error("the file would take too long to compile: {what} is {size}, the limit is {limit}")]
    TooComplex {
        /// The quantity that exceeds its limit.
        what: &'static str,
        /// Its value when counting stopped.
        size: u32,
        /// The limit.
        limit: u32,
    },
    /// The guest observes too many tags.
    #[error("the guest observes more than {limit} tags")]
    TooManyTags {
        /// The limit.
        limit: usize,
    },
    /// The guest implements no interface that this host supports.
    #[error(
        "the guest implements no supported interface: a component must export observe and handle, a \
         core module memory, alloc and handle; this one exports {}",
        list(found)
    )]
    UnknownAbi {
        /// The exports of the guest.
        found: Vec<String>,
    },
    /// An export has another type than the interface requires.
    #[error("the guest exports {export} as {found}, but {expected} is required")]
    WrongExport {
        /// Its name.
        export: String,
        /// Its required type.
        expected: String,
        /// Its actual type.
        found: String,
    },
    /// The file is a component; only core modules have numeric functions.
    #[error("the file is a component, but a numeric function requires a core module")]
    WrongKind,
    /// An import or export of a component has another type than in the world, for example because the
    /// component was built for another version.
    #[error("the component does not match the world selvedge:function/stream-function: {reason}")]
    WrongWorld {
        /// The mismatch.
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

/// How many exports an error lists.
const NAMES_MAX: usize = 32;

/// The kind of a file, as declared in its first eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WasmKind {
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
    // The file may grow meanwhile, and a pipe has no length.
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

pub(crate) fn kind(wasm: &[u8]) -> Result<WasmKind, LoadError> {
    let looks_like = match wasm {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => return Ok(WasmKind::Module),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => return Ok(WasmKind::Component),
        [0, b'a', b's', b'm', ..] => "it is WebAssembly of an unknown version, or truncated",
        [] => "it is empty",
        [0x7f, b'E', b'L', b'F', ..] => "it is native or precompiled code, which is never run",
        [b'(', ..] => "it is WebAssembly text, which must be assembled first",
        _ => "its format is unknown",
    };
    Err(LoadError::NotWasm { looks_like })
}

/// Refuses a file that would take too long to compile, by counting functions without compiling.
pub(crate) fn check_complexity(wasm: &[u8], limits: &GuestLimits) -> Result<(), LoadError> {
    let mut functions = 0_u32;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|error| LoadError::Invalid {
            reason: error.to_string(),
        })?;
        // The parser descends into the modules of a component, so their functions are added up.
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

/// Compiles a core module, or reads its code from the cache. Returns whether it was cached.
pub(crate) fn module(shared: &HostShared, wasm: &[u8]) -> Result<(Module, bool), LoadError> {
    let HostShared { engine, cache, .. } = shared;
    if let Some(module) = cache.as_ref().and_then(|cache| cache.module(engine, wasm)) {
        return Ok((module, true));
    }
    let module = Module::from_binary(engine, wasm).map_err(|error| invalid(&error))?;
    if let Some(cache) = cache {
        cache.store(engine, wasm, || module.serialize());
    }
    Ok((module, false))
}

/// Compiles a component, or reads its code from the cache. Returns whether it was cached.
pub(crate) fn component(shared: &HostShared, wasm: &[u8]) -> Result<(Component, bool), LoadError> {
    let HostShared { engine, cache, .. } = shared;
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
    shared: &HostShared,
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
    shared: &HostShared,
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
    // Only an import with the right name and the wrong type can fail here.
    linker
        .instantiate_pre(module)
        .map_err(|error| invalid(&error))
}

/// Refuses imports: a numeric function may have none.
pub(crate) fn refuse_imports(module: &Module) -> Result<(), LoadError> {
    match module.imports().next() {
        None => Ok(()),
        Some(import) => {
            let import = format!("{}.{}", import.module(), import.name());
            Err(LoadError::ImportNotGranted {
                import,
                granted: "nothing to a numeric function".into(),
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

/// The type of an export as a text, as in `core_abi::EXPORTS`.
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
