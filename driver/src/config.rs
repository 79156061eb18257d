//! The settings of a driver.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

/// Polling for longer before a sleep is never worth a core.
pub(crate) const SPIN_MAX: Duration = Duration::from_micros(50);

/// The settings of a [`Driver`](crate::Driver).
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The number of worker threads, each with one event loop. Default 1, which carries thousands of
    /// endpoints.
    pub workers: NonZeroUsize,
    /// How long a handshake may take. Default 5 s.
    pub handshake_max: Duration,
    /// How many handshakes of accepted connections may be in progress on one worker. A further one replaces
    /// the oldest of the network that has most ([`FairSlots`](crate::FairSlots)). Default 1024.
    pub handshakes_max: usize,
    /// How many connections one listener accepts in a second, with a tenth of that at once; the others
    /// wait in the kernel, or retry. Default 5,000: 10,000 connections at once take 2 s.
    pub accepts_per_second: NonZeroU32,
    /// How many bytes a transport may move each way before another one has its turn. Default 1 MiB: at
    /// 5 GB/s the others wait for 0.2 ms.
    pub budget: usize,
    /// How long a worker polls before it sleeps: 50 us at most, which is the default; zero disables it.
    ///
    /// A worker polls only while that pays: when its last waits were short, and no other thread wants
    /// the core. So an idle worker sleeps, and beside a busy thread it soon stops polling (with an
    /// endless loop on one of two cores the slowest hundredth is 1.00 to 1.05 times as slow). Waking a
    /// core is expensive: between idle cores, polling reduces round trips to a fifth of the time, and
    /// doubles the bulk throughput over `tcp+plain` for 0.6 of the processor time. Set it to zero to
    /// save power where messages arrive every 10 to 50 us: polling then uses a core that was partly
    /// idle.
    pub spin: Duration,
    /// How endpoints are placed on the workers. Default [`Placement::Balanced`].
    pub placement: Placement,
}

/// How endpoints are placed on the workers. New endpoints are assigned round robin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Endpoints stay until [`Endpoint::migrate`](crate::Endpoint::migrate) moves them.
    Fixed,
    /// Busy endpoints are spread evenly: a worker that spends over 60 % of its time working moves a
    /// busy endpoint to one that works clearly less, if that makes the busier of the two less busy. It
    /// costs nothing on a single worker, and next to nothing on workers that are not busy.
    ///
    /// An endpoint stays where [`Endpoint::migrate`](crate::Endpoint::migrate) has placed it.
    Balanced {
        /// How long the load is measured before each decision; at most one endpoint of the driver is
        /// moved in that time. Default 250 ms; clamped to 10 ms at least and an hour at most.
        interval: Duration,
    },
}

/// In a shorter interval, a single turn of one transport would count as load.
pub(crate) const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Sums of intervals stay within the range of an `Instant`.
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
