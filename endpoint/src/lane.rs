//! Lanes: independently ordered sequences of messages inside an endpoint.

use std::fmt;

use bytes::Bytes;
use selvedge_transport::LANES_MAX;

use crate::varint;

/// The number of a lane, below [`LANES_MAX`]. Both sides mean the same lane by the same number.
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

    /// Its number.
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

/// What a lane promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Delivery {
    /// Every message arrives exactly once, in order, while both processes live.
    #[default]
    Reliable,
    /// At most once, in order; what is lost is counted exactly. At most
    /// [`BEST_EFFORT_LEN_MAX`] bytes a message.
    BestEffort,
}

/// The longest best-effort message, in bytes: it fits into one datagram of any path that IPv6
/// allows (1,280 bytes, RFC 8200) with all headers of UDP, QUIC and the session.
pub const BEST_EFFORT_LEN_MAX: usize = 1100;

/// How a lane is treated by the side that sends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneConfig {
    /// 0 goes first. A lane waits while a more urgent one has something to send, but never behind
    /// more than [`STARVATION_GUARD`](crate::STARVATION_GUARD) bytes.
    pub priority: u8,
    /// What it promises.
    pub delivery: Delivery,
    /// Whether the standby path, if there is one, carries all of this lane, too, so that the loss
    /// of either transport is not noticed. Reliable lanes only. The session then keeps two
    /// transports.
    pub redundant: bool,
}

/// A message that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The lane on which it was sent.
    pub lane: LaneId,
    /// What was sent. Often a slice of the buffer that the socket was read into: copy it if you
    /// keep a little of it for long.
    pub payload: Bytes,
}

impl Message {
    /// What it counts against the receive window, in bytes: its payload and its length prefix.
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

/// What a payload of `len` bytes takes in the byte stream of a lane.
pub(crate) const fn cost(len: usize) -> u64 {
    varint::len(len as u64) as u64 + len as u64
}
