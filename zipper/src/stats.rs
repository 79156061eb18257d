//! The counters of a zipper.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of a zipper since its start, in messages.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct ZipperStats { $($(#[$doc])* pub $name: u64,)* }

        impl ZipperStats {
            /// The counters with their names.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

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
    /// Received from clients.
    received,
    /// Received from other zippers.
    relayed,
    /// Copies placed into the send buffers of functions of this zipper.
    delivered,
    /// Copies placed into the send buffers of other zippers.
    forwarded,
    /// Dropped: no function observes the tag and target.
    unobserved,
    /// Dropped: the function has left while the message was in flight.
    unreachable,
    /// Dropped: plain copies of messages of other zippers, for which the send buffer of the function or of the
    /// next zipper had no room.
    no_room,
    /// Dropped: forwarded too often.
    hop_limit,
    /// Dropped: malformed, or not allowed for the sender.
    malformed,
    /// Dropped: the sender has no permission to write the tag.
    forbidden,
    /// Dropped: the message had passed as many functions as this zipper permits, since functions form a cycle.
    too_deep,
    /// Not messages, but tags that functions wanted to observe without the permission.
    forbidden_tags,
    /// Not messages, but requests of operators without the permission.
    forbidden_requests,
    /// Not messages, but functions that were disconnected because they had held a source back for too long.
    stalled,
    /// Not lost: dropped on a route that had ended, or for want of room. Its source sends it again.
    discarded,
    /// Lost: accepted for a peer that ended before it acknowledged them, or not yet forwarded when this
    /// zipper ended.
    undelivered,
}

pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
