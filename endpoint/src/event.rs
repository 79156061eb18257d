//! Events of a session for its user, and requests to its driver.

use selvedge_transport::End;

use crate::lane::{LaneId, Message};
use crate::version::Incompatibility;

/// Identifies the attachment of a transport to a session. The driver chooses the numbers and never
/// reuses one for the same session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId(pub u64);

/// A change of state of an endpoint. Messages are delivered separately.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The peer can be reached: a transport is attached where there was none.
    Attached {
        /// The attachment of the transport.
        attachment: AttachmentId,
    },
    /// Another transport carries the messages from now on.
    Moved {
        /// The attachment of the transport.
        attachment: AttachmentId,
    },
    /// A standby transport carries the redundant lanes, too, or none does any more.
    Redundant {
        /// The attachment of the standby transport, if there is one.
        attachment: Option<AttachmentId>,
    },
    /// The session resumes at its last acknowledged positions, after an [`Event::Attached`] or
    /// [`Event::Moved`].
    Resumed {
        /// Bytes of lanes that are retransmitted because they were not acknowledged. The receiver drops
        /// duplicates.
        resent_bytes: u64,
    },
    /// The only transport ended before the `Hello` of the peer arrived: the peer refused the connection,
    /// or is another program.
    AttachFailed {
        /// Why the transport ended.
        reason: DetachReason,
    },
    /// The last transport ended. Unacknowledged messages are retained for the next one.
    Detached {
        /// Why the last transport ended.
        reason: DetachReason,
    },
    /// While the peer could not be reached, messages were dropped in favour of later ones
    /// ([`OfflinePolicy::DropOldest`](crate::OfflinePolicy::DropOldest)).
    Dropped {
        /// The lane.
        lane: LaneId,
        /// The number of messages since the last such event.
        messages: u64,
    },
    /// The user has admitted the peer ([`Session::admit`](crate::Session::admit)), for the first time.
    Admitted,
    /// The peer has lost the state of this session: its process is a new one.
    PeerRestarted {
        /// Messages that may or may not have reached the old process. Messages that were never sent are
        /// not among them: they are sent to the new process.
        undelivered: Vec<Message>,
    },
    /// The session has ended; nothing is sent or received any more.
    Closed {
        /// Which side ended it, and why.
        reason: CloseReason,
        /// Messages that this side accepted and the peer did not acknowledge. With a driver these are
        /// all of them. Without one, messages that are pushed after the last call of
        /// [`sync_send_buffer`](crate::Session::sync_send_buffer) before this event was taken are
        /// reported by another such event.
        undelivered: Vec<Message>,
    },
}

/// Why a transport was detached from a session.
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
    /// Another transport replaced it.
    #[error("another transport replaced it")]
    Superseded,
    /// The peer broke the session's protocol.
    #[error("the peer broke the protocol: it {what}")]
    Misbehaved {
        /// The violation.
        what: &'static str,
    },
    /// Detached by the user of this side.
    #[error("detached by this side")]
    Local,
    /// The session is closed.
    #[error("the endpoint is closed")]
    Closed,
}

/// Why a session ended.
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
        /// The attachment.
        attachment: AttachmentId,
        /// The reason.
        reason: DetachReason,
    },
}
