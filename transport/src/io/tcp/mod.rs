//! TCP: `tcp://` with TLS 1.3, and `tcp+plain://` for trusted links.
//!
//! Inside TLS, or after the [plain handshake](super::plain), the stream is a sequence of frames:
//!
//! ```text
//! ┌────────────────┬───────┐ ┌────────────────┬───────┐
//! │ length: u32 LE │ frame │ │ length: u32 LE │ frame │ ...     length: 1 to FRAME_LEN_MAX
//! └────────────────┴───────┘ └────────────────┴───────┘
//! ```
//!
//! Any other length ends the connection before memory is allocated for it. All frames share one
//! stream, so a lost packet delays every lane (head-of-line blocking); on lossy networks `quic://`
//! performs better.
//!
//! # States
//!
//! ```text
//!   Connecting ──connected──▶ Handshaking ──authenticated──▶ Open ──close()──▶ Closing
//!        └─────────────────────────┴───────────────────────────┴─────────────────┴──▶ Ended
//! ```
//!
//! Connecting and handshaking may take 5 s together. With TLS 1.3 a dialer is open one round trip
//! before the acceptor has verified its key (RFC 8446, section 2), so a refusal may end an open
//! transport; the acceptor delivers none of its frames. With `tcp+plain://` a dialer is open only
//! after the acceptor has accepted it.
//!
//! An orderly close writes all accepted frames, sends close_notify (TLS), shuts down its half of
//! the stream and waits for the peer's half. 5 s after [`close`](crate::Transport::close) it ends
//! without it. A stream that ends at a frame boundary was closed by the peer; one that ends within
//! a frame, or without close_notify, is broken. On a plain stream the exit of a process looks like
//! a close; the session distinguishes the two by its own Close frame.
//!
//! # Memory
//!
//! | memory | maximum |
//! |---|---|
//! | idle, at a frame boundary | none (TLS: state of the library, about 10 KiB) |
//! | an incomplete received frame | its length, at most 64 KiB |
//! | accepted frames not yet written | 256 KiB (TLS: as much again as ciphertext) |
//! | handshake of an unauthenticated peer | 16 KiB for at most 5 s |
//!
//! Socket buffers of the kernel are additional (`net.ipv4.tcp_wmem`, `tcp_rmem`).

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

/// The scheme of TLS 1.3 over TCP.
const SCHEME_TLS: &str = "tcp";

/// The scheme of unencrypted TCP.
const SCHEME_PLAIN: &str = "tcp+plain";

/// The supported schemes, for error messages.
const SCHEMES_KNOWN: &str = "tcp, tcp+plain";

/// The length of the prefix of each frame, in bytes.
const PREFIX_LEN: usize = 4;
