//! How much of the host a guest may use.

use std::time::Duration;

/// The limits of one function, all on by default.
///
/// A breach ends the call with a [`CallError`](crate::CallError) that names the limit, except where
/// said otherwise. The defaults fit a function that handles messages of up to 1 MiB within
/// milliseconds; a host with N instances of it holds at most N x (`memory_bytes` + `output_bytes`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLimits {
    /// Bytes of all linear memories and tables of an instance together. 64 MiB.
    ///
    /// A guest that asks for more is told so by `memory.grow` (-1), as the WebAssembly standard
    /// has it; most then trap, and the call fails with `MemoryLimit`.
    pub memory_bytes: usize,
    /// Wall time of one call, also of a start, measured in ticks of
    /// [`HostConfig::tick`](crate::HostConfig::tick): a call ends at most two ticks late. 250 ms.
    pub deadline: Duration,
    /// Bytes of payloads and targets that one call may emit. 4 MiB.
    pub output_bytes: usize,
    /// Messages that one call may emit. 1000.
    pub output_messages: u32,
    /// Calls of host functions (emit, log, config) that one call may make. 1000.
    pub host_calls: u32,
    /// Bytes of the `.wasm` file; more is refused unread. 16 MiB.
    pub module_bytes: u64,
    /// Functions in the `.wasm` file. 100 000: a guest that carries a JavaScript engine has some
    /// 30 000. With [`function_bytes`](Self::function_bytes) it bounds the work of compiling, which no
    /// deadline covers: 99 000 small functions took 1.7 s.
    pub module_functions: u32,
    /// Bytes of the largest function in the `.wasm` file, 1 MiB. Compiling grows faster than this: the
    /// worst function of 1 MiB found took 14 s and 1 GB. A file of many such can keep the compiler
    /// busy for minutes, so load what a stranger gives with lower limits, and off the hot threads.
    pub function_bytes: u32,
    /// Bytes of log lines per second, with a burst of as much. More is dropped and counted in
    /// [`FunctionStats::log_lines_dropped`](crate::Stats::log_lines_dropped); the call goes on. 64 KiB.
    pub log_bytes_per_second: u32,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            deadline: Duration::from_millis(250),
            output_bytes: 4 << 20,
            output_messages: 1000,
            host_calls: 1000,
            module_bytes: 16 << 20,
            module_functions: 100_000,
            function_bytes: 1 << 20,
            log_bytes_per_second: 64 << 10,
        }
    }
}
