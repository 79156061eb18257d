//! Workloads to be timed: each does the same work over our layers or over raw sockets.
//!
//! Both ends are in this process, each with its own threads, as two processes have.
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

/// Work to be timed.
pub trait Workload {
    /// Moves `count` messages (or round trips) and returns when the last one has arrived.
    fn run(&mut self, count: u64);

    /// The fewest messages with which the workload reaches its intended load.
    fn count_min(&self) -> u64 {
        16
    }

    /// The losses of a lossy path as text; `None` if the workload has no such path. A transfer that is slow
    /// because each batch is refused (EMSGSIZE) looks like any other slow transfer.
    fn losses(&self) -> Option<String> {
        None
    }
}

/// The protocols.
pub const SCHEMES: [&str; 5] = ["quic", "tcp", "tcp+plain", "udp", "udp+plain"];
