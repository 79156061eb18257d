//! The limits of a session, and the memory that they permit.

use std::time::Duration;

use crate::lane::LaneConfig;

/// Limits and times of a [`Session`](crate::Session).
///
/// The defaults suit tens to thousands of peers over paths of up to 1 Gbit/s times 30 ms. Per lane a
/// session buffers at most `send_buffer` towards the peer (with [`OfflinePolicy::DropOldest`] up to
/// twice that between two turns of its driver), and `receive_window + message_max` towards the user
/// (much less before the peer is admitted, see `admission_buffer`).
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The lanes on which this side sends; the index is the lane's number. At least one, at most
    /// [`LANES_MAX`](selvedge_transport::LANES_MAX). Default: one reliable lane.
    pub lanes: Vec<LaneConfig>,
    /// The longest message, in bytes. Default 64 MiB. The limit of the peer must not be lower.
    pub message_max: usize,
    /// Bytes accepted on one reliable lane and not yet acknowledged, above which its sends are refused
    /// as full. Default 16 MiB. Each lane has its own limit: a blocked lane takes no room from others. A message
    /// that is longer than that is accepted while at most half of it is used.
    pub send_buffer: u64,
    /// What happens above that limit while the peer cannot be reached. Default [`OfflinePolicy::Wait`].
    pub offline_policy: OfflinePolicy,
    /// Bytes buffered on one best-effort lane. Above it the oldest unsent message, or the newest
    /// received one that the user has not read, is dropped and counted. Default 256 KiB.
    pub best_effort_buffer: usize,
    /// Bytes of whole messages that wait on one lane for the user, before the peer must pause that
    /// lane. Default 4 MiB.
    pub receive_window: u64,
    /// Bytes buffered for a peer before [`Session::admit`](crate::Session::admit), for peers that are still to
    /// prove that they may send: half of it is credit on the first lane, half the longest message there; the
    /// other lanes have no credit. `None` (default): the peer has the full limits from the start.
    pub admission_buffer: Option<usize>,
    /// How long a transport may be silent before a ping is sent. The dialer sends it; the acceptor
    /// waits longer, by an eighth of the time that remains to `silence_max`, and so sends one only
    /// if the dialer does not. Default 1 s. A driver may delay this and `silence_max` by up to an
    /// eighth of this time, to handle many endpoints at once.
    pub heartbeat: Duration,
    /// How long a transport may be silent before it is given up. Default 3 s.
    pub silence_max: Duration,
    /// How long an acknowledgement may be delayed, to be merged with others or sent together with
    /// data. Default 20 ms: it only frees the peer's memory. On a reliable transport, one that frees
    /// less than 64 KiB of each lane may be delayed ten times as long. One that a flush, a close or a
    /// full buffer waits for is not delayed.
    pub ack_delay: Duration,
    /// How long [`Session::close`](crate::Session::close) waits for acknowledgements. Default 5 s.
    pub linger: Duration,
}

/// What happens to messages on a reliable lane whose send buffer is full while the peer cannot be
/// reached. While it can be reached, senders wait for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OfflinePolicy {
    /// Senders wait for room ([`SendError::Full`](crate::SendError::Full)).
    #[default]
    Wait,
    /// Sends are refused ([`SendError::Unreachable`](crate::SendError::Unreachable)).
    Refuse,
    /// The oldest messages that were never sent are dropped. They are counted and reported by
    /// [`Event::Dropped`](crate::Event::Dropped) when the peer can be reached again.
    DropOldest,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            lanes: vec![LaneConfig::default()],
            message_max: 64 << 20,
            send_buffer: 16 << 20,
            offline_policy: OfflinePolicy::Wait,
            best_effort_buffer: 256 << 10,
            receive_window: 4 << 20,
            admission_buffer: None,
            heartbeat: Duration::from_secs(1),
            silence_max: Duration::from_secs(3),
            ack_delay: Duration::from_millis(20),
            linger: Duration::from_secs(5),
        }
    }
}
