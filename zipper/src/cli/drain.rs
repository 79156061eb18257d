//! Graceful close of a client: the zipper acknowledges everything that was written first.

use std::time::{Duration, Instant};

use selvedge_client::Client;

use crate::cli::shutdown::{Shutdown, WARN_AFTER};

/// Time limit for a graceful close while the zipper cannot be reached, and no shutdown was requested.
const UNREACHABLE_MAX: Duration = Duration::from_secs(30);

/// Interval at which the wait checks for signals.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Closes a client after everything that it wrote is acknowledged, and returns whether it was.
///
/// While the zipper is connected, the wait has no limit: the zipper applies backpressure while
/// functions are slower. The wait is limited to [`UNREACHABLE_MAX`] while the zipper is away, and to the
/// time limit of the shutdown after one was requested. A second signal ends it at once.
pub(crate) fn close(client: &Client, shutdown: &Shutdown) -> bool {
    client.close(wait_acknowledged(client, shutdown))
}

/// Waits until everything is acknowledged. Returns the time limit for the close that follows.
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
            warn_waiting(is_connected, is_requested);
            // The interval between two warnings grows with the time waited.
            warn_at = now + (now - began).max(WARN_AFTER);
        }
    }
}

fn warn_waiting(is_connected: bool, is_requested: bool) {
    let reason = match is_connected {
        true => "it applies backpressure: functions are slow or away",
        false => "it cannot be reached",
    };
    let ends_by = match is_requested {
        true => "a second signal",
        false => "a signal",
    };
    tracing::warn!(
        reason,
        "waiting until the zipper acknowledges what was written; {ends_by} ends this sooner"
    );
}
