//! TCP: `tcp://` with TLS 1.3, and `tcp+plain://` for trusted links.
//!
//! Inside TLS, or behind the [plain handshake](super::plain), the stream is frames and nothing else:
//!
//! ```text
//! ┌────────────────┬───────┐ ┌────────────────┬───────┐
//! │ length: u32 LE │ frame │ │ length: u32 LE │ frame │ ...     length: 1 to FRAME_LEN_MAX
//! └────────────────┴───────┘ └────────────────┴───────┘
//! ```
//!
//! Any other length ends the connection before anything is allocated for it. All flows share the
//! one stream, so a loss holds up every lane; `quic://` does better on bad networks.
//!
//! # The life of one
//!
//! ```text
//!   Connecting ──connected──▶ Proving ──peer known──▶ Open ──close()──▶ Closing
//!        └──────────────────────┴──────────────────────┴──────────────────┴──▶ Ended
//! ```
//!
//! Connecting and proving may take 5 s together. A dialer of `tcp://` is open one round trip before
//! the acceptor has judged its key (TLS 1.3), so a refusal may end an open transport; the acceptor
//! yields none of its frames. On `tcp+plain://` a dialer is open only when it was taken.
//!
//! An orderly close writes what was taken, says so (TLS: close_notify), finishes its half of the
//! stream and waits for the peer's; 5 s after [`close`](crate::Transport::close) it gives up.
//! A peer that ends between two frames has closed; one that ends within a frame, or without
//! close_notify, is cut off. A plain stream cannot tell a crashed process from a close: the session
//! above can, by its own farewell.
//!
//! # Memory
//!
//! | what | at most |
//! |---|---|
//! | idle, at a frame boundary | nothing (TLS: the library's state, about 10 KiB) |
//! | the beginning of a frame | that frame |
//! | taken and not written | 256 KiB (TLS: once more as ciphertext) |
//! | a stranger's handshake | 16 KiB, at most 5 s |
//!
//! What the kernel holds comes on top (`net.ipv4.tcp_wmem`, `tcp_rmem`).

mod dialer;
pub(super) mod frame_decoder;
mod handshake_io;
mod listener;
mod peer_stream;
mod socket;
mod socket_stream;
mod tls_stream;
mod transport;
mod write_buffer;

pub use dialer::TcpDialer;
pub use listener::TcpListener;
pub use transport::TcpTransport;

/// The scheme of TLS over TCP.
const SCHEME_TLS: &str = "tcp";

/// The scheme of bare TCP.
const SCHEME_PLAIN: &str = "tcp+plain";

/// The schemes that are served here, for errors.
const SCHEMES_KNOWN: &str = "tcp, tcp+plain";

/// The length in front of each frame.
const PREFIX_LEN: usize = 4;
