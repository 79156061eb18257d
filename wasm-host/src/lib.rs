//! Runs WebAssembly guests as stream functions: compiled once, kept instantiated, with limits.
//!
//! A guest handles messages `(tag, payload)` and writes messages `(tag, target, payload)`. This
//! crate uses no network and no other crate of the workspace.
//!
//! | guest | exports | loaded by |
//! |---|---|---|
//! | a component of the world in `wit/function.wit` | `observe`, `handle` | [`Host::load`] |
//! | a core module of the ABI in `ABI.md` | `memory`, `alloc`, `handle` | [`Host::load`] |
//! | a core module with a function of one number | e.g. `triple(f64) -> f64` | [`Host::load_numeric`] |
//!
//! ```no_run
//! use selvedge_wasm_host::{FunctionConfig, Host, HostConfig};
//!
//! let host = Host::new(HostConfig::default())?;
//! let function = host.load("word-split.wasm", FunctionConfig::named("word-split"))?;
//! let mut instance = function.instantiate()?;
//! for output in instance.handle(0x20, b"to be or not to be")? {
//!     println!("{:#x} {:?}", output.tag, output.payload);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Isolation
//! A guest cannot block its host (every call has a deadline), crash it or read its memory (memory is
//! isolated, and every pointer is checked), exhaust it ([`GuestLimits`] bound memory, outputs, host
//! calls, logs and module size), or access the system: no file, network, environment, clock or
//! randomness can be imported.
//!
//! # Failures
//! A message is handled completely or not at all: if a call fails, its outputs are discarded. After a
//! trap or an exceeded limit the instance is *recycled*: its memory is dropped, and the next call
//! starts a fresh guest. [`CallError::recycled`] reports this, and [`FunctionStats`] counts it.
//!
//! # Threads and memory
//! One thread per [`Host`] advances the clock of the deadlines; it ends with the last [`Host`],
//! [`WasmFunction`] or [`Instance`] that uses it. Calls run on the caller's thread, which needs 512 KiB
//! of stack for the guest. An instance reserves 4 GiB of address space, so `ulimit -v` limits the number
//! of instances, and 47 bits hold about 30,000. It uses only the pages that it has touched: measured, a
//! host with four small guests uses 20 MB, and each further instance 8 KiB, or 35 KiB after its first
//! message. A pooling allocator would make a start cheaper than the measured 10 to 15 us, but starts
//! are rare since instances are reused, so it would only pin memory.

mod budget;
mod cache;
mod call;
mod component;
mod core_abi;
mod function;
mod host;
mod instance;
mod limits;
mod load;
mod log;
mod numeric;
mod outputs;
mod state;
mod stats;
mod ticker;

pub use cache::CacheDirError;
pub use call::{CallError, StartError};
pub use function::{FunctionConfig, FunctionKind, WasmFunction};
pub use host::{Host, HostConfig, HostError};
pub use instance::{Instance, StopHandle};
pub use limits::GuestLimits;
pub use load::LoadError;
pub use numeric::{NumericFunction, NumericType};
pub use outputs::{GuestOutput, Outputs};
pub use stats::FunctionStats;
