//! The entry zipper's part of settlement. Pure. [`selvedge_client::settlement`] describes the protocol.
//!
//! An [`EntryFlow`] routes the messages of one flow. Each group of its recipients has a `GroupFlow`,
//! which assigns every message to one `Member` and knows what has become of it:
//!
//! ```text
//!                  assign                 report of the instance
//!   unassigned ─────────────▶ assigned ───────────────────────────▶ settled
//!       ▲                        │
//!       └── its instance died ───┘
//! ```
//!
//! What is assigned and did not get through on the present route is `missing`, and is requested from the
//! source. As long as a member misses anything, it receives no live messages.

mod entry;
mod group;
mod member;
mod offer;
mod outputs;
mod timers;

pub use entry::{EntryFlow, EntrySettings, GroupSpec};
pub use offer::InvalidOffer;
pub use outputs::{InstanceOutput, InstanceOutputKind, MemberDelivery, SourceOutput};
