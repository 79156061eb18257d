//! The clock of the deadlines: a thread that advances the engine's epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wasmtime::Engine;

/// The number of ticks since the host started. Reading it costs one load, whereas reading the system
/// clock costs tens of nanoseconds, as much as a call of a core module.
#[derive(Debug, Default)]
pub(crate) struct Ticks(AtomicU64);

impl Ticks {
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Owns the thread, which is ended and joined on drop.
#[derive(Debug)]
pub(crate) struct EpochTicker {
    ticks: Arc<Ticks>,
    tick: Duration,
    // Both are `Some` until drop.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EpochTicker {
    pub(crate) fn start(engine: Engine, tick: Duration) -> std::io::Result<Self> {
        let ticks = Arc::new(Ticks::default());
        let (stop, stopped) = sync_channel::<()>(0);
        let counter = Arc::clone(&ticks);
        let run = move || {
            let started = Instant::now();
            // Nothing is ever sent: the channel is disconnected when the ticker is dropped.
            while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                // Computed from the clock, so that a late wake-up does not extend deadlines.
                let elapsed = started.elapsed().as_nanos() / tick.as_nanos();
                counter.0.store(
                    u64::try_from(elapsed).unwrap_or(u64::MAX),
                    Ordering::Relaxed,
                );
                engine.increment_epoch();
            }
        };
        let thread = std::thread::Builder::new()
            .name("wasm-ticker".into())
            .spawn(run)?;
        Ok(Self {
            ticks,
            tick,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub(crate) fn ticks(&self) -> &Arc<Ticks> {
        &self.ticks
    }

    pub(crate) fn tick(&self) -> Duration {
        self.tick
    }

    /// How many ticks cover `duration`, including the current one.
    pub(crate) fn ticks_in(&self, duration: Duration) -> u64 {
        let ticks = duration
            .as_nanos()
            .div_ceil(self.tick.as_nanos())
            .saturating_add(1);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

impl Drop for EpochTicker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread cannot panic, and a drop cannot return an error.
            let _ = thread.join();
        }
    }
}
