//! The contract of a Transport: one live connection to one peer, by one protocol.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Instant;

use bytes::BytesMut;
use mio::event::Event;
use mio::{Registry, Token};

use crate::{Address, End, FrameSink, FrameSource, NodeId, Role};

/// The longest frame that any transport carries, head and body, in bytes.
///
/// 64 KiB amortise the per-frame work (perf.md T9: 8 KiB already give 90 % of it), yet a frame of a
/// low lane delays an urgent one by no more than 64 KiB.
pub const FRAME_LEN_MAX: usize = 64 * 1024;

/// How many bytes a transport may hold for a peer that has not proved who it is.
pub const UNAUTHENTICATED_LEN_MAX: usize = 16 * 1024;

/// What a [`Transport`] is.
#[derive(Debug, Clone)]
pub struct Info {
    /// The protocol, as the scheme of its addresses (`quic`, `tcp+plain`).
    pub scheme: &'static str,
    /// Who began.
    pub role: Role,
    /// This end, where the protocol has such an address.
    pub local: Option<Address>,
    /// The other end, where the protocol has such an address.
    pub remote: Option<Address>,
    /// Who the peer is; always there once the phase is [`Phase::Open`].
    pub peer: Option<NodeId>,
    /// Whether frames of one flow (not [`FrameOrder::Datagram`](crate::FrameOrder::Datagram)) all arrive, in order.
    pub reliable: bool,
    /// Whether what it carries is encrypted on the way.
    pub encrypted: bool,
    /// The longest frame, in bytes; at most [`FRAME_LEN_MAX`].
    pub frame_max: usize,
    /// The longest frame of [`FrameOrder::Datagram`](crate::FrameOrder::Datagram), in bytes; 0 where there are none.
    pub datagram_max: usize,
}

/// Where in its life a [`Transport`] is. It only moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connecting and proving identities. No frame moves.
    Handshaking,
    /// The peer is known; frames move.
    Open,
    /// [`Transport::close`] was called: what was taken is still being sent.
    Closing,
    /// Over; [`Transport::send`] or [`Transport::recv`] has returned the reason.
    Ended,
}

/// What a [`Transport`] works with during one call; it belongs to the worker.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The time of this turn of the worker's loop.
    pub now: Instant,
    /// Memory to receive into, shared by all transports of a worker, so that an idle one holds none.
    pub buffer: &'a mut ReadBuffer,
    /// How many bytes to move at the most before giving way to other transports.
    pub budget: usize,
    /// Where it is registered: it may ask there for other events of its sources, under its token.
    pub registry: &'a Registry,
}

/// Whether a call ended because there was nothing left to do, or because its budget was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Nothing more until the next event, timeout or frame.
    Idle,
    /// There may be more: call again in this or the next turn without waiting for an event.
    More,
}

/// Memory that sockets are read into. Frames are cut out of it without a copy.
///
/// A block of it is used again when all frames in it are gone; fresh memory costs as much in page
/// faults as the reading itself. Frames that are kept keep their whole block.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    bytes: BytesMut,
    /// Blocks that have been filled, the oldest first; their frames may be gone by now.
    filled: VecDeque<BytesMut>,
}

impl ReadBuffer {
    /// How much is allocated at a time, in bytes: four full frames, one `recv` of a busy socket.
    pub const LEN: usize = 4 * FRAME_LEN_MAX;

    /// How many filled blocks are kept in view: 1 MiB a worker.
    const FILLED_MAX: usize = 4;

    /// At least `len` writable bytes, initialised. Give what was filled to [`ReadBuffer::take`].
    ///
    /// A block is zeroed each time: at 60 GB/s (perf.md T7) that is 4 µs for 256 KiB, about 10 % of
    /// what reading as much from a socket costs, and spares the crate its only `unsafe`.
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
        // The youngest first: it is still in the caches.
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

    /// Cuts off the first `len` bytes, which the caller has filled.
    pub fn take(&mut self, len: usize) -> BytesMut {
        self.bytes.split_to(len)
    }
}

/// One live connection to one peer, by one protocol.
///
/// It owns its socket, moves frames in batches and never blocks. It is a value: a worker registers
/// it with its `mio::Registry`, drives it, and can hand it to another worker after deregistering.
///
/// # How to drive it
///
/// 1. [`register`](Self::register), then call [`recv`](Self::recv) and [`send`](Self::send) once.
/// 2. Registration is **edge-triggered**: after an event, and after [`on_timeout`](Self::on_timeout),
///    call `recv` until it says [`Progress::Idle`], then `send` likewise. Tell it of each event by
///    [`on_event`](Self::on_event) before that, or of none.
/// 3. When there are new frames, call `send`.
/// 4. After each call ask [`timeout`](Self::timeout); when that time comes call `on_timeout`.
/// 5. An `Err` from any call is final: deregister and drop it.
///
/// `now` never goes backwards. No call blocks, sleeps or spawns.
pub trait Transport: Send + fmt::Debug {
    /// What it is. `peer` may be missing until the phase is [`Phase::Open`].
    fn info(&self) -> &Info;

    /// Where in its life it is.
    fn phase(&self) -> Phase;

    /// Adds its event sources to `registry`, all under `token`, for what it waits for. If that
    /// changes later, so does the registration: see [`Turn::registry`].
    ///
    /// # Errors
    /// What the operating system says.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()>;

