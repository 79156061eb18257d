//! The host: the engine, the clock of the deadlines and the code cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Config, Engine};

use crate::cache::{CacheDirError, CodeCache};
use crate::function::{FunctionConfig, WasmFunction};
use crate::load::{self, LoadError};
use crate::numeric::NumericFunction;
use crate::ticker::EpochTicker;

/// The settings of a [`Host`]. The defaults are for a node that runs tens of functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// The interval at which deadlines are checked; a call ends at most two ticks late. At least 1 ms.
    /// Default 10 ms: 100 wake-ups a second, far less than 0.1 % of a core.
    pub tick: Duration,
    /// The directory for compiled code, which makes the next start faster. Default: none. It is created
    /// with mode 0700 if it does not exist. Only this user may have access to it, since its files are
    /// run as machine code.
    pub cache_dir: Option<PathBuf>,
    /// Maximum size of the cache directory in bytes; the oldest files are deleted. Default 256 MiB.
    pub cache_bytes: u64,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(10),
            cache_dir: None,
            cache_bytes: 256 << 20,
        }
    }
}

/// Why a [`Host`] could not be created. A retry helps once the environment has been corrected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The cache directory cannot be used, or is not private.
    #[error("the cache directory {}: {reason}", path.display())]
    CacheDir {
        /// The directory.
        path: PathBuf,
        /// Why, and what to change.
        reason: CacheDirError,
    },
    /// WebAssembly cannot be run on this machine.
    #[error("this machine cannot run WebAssembly: {reason}")]
    Engine {
        /// The message of the engine.
        reason: String,
    },
    /// The thread that advances the clock could not be started.
    #[error("cannot start the thread of the deadlines")]
    Thread(#[source] std::io::Error),
}

/// Runs functions. Cloning is cheap: clones share the engine, the clock and the cache.
#[derive(Debug, Clone)]
pub struct Host {
    shared: Arc<HostShared>,
}

/// The part of a host that its functions and instances keep alive.
pub(crate) struct HostShared {
    pub(crate) engine: Engine,
    pub(crate) ticker: EpochTicker,
    pub(crate) cache: Option<CodeCache>,
}

impl std::fmt::Debug for HostShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            engine: _,
            ticker,
            cache,
        } = self;
        f.debug_struct("Shared")
            .field("ticker", ticker)
            .field("cache", cache)
            .finish()
    }
}

impl Host {
    /// Starts the engine and its clock.
    ///
    /// # Errors
    /// [`HostError`] if the cache directory is not private or the machine cannot run WebAssembly.
    pub fn new(config: HostConfig) -> Result<Self, HostError> {
        let HostConfig {
            tick,
            cache_dir,
            cache_bytes,
        } = config;
        let cache = match cache_dir {
            None => None,
            Some(path) => match CodeCache::open(&path, cache_bytes) {
                Ok(cache) => Some(cache),
                Err(reason) => return Err(HostError::CacheDir { path, reason }),
            },
        };
        let engine = Engine::new(&engine_config()).map_err(|error| HostError::Engine {
            reason: format!("{error:#}"),
        })?;
        let tick = tick.max(Duration::from_millis(1));
        let ticker = EpochTicker::start(engine.clone(), tick).map_err(HostError::Thread)?;
        Ok(Self {
            shared: Arc::new(HostShared {
                engine,
                ticker,
                cache,
            }),
        })
    }

    /// Loads a stream function from a `.wasm` file, which holds a component or a core module. The file
    /// is compiled (or its code is read from the cache) and checked, and a guest is started once.
    ///
    /// Blocks while it compiles: from 20 ms for a small Rust guest to seconds for one that contains an
    /// interpreter, on this thread and on those of rayon. With the cache, the next start takes 0.3 ms.
    ///
    /// # Errors
    /// [`LoadError`] describes why the file cannot be used.
    pub fn load(
        &self,
        path: impl AsRef<Path>,
        config: FunctionConfig,
    ) -> Result<WasmFunction, LoadError> {
        let wasm = load::read(path.as_ref(), config.limits.module_bytes)?;
        WasmFunction::load(&self.shared, &wasm, config)
    }

    /// Loads a stream function from memory, as [`load`](Self::load) does from a file.
    ///
    /// # Errors
    /// [`LoadError`] describes why the bytes cannot be used.
    pub fn load_bytes(
        &self,
        wasm: &[u8],
        config: FunctionConfig,
    ) -> Result<WasmFunction, LoadError> {
        load::check_size(wasm.len() as u64, config.limits.module_bytes)?;
        WasmFunction::load(&self.shared, wasm, config)
    }

    /// Loads a core module that exports a function of one number, such as `triple(f64) -> f64`.
    ///
    /// # Errors
    /// [`LoadError`] describes why the file cannot be used.
    pub fn load_numeric(
        &self,
        path: impl AsRef<Path>,
        export: &str,
        config: FunctionConfig,
    ) -> Result<NumericFunction, LoadError> {
        let wasm = load::read(path.as_ref(), config.limits.module_bytes)?;
        NumericFunction::load(&self.shared, &wasm, export, config)
    }

    /// Loads a numeric function from memory, as [`load_numeric`](Self::load_numeric) does from a file.
    ///
    /// # Errors
    /// [`LoadError`] describes why the bytes cannot be used.
    pub fn load_numeric_bytes(
        &self,
        wasm: &[u8],
        export: &str,
        config: FunctionConfig,
    ) -> Result<NumericFunction, LoadError> {
        load::check_size(wasm.len() as u64, config.limits.module_bytes)?;
        NumericFunction::load(&self.shared, wasm, export, config)
    }
}

fn engine_config() -> Config {
    let mut config = Config::new();
    // Epochs instead of fuel: a loop over bytes is 1.3 times as slow with epochs, 2 times with fuel.
    config.epoch_interruption(true);
    // Shared memories would not count towards the limits of one instance, and guests have no threads.
    config.shared_memory(false);
    config
}
