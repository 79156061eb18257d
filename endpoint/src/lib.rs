//! The pure half of an endpoint: a [`Session`] delivers messages exactly once and in order over a
//! sequence of transports.
//!
//! A lost transport is handled like a lost packet: a session retains every reliable message until its
//! peer has acknowledged it, and retransmits unacknowledged ones over the next transport. It has no
//! socket, no clock, no thread and no randomness: time and incarnation are parameters, so it also runs
//! in virtual time, under a fuzzer and on wasm32.
//!
//! ```text
//!               sync_send_buffer   ┌─────────┐ ◀─poll_frame─── transports take frames
//!  producers ─▶ SendBuffer ──────▶ │ Session │
//!  user ◀── messages, events ───── └─────────┘ ◀─handle_frame─ transports bring frames
//! ```
//!
//! Guarantee: a message that [`SendBuffer::push`] accepted on a reliable lane is delivered once, in the
//! order of its lane, while both processes live. Otherwise [`Event::PeerRestarted`],
//! [`Event::Dropped`] or [`Event::Closed`] reports it: no message is lost silently.
#![forbid(unsafe_code)]

mod config;
#[cfg(feature = "counting")]
#[doc(hidden)]
pub mod counting;
mod error;
mod event;
mod lane;
mod varint;
mod version;
mod wire;

mod attachment;
mod encoded_batch;
mod message_batch;
mod recovery;
mod recv_lane;
mod scheduler;
mod segment;
mod send_buffer;
mod send_lane;
mod session;
mod spare_chunks;
mod stats;

pub use config::{OfflinePolicy, SessionConfig};
pub use encoded_batch::EncodedBatch;
pub use error::{SendError, SessionAttachError};
pub use event::{AttachmentId, CloseReason, DetachReason, Event, SessionOutput};
pub use lane::{BEST_EFFORT_LEN_MAX, Delivery, LaneConfig, LaneId, Message};
pub use message_batch::MessageBatch;
pub use scheduler::STARVATION_GUARD;
pub use send_buffer::{AbandonedMessages, FlushMark, SendBuffer};
pub use session::{ATTACHMENTS_MAX, Session};
pub use stats::EndpointStats;
pub use version::{Incompatibility, VersionRange};
