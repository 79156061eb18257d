//! What a zipper has counted.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a zipper has counted since it started, in messages.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct ZipperStats { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Debug, Default)]
        pub(crate) struct ZipperCounters { $(pub(crate) $name: AtomicU64,)* }

        impl ZipperCounters {
            pub(crate) fn stats(&self) -> ZipperStats {
                ZipperStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Came from clients.
    received,
    /// Came from other zippers.
    relayed,
    /// Copies handed to functions that are connected here.
    delivered,
    /// Copies handed to other zippers.
    forwarded,
    /// Observed by nobody.
    unobserved,
    /// Dropped: their functions had left while they were on their way.
    unreachable,
    /// Dropped: passed on too often.
    hop_limit,
    /// Dropped: no message, or not allowed to whoever sent it.
    malformed,
    /// Accepted for a client or zipper that ended before it acknowledged them, or from one and not
    /// handed on when this zipper ended.
    undelivered,
}

pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
