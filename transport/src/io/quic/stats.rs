//! The statistics of a QUIC connection.

use std::time::Duration;

/// The counters of a [`QuicTransport`](super::QuicTransport) since its creation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuicStats {
    /// Datagrams sent; each datagram of a segmentation batch counts.
    pub datagrams_sent: u64,
    /// Bytes in the sent datagrams.
    pub bytes_sent: u64,
    /// Send operations; fewer than datagrams if segmentation offload works.
    pub sends: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Bytes in the received datagrams.
    pub bytes_received: u64,
    /// Packets declared lost, without MTU probes.
    pub packets_lost: u64,
    /// Reductions of the congestion window.
    pub congestion_events: u64,
    /// The current estimate of the round-trip time.
    pub round_trip: Duration,
    /// The current MTU of the path (maximum datagram length), in bytes.
    pub mtu: u16,
    /// Sends that found the socket buffer full and were repeated.
    pub sends_blocked: u64,
    /// Datagrams that exceeded the MTU or the limit of the kernel (EMSGSIZE), mostly MTU probes.
    pub sends_oversized: u64,
    /// ICMP port-unreachable reports of the peer's host.
    pub refusals: u64,
    /// Other socket errors; each lost a datagram, which QUIC retransmits.
    pub socket_errors: u64,
    /// Batches sent datagram by datagram because the device does not support segmentation.
    pub batches_unsegmented: u64,
    /// Datagrams forwarded by the listener: those from a new address, or from before the connect.
    pub datagrams_forwarded: u64,
    /// Changes of the peer's address (connection migration, RFC 9000, section 9).
    pub migrations: u64,
}
