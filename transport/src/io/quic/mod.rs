//! QUIC v1 (RFC 9000) by quinn-proto and quinn-udp, driven by the worker that owns the transport.
//!
//! # One socket per connection
//!
//! A QUIC connection can move between workers like a TCP connection. Each transport owns a
//! *connected* UDP socket, a `quinn_proto::Endpoint` and its only `Connection`; transports share
//! nothing on the hot path. The [`QuicListener`] owns the unconnected socket and accepts
//! connections: the endpoint that received a client's first packet becomes part of the transport,
//! and the listener creates another one.
//!
//! ```text
//!            Initial of a new peer             ┌─ QuicTransport: Endpoint, Connection,
//!   listener ───────────────────────▶ accepts ─┤     UDP socket connected to the peer ◀──▶ peer
//!      │                                       └─ forward queue
//!      └── other packet whose connection id encodes a transport ──▶ its forward queue
//! ```
//!
//! The kernel delivers the datagrams of the peer to the connected socket. The listener receives two
//! kinds of datagrams for a connection: those from a new address of the peer (NAT rebinding), and
//! those that arrived before the connect. It forwards both to the transport. When QUIC has accepted
//! the new address, the transport connects its socket to it and receives its datagrams directly.
//!
//! # Streams
//!
//! Control and each lane use one unidirectional stream, opened with the first frame. Its first byte
//! is the stream type, frames follow:
//!
//! ```text
//! ┌───────┐ ┌────────────────┬───────┐ ┌────────────────┬───────┐
//! │ type  │ │ length: u32 LE │ frame │ │ length: u32 LE │ frame │ ...
//! └───────┘ └────────────────┴───────┘ └────────────────┴───────┘
//! type: 0 = control, 1 + n = lane n.   length: at most FRAME_LEN_MAX.
//! ```
//!
//! [`FrameOrder::Datagram`](crate::FrameOrder::Datagram) frames are sent unchanged as DATAGRAM
//! frames (RFC 9221). A violation of these rules ends the connection with application error 1.
//!
//! # Close
//!
//! An orderly close finishes all streams, waits until the peer has acknowledged them (at most 5 s),
//! and then sends CONNECTION_CLOSE with application error 0. Acknowledged data is in the receive
//! buffers of the peer, which delivers it before it reports the end.
//!
//! # Memory
//!
//! | memory | maximum |
//! |---|---|
//! | received and unread, per connection | 16 MiB, 4 MiB per stream (flow control) |
//! | accepted and unacknowledged | 16 MiB; beyond the congestion window at most 1 MiB |
//! | DATAGRAM frames, each direction | 256 KiB |
//! | forwarded by the listener and unread | 208 KiB |
//! | handshake of an unauthenticated peer | 16 KiB of TLS messages for at most 5 s, at most 1024 handshakes |
//!
//! An address that is not validated receives at most three times the bytes received from it (RFC
//! 9000, section 8.1). From 128 concurrent handshakes on it receives a Retry instead.

mod amplification_limit;
mod cid;
mod config;
mod congestion;
mod connection_end;
mod dialer;
mod listener;
mod pending_transmit;
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

/// The TLS server name, which QUIC requires. Raw keys have no names, so all servers use the same.
const SERVER_NAME: &str = "selvedge";
