//! Selvedge zipper: routes tagged messages from Sources to StreamFunctions, over any topology of
//! zippers. What is here so far is pure: no sockets, no threads, no clock.

mod broker;
pub mod client;
pub mod router;
mod stats;
pub mod tag;
pub mod wire;
pub mod zipper;
pub use stats::Stats;
