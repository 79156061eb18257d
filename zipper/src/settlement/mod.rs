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

mod closing;
mod declining;
mod entry;
mod group;
mod member;
mod offer;
mod outputs;
mod rare;
mod settings;
mod stalled;
mod timers;

pub use entry::{EntryFlow, GroupSpec};
pub use offer::InvalidOffer;
pub use outputs::{InstanceOutput, InstanceOutputKind, MemberDelivery, SourceOutput};
pub use settings::EntrySettings;
pub use stalled::{SlowMember, SlowState, StalledNotice};

#[cfg(test)]
mod tests {
    use super::entry::EntryFlow;
    use super::group::GroupFlow;
    use super::member::Member;

    /// Sets of one range and empty vectors have no memory of their own.
    #[test]
    fn a_flow_with_one_group_of_one_member_needs_600_bytes() {
        let bytes = size_of::<EntryFlow>() + size_of::<GroupFlow>() + size_of::<Member>();
        // And the name of the group.
        assert!(bytes <= 590, "{bytes}");
    }
}
