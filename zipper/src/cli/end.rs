//! How clients end: what they have written is acknowledged first.

use std::time::{Duration, Instant};

use selvedge_client::Client;

use crate::cli::connection::CLOSE_MAX;
use crate::cli::interrupt::{Interrupts, SAY_AFTER};

/// How soon a signal is noticed.
const STEP: Duration = Duration::from_millis(100);

/// Ends in order. A zipper that is there is waited for as long as it takes: it holds a client back
/// while functions are slower. It is waited for at most [`CLOSE_MAX`] if it is away, or if somebody
/// wishes to end, and no longer at the second signal. Returns whether all was acknowledged.
pub(crate) fn close(client: &Client, interrupts: &Interrupts) -> bool {
    client.close(wait(client, interrupts))
}

/// Waits until all is acknowledged. Returns how long closing may take.
fn wait(client: &Client, interrupts: &Interrupts) -> Duration {
    let began = Instant::now();
    let (mut patient_since, mut say_at) = (began, began + SAY_AFTER);
    let mut was_ending = false;
    loop {
        if client.flush(STEP) {
            return CLOSE_MAX;
        }
        let (now, is_connected) = (Instant::now(), client.scheme().is_some());
        let is_ending = interrupts.is_ending();
        if is_connected && !is_ending {
            patient_since = now;
        }
        if interrupts.is_given_up() || now >= patient_since + CLOSE_MAX {
            return Duration::ZERO;
        }
        // Who has just asked for the end is told at once.
        if now >= say_at || (is_ending && !was_ending) {
            was_ending = is_ending;
            say(is_connected, is_ending);
            // Ever more rarely.
            say_at = now + (now - began).max(SAY_AFTER);
        }
    }
}

fn say(is_connected: bool, is_ending: bool) {
    let why = match is_connected {
        true => "it holds this client back: functions are slow or away",
        false => "it cannot be reached",
    };
    let ends_by = match is_ending {
        true => "a second signal",
        false => "a signal",
    };
    tracing::warn!(
        why,
        "waiting for the zipper to take what was written; {ends_by} ends this sooner"
    );
}
