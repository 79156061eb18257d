//! What a hub reports about its peers.

use std::fmt;

use selvedge_driver::{Endpoint, Event, NodeId};

/// A change in the connection to a peer. Events of one peer are in order.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HubEvent {
    /// The peer has become reachable: its session has introduced itself.
    Up {
        /// The peer.
        peer: NodeId,
    },
    /// The last connection to the peer has ended. The hub dials again; messages wait in the
    /// endpoint.
    Down {
        /// The peer.
        peer: NodeId,
        /// Why the last connection ended.
        reason: String,
    },
    /// A connection ended before the peer's session introduced itself: the peer does not accept this
    /// node, or has no room. The hub dials again after a pause.
    Refused {
        /// The peer.
        peer: NodeId,
        /// Why the connection ended.
        reason: String,
    },
    /// Another node has answered at an address of the peer, while the hub dialed the peer
    /// ([`HubBuilder::report_other_nodes`](crate::HubBuilder::report_other_nodes)).
    OtherNode {
        /// The peer.
        peer: NodeId,
        /// The place of the address in the list of the peer.
        address: usize,
        /// The node that has proven its key there.
        found: NodeId,
    },
    /// The endpoint was closed, by either side.
    ///
    /// For a wanted peer [`Hub::endpoint`](crate::Hub::endpoint) returns a new endpoint from now on,
    /// and the hub dials again after a pause. A guest is forgotten.
    Left {
        /// The peer.
        peer: NodeId,
        /// Which side closed it, and why.
        reason: String,
        /// The closed endpoint, which holds the messages that arrived and were not read.
        endpoint: Endpoint,
    },
    /// The user has admitted the guest ([`Endpoint::admit`](crate::Endpoint::admit)).
    Admitted {
        /// The guest.
        peer: NodeId,
    },
    /// The messages have moved to another connection. No message was lost or repeated.
    Moved {
        /// The peer.
        peer: NodeId,
    },
    /// A standby path, which carries the redundant lanes too, was attached or has ended.
    Redundant {
        /// The peer.
        peer: NodeId,
        /// Whether there is a standby path now.
        is_attached: bool,
    },
    /// The peer's process has restarted. The endpoint's own event,
    /// [`Event::PeerRestarted`](crate::Event::PeerRestarted), holds the messages that may be lost.
    Restarted {
        /// The peer.
        peer: NodeId,
        /// How many messages may not have arrived.
        undelivered: usize,
    },
}

impl HubEvent {
    /// The hub's event for an event of an endpoint, if there is one.
    pub(crate) fn from_endpoint(endpoint: &Endpoint, event: &Event) -> Option<Self> {
        let peer = endpoint.peer();
        Some(match event {
            Event::Attached { .. } => Self::Up { peer },
            Event::Admitted => Self::Admitted { peer },
            Event::Moved { .. } => Self::Moved { peer },
            Event::Detached { reason } => Self::Down {
                peer,
                reason: reason.to_string(),
            },
            Event::AttachFailed { reason } => Self::Refused {
                peer,
                reason: reason.to_string(),
            },
            Event::Closed { reason, .. } => Self::Left {
                peer,
                reason: reason.to_string(),
                endpoint: endpoint.clone(),
            },
            Event::Redundant { attachment } => Self::Redundant {
                peer,
                is_attached: attachment.is_some(),
            },
            Event::PeerRestarted { undelivered } => Self::Restarted {
                peer,
                undelivered: undelivered.len(),
            },
            _ => return None,
        })
    }
}

/// One line for a log.
impl fmt::Display for HubEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { peer } => write!(f, "{peer:#} is up"),
            Self::Down { peer, reason } => write!(f, "{peer:#} is down: {reason}"),
            Self::Refused { peer, reason } => {
                write!(f, "{peer:#} refused the connection: {reason}")
            }
            Self::OtherNode {
                peer,
                address,
                found,
            } => {
                let number = address + 1;
                write!(f, "{found:#} answers at address {number} of {peer:#}")
            }
            Self::Left { peer, reason, .. } => write!(f, "{peer:#} has left: {reason}"),
            Self::Admitted { peer } => write!(f, "{peer:#} is admitted"),
            Self::Moved { peer } => write!(f, "{peer:#} uses another connection"),
            Self::Redundant { peer, is_attached } => {
                let state = if *is_attached { "has a" } else { "has no" };
                write!(f, "{peer:#} {state} standby path")
            }
            Self::Restarted { peer, undelivered } => write!(
                f,
                "{peer:#} has restarted; {undelivered} messages may not have arrived"
            ),
        }
    }
}
