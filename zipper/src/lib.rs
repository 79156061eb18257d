//! Selvedge zipper: routes tagged messages from Sources to StreamFunctions, over any topology of
//! zippers. The command `zipper` is made of this library.
//!
//! A [`zipper::Zipper`] accepts connections and routes; with the feature `wasm`, a `runner::Runner`
//! runs a WebAssembly guest as a function. [`router::Router`], which is pure, decides where a
//! message goes. Sources and native functions are clients: `selvedge_client`. A program that embeds
//! a zipper turns the default feature `cli` off, which is for the command only.
#![forbid(unsafe_code)]

mod broker;
pub mod config;
pub mod permissions;
pub mod records;
pub mod reload;
pub mod router;
#[cfg(feature = "wasm")]
pub mod runner;
pub mod settlement;
mod snapshot;
mod stats;
pub mod zipper;

pub use snapshot::PeerSnapshot;
pub use stats::ZipperStats;
