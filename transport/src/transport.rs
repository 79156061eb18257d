//! The contracts of [`Transport`], [`Dialer`] and [`Listener`].

use std::collections::VecDeque;
use std::fmt;
use std::io;

use bytes::BytesMut;
use mio::event::Event;
use mio::{Registry, Token};

use crate::{Address, End, FrameSink, FrameSource, Instant, NodeId, Role};

/// The maximum length of a frame on any transport, header and body together, in bytes.
///
/// 64 KiB amortise the cost of a frame: coalescing of 8 KiB already gives 90 % of the gain for
/// messages of 64 bytes over TCP. A frame of a low-priority lane delays an urgent frame by at most
/// 64 KiB.
pub const FRAME_LEN_MAX: usize = 64 * 1024;

/// The maximum number of bytes that a transport buffers for an unauthenticated peer.
pub const UNAUTHENTICATED_LEN_MAX: usize = 16 * 1024;

/// The maximum number of bytes that an accepted transport buffers for an authenticated peer before
/// [`Transport::admit`], if its listener is [restricted](crate::Admission::restricted): one frame of
/// maximum length.
pub const UNADMITTED_LEN_MAX: usize = FRAME_LEN_MAX;

/// The properties of a [`Transport`].
#[derive(Debug, Clone)]
pub struct Info {
    /// The scheme of its addresses, which names the protocol (`quic`, `tcp+plain`).
    pub scheme: &'static str,
    /// The side of the connection that this transport is on.
    pub role: Role,
    /// The local address, if the protocol has one.
    pub local: Option<Address>,
    /// The remote address, if the protocol has one. It changes when a QUIC peer migrates.
    pub remote: Option<Address>,
    /// The authenticated identity of the peer; always `Some` from [`Phase::Open`] on.
    pub peer: Option<NodeId>,
    /// Whether all frames of one order are delivered, in order;
    /// [`FrameOrder::Datagram`](crate::FrameOrder::Datagram) is exempt.
    pub reliable: bool,
    /// Whether frames are encrypted on the network.
    pub encrypted: bool,
    /// The maximum length of a frame, in bytes; at most [`FRAME_LEN_MAX`].
    pub frame_max: usize,
    /// The maximum length of a [`FrameOrder::Datagram`](crate::FrameOrder::Datagram) frame, in
    /// bytes; 0 if the transport carries none. It changes with the path MTU.
    pub datagram_max: usize,
}

/// The phase of a [`Transport`]. Phases advance in the order of this list and never go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connecting and authenticating. No frame is sent or received.
    Handshaking,
    /// The peer is authenticated; frames are sent and received.
    Open,
    /// [`Transport::close`] was called: accepted frames are being sent, no further frame is
    /// accepted.
    Closing,
    /// The transport has ended; [`Transport::send`] or [`Transport::recv`] has returned the reason.
    Ended,
}

/// The resources of a worker that a [`Transport`] or [`Listener`] uses during one call.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The time at which this iteration of the worker's loop began.
    pub now: Instant,
    /// The receive buffer. All transports of a worker share it, so an idle transport holds no
    /// memory.
    pub buffer: &'a mut ReadBuffer,
    /// The number of bytes to transfer before the call yields to other transports. A call may
    /// exceed it by the batch or frame that it has begun.
    pub budget: usize,
    /// The registry in which the transport is registered. The transport may change the interests of
    /// its event sources there, under its token.
    pub registry: &'a Registry,
}

/// Whether a call has no more work at present, or stopped because its budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// No more work until the next event, timeout or new frame.
    Idle,
    /// There may be more work: call again in this or the next iteration without waiting for an
    /// event.
    More,
}

/// The memory that sockets are read into. Received frames are slices of it, without a copy.
///
/// A block is reused once all frames in it have been dropped: a fresh block costs as much in page
/// faults as reading into it. A retained frame keeps its whole block of [`ReadBuffer::LEN`] bytes
/// allocated.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    bytes: BytesMut,
    /// Full blocks, the oldest first. Their frames may have been dropped since.
    filled: VecDeque<BytesMut>,
}

impl ReadBuffer {
    /// The size of a block in bytes: four frames of maximum length, about what one `recv` of a busy
    /// socket returns.
    pub const LEN: usize = 4 * FRAME_LEN_MAX;

