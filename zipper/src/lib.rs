//! Selvedge zipper: routes tagged messages from Sources to StreamFunctions, over any topology of
//! zippers. The command `zipper` is made of this library.
//!
//! A [`zipper::Zipper`] accepts connections and routes; a [`runner::Runner`] is a function made of
//! WebAssembly. [`router::Router`], which is pure, decides where a message goes. Sources and native
//! functions are clients: `selvedge_client`.
#![forbid(unsafe_code)]

mod broker;
pub mod config;
pub mod records;
pub mod router;
pub mod runner;
mod stats;
pub mod zipper;

pub use stats::ZipperStats;