    /// Takes its event sources out of `registry`, so that it can move to another.
    ///
    /// # Errors
    /// What the operating system says.
    fn deregister(&mut self, registry: &Registry) -> io::Result<()>;

    /// Sends what it holds and takes more from `source` while it has room and budget.
    /// Also carries the handshake forward; takes no frame before [`Phase::Open`].
    ///
    /// # Errors
    /// Why the transport has ended.
    fn send(&mut self, turn: &mut Turn<'_>, source: &mut dyn FrameSource) -> Result<Progress, End>;

    /// Receives what has arrived, each frame into `sink`, within the budget.
    /// Also carries the handshake forward; yields no frame before [`Phase::Open`].
    ///
    /// # Errors
    /// Why the transport has ended; frames that arrived whole before that are in `sink`.
    fn recv(&mut self, turn: &mut Turn<'_>, sink: &mut dyn FrameSink) -> Result<Progress, End>;

    /// An event has come under its token. Whoever tells it spares system calls: a stream need not be
    /// read until it would block if no event has said that it ends. Nothing by default.
    fn on_event(&mut self, event: &Event) {
        let _ = event;
    }

    /// When [`on_timeout`](Self::on_timeout) wants to be called at the latest.
    fn timeout(&self) -> Option<Instant>;

    /// Time has passed: at least until [`timeout`](Self::timeout).
    fn on_timeout(&mut self, now: Instant);

    /// Begins an orderly end: no further frame is taken, what was taken is sent, then the peer is
    /// told. `send` and `recv` return [`End::Closed`] when that is done.
    fn close(&mut self, now: Instant);
}

/// What to dial.
#[derive(Debug, Clone)]
pub struct DialTarget {
    /// Where. A DNS name has been resolved already: the place is a socket address or a path.
    pub address: Address,
    /// Who must answer; `None` takes anyone who proves an identity.
    pub peer: Option<NodeId>,
}

/// Begins connections. One dialer serves one or more schemes.
pub trait Dialer: Send + Sync + fmt::Debug {
    /// The schemes that it serves.
    fn schemes(&self) -> &[&'static str];

    /// Begins to connect; the handshake goes on as the transport is driven.
    ///
    /// # Errors
    /// What fails at once.
    fn dial(&self, now: Instant, target: &DialTarget) -> Result<Box<dyn Transport>, DialError>;
}

/// Why a dial failed before it began.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No dialer serves the scheme. The caller's fault.
    #[error("no transport for `{scheme}://` here (there is: {known})")]
    UnknownScheme {
        /// The scheme asked for.
        scheme: String,
        /// The schemes served, separated by commas.
        known: String,
    },
    /// The name has no address, or the resolver failed. Retrying may help.
    #[error("cannot resolve `{host}`: {detail}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        detail: String,
    },
    /// The scheme needs another kind of place (a path for `unix`, a socket for `tcp`).
    #[error("`{address}` is not a place that this transport can dial")]
    BadPlace {
        /// The address.
        address: Address,
    },
    /// The connection could not begin, or ended before it was open.
    #[error(transparent)]
    Ended(#[from] End),
}

impl DialError {
    /// Whether dialing again, without changing anything, can help.
    #[must_use]
    pub const fn retry_helps(&self) -> bool {
        match self {
            Self::UnknownScheme { .. } | Self::BadPlace { .. } => false,
            Self::Unresolved { .. } => true,
            Self::Ended(end) => end.retry_helps(),
        }
    }
}

/// Takes in connections that peers begin. Driven like a [`Transport`].
pub trait Listener: Send + fmt::Debug {
    /// The address that peers dial, with the port that was really bound.
    fn local_address(&self) -> Address;

    /// Adds its event sources to `registry`, all under `token`.
    ///
    /// # Errors
    /// What the operating system says.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()>;

    /// Takes its event sources out of `registry`.
    ///
    /// # Errors
    /// What the operating system says.
    fn deregister(&mut self, registry: &Registry) -> io::Result<()>;

    /// Puts new connections, still in their handshake, into `accepted`.
    ///
    /// A full table of file descriptors is not an error: the listener pauses and asks to be called
    /// again by [`timeout`](Self::timeout).
    ///
    /// # Errors
    /// Only what ends the listener for good.
    fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        accepted: &mut Vec<Box<dyn Transport>>,
    ) -> Result<Progress, io::Error>;

    /// When to call [`accept`](Self::accept) again though no event came.
    fn timeout(&self) -> Option<Instant>;
}

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// No built-in listener serves the scheme.
    #[error("cannot listen on `{scheme}://` (there is: {known})")]
    UnknownScheme {
        /// The scheme asked for.
        scheme: String,
        /// The schemes served, separated by commas.
        known: &'static str,
    },
    /// Listening needs an IP address and port.
    #[error("cannot listen on `{address}`: give an IP address and a port (0.0.0.0 for all)")]
    BadPlace {
        /// The address.
        address: Address,
    },
    /// The operating system refused: the port is in use, say, or needs privileges.
    #[error("cannot listen on `{address}`: {error}")]
    Bind {
        /// The address.
        address: Address,
        /// What the operating system said.
        error: io::Error,
    },
}
