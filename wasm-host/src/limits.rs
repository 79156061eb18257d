//! The resource limits of a guest.

use std::time::Duration;

/// The limits of one function, all enabled by default.
///
/// Exceeding a limit ends the call with a [`CallError`](crate::CallError) that names the limit, unless
/// documented otherwise. The defaults are for a function that handles messages of up to 1 MiB within
/// milliseconds; N instances use at most N x (`memory_bytes` + `output_bytes`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLimits {
    /// Bytes of all linear memories and tables of an instance together. Default 64 MiB.
    ///
    /// Beyond it `memory.grow` returns -1, as the WebAssembly standard demands; most guests then trap,
    /// and the call fails with `MemoryLimit`.
    pub memory_bytes: usize,
    /// Wall time of one call, or of a start, measured in ticks of
    /// [`HostConfig::tick`](crate::HostConfig::tick): a call ends at most two ticks late. Default 250 ms.
    pub deadline: Duration,
    /// Bytes of payloads and targets that one call may emit. Default 4 MiB.
    pub output_bytes: usize,
    /// Messages that one call may emit. Default 1,000.
    pub output_messages: u32,
    /// Calls of host functions (emit, log, config) that one call may make. Default 1,000.
    pub host_calls: u32,
    /// Bytes of the `.wasm` file; a larger file is not read. Default 16 MiB.
    pub module_bytes: u64,
    /// Functions in the `.wasm` file. Default 100,000; a guest with a JavaScript engine has about
    /// 30,000. With [`function_bytes`](Self::function_bytes) it bounds the work of compiling, which has
    /// no deadline: 99,000 small functions took 1.7 s.
    pub module_functions: u32,
    /// Bytes of the largest function in the `.wasm` file. Default 1 MiB. The time to compile grows faster
    /// than the size: the worst function of 1 MiB found took 14 s and 1 GB. A file with many of them
    /// occupies the compiler for minutes, so load untrusted files with lower limits, and not on a
    /// thread that must respond.
    pub function_bytes: u32,
    /// Bytes of log lines per second, and the maximum burst. Further lines are dropped and counted in
    /// [`FunctionStats::log_lines_dropped`](crate::FunctionStats::log_lines_dropped); the call continues.
    /// Default 64 KiB.
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
