//! The side of a connection that an endpoint is on: dialer or acceptor.

/// The side that initiated a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// This side dialed the peer.
    Dialer,
    /// The peer dialed this side.
    Acceptor,
}
