//! The lanes of a connection between a client and a zipper, or between two zippers.

use std::time::Duration;

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
