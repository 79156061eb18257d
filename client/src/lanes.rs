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

/// The bulk lane: all messages of flows that have a message of [`BULK_LEN_MIN`] bytes. It has the priority of
/// [`DATA`], so that both have half of a connection while both have messages, and the messages of other flows do
/// not wait behind long ones. Only with settlement.
pub const BULK: LaneId = match LaneId::new(2) {
    Some(lane) => lane,
    None => LaneId::FIRST,
};

/// The lanes of messages of flows. Those of one flow are on one of them, which is the order that they need.
pub const FLOW_LANES: [LaneId; 2] = [DATA, BULK];

/// A message of so many bytes moves its flow to the lane [`BULK`]: it takes 2 ms at 1 Gbit/s.
pub const BULK_LEN_MIN: usize = 256 << 10;

/// The largest number of zippers that forward a message.
pub const HOPS_MAX: u8 = 16;

/// The least and the largest room for the header of a message: tag, target, recipients, trace.
const HEADER_ROOM_MIN: usize = 4 << 10;
const HEADER_ROOM_MAX: usize = 64 << 10;

/// The longest payload by default, in bytes. With its header it is 64 MiB, which is the longest message of
/// the versions before: both sides of a session must have the same maximum.
pub const PAYLOAD_MAX: usize = (64 << 20) - HEADER_ROOM_MAX;

/// How long an endpoint that closes waits for the peer. Callers of a close pass limits of their own, so
/// a slow reader does not lose messages.
pub(crate) const LINGER: Duration = Duration::from_secs(60);

/// The longest message with its header, for payloads of at most `payload_max` bytes.
#[must_use]
pub const fn message_max(payload_max: usize) -> usize {
    let room = payload_max / 64;
    let room = if room < HEADER_ROOM_MIN {
        HEADER_ROOM_MIN
    } else if room > HEADER_ROOM_MAX {
        HEADER_ROOM_MAX
    } else {
        room
    };
    payload_max.saturating_add(room)
}

/// The configuration of every session between clients and zippers: control overtakes data. Each of the three
/// lanes has a send buffer and a receive window of its own.
#[must_use]
pub fn session_config(send_buffer: u64, payload_max: usize) -> SessionConfig {
    let lane = |priority| LaneConfig {
        priority,
        ..LaneConfig::default()
    };
    SessionConfig {
        lanes: vec![lane(0), lane(1), lane(1)],
        send_buffer,
        message_max: message_max(payload_max),
        linger: LINGER,
        ..SessionConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_payload_makes_the_longest_message_of_the_versions_before() {
        assert_eq!(
            message_max(PAYLOAD_MAX),
            SessionConfig::default().message_max
        );
    }

    #[test]
    fn every_payload_has_room_for_a_header() {
        assert_eq!(message_max(1024), 1024 + 4096);
        assert_eq!(message_max(1 << 20), (1 << 20) + (16 << 10));
        assert_eq!(message_max(usize::MAX), usize::MAX);
    }
}
