//! Loads that are timed: each runs over our layers or over raw sockets, and does the same work.
//!
//! Both ends live in this process, each with threads of its own, as two processes would have.
#![forbid(unsafe_code)]

mod bare;
pub mod cut;
pub mod endpoint;
pub mod frames;
pub mod hop;
pub mod many;
pub mod measure;
pub mod raw;
pub mod sessions;
pub mod through;
pub mod wasm;
#[path = "../compare/src/watched.rs"]
mod watched;

/// Something that is timed.
pub trait Load {
    /// Moves so many messages (or round trips), and returns when the last one has arrived.
    fn run(&mut self, count: u64);

    /// How many it must move at least to be as busy as it is meant to be.
    fn count_min(&self) -> u64 {
        16
    }

    /// What a lossy path has cost, in words; none if the load has no such path. A bulk that is slow
    /// because each batch is refused (EMSGSIZE) looks like any other slow one.
    fn losses(&self) -> Option<String> {
        None
    }
}

/// The protocols.
pub const SCHEMES: [&str; 5] = ["quic", "tcp", "tcp+plain", "udp", "udp+plain"];
