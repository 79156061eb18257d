//! What a process counts, and how it tells: its side of the pipe to the runner.

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use selvedge_driver::QuicStats;
use serde::{Deserialize, Serialize};

/// So many round trips are kept between two marks: a second of the fastest, ten times over.
const TRIPS_MAX: usize = 1 << 21;

/// What a connection that repeats lost packets has seen, since it began.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Losses {
    /// Packets declared lost.
    pub(crate) packets_lost: u64,
    /// Errors of sends, but for probes of the path and full sockets.
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

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Since the process began.
    pub(crate) at: Duration,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Of the round trips since the mark before.
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
    pub(crate) losses: Losses,
}

/// Looks at a connection when the runner asks.
type LookAtLosses = Box<dyn Fn() -> Losses + Send + Sync>;

/// What one process counts.
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

    /// Counts what arrived; from one thread only. An atomic addition would take a third of the time
    /// that a raw message of 64 B takes (15 ns).
    pub(crate) fn add(&self, messages: u64, bytes: usize) {
        let more = |counter: &AtomicU64, by: u64| {
            counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
        };
        more(&self.messages, messages);
        more(&self.bytes, bytes as u64);
    }

    /// Counts what arrived; from any number of threads.
    pub(crate) fn add_shared(&self, messages: u64, bytes: usize) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a round trip; from one thread only.
    pub(crate) fn trip(&self, took: Duration) {
        self.add(1, 0);
        let mut trips = self.trips.lock().unwrap_or_else(PoisonError::into_inner);
        if trips.len() < TRIPS_MAX {
            trips.push(took);
        }
    }

    /// Has the losses told with each mark.
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

    /// Answers the runner, each line with a mark, until the pipe ends: then the process does too.
    pub(crate) fn serve(&self) -> ! {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            let mark = serde_json::to_string(&self.mark()).expect("numbers make JSON");
            tell(&mark);
        }
        std::process::exit(0)
    }
}

/// Says a line to the runner. There is nobody to tell if it has gone.
pub(crate) fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    let told = writeln!(out, "{line}").and_then(|()| out.flush());
    if told.is_err() {
        std::process::exit(0);
    }
}
