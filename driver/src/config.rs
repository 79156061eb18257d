//! How many workers there are, and how they share their time.

use std::num::NonZeroUsize;
use std::time::Duration;

/// The settings of a [`Driver`](crate::Driver).
#[derive(Debug, Clone)]
pub struct Config {
    /// How many threads, each with one event loop. Default 1: it carries thousands of endpoints.
    pub workers: NonZeroUsize,
    /// How long a connection may take to prove who it is. Default 5 s.
    pub handshake_max: Duration,
    /// How many connections may be in their handshake on one worker; more are refused. Default 1024.
    pub handshakes_max: usize,
    /// How many bytes a transport may move each way before it is another's turn. Default 1 MiB:
    /// at 5 GB/s that is 0.2 ms of waiting for its neighbours.
    pub budget: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: NonZeroUsize::MIN,
            handshake_max: Duration::from_secs(5),
            handshakes_max: 1024,
            budget: 1 << 20,
        }
    }
}