    /// The number of full blocks that are kept for reuse: 1 MiB per worker.
    const FILLED_MAX: usize = 4;

    /// Returns at least `len` initialised writable bytes. Pass the filled part to
    /// [`ReadBuffer::take`].
    ///
    /// Each block is zeroed before use. At 60 GB/s (measured for `memcpy` of 1 MiB on one core)
    /// that takes 4 µs for 256 KiB, about 10 % of the cost of reading as much from a socket, and it
    /// avoids `unsafe` in this crate.
    pub fn space(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len {
            self.renew(len.max(Self::LEN));
        }
        &mut self.bytes[..]
    }

    fn renew(&mut self, len: usize) {
        let mut last = std::mem::take(&mut self.bytes);
        last.clear();
        self.filled.push_back(last);
        // The most recent block is tried first, because it is still in the caches.
        let free = self
            .filled
            .iter_mut()
            .rposition(|block| block.try_reclaim(len));
        self.bytes = free
            .and_then(|at| self.filled.remove(at))
            .unwrap_or_else(|| BytesMut::with_capacity(len));
        self.bytes.resize(len, 0);
        if self.filled.len() > Self::FILLED_MAX {
            self.filled.pop_front();
        }
    }

    /// Splits off the first `len` bytes, which the caller has filled.
    pub fn take(&mut self, len: usize) -> BytesMut {
        self.bytes.split_to(len)
    }
}

/// One live connection to one peer over one protocol.
///
/// A transport owns its socket, transfers frames in batches and never blocks. A worker registers it
/// with its `mio::Registry` and drives it; after deregistration another worker can take it over.
///
/// # How to drive a transport
///
/// 1. Call [`register`](Self::register), then [`recv`](Self::recv) and [`send`](Self::send) once.
/// 2. Registration is **edge-triggered**. After an event, and after
///    [`on_timeout`](Self::on_timeout), call `recv` until it returns [`Progress::Idle`], then
///    `send` likewise. Pass either every event to [`on_event`](Self::on_event) first, or none.
/// 3. When the source has new frames, call `send`.
/// 4. After each call read [`timeout`](Self::timeout), and call `on_timeout` when that time has
///    come.
/// 5. An `Err` of any call is final: deregister and drop the transport.
///
/// `now` must not decrease between calls. No call blocks, sleeps or starts a thread.
pub trait Transport: Send + fmt::Debug {
    /// The properties of the transport. `peer` is `None` until the handshake has authenticated it.
    fn info(&self) -> &Info;

    /// The current phase.
    fn phase(&self) -> Phase;

    /// Registers all event sources of the transport under `token`, with the interests that it has
    /// at present. The transport changes the interests later through [`Turn::registry`].
    ///
    /// # Errors
    /// An error of the operating system.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()>;

    /// Deregisters all event sources, so that the transport can be registered elsewhere.
    ///
    /// # Errors
    /// An error of the operating system.
    fn deregister(&mut self, registry: &Registry) -> io::Result<()>;

    /// Sends buffered data, then pulls frames from `source` while there is capacity and budget.
    /// Also advances the handshake; pulls no frame before [`Phase::Open`].
    ///
    /// # Errors
    /// The reason for which the transport has ended.
    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End>;

    /// Receives data and passes each complete frame to `sink`, within the budget. Also advances the
    /// handshake; delivers no frame before [`Phase::Open`].
    ///
    /// # Errors
    /// The reason for which the transport has ended. All complete frames received before the end
    /// have been passed to `sink`.
    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End>;

    /// Passes an event that arrived under the token of the transport. This saves system calls: if
    /// no event reports the end of the stream, a short read proves that the socket is drained. The
    /// default implementation does nothing.
    fn on_event(&mut self, event: &Event) {
        let _ = event;
    }

    /// The time at which [`on_timeout`](Self::on_timeout) must be called; `None` if no timer is
    /// armed.
    fn timeout(&self) -> Option<Instant>;

    /// Handles expired timers. `now` is at or after [`timeout`](Self::timeout); an earlier call has
    /// no effect.
    fn on_timeout(&mut self, now: Instant);

    /// Lifts the limit of [`UNADMITTED_LEN_MAX`] of a transport that was accepted by a
    /// [restricted](crate::Admission::restricted) listener; on others it has no effect. Call
    /// [`send`](Self::send) afterwards. The default implementation does nothing, for transports that
    /// never buffer more than a frame.
    fn admit(&mut self) {}

