//! What a hub tells.

use selvedge_driver::{Endpoint, NodeId};

/// What happened to a peer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HubEvent {
    /// It can be reached.
    Up {
        /// Who.
        peer: NodeId,
    },
    /// It cannot be reached for now; messages wait.
    Down {
        /// Who.
        peer: NodeId,
        /// Why the last connection ended.
        reason: String,
    },
    /// A connection to it ended before it had said a word: it does not want this node, or has no
    /// room.
    Refused {
        /// Who.
        peer: NodeId,
        /// Why the connection ended.
        reason: String,
    },
    /// It closed in order, or this side did. [`Hub::endpoint`](crate::Hub::endpoint) is a new one
    /// from now on, for when the peer comes back.
    Left {
        /// Who.
        peer: NodeId,
        /// Who ended it, and why.
        reason: String,
        /// The old one, for what has arrived there and was not taken.
        endpoint: Endpoint,
    },
    /// Another connection carries the messages now.
    Moved {
        /// Who.
        peer: NodeId,
    },
    /// A second connection carries its redundant lanes too, or none does any more.
    Redundant {
        /// Who.
        peer: NodeId,
        /// Whether it is there.
        is_there: bool,
    },
    /// Its process is a new one. The endpoint's own event holds the messages that may be lost.
    Restarted {
        /// Who.
        peer: NodeId,
        /// How many messages may not have arrived.
        undelivered: usize,
    },
}
