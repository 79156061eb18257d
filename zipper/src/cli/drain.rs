//! Graceful close of a client: everything that was written is settled or acknowledged first.

use std::time::{Duration, Instant};

use selvedge_client::Client;

use crate::cli::shutdown::{Shutdown, WARN_AFTER};

/// Time limit for a graceful close while the zipper cannot be reached, and no shutdown was requested.
const UNREACHABLE_MAX: Duration = Duration::from_secs(30);

/// Interval at which the wait checks for signals.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Closes a client after everything that it wrote has an outcome, and without settlement is acknowledged
/// by the zipper. Returns whether everything was delivered.
///
/// While the zipper is connected, the wait has no limit: functions may be slower. The wait is limited to [`UNREACHABLE_MAX`] while the zipper is away, and to the
/// time limit of the shutdown after one was requested. A second signal ends it at once.
pub(crate) fn close(client: &Client, shutdown: &Shutdown) -> bool {
    client.close(wait_acknowledged(client, shutdown))
}

/// Waits until everything has an outcome. Returns the time limit for the close that follows.
fn wait_acknowledged(client: &Client, shutdown: &Shutdown) -> Duration {
    let began = Instant::now();
    let (mut limit_since, mut warn_at) = (began, began + WARN_AFTER);
    let mut was_requested = false;
    loop {
        if client.flush(POLL_INTERVAL) {
            return shutdown.graceful_max;
        }
        let (now, is_connected) = (Instant::now(), client.scheme().is_some());
        let is_requested = shutdown.is_requested();
        if is_connected && !is_requested {
            limit_since = now;
        }
        if shutdown.is_over() || now >= limit_since + UNREACHABLE_MAX {
            return Duration::ZERO;
        }
        // The first signal is answered at once.
        if now >= warn_at || (is_requested && !was_requested) {
            was_requested = is_requested;
            warn_waiting(client, is_connected, is_requested);
            // The interval between two warnings grows with the time waited.
            warn_at = now + (now - began).max(WARN_AFTER);
        }
    }
}

fn warn_waiting(client: &Client, is_connected: bool, is_requested: bool) {
    let unsettled = client.outcomes().unsettled();
    let reason = match (is_connected, unsettled) {
        (false, _) => "the zipper cannot be reached",
        (true, 0) => "the zipper applies backpressure: functions are slow or away",
        (true, _) => "functions are slow or away",
    };
    let ends_by = match is_requested {
        true => "a second signal",
        false => "a signal",
    };
    match unsettled {
        0 => tracing::warn!(
            reason,
            "waiting until the zipper acknowledges what was written; {ends_by} ends this sooner"
        ),
        _ => tracing::warn!(
            unsettled,
            reason,
            "waiting until every message is settled; {ends_by} ends this sooner"
        ),
    }
}
