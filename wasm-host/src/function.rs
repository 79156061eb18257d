//! A stream function: compiled, checked, ready to be instantiated.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::InstancePre;

use crate::call::StartError;
use crate::component::{ComponentGuest, StreamFunctionPre};
use crate::core_abi::CoreGuest;
use crate::host::Shared;
use crate::instance::Instance;
use crate::limits::GuestLimits;
use crate::load::{self, Header, LoadError};
use crate::state::{Blueprint, GuestState};

/// Tags that a function may observe; more is refused at load.
pub(crate) const OBSERVED_TAGS_MAX: usize = 1024;

/// What the operator decides about a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionConfig {
    /// Its name, in logs and errors.
    pub name: String,
    /// How much of the host it may use.
    pub limits: GuestLimits,
    /// Settings that the guest may read.
    pub config: BTreeMap<String, String>,
}

impl FunctionConfig {
    /// A function of this name with the default limits and no settings.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// By which contract a function is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionKind {
    /// A component of the world in `wit/function.wit`: typed, any language. An empty call costs about
    /// 0.17 us.
    Component,
    /// A core module of the ABI in `ABI.md`. An empty call costs about 0.04 us.
    CoreModule,
}

/// A loaded stream function. Cheap to clone: clones share the code.
#[derive(Debug, Clone)]
pub struct WasmFunction {
    loaded: Arc<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    shared: Arc<Shared>,
    name: Arc<str>,
    limits: GuestLimits,
    config: Arc<BTreeMap<String, String>>,
    code: Code,
    was_cached: bool,
    observed: Vec<u32>,
}

/// Compiled code with its imports resolved.
pub(crate) enum Code {
    Component(StreamFunctionPre<GuestState>),
    Core(InstancePre<GuestState>),
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Component(_) => "Component",
            Self::Core(_) => "Core",
        })
    }
}

impl WasmFunction {
    pub(crate) fn load(
        shared: &Arc<Shared>,
        wasm: &[u8],
        config: FunctionConfig,
    ) -> Result<Self, LoadError> {
        let header = load::header(wasm)?;
        load::check_complexity(wasm, &config.limits)?;
        let (code, was_cached) = match header {
            Header::Component => {
                let (component, was_cached) = load::component(shared, wasm)?;
                (
                    Code::Component(load::link_component(shared, &component)?),
                    was_cached,
                )
            }
            Header::Module => {
                let (module, was_cached) = load::module(shared, wasm)?;
                (Code::Core(load::link_module(shared, &module)?), was_cached)
            }
        };
        let FunctionConfig {
            name,
            limits,
            config,
        } = config;
        let mut loaded = Loaded {
            shared: Arc::clone(shared),
            name: name.into(),
            limits,
            config: Arc::new(config),
            code,
            was_cached,
            observed: Vec::new(),
        };
        let observed = loaded.try_out().map_err(LoadError::Start)?;
        if observed.len() > OBSERVED_TAGS_MAX {
            return Err(LoadError::TooManyTags {
                limit: OBSERVED_TAGS_MAX,
            });
        }
        loaded.observed = observed;
        Ok(Self {
            loaded: Arc::new(loaded),
        })
    }

    /// A running guest with memory of its own.
    ///
    /// # Errors
    /// [`StartError`] if the guest traps, loops or refuses while it starts.
    pub fn instantiate(&self) -> Result<Instance, StartError> {
        Instance::start(self.clone())
    }

    /// The name that the operator gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.loaded.name
    }

    /// The limits that it is held to.
    #[must_use]
    pub fn limits(&self) -> &GuestLimits {
        &self.loaded.limits
    }

    /// By which contract it is run.
    #[must_use]
    pub fn kind(&self) -> FunctionKind {
        match self.loaded.code {
            Code::Component(_) => FunctionKind::Component,
            Code::Core(_) => FunctionKind::CoreModule,
        }
    }

    /// The tags that the guest says it wants, in its order, at most 1024. Empty if a core module does
    /// not say: then the operator must.
    #[must_use]
    pub fn observed(&self) -> &[u32] {
        &self.loaded.observed
    }

    /// Whether the code came from the cache instead of the compiler.
    #[must_use]
    pub fn was_cached(&self) -> bool {
        self.loaded.was_cached
    }

    pub(crate) fn code(&self) -> &Code {
        &self.loaded.code
    }

    pub(crate) fn blueprint(&self) -> Blueprint {
        self.loaded.blueprint()
    }
}

impl Loaded {
    fn blueprint(&self) -> Blueprint {
        Blueprint::new(
            Arc::clone(&self.shared),
            Arc::clone(&self.name),
            Arc::clone(&self.config),
            self.limits.clone(),
        )
    }

    /// Starts a guest that is thrown away, so that one that cannot start is refused at load, and asks
    /// it what it observes.
    fn try_out(&self) -> Result<Vec<u32>, StartError> {
        let blueprint = self.blueprint();
        match &self.code {
            Code::Component(pre) => ComponentGuest::start(pre, &blueprint)?.observe(),
            Code::Core(pre) => CoreGuest::start(pre, &blueprint)?.observe(OBSERVED_TAGS_MAX),
        }
    }
}
