//! Events of a session for its user, and requests to its driver.

use selvedge_transport::End;

use crate::lane::{LaneId, Message};
use crate::version::Incompatibility;

/// Names one attachment of a transport to a session; the driver chooses the numbers and uses none
/// twice for one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId(pub u64);

/// What happened to an endpoint. Messages do not come this way.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The peer can be reached: a transport is attached where there was none.
    Attached {
        /// Over which one.
        attachment: AttachmentId,
    },
    /// Another transport carries the messages now.
    Moved {
        /// Over which one.
        attachment: AttachmentId,
    },
    /// A second transport carries the redundant lanes too, or none does any more.
    Redundant {
        /// Which one.
        attachment: Option<AttachmentId>,
    },
    /// The session resumes at its last acknowledged positions, after an [`Event::Attached`] or
    /// [`Event::Moved`].
    Resumed {
        /// Bytes of lanes that are sent once more because they were not acknowledged. The receiver
        /// drops what it has already.
        resent_bytes: u64,
    },
    /// The only transport ended before the peer had introduced itself: it refused, or is another
    /// program.
    AttachFailed {
        /// Why it ended.
        reason: DetachReason,
    },
    /// No transport is left. What is not acknowledged is kept for the next one.
    Detached {
        /// Why the last one ended.
        reason: DetachReason,
    },
    /// While the peer could not be reached, messages made room for later ones
    /// ([`Away::DropOldest`](crate::Away::DropOldest)).
    Dropped {
        /// On which lane.
        lane: LaneId,
        /// How many, since the last such event.
        messages: u64,
    },
    /// The peer has lost its memory of this session: its process is a new one.
    PeerRestarted {
        /// Messages that may or may not have reached the old process. What never left this side is
        /// not among them: it goes to the new process.
        undelivered: Vec<Message>,
    },
    /// It is over; nothing is sent or received any more.
    Closed {
        /// Which side ended it, and why.
        reason: CloseReason,
        /// Messages that were accepted here and not acknowledged by the peer. With a driver these
        /// are all of them. A session that is used without one, and that did not
        /// [exchange](crate::Session::exchange) before this event was taken, reports later ones in
        /// another event.
        undelivered: Vec<Message>,
    },
}

/// Why a transport no longer serves a session.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DetachReason {
    /// The transport ended.
    #[error(transparent)]
    Ended(End),
    /// Nothing arrived from the peer for
    /// [`SessionConfig::silence_max`](crate::SessionConfig::silence_max).
    #[error("the peer has been silent for too long")]
    Silent,
    /// Another transport took its place.
    #[error("another transport took its place")]
    Superseded,
    /// The peer broke the session's protocol.
    #[error("the peer broke the protocol: it {what}")]
    Misbehaved {
        /// What it did.
        what: &'static str,
    },
    /// It was detached by this side's user.
    #[error("detached by this side")]
    Local,
    /// The session is closed.
    #[error("the endpoint is closed")]
    Closed,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// Closed by this side; everything was acknowledged.
    #[error("closed by this side")]
    Local,
    /// Closed by this side without waiting, or the wait timed out.
    #[error("closed by this side before everything was acknowledged")]
    Aborted,
    /// Closed by the peer, in order.
    #[error("closed by the peer")]
    Peer,
    /// Closed by the peer without waiting.
    #[error("aborted by the peer")]
    PeerAborted,
    /// The two sides cannot exchange messages. Dialing again does not help.
    #[error("the two sides are incompatible: {0}")]
    Incompatible(Incompatibility),
    /// The peer reports that this side broke the protocol: a bug, or another program.
    #[error("the peer reports that this side broke the protocol")]
    Protocol,
}

/// What a session requests of its driver.
#[derive(Debug)]
pub enum SessionOutput {
    /// Pass the event to the user.
    Event(Event),
    /// The session is done with that transport: close it in order.
    Release {
        /// Which one.
        attachment: AttachmentId,
        /// Why.
        reason: DetachReason,
    },
}
