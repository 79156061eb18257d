//! What a session counts.

/// Counters of one session since it was made. Messages and bytes are of lanes, not of the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Bytes of lanes put into frames, repeated ones included.
    pub bytes_sent: u64,
    /// Bytes of lanes sent once more: a packet or a transport was lost, or swapped.
    pub bytes_resent: u64,
    /// Bytes of lanes that arrived, repeated ones included.
    pub bytes_received: u64,
    /// Bytes that had arrived before and were dropped.
    pub bytes_repeated: u64,
    /// Messages handed to the user.
    pub messages_received: u64,
    /// Frames with acknowledgements that were sent.
    pub acks_sent: u64,
    /// Reliable messages that made room for later ones while the peer could not be reached.
    pub dropped_while_away: u64,
    /// Packets that a lossy transport lost (some may only have been late).
    pub packets_lost: u64,
    /// Best-effort messages sent.
    pub best_effort_sent: u64,
    /// Best-effort messages dropped here because their buffer was full or no frame took them.
    pub best_effort_dropped: u64,
    /// Best-effort messages that the peer sent and that did not arrive, or arrived too late.
    pub best_effort_lost: u64,
    /// Transports attached.
    pub attachments: u64,
    /// Times the peer was found to be a new process.
    pub peer_restarts: u64,
}
