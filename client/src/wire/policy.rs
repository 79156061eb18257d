//! The policies of functions.

use std::fmt;

use super::WireError;

byte_enum! {
    /// How messages are distributed among the instances of one name.
    Policy {
        /// To a local instance, else to one at the smallest distance; in turn among equals.
        Nearest = 1,
        /// To each instance in turn.
        RoundRobin = 2,
        /// To a random instance.
        Random = 3,
        /// To an instance that depends on the source only.
        Hash = 4,
        /// To every instance.
        All = 5,
    }
}

byte_enum! {
    /// Which messages are dropped while a function that does not settle has no room for more. A function
    /// without such a policy holds its sources back.
    DropPolicy {
        /// The oldest of those that wait, so that the function receives the latest ones.
        Oldest = 1,
        /// Those that find no room.
        Newest = 2,
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::Hash => "hash",
            Self::All => "all",
        })
    }
}

impl fmt::Display for DropPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oldest => "drop-oldest",
            Self::Newest => "drop-newest",
        })
    }
}
