//! The host: one engine, one clock, one cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Config, Engine};

use crate::cache::{CacheDirError, CodeCache};
use crate::function::{FunctionConfig, WasmFunction};
use crate::load::{self, LoadError};
use crate::numeric::NumericFunction;
use crate::ticker::Ticker;

/// How a [`Host`] works. The defaults fit a node that runs tens of functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// How often deadlines are looked at; calls end at most two ticks late. At least 1 ms, less is
    /// taken as 1 ms. 10 ms: a hundred wake-ups a second, far below a thousandth of a core.
    pub tick: Duration,
    /// Where compiled code is kept from one start to the next; none by default. The directory is made
    /// with mode 0700 if it does not exist. It must belong to this user and to nobody else: what lies
    /// there is run as machine code.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that the files in the cache directory may take; the oldest go first. 256 MiB.
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

/// A [`Host`] could not be made. The environment's fault; a retry helps once it is mended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The cache directory cannot be used, or is not private.
    #[error("the cache directory {}: {reason}", path.display())]
    CacheDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: CacheDirError,
    },
    /// WebAssembly cannot be run on this machine.
    #[error("this machine cannot run WebAssembly: {reason}")]
    Engine {
        /// What the engine said.
        reason: String,
    },
    /// The thread of the clock could not be started.
    #[error("the thread of the deadlines could not be started")]
    Thread(#[source] std::io::Error),
}

/// Runs functions. Cheap to clone: clones share the engine, the clock and the cache.
#[derive(Debug, Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

/// What every function and instance of a host keeps alive.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) ticker: Ticker,
    pub(crate) cache: Option<CodeCache>,
}

impl std::fmt::Debug for Shared {
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
        let ticker = Ticker::start(engine.clone(), tick).map_err(HostError::Thread)?;
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                ticker,
                cache,
            }),
        })
    }

    /// Loads a stream function from a `.wasm` file: a component or a core module, told apart by what
    /// it is. It is compiled (or taken from the cache), checked, and started once on trial.
    ///
    /// Compiling takes from 20 ms for a small Rust guest to seconds for one that carries an
    /// interpreter, on this thread and on rayon's; the cache saves it on the next start (0.3 ms).
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the file.
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
    /// [`LoadError`] says what is wrong with the bytes.
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
    /// [`LoadError`] says what is wrong with the file.
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
    /// [`LoadError`] says what is wrong with the bytes.
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
    // Epochs and not fuel: a loop over bytes is 1.3 times as slow with the one, 2 times with the other.
    config.epoch_interruption(true);
    // Shared memories would escape the limits of one instance, and no guest here has threads.
    config.shared_memory(false);
    config
}
