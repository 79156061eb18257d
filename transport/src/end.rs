//! Why a transport ended: whose fault, and whether dialing again can help.

use std::io;
use std::sync::Arc;

use crate::NodeId;

/// Why a [`Transport`](crate::Transport) ended, or never opened.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum End {
    /// This side closed it.
    #[error("closed by this side")]
    Closed,
    /// The peer closed it, in order.
    #[error("closed by the peer")]
    PeerClosed,
    /// Nobody listens there, or the network refused.
    #[error("cannot reach the peer: {0}")]
    Unreachable(Arc<io::Error>),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(Arc<io::Error>),
    /// The handshake did not finish in time, or the protocol's own idle timer fired.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The peer proved another identity than the one that was dialed.
    #[error("dialed {expected:#}, but {found:#} answered: a wrong address or a changed key")]
    WrongPeer {
        /// The identity asked for.
        expected: NodeId,
        /// The identity that the peer proved.
        found: NodeId,
    },
    /// The peer could not prove an identity (no key, a wrong signature, another protocol).
    #[error("the peer did not prove who it is: {detail}")]
    Unauthenticated {
        /// What failed, from the TLS library or the handshake.
        detail: String,
    },
    /// This side does not admit that peer.
    #[error("{peer:#} is not admitted here")]
    NotAdmitted {
        /// Who asked.
        peer: NodeId,
    },
    /// The peer refused this side: its key is not admitted there, or the peer is overloaded.
    #[error("refused by the peer: {detail}")]
    Refused {
        /// What the peer said.
        detail: String,
    },
    /// The peer sent what the protocol does not allow.
    #[error("the peer broke the protocol: {what}")]
    Misbehaved {
        /// The rule that it broke.
        what: &'static str,
    },
}

/// Whose fault an [`End`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOrigin {
    /// Nobody's: an orderly close.
    Nobody,
    /// This side's: its configuration or its key.
    Local,
    /// The peer's.
    Peer,
    /// The network's between the two.
    Network,
}

impl End {
    /// An end from an I/O error on an established connection.
    #[must_use]
    pub fn broken(error: io::Error) -> Self {
        Self::Broken(Arc::new(error))
    }

    /// An end from an I/O error while connecting.
    #[must_use]
    pub fn unreachable(error: io::Error) -> Self {
        Self::Unreachable(Arc::new(error))
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn fault(&self) -> FaultOrigin {
        match self {
            Self::Closed | Self::PeerClosed => FaultOrigin::Nobody,
            Self::Unreachable(_) | Self::Broken(_) | Self::TimedOut => FaultOrigin::Network,
            Self::WrongPeer { .. } | Self::NotAdmitted { .. } | Self::Refused { .. } => {
                FaultOrigin::Local
            }
            Self::Unauthenticated { .. } | Self::Misbehaved { .. } => FaultOrigin::Peer,
        }
    }

    /// Whether dialing the same address again, without changing anything, can help.
    #[must_use]
    pub const fn retry_helps(&self) -> bool {
        matches!(self.fault(), FaultOrigin::Network | FaultOrigin::Nobody)
    }
}
