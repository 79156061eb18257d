//! A loaded stream function: compiled, checked and ready to be instantiated.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::InstancePre;

use crate::call::StartError;
use crate::component::{ComponentGuest, StreamFunctionPre};
use crate::core_abi::CoreGuest;
use crate::host::HostShared;
use crate::instance::Instance;
use crate::limits::GuestLimits;
use crate::load::{self, LoadError, WasmKind};
use crate::state::{GuestState, GuestTemplate};

/// The maximum number of tags that a function may observe.
pub(crate) const OBSERVED_TAGS_MAX: usize = 1024;

/// The settings of a function that the operator chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionConfig {
    /// The name of the function, in logs and errors.
    pub name: String,
    /// The resource limits.
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

/// The interface of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionKind {
    /// A component of the world in `wit/function.wit`, typed and for any language. An empty call takes
    /// about 0.17 us.
    Component,
    /// A core module of the ABI in `ABI.md`. An empty call takes about 0.04 us.
    CoreModule,
}

/// A loaded stream function. Cloning is cheap: clones share the code.
#[derive(Debug, Clone)]
pub struct WasmFunction {
    loaded: Arc<LoadedFunction>,
}

#[derive(Debug)]
struct LoadedFunction {
    shared: Arc<HostShared>,
    name: Arc<str>,
    limits: GuestLimits,
    config: Arc<BTreeMap<String, String>>,
    code: LinkedCode,
    was_cached: bool,
    observed: Vec<u32>,
}

/// Compiled code with its imports resolved.
pub(crate) enum LinkedCode {
    Component(StreamFunctionPre<GuestState>),
    Core(InstancePre<GuestState>),
}

impl std::fmt::Debug for LinkedCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Component(_) => "Component",
            Self::Core(_) => "Core",
        })
    }
}

impl WasmFunction {
    pub(crate) fn load(
        shared: &Arc<HostShared>,
        wasm: &[u8],
        config: FunctionConfig,
    ) -> Result<Self, LoadError> {
        let kind = load::kind(wasm)?;
        load::check_complexity(wasm, &config.limits)?;
        let (code, was_cached) = match kind {
            WasmKind::Component => {
                let (component, was_cached) = load::component(shared, wasm)?;
                (
                    LinkedCode::Component(load::link_component(shared, &component)?),
                    was_cached,
                )
            }
            WasmKind::Module => {
                let (module, was_cached) = load::module(shared, wasm)?;
                (
                    LinkedCode::Core(load::link_module(shared, &module)?),
                    was_cached,
                )
            }
        };
        let FunctionConfig {
            name,
            limits,
            config,
        } = config;
        let mut loaded = LoadedFunction {
            shared: Arc::clone(shared),
            name: name.into(),
            limits,
            config: Arc::new(config),
            code,
            was_cached,
            observed: Vec::new(),
        };
        let observed = loaded.trial_start().map_err(LoadError::Start)?;
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

    /// Starts a guest with its own memory.
    ///
    /// # Errors
    /// [`StartError`] if the guest traps, exceeds a limit or returns an error while it starts.
    pub fn instantiate(&self) -> Result<Instance, StartError> {
        Instance::start(self.clone())
    }

    /// The name of the function.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.loaded.name
    }

    /// The resource limits of each instance.
    #[must_use]
    pub fn limits(&self) -> &GuestLimits {
        &self.loaded.limits
    }

    /// The interface of the function.
    #[must_use]
    pub fn kind(&self) -> FunctionKind {
        match self.loaded.code {
            LinkedCode::Component(_) => FunctionKind::Component,
            LinkedCode::Core(_) => FunctionKind::CoreModule,
        }
    }

    /// The tags that the guest declares, in its order, at most 1,024. Empty if a core module declares
    /// none: the operator must then choose the tags.
    #[must_use]
    pub fn observed(&self) -> &[u32] {
        &self.loaded.observed
    }

    /// Whether the compiled code was read from the cache.
    #[must_use]
    pub fn was_cached(&self) -> bool {
        self.loaded.was_cached
    }

    pub(crate) fn code(&self) -> &LinkedCode {
        &self.loaded.code
    }

    pub(crate) fn template(&self) -> GuestTemplate {
        self.loaded.template()
    }
}

impl LoadedFunction {
    fn template(&self) -> GuestTemplate {
        GuestTemplate::new(
            Arc::clone(&self.shared),
            Arc::clone(&self.name),
            Arc::clone(&self.config),
            self.limits.clone(),
        )
    }

    /// Starts a guest and drops it, so that a guest which cannot start is refused at load. Returns the
    /// tags that the guest declares.
    fn trial_start(&self) -> Result<Vec<u32>, StartError> {
        let template = self.template();
        match &self.code {
            LinkedCode::Component(pre) => ComponentGuest::start(pre, &template)?.observe(),
            LinkedCode::Core(pre) => CoreGuest::start(pre, &template)?.observe(OBSERVED_TAGS_MAX),
        }
    }
}
