//! The limits of a session, and what they cost.

use std::time::Duration;

use crate::lane::LaneConfig;

/// Limits and times of a [`Session`](crate::Session).
///
/// The defaults suit tens to thousands of peers over paths of up to 1 Gbit/s times 30 ms. A session
/// holds a lane at most `send_buffer` for its peer (and, if the oldest are dropped, up to twice that
/// between two turns of its driver), and for its user `receive_window + message_max`.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The lanes on which this side sends; the index is the lane's number. At least one, at most
    /// [`LANES_MAX`](selvedge_transport::LANES_MAX). Default: one reliable lane.
    pub lanes: Vec<LaneConfig>,
    /// The longest message, in bytes. Default 64 MiB. The peer must take at least as much.
    pub message_max: usize,
    /// Bytes accepted on one reliable lane and not yet acknowledged, before its sends are refused as
    /// full. Default 16 MiB. Of each lane its own: one that stands still takes nothing from others.
    pub send_buffer: u64,
    /// What becomes of more than that while the peer cannot be reached. Default [`Away::Wait`].
    pub away: Away,
    /// Bytes that wait on one best-effort lane: to be sent, before its oldest message makes room; for
    /// the user, before new ones are dropped and counted. Default 256 KiB.
    pub best_effort_buffer: usize,
    /// Bytes of whole messages that wait on one lane for the user, before the peer must pause that
    /// lane. Default 4 MiB.
    pub receive_window: u64,
    /// How long a transport may be silent before a ping is sent. The dialer sends it; the acceptor
    /// waits longer, by an eighth of the time that remains to `silence_max`, and so sends one only
    /// if the dialer does not. Default 1 s. A driver may delay this and `silence_max` by up to an
    /// eighth of this time, to handle many endpoints at once.
    pub heartbeat: Duration,
    /// How long a transport may be silent before it is given up. Default 3 s.
    pub silence_max: Duration,
    /// How long an acknowledgement may wait for more to acknowledge, or for something to travel with.
    /// Default 20 ms: it only frees the peer's memory. One that frees less than 64 KiB of each lane, on
    /// a transport that loses nothing, may wait ten times as long; what a flush, a close or a full
    /// buffer waits for, not at all.
    pub ack_delay: Duration,
    /// How long [`Session::close`](crate::Session::close) waits for acknowledgements. Default 5 s.
    pub linger: Duration,
}

/// What becomes of messages on a reliable lane whose send buffer is full while the peer cannot be
/// reached. While it can be, senders wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Away {
    /// Senders wait, as ever ([`SendError::Full`](crate::SendError::Full)).
    #[default]
    Wait,
    /// Sends are refused ([`SendError::Away`](crate::SendError::Away)).
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
            away: Away::Wait,
            best_effort_buffer: 256 << 10,
            receive_window: 4 << 20,
            heartbeat: Duration::from_secs(1),
            silence_max: Duration::from_secs(3),
            ack_delay: Duration::from_millis(20),
            linger: Duration::from_secs(5),
        }
    }
}
