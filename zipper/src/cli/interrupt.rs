//! Ctrl-C and SIGTERM: the first ends in order, the second gives up what that waits for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use selvedge_client::Client;

use crate::cli::fault::Fault;

/// How long a function may handle what has come: with [`CLOSE_MAX`] less than the 90 s after which
/// systemd kills what it has asked to end.
///
/// [`CLOSE_MAX`]: crate::cli::connection::CLOSE_MAX
const FINISH_MAX: Duration = Duration::from_secs(15);

/// Who waits longer than this hears of it.
pub(crate) const SAY_AFTER: Duration = Duration::from_secs(3);

/// How long the process may take after the second signal, to say what is lost.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// Nothing comes out of either; each is disconnected by its signal.
#[derive(Debug, Clone)]
pub(crate) struct Interrupts {
    pub(crate) first: Receiver<Infallible>,
    pub(crate) second: Receiver<Infallible>,
}

impl Interrupts {
    /// Whether there was a second signal.
    pub(crate) fn is_given_up(&self) -> bool {
        is_disconnected(&self.second)
    }

    /// Whether there was a signal.
    pub(crate) fn is_ending(&self) -> bool {
        is_disconnected(&self.first)
    }
}

fn is_disconnected(signal: &Receiver<Infallible>) -> bool {
    signal
        .try_recv()
        .is_err_and(|error| error.is_disconnected())
}

/// Listens to signals, for as long as the process lives.
pub(crate) fn interrupted() -> Result<Interrupts, Fault> {
    let ((tell_first, first), (tell_second, second)) = (bounded(0), bounded(0));
    let mut tell = vec![tell_second, tell_first];
    let handler = move || {
        drop(tell.pop());
        if tell.is_empty() {
            exit_soon();
        }
    };
    ctrlc::set_handler(handler)
        .map_err(|error| Fault::failed(format!("cannot listen to signals: {error}")))?;
    Ok(Interrupts { first, second })
}

/// Whatever the rest of the process waits for: a guest, or who reads its output.
fn exit_soon() -> ! {
    let end = Instant::now() + LAST_WORDS_MAX;
    while let left = end.saturating_duration_since(Instant::now())
        && !left.is_zero()
    {
        std::thread::park_timeout(left);
    }
    tracing::error!("something does not end, and what it holds is lost");
    std::process::exit(130)
}

/// Has reads and writes of a client fail when somebody wishes to end, and tells it.
pub(crate) fn stop_when_interrupted(client: &Arc<Client>) -> Result<Interrupts, Fault> {
    when_interrupted(client, |client, _| client.stop())
}

/// Has a client finish when somebody wishes to end, and stop if what is returned is still there
/// [`FINISH_MAX`] later, or at the second signal.
pub(crate) fn finish_when_interrupted(
    client: &Arc<Client>,
) -> Result<(Interrupts, Sender<Infallible>), Fault> {
    let (reading, has_read) = bounded(0);
    let interrupts = when_interrupted(client, move |client, second| {
        client.finish();
        let is_over = |patience| {
            select! {
                recv(has_read) -> _disconnected => true,
                recv(second) -> _disconnected => true,
                default(patience) => false,
            }
        };
        if !is_over(SAY_AFTER) {
            tracing::warn!(
                "the guest has {} s for what has come; a second signal ends this",
                FINISH_MAX.as_secs()
            );
            is_over(FINISH_MAX - SAY_AFTER);
        }
        if is_disconnected(second) {
            // Whoever writes need not wait for the zipper, either.
            let _uncertain = client.close(Duration::ZERO);
        }
        client.stop();
    })?;
    Ok((interrupts, reading))
}

fn when_interrupted(
    client: &Arc<Client>,
    end: impl FnOnce(&Client, &Receiver<Infallible>) + Send + 'static,
) -> Result<Interrupts, Fault> {
    let interrupts = interrupted()?;
    let (told, client) = (interrupts.clone(), Arc::downgrade(client));
    let wait = move || {
        let _disconnected = told.first.recv();
        if let Some(client) = client.upgrade() {
            end(&client, &told.second);
        }
    };
    std::thread::Builder::new()
        .name("zipper-signals".into())
        .spawn(wait)
        .map_err(|error| Fault::failed(format!("cannot start a thread: {error}")))?;
    Ok(interrupts)
}
