//! QUIC v1 (RFC 9000) by quinn-proto and quinn-udp, driven by whoever drives the transport.
//!
//! # One socket a connection
//!
//! A QUIC connection here is as movable as a TCP one. Each transport owns a *connected* UDP socket,
//! a `quinn_proto::Endpoint` and the one `Connection` in it; nothing is shared on the hot path.
//! The [`QuicListener`] owns the unconnected socket and only admits: the endpoint that heard a
//! client's first packet goes with the connection, and the next one takes its place.
//!
//! ```text
//!             Initial of a stranger            ┌─ QuicTransport: Endpoint, Connection,
//!   listener ───────────────────────▶ admits ──┤     UDP socket connected to the peer ◀──▶ peer
//!      │                                       └─ mailbox
//!      └── any other packet whose connection id names a transport ──▶ its mailbox
//! ```
//!
//! The kernel gives a connected socket the datagrams of its peer. What still reaches the listener
//! is of two kinds: the peer's address has changed (a NAT rebound), or the datagram arrived before
//! the socket was connected. Both go to the owner through its mailbox; when QUIC accepts the new
//! address, the transport connects its socket to it, and the listener is out of the way again.
//!
//! # Streams
//!
//! Each flow is one unidirectional stream, opened with its first frame. Its first byte names it,
//! then frames follow:
//!
//! ```text
//! ┌───────┐ ┌────────────────┬───────┐ ┌────────────────┬───────┐
//! │ flow  │ │ length: u32 LE │ frame │ │ length: u32 LE │ frame │ ...
//! └───────┘ └────────────────┴───────┘ └────────────────┴───────┘
//! flow: 0 = control, 1 + n = lane n.   length: at most FRAME_LEN_MAX.
//! ```
//!
//! [`FrameOrder::Datagram`](crate::FrameOrder::Datagram) frames are DATAGRAM frames (RFC 9221), as they are.
//! Anything else ends the connection with application error 1.
//!
//! # The end
//!
//! An orderly close finishes all streams, waits until the peer has acknowledged them (at most 5 s),
//! and only then sends CONNECTION_CLOSE with application error 0. What was acknowledged lies in the
//! peer's receive buffers, from which it is read before the end is reported.
//!
//! # Memory
//!
//! | what | at most |
//! |---|---|
//! | received and unread, a connection | 16 MiB, 4 MiB a flow (flow control) |
//! | taken and unacknowledged | 16 MiB; beyond a congestion window at most 1 MiB |
//! | datagrams each way | 256 KiB |
//! | passed on by the listener and not taken yet | 208 KiB |
//! | a stranger's handshake | 16 KiB of TLS messages, at most 5 s, at most 1024 at once |
//!
//! An address that has not proved itself gets at most three times the bytes that came from it, and
//! from 128 concurrent handshakes on a Retry instead of an answer.

mod amplification_limit;
mod cid;
mod config;
mod congestion;
mod connection_end;
mod dialer;
mod listener;
mod recv_streams;
mod send_streams;
mod stats;
mod transport;

pub use dialer::QuicDialer;
pub use listener::QuicListener;
pub use stats::QuicStats;
pub use transport::QuicTransport;

/// The scheme of the addresses.
const SCHEME: &str = "quic";

/// QUIC's TLS wants a name, and keys have none: all servers are called the same.
const SERVER_NAME: &str = "selvedge";