    /// Begins an orderly close: no further frame is accepted, accepted frames are sent, then the
    /// peer is notified. `send` and `recv` return [`End::Closed`] when the close is complete or has
    /// timed out (5 s).
    fn close(&mut self, now: Instant);
}

/// The target of a dial.
#[derive(Debug, Clone)]
pub struct DialTarget {
    /// The address: an IP address and port, or a path. DNS names must be resolved before.
    pub address: Address,
    /// The expected identity; `None` accepts every peer that proves an identity.
    pub peer: Option<NodeId>,
}

/// Initiates connections. One dialer serves one or more schemes.
pub trait Dialer: Send + Sync + fmt::Debug {
    /// The schemes that the dialer serves.
    fn schemes(&self) -> &[&'static str];

    /// Creates a transport that connects to `target`, without blocking. The handshake advances as
    /// the transport is driven; it is limited to 5 s.
    ///
    /// # Errors
    /// [`DialError`] for a target that the dialer does not support and for immediate failures of
    /// the operating system. Later failures are reported by the transport as [`End`].
    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError>;
}

/// The error of a dial that failed before there was a transport, or before it opened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No dialer serves the scheme. This is an error of the caller.
    #[error("no transport for `{scheme}://` (supported: {known})")]
    UnknownScheme {
        /// The requested scheme.
        scheme: String,
        /// The supported schemes, separated by commas.
        known: String,
    },
    /// The DNS name has no address, or the resolver failed. A retry may succeed.
    #[error("cannot resolve `{host}`: {detail}")]
    Unresolved {
        /// The DNS name.
        host: String,
        /// The error of the resolver.
        detail: String,
    },
    /// The scheme requires another kind of place: a path for `unix`, an IP address and a port other
    /// than 0 for `tcp`, `udp` and `quic`.
    #[error("this transport cannot dial `{address}`: wrong kind of place for its scheme")]
    BadPlace {
        /// The rejected address.
        address: Address,
    },
    /// The connection attempt failed, or the transport ended before it was open.
    #[error(transparent)]
    Ended(#[from] End),
}

impl DialError {
    /// Whether the same dial can succeed later.
    #[must_use]
    pub const fn retry_helps(&self) -> bool {
        match self {
            Self::UnknownScheme { .. } | Self::BadPlace { .. } => false,
            Self::Unresolved { .. } => true,
            Self::Ended(end) => end.retry_helps(),
        }
    }
}

/// Accepts connections that peers initiate. It is driven like a [`Transport`].
pub trait Listener: Send + fmt::Debug {
    /// The bound address, with the port that the operating system assigned.
    fn local_address(&self) -> Address;

    /// Registers all event sources of the listener under `token`, edge-triggered.
    ///
    /// # Errors
    /// An error of the operating system.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()>;

    /// Deregisters all event sources.
    ///
    /// # Errors
    /// An error of the operating system.
    fn deregister(&mut self, registry: &Registry) -> io::Result<()>;

    /// Appends new connections, which are still in their handshake, to `accepted`. It does not
    /// block; call it again after [`Progress::More`].
    ///
    /// Exhausted file descriptors or memory are not an error: the listener pauses and arms
    /// [`timeout`](Self::timeout).
    ///
    /// # Errors
    /// An error that makes the listener unusable.
    fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> Result<Progress, io::Error>;

    /// The time at which to call [`accept`](Self::accept) without an event; `None` if there is
    /// none.
    fn timeout(&self) -> Option<Instant>;
}

/// The error of an attempt to listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// No built-in listener serves the scheme.
    #[error("cannot listen on `{scheme}://` (supported: {known})")]
    UnknownScheme {
        /// The requested scheme.
        scheme: String,
        /// The supported schemes, separated by commas.
        known: &'static str,
    },
    /// A listener requires an IP address and a port.
    #[error("cannot listen on `{address}`: give an IP address and a port (0.0.0.0 for all)")]
    BadPlace {
        /// The rejected address.
        address: Address,
    },
    /// The operating system refused to bind: for example, the port is in use or requires
    /// privileges.
    #[error("cannot listen on `{address}`: {error}")]
    Bind {
        /// The requested address.
        address: Address,
        /// The error of the operating system.
        error: io::Error,
    },
}
