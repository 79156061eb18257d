//! How many workers there are, and how they share their time.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::spin::SPIN_MAX;

/// The settings of a [`Driver`](crate::Driver).
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// How many threads, each with one event loop. Default 1: it carries thousands of endpoints.
    pub workers: NonZeroUsize,
    /// How long a connection may take to prove who it is. Default 5 s.
    pub handshake_max: Duration,
    /// How many connections may be in their handshake on one worker; more are refused. Default 1024.
    pub handshakes_max: usize,
    /// How many connections one listener lets in within a second, with a tenth of that at once; the
    /// others wait in the kernel, or knock again. Default 5,000: a storm of 10,000 takes 2 s.
    pub accepts_per_second: NonZeroU32,
    /// How many bytes a transport may move each way before it is another's turn. Default 1 MiB:
    /// at 5 GB/s that is 0.2 ms of waiting for its neighbours.
    pub budget: usize,
    /// How long a worker polls before it sleeps; at most 50 us, the default; zero is never.
    ///
    /// It polls only while that pays: when its last waits were short, and nobody else wants the
    /// core. So an idle worker sleeps as ever, and beside a busy thread it soon stops (with an
    /// endless loop on one of two cores the slowest hundredth is 1.00 to 1.05 times as slow). Waking
    /// a core is dear: between idle cores round trips take a fifth of the time, and bulk over
    /// `tcp+plain` goes twice as fast for 0.6 of the processor time. Set it to zero to save power
    /// where messages come every 10 to 50 us: for those it takes a core that was partly idle.
    pub spin: Duration,
    /// Who says on which worker an endpoint lives. Default [`Placement::Balanced`].
    pub placement: Placement,
}

/// Who says on which worker an endpoint lives. Each begins on the next worker in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Endpoints stay until [`Endpoint::migrate`](crate::Endpoint::migrate) moves them.
    Fixed,
    /// Busy workers are evened out: one that spends over 60 % of its time working hands a busy
    /// endpoint to one that works clearly less, if that makes the busier of the two less busy. It
    /// costs nothing on a single worker, and next to nothing on workers that are not busy.
    ///
    /// An endpoint that [`Endpoint::migrate`](crate::Endpoint::migrate) was called on stays where
    /// it was put.
    Balanced {
        /// Over how long the work is measured before each decision; at most one endpoint of the
        /// driver is moved in that time. Default 250 ms; taken as 10 ms if less, as an hour if more.
        interval: Duration,
    },
}

/// Over less than this, a single turn of one transport would pass for a load.
pub(crate) const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Times that are sums of it stay within what an `Instant` can hold.
pub(crate) const INTERVAL_MAX: Duration = Duration::from_secs(3600);

impl Default for Placement {
    fn default() -> Self {
        Self::Balanced {
            interval: Duration::from_millis(250),
        }
    }
}

/// The default of [`DriverConfig::accepts_per_second`].
const ACCEPTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(5_000).unwrap();

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            workers: NonZeroUsize::MIN,
            handshake_max: Duration::from_secs(5),
            handshakes_max: 1024,
            accepts_per_second: ACCEPTS_PER_SECOND,
            budget: 1 << 20,
            spin: SPIN_MAX,
            placement: Placement::default(),
        }
    }
}
