//! Shutdown by signals: the first one requests a graceful shutdown, which a second one or the time limit
//! ends.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use selvedge_client::Client;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use crate::cli::error::CommandError;
use crate::cli::number::number;

/// A wait that is longer than this is logged.
pub(crate) const WARN_AFTER: Duration = Duration::from_secs(3);

/// Time between the end of the graceful shutdown and the end of the process: enough to report what is lost.
const REPORT_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct ShutdownArgs {
    /// Time limit of a shutdown, from the first signal to the end of the process, in seconds. The
    /// last two are for the report of what is lost.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 8,
        env = "ZIPPER_SHUTDOWN_TIMEOUT",
        value_parser = number(3..=86_400)
    )]
    shutdown_timeout: u64,
}

impl Default for ShutdownArgs {
    fn default() -> Self {
        Self {
            shutdown_timeout: 8,
        }
    }
}

/// The stages of a shutdown. Each channel carries no value and is disconnected when its stage begins, so
/// that any number of threads can wait for it.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown {
    /// There was a signal.
    pub(crate) requested: Receiver<Infallible>,
    /// The graceful part is over: there was a second signal, or its time has passed.
    pub(crate) over: Receiver<Infallible>,
    is_forced: Arc<AtomicBool>,
    /// Time limit of the graceful part.
    pub(crate) graceful_max: Duration,
}

/// Ends the graceful part, once.
type Ender = Arc<Mutex<Option<Sender<Infallible>>>>;

impl Shutdown {
    /// Listens to signals until the process ends.
    pub(crate) fn listen(args: ShutdownArgs) -> Result<Self, CommandError> {
        Self::listen_with(args, None)
    }

    /// Listens to signals until the process ends. SIGHUP requests a reload, which the returned channel
    /// reports.
    pub(crate) fn listen_for_reload(
        args: ShutdownArgs,
    ) -> Result<(Self, Receiver<()>), CommandError> {
        // Requests during a reload are one.
        let (reload, reloads) = bounded(1);
        Ok((Self::listen_with(args, Some(reload))?, reloads))
    }

    fn listen_with(args: ShutdownArgs, reload: Option<Sender<()>>) -> Result<Self, CommandError> {
        let ((request, requested), (end, over)) = (bounded(0), bounded(0));
        let cannot_listen =
            |error| CommandError::system(format!("cannot listen to signals: {error}"));
        let mut signals = Signals::new(signals()).map_err(cannot_listen)?;
        let ender: Ender = Arc::new(Mutex::new(Some(end)));
        let shutdown = Self {
            requested,
            over,
            is_forced: Arc::default(),
            graceful_max: Duration::from_secs(args.shutdown_timeout).saturating_sub(REPORT_MAX),
        };
        shutdown.limit_time(Arc::clone(&ender))?;
        let is_forced = Arc::clone(&shutdown.is_forced);
        let run = move || {
            let mut received = signals.forever();
            let is_shutdown = |&signal: &i32| match &reload {
                Some(reload) if signal == SIGHUP => {
                    let _is_requested = reload.try_send(());
                    false
                }
                _ => true,
            };
            let first = received.find(is_shutdown).and_then(signal_name);
            tracing::info!(signal = first, "shutdown requested");
            drop(request);
            // A terminal that closes may send several SIGHUP.
            let second = received.find(|&signal| signal != SIGHUP);
            let second = second.and_then(signal_name);
            tracing::info!(signal = second, "shutdown forced");
            is_forced.store(true, Ordering::Relaxed);
            end_graceful_part(&ender);
            exit_after_report(130);
        };
        spawn("zipper-signals", run)?;
        Ok(shutdown)
    }

    /// Ends the graceful part when its time has passed.
    fn limit_time(&self, ender: Ender) -> Result<(), CommandError> {
        let shutdown = self.clone();
        spawn("zipper-shutdown-limit", move || {
            let _disconnected = shutdown.requested.recv();
            select! {
                recv(shutdown.over) -> _disconnected => return,
                default(shutdown.graceful_max) => {}
            }
            let seconds = shutdown.graceful_max.as_secs();
            tracing::warn!("the graceful shutdown is ended after {seconds} s");
            end_graceful_part(&ender);
            exit_after_report(1);
        })
    }

    /// Whether there was a signal.
    pub(crate) fn is_requested(&self) -> bool {
        is_disconnected(&self.requested)
    }

    /// Whether the graceful part is over.
    pub(crate) fn is_over(&self) -> bool {
        is_disconnected(&self.over)
    }

    /// Whether there was a second signal.
    pub(crate) fn is_forced(&self) -> bool {
        self.is_forced.load(Ordering::Relaxed)
    }

    /// At the first signal, reads and writes of the client fail.
    pub(crate) fn stop(&self, client: &Arc<Client>) -> Result<(), CommandError> {
        self.on_request(client, |client, _| client.stop())
    }

    /// At the first signal, the client finishes: it receives no further messages and handles those
    /// that it has. It is stopped when the returned sender still exists at the end of the graceful part.
    pub(crate) fn finish(&self, client: &Arc<Client>) -> Result<Sender<Infallible>, CommandError> {
        let (running, finished) = bounded(0);
        let graceful_max = self.graceful_max;
        self.on_request(client, move |client, over| {
            finish(client, &finished, over, graceful_max);
        })?;
        Ok(running)
    }

    /// Runs `action` at the first signal, if the client still exists.
    fn on_request(
        &self,
        client: &Arc<Client>,
        action: impl FnOnce(&Client, &Receiver<Infallible>) + Send + 'static,
    ) -> Result<(), CommandError> {
        let (shutdown, client) = (self.clone(), Arc::downgrade(client));
        spawn("zipper-shutdown", move || {
            let _disconnected = shutdown.requested.recv();
            if let Some(client) = client.upgrade() {
                action(&client, &shutdown.over);
            }
        })
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), CommandError> {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(run).map_err(CommandError::thread)?;
    Ok(())
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

/// Whether the process has a terminal, whose end SIGHUP reports.
pub(crate) fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
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

fn end_graceful_part(ender: &Ender) {
    let end = ender.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(end);
}

fn finish(
    client: &Client,
    finished: &Receiver<Infallible>,
    over: &Receiver<Infallible>,
    graceful_max: Duration,
) {
    client.finish();
    let is_finished = |limit| {
        select! {
            recv(finished) -> _disconnected => true,
            recv(over) -> _disconnected => true,
            default(limit) => false,
        }
    };
    if !is_finished(WARN_AFTER) {
        tracing::warn!(
            "waiting at most {} s until the messages that were received are handled; a second signal \
             ends this",
            graceful_max.as_secs()
        );
        is_finished(graceful_max.saturating_sub(WARN_AFTER));
    }
    if is_disconnected(over) {
        // A blocked write must not wait for the zipper, either.
        let _uncertain = client.close(Duration::ZERO);
    }
    client.stop();
}

/// Ends the process even if a guest or a write to stdout does not return.
fn exit_after_report(code: i32) -> ! {
    let end = Instant::now() + REPORT_MAX;
    while let remaining = end.saturating_duration_since(Instant::now())
        && !remaining.is_zero()
    {
        std::thread::park_timeout(remaining);
    }
    tracing::error!("the process did not end in time; the messages that it holds are lost");
    std::process::exit(code)
}
