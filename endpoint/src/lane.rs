//! Lanes: independently ordered sequences of messages inside an endpoint.

use std::fmt;

use bytes::Bytes;
use selvedge_transport::LANES_MAX;

use crate::varint;

/// The number of a lane, below [`LANES_MAX`]. A number denotes the same lane on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LaneId(u8);

impl LaneId {
    /// Lane 0, which every endpoint has.
    pub const FIRST: Self = Self(0);

    /// The lane of that number; `None` from [`LANES_MAX`] on.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < LANES_MAX {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number of this lane.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {}", self.0)
    }
}

/// The delivery guarantee of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Delivery {
    /// Every message arrives exactly once and in order while both processes live.
    #[default]
    Reliable,
    /// Messages arrive at most once and in order; lost ones are counted exactly. A message has at most
    /// [`BEST_EFFORT_LEN_MAX`] bytes.
    BestEffort,
}

/// The longest best-effort message, in bytes: it fits into one datagram of any path that IPv6
/// allows (1,280 bytes, RFC 8200) with all headers of UDP, QUIC and the session.
pub const BEST_EFFORT_LEN_MAX: usize = 1100;

/// How a lane is treated by the side that sends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneConfig {
    /// 0 is the most urgent. A lane waits while a more urgent one has data to send, but for no more
    /// than [`STARVATION_GUARD`](crate::STARVATION_GUARD) bytes.
    pub priority: u8,
    /// The delivery guarantee.
    pub delivery: Delivery,
    /// Whether the standby path, if there is one, carries all of this lane, too, so that the loss
    /// of either transport is not noticed. Reliable lanes only. The session then keeps two
    /// transports.
    pub redundant: bool,
}

/// A message of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The lane on which it was sent.
    pub lane: LaneId,
    /// The payload. It is often a slice of the buffer into which the socket was read: copy it to
    /// retain a small part of it for long.
    pub payload: Bytes,
}

impl Message {
    /// The bytes that the message occupies in the receive window: its payload and its length prefix.
    #[must_use]
    #[inline]
    pub fn cost(&self) -> u64 {
        Self::cost_of(self.payload.len())
    }
}

impl Message {
    /// The [cost](Self::cost) of a payload of `len` bytes.
    #[must_use]
    #[inline]
    pub const fn cost_of(len: usize) -> u64 {
        cost(len)
    }
}

/// The bytes that a payload of `len` bytes occupies in the stream of a lane.
pub(crate) const fn cost(len: usize) -> u64 {
    varint::len(len as u64) as u64 + len as u64
}
