//! A [`Transport`] is one live connection to one peer over one protocol.
//!
//! A transport owns its socket, moves [`Frame`]s in batches and never blocks. It pulls frames from
//! a [`FrameSource`] and delivers received frames to a [`FrameSink`]. A session implements both
//! traits; this crate does not depend on it. [`Listener`]s and [`Dialer`]s create transports. After
//! the handshake each side has an authenticated [`NodeId`] of its peer, whatever the protocol.
//!
//! | scheme | what | encrypted | reliable |
//! |---|---|---|---|
//! | `quic://` | QUIC v1 (RFC 9000), one stream per lane | yes | yes |
//! | `tcp://` | TLS 1.3 over TCP, raw public keys (RFC 7250) | yes | yes |
//! | `tcp+plain://` | TCP, identities authenticated once by signatures, for trusted links | no | yes |
//! | `udp://` | datagrams, a Noise handshake, AES-256-GCM | yes | no |
//! | `udp+plain://` | datagrams, identities authenticated once by signatures, for trusted links | no | no |
//!
//! To add a transport, implement the three traits (about 150 lines, see
//! `examples/examples/custom_transport.rs`) and run the suite in `conformance` (feature `conformance`).
//!
//! Without the default feature `io` the crate consists of the types that need no socket
//! ([`NodeId`], [`Address`], [`Frame`], [`Instant`]) and builds for any target.
#![forbid(unsafe_code)]

mod address;
mod end;
mod frame;
mod instant;
mod node_id;
mod peer_network;
mod role;

pub use address::{ADDRESS_LEN_MAX, Address, ParseAddressError, Place};
pub use end::{End, FaultOrigin};
pub use frame::{
    Frame, FrameHeader, FrameOrder, FrameSink, FrameSource, LANES_MAX, LaneSet, SendCapacity,
};
pub use instant::Instant;
pub use node_id::{NodeId, ParseNodeIdError};
pub use peer_network::PeerNetwork;
pub use role::Role;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "io")]
mod io;
#[cfg(feature = "io")]
mod transport;

#[cfg(feature = "io")]
pub use io::*;
#[cfg(feature = "io")]
pub use transport::{
    DialError, DialTarget, Dialer, FRAME_LEN_MAX, Info, ListenError, Listener, Phase, Progress,
    ReadBuffer, Transport, Turn, UNADMITTED_LEN_MAX, UNAUTHENTICATED_LEN_MAX,
};
