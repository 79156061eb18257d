//! Counters of a session.

/// Counters of one session since its creation. Messages and bytes are those of lanes, before framing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Bytes of lanes put into frames, retransmitted ones included.
    pub bytes_sent: u64,
    /// Bytes of lanes that were retransmitted because a packet or a transport was lost or replaced.
    pub bytes_resent: u64,
    /// Bytes of lanes that arrived, duplicates included.
    pub bytes_received: u64,
    /// Duplicate bytes, which were dropped.
    pub bytes_repeated: u64,
    /// Messages delivered to the user.
    pub messages_received: u64,
    /// Acknowledgement frames sent.
    pub acks_sent: u64,
    /// Reliable messages dropped in favour of later ones while the peer could not be reached.
    pub dropped_while_offline: u64,
    /// Packets declared lost on a lossy transport (some may only have been late).
    pub packets_lost: u64,
    /// Best-effort messages sent.
    pub best_effort_sent: u64,
    /// Best-effort messages dropped on this side because their buffer was full or they fitted into no frame.
    pub best_effort_dropped: u64,
    /// Best-effort messages that the peer sent and that arrived too late or not at all.
    pub best_effort_lost: u64,
    /// Transports attached.
    pub attachments: u64,
    /// How often the peer turned out to be a new process.
    pub peer_restarts: u64,
    /// Bytes of reliable lanes that were sent and that the peer has not acknowledged. Not a counter.
    pub bytes_in_flight: u64,
}
