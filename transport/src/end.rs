//! The reasons for which a transport ends, the origin of each, and whether a retry can succeed.

use std::io;
use std::sync::Arc;

use crate::NodeId;

/// The reason for which a [`Transport`](crate::Transport) ended or did not open.
///
/// [`fault`](Self::fault) returns the party that caused it; [`retry_helps`](Self::retry_helps) states whether
/// dialing again can succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum End {
    /// This side closed the connection and the orderly close is complete.
    #[error("closed by this side")]
    Closed,
    /// The peer closed the connection in order: every frame that it had accepted was sent.
    #[error("closed by the peer")]
    PeerClosed,
    /// No process listens at the address, or the network or the peer's host refused the connection
    /// attempt.
    #[error("cannot reach the peer: {0}")]
    Unreachable(Arc<io::Error>),
    /// The established connection failed: an I/O error, a reset, or the end of the stream within a
    /// frame.
    #[error("the connection broke: {0}")]
    Broken(Arc<io::Error>),
    /// The handshake did not finish within 5 s, or the protocol's idle timer (10 s) expired.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The peer authenticated with another identity than the one that was dialed.
    #[error("dialed {expected:#}, but {found:#} answered: a wrong address or a changed key")]
    WrongPeer {
        /// The identity that was dialed.
        expected: NodeId,
        /// The identity that the peer proved.
        found: NodeId,
    },
    /// The peer did not prove an identity: no key, a wrong signature, or another protocol.
    #[error("the peer did not prove its identity: {detail}")]
    Unauthenticated {
        /// The step that failed, as reported by the TLS library or the handshake.
        detail: String,
    },
    /// The peer proved its identity, but the [`Admission`](crate::Admission) of this side rejects
    /// it.
    #[error("{peer:#} is not admitted here")]
    NotAdmitted {
        /// The rejected identity.
        peer: NodeId,
    },
    /// The peer rejected this side: its admission excludes this key, or the peer is overloaded.
    #[error("refused by the peer: {detail}")]
    Refused {
        /// The reason that the peer sent.
        detail: String,
    },
    /// The peer violated the protocol.
    #[error("the peer violated the protocol: {what}")]
    Misbehaved {
        /// The rule that was violated.
        what: &'static str,
    },
}

/// The party that caused an [`End`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOrigin {
    /// No party: an orderly close.
    None,
    /// This side: its configuration or its key.
    Local,
    /// The peer.
    Peer,
    /// The network between the two.
    Network,
}

impl End {
    /// Wraps an I/O error of an established connection.
    #[must_use]
    pub fn broken(error: io::Error) -> Self {
        Self::Broken(Arc::new(error))
    }

    /// Wraps an I/O error that occurred while connecting.
    #[must_use]
    pub fn unreachable(error: io::Error) -> Self {
        Self::Unreachable(Arc::new(error))
    }

    /// The party that caused this end.
    #[must_use]
    pub const fn fault(&self) -> FaultOrigin {
        match self {
            Self::Closed | Self::PeerClosed => FaultOrigin::None,
            Self::Unreachable(_) | Self::Broken(_) | Self::TimedOut => FaultOrigin::Network,
            Self::WrongPeer { .. } | Self::NotAdmitted { .. } | Self::Refused { .. } => {
                FaultOrigin::Local
            }
            Self::Unauthenticated { .. } | Self::Misbehaved { .. } => FaultOrigin::Peer,
        }
    }

    /// Whether dialing the same address again with the same configuration can succeed.
    #[must_use]
    pub const fn retry_helps(&self) -> bool {
        matches!(self.fault(), FaultOrigin::Network | FaultOrigin::None)
    }
}
