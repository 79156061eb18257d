//! What a connection counted.

use std::time::Duration;

/// What a [`QuicTransport`](super::QuicTransport) has counted since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuicStats {
    /// Datagrams sent, packets of one segmentation batch counted one by one.
    pub datagrams_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// Sends they took; fewer than datagrams when segmentation offload works.
    pub sends: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// Packets declared lost; probes of the MTU are not counted.
    pub packets_lost: u64,
    /// Times that the congestion controller slowed down.
    pub congestion_events: u64,
    /// The current estimate of the round trip.
    pub round_trip: Duration,
    /// The current largest datagram of the path, in bytes.
    pub mtu: u16,
    /// Sends that found the socket full and were repeated.
    pub sends_blocked: u64,
    /// Datagrams larger than the path or the kernel takes (EMSGSIZE): probes of the MTU, mostly.
    pub sends_oversized: u64,
    /// Answers from the peer's host that nobody listens there.
    pub refusals: u64,
    /// Other errors of sends and receives; each lost a datagram, which QUIC repeats.
    pub socket_errors: u64,
    /// Batches sent one by one because the device cannot segment.
    pub batches_unsegmented: u64,
    /// Datagrams that came through the listener: late ones, and those after a change of address.
    pub datagrams_forwarded: u64,
    /// Times that the peer's address changed.
    pub moves: u64,
}
