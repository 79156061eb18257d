//! The lanes of a connection between a client and a zipper, or between two zippers.

use std::time::Duration;

use selvedge_hub::{LaneConfig, LaneId, SessionConfig};

/// The control lane: introductions and interest tables, which overtake data.
pub const CONTROL: LaneId = LaneId::FIRST;

/// The data lane: messages of sources and functions.
pub const DATA: LaneId = match LaneId::new(1) {
    Some(lane) => lane,
    None => LaneId::FIRST,
};

/// The largest number of zippers that forward a message.
pub const HOPS_MAX: u8 = 16;

/// How long an endpoint that closes waits for the peer. Callers of a close pass limits of their own, so
/// a slow reader does not lose messages.
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
