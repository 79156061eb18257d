//! The counters of a process and its side of the pipe to the runner.

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use selvedge_driver::QuicStats;
use serde::{Deserialize, Serialize};

/// The round trips kept between two marks: ten times those of the fastest in a second.
const TRIPS_MAX: usize = 1 << 21;

/// The losses of a connection that retransmits, since its start.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Losses {
    /// Packets declared lost.
    pub(crate) packets_lost: u64,
    /// Send errors, except those of path probes and full sockets.
    pub(crate) send_errors: u64,
    /// The largest datagram of the path, in bytes.
    pub(crate) mtu: u16,
}

impl Losses {
    pub(crate) const fn of(stats: &QuicStats) -> Self {
        Self {
            packets_lost: stats.packets_lost,
            send_errors: stats.sends_oversized + stats.socket_errors,
            mtu: stats.mtu,
        }
    }
}

/// A snapshot of the counters.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Since the start of the process.
    pub(crate) at: Duration,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Of the round trips since the previous mark.
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
    pub(crate) losses: Losses,
}

/// Reads the state of a connection on request of the runner.
type LookAtLosses = Box<dyn Fn() -> Losses + Send + Sync>;

/// The counters of one process.
pub(crate) struct Meter {
    began: Instant,
    messages: AtomicU64,
    bytes: AtomicU64,
    trips: Mutex<Vec<Duration>>,
    losses: OnceLock<LookAtLosses>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            trips: Mutex::default(),
            losses: OnceLock::new(),
        }
    }

    /// Counts received messages, from one thread only. An atomic addition would take a third of the time of a
    /// raw message of 64 B (15 ns).
    pub(crate) fn add(&self, messages: u64, bytes: usize) {
        let more = |counter: &AtomicU64, by: u64| {
            counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
        };
        more(&self.messages, messages);
        more(&self.bytes, bytes as u64);
    }

    /// Counts received messages, from any number of threads.
    pub(crate) fn add_shared(&self, messages: u64, bytes: usize) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a round trip, from one thread only.
    pub(crate) fn trip(&self, took: Duration) {
        self.add(1, 0);
        let mut trips = self.trips.lock().unwrap_or_else(PoisonError::into_inner);
        if trips.len() < TRIPS_MAX {
            trips.push(took);
        }
    }

    /// Adds the losses to each mark.
    pub(crate) fn watch(&self, look: impl Fn() -> Losses + Send + Sync + 'static) {
        let is_first = self.losses.set(Box::new(look)).is_ok();
        debug_assert!(is_first, "a process has one connection to look at");
    }

    fn mark(&self) -> Mark {
        let at = self.began.elapsed();
        let counters = [&self.messages, &self.bytes];
        let [messages, bytes] = counters.map(|counter| counter.load(Ordering::Relaxed));
        let mut trips = {
            let mut trips = self.trips.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *trips)
        };
        trips.sort_unstable();
        let part = |hundredths: usize| trips.get(trips.len() * hundredths / 100).copied();
        Mark {
            at,
            messages,
            bytes,
            p50: part(50),
            p99: part(99),
            losses: self.losses.get().map(|look| look()).unwrap_or_default(),
        }
    }

    /// Answers each line of the runner with a mark, and ends the process when the pipe ends.
    pub(crate) fn serve(&self) -> ! {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            let mark = serde_json::to_string(&self.mark()).expect("numbers make JSON");
            print_line(&mark);
        }
        std::process::exit(0)
    }
}

/// Prints a line for the runner. A failure is ignored: the runner has ended.
pub(crate) fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    if written.is_err() {
        std::process::exit(0);
    }
}
