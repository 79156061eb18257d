//! Which side began a connection.

/// Which side began a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// This side dialed.
    Dialer,
    /// The peer dialed.
    Acceptor,
}
