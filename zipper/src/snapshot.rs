//! A view of the peers of a zipper, for monitoring.

use selvedge_client::wire::Role;
use selvedge_hub::{NodeId, SendBacklog};

/// A client or zipper to which a zipper is connected, or for whose return it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSnapshot {
    /// Its key.
    pub node: NodeId,
    /// Its role; `None` until it has introduced itself.
    pub role: Option<Role>,
    /// Its name; empty until it has introduced itself. The peer has chosen it: at most 1,024 bytes of
    /// any text.
    pub name: String,
    /// Whether it is connected now.
    pub is_connected: bool,
    /// What this zipper has accepted for the peer, and the peer has not acknowledged.
    pub backlog: SendBacklog,
    /// How many messages this zipper has dropped since the peer connected, because it had no room for them.
    pub dropped: u64,
}
