//! WebAssembly guests as stream functions: compiled once, kept warm, and held to limits.
//!
//! A guest is handed messages `(tag, payload)` and writes messages `(tag, target, payload)`. This
//! crate runs it and knows nothing else: no network, no other crate of the workspace.
//!
//! | the guest is | it exports | run by |
//! |---|---|---|
//! | a component of the world in `wit/function.wit` | `observe`, `handle` | [`Host::load`] |
//! | a core module of the small ABI in `ABI.md` | `memory`, `alloc`, `handle` | [`Host::load`] |
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
//! # What a guest cannot do
//! Stop its host (every call has a deadline), crash it or read it (memory is isolated, every pointer
//! is checked), fill it ([`GuestLimits`] bound memory, outputs, host calls, logs and module size), or
//! reach anything: there is no file, network, environment, clock or randomness to import.
//!
//! # Failures
//! A message is handled wholly or not at all: if a call fails, what it emitted is discarded. After a
//! trap or a breach of a limit the instance is *recycled*: its memory is dropped, the next call gets a
//! fresh one. [`CallError::recycled`] tells, [`FunctionStats`] counts.
//!
//! # Threads and memory
//! One thread per [`Host`] advances the clock of the deadlines and ends with the last [`Host`],
//! [`WasmFunction`] or [`Instance`] of it. Calls run on the caller's thread, which needs 512 KiB of stack for
//! the guest. Instances allocate on demand: an instance reserves 4 GiB of address space (so a limit on that,
//! `ulimit -v`, is a limit on instances, and 47 bits hold some 30 000) but holds only pages that it has
//! touched: measured, a host with four small guests holds 20 MB and each further instance 8 KiB, 35 KiB
//! after its first message. A pooling allocator would make a start cheaper than the measured 10-15 us;
//! instances are warm here and starts are rare, so it would only pin memory.

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
