//! Shutdown by signals: the first one requests a graceful shutdown, the second one forces it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use selvedge_client::Client;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use crate::cli::error::CommandError;

/// Time limit for a function to handle the messages that it has received. Together with
/// [`CLOSE_MAX`] it is below the 90 s after which systemd kills a service that it stops.
///
/// [`CLOSE_MAX`]: crate::cli::connection::CLOSE_MAX
const FINISH_MAX: Duration = Duration::from_secs(15);

/// A wait that is longer than this is logged.
pub(crate) const WARN_AFTER: Duration = Duration::from_secs(3);

/// Time between the second signal and the end of the process: enough to report what is lost.
const REPORT_MAX: Duration = Duration::from_secs(2);

/// The two stages of a shutdown. Each channel carries no value and is disconnected when its stage
/// begins, so that any number of threads can wait for it.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown {
    pub(crate) requested: Receiver<Infallible>,
    pub(crate) forced: Receiver<Infallible>,
}

impl Shutdown {
    /// Listens to signals until the process ends.
    pub(crate) fn listen() -> Result<Self, CommandError> {
        let ((request, requested), (force, forced)) = (bounded(0), bounded(0));
        let cannot_listen =
            |error| CommandError::system(format!("cannot listen to signals: {error}"));
        let mut signals = Signals::new(signals()).map_err(cannot_listen)?;
        let run = move || {
            let mut received = signals.forever();
            let first = received.next().and_then(signal_name);
            tracing::info!(signal = first, "shutdown requested");
            drop(request);
            // A terminal that closes may send several SIGHUP.
            let second = received.find(|&signal| signal != SIGHUP);
            let second = second.and_then(signal_name);
            tracing::info!(signal = second, "shutdown forced");
            drop(force);
            exit_after_report();
        };
        std::thread::Builder::new()
            .name("zipper-signals".into())
            .spawn(run)
            .map_err(CommandError::thread)?;
        Ok(Self { requested, forced })
    }

    /// Whether there was a signal.
    pub(crate) fn is_requested(&self) -> bool {
        is_disconnected(&self.requested)
    }

    /// Whether there was a second signal.
    pub(crate) fn is_forced(&self) -> bool {
        is_disconnected(&self.forced)
    }

    /// Listens to signals; at the first one, reads and writes of the client fail.
    pub(crate) fn stopping(client: &Arc<Client>) -> Result<Self, CommandError> {
        let shutdown = Self::listen()?;
        shutdown.on_request(client, |client, _| client.stop())?;
        Ok(shutdown)
    }

    /// Listens to signals; at the first one, the client finishes: it receives no further messages
    /// and handles those that it has. It is stopped when the returned sender still exists
    /// [`FINISH_MAX`] later, or at the second signal.
    pub(crate) fn finishing(
        client: &Arc<Client>,
    ) -> Result<(Self, Sender<Infallible>), CommandError> {
        let (running, finished) = bounded(0);
        let shutdown = Self::listen()?;
        shutdown.on_request(client, move |client, forced| {
            finish(client, &finished, forced);
        })?;
        Ok((shutdown, running))
    }

    /// Runs `action` at the first signal, if the client still exists.
    fn on_request(
        &self,
        client: &Arc<Client>,
        action: impl FnOnce(&Client, &Receiver<Infallible>) + Send + 'static,
    ) -> Result<(), CommandError> {
        let (shutdown, client) = (self.clone(), Arc::downgrade(client));
        let wait = move || {
            let _disconnected = shutdown.requested.recv();
            if let Some(client) = client.upgrade() {
                action(&client, &shutdown.forced);
            }
        };
        std::thread::Builder::new()
            .name("zipper-shutdown".into())
            .spawn(wait)
            .map_err(CommandError::thread)?;
        Ok(())
    }
}

/// Signals that request or force a shutdown. A SIGHUP that the parent process ignores stays ignored,
/// which is the purpose of `nohup`.
fn signals() -> Vec<i32> {
    let mut signals = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        signals.push(SIGHUP);
    }
    signals
}

/// Whether a signal is ignored, according to the mask that Linux shows.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn is_disconnected(stage: &Receiver<Infallible>) -> bool {
    stage.try_recv().is_err_and(|error| error.is_disconnected())
}

fn finish(client: &Client, finished: &Receiver<Infallible>, forced: &Receiver<Infallible>) {
    client.finish();
    let is_over = |limit| {
        select! {
            recv(finished) -> _disconnected => true,
            recv(forced) -> _disconnected => true,
            default(limit) => false,
        }
    };
    if !is_over(WARN_AFTER) {
        tracing::warn!(
            "waiting at most {} s until the guest has handled the messages that it has received; \
             a second signal ends this",
            FINISH_MAX.as_secs()
        );
        is_over(FINISH_MAX - WARN_AFTER);
    }
    if is_disconnected(forced) {
        // A blocked write must not wait for the zipper, either.
        let _uncertain = client.close(Duration::ZERO);
    }
    client.stop();
}

/// Ends the process even if a guest or a write to stdout does not return.
fn exit_after_report() -> ! {
    let end = Instant::now() + REPORT_MAX;
    while let remaining = end.saturating_duration_since(Instant::now())
        && !remaining.is_zero()
    {
        std::thread::park_timeout(remaining);
    }
    tracing::error!("the process did not end in time; the messages that it holds are lost");
    std::process::exit(130)
}
