//! The lanes of a connection between a client and a zipper, or between two zippers.

use std::time::{Duration, SystemTime};

use selvedge_hub::{LaneConfig, LaneId, SessionConfig};

/// Introductions and tables: they overtake data that waits.
pub const CONTROL: LaneId = LaneId::FIRST;

/// Messages of sources and functions.
pub const DATA: LaneId = match LaneId::new(1) {
    Some(lane) => lane,
    None => LaneId::FIRST,
};

/// The most zippers that a message passes.
pub const HOPS_MAX: u8 = 16;

/// How long an orderly end may wait for the other side: the caller of a close gives a limit of its
/// own, and a peer that reads slowly is no reason to drop what it was sent.
const LINGER: Duration = Duration::from_secs(60);

/// The configuration of every session between clients and zippers: control overtakes data.
#[must_use]
pub fn session_config(send_buffer: u64, message_max: usize) -> SessionConfig {
    let lane = |priority| LaneConfig {
        priority,
        ..LaneConfig::default()
    };
    SessionConfig {
        lanes: vec![lane(0), lane(1)],
        send_buffer,
        message_max,
        linger: LINGER,
        ..SessionConfig::default()
    }
}

/// The time of day in microseconds since 1970: traces compare it between machines, as well as
/// their clocks agree.
#[must_use]
pub fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}
