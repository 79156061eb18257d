//! Selvedge zipper: routes tagged messages from Sources to StreamFunctions, over any topology of
//! zippers. The command `zipper` is made of this library.
//!
//! A [`zipper::Zipper`] takes connections in and routes; a [`client::Client`] writes and reads as a
//! source or a function; a [`runner::Runner`] is a function made of WebAssembly. What decides where a
//! message goes is [`router::Router`], which is pure, as are [`wire`] and [`tag`].
#![forbid(unsafe_code)]

mod broker;
pub mod client;
pub mod config;
pub mod records;
pub mod router;
pub mod runner;
mod stats;
pub mod tag;
pub mod wire;
pub mod zipper;

pub use stats::Stats;
