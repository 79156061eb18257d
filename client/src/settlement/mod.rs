//! Settlement: a source retains each message until every group of its recipient set has it. Pure.
//!
//! A message crosses several zippers, and each of them may crash with the messages that it holds. A lost
//! zipper is therefore handled like a lost packet: zippers store nothing, and what was lost is sent again
//! by its source. Three machines cooperate, one set of them for each flow:
//!
//! ```text
//!  source                      entry zipper                    process of an instance
//!  SourceFlow  ── messages ──▶  EntryFlow   ── per group ────▶  ReceivingFlow ──▶ handler
//!    log       ◀── settled ───  groups      ◀── reports ──────  processed, held
//! ```
//!
//! - The **source** numbers the messages of a flow without gaps, and keeps them in its log.
//! - The **entry zipper** fixes the groups of each message when it routes the message, and assigns it to
//!   one instance of each group. It forwards messages that arrive; it keeps none. What an instance lacks
//!   it requests from the source, for that group only.
//! - The **instance** discards duplicates before its handler, and reports what it has processed and what
//!   it holds. These facts decide; whatever zippers and connections have lost follows from them.
//!
//! # Routes
//!
//! Messages reach an instance over a route with an epoch. Every change of the route, including a change
//! to a cheaper one, is a *resume*: the entry zipper binds the instance under a higher epoch; the
//! instance discards messages of lower epochs from then on and reports what it has; only the rest is
//! sent. So a route may lose messages at any time, as long as it delivers nothing behind a loss: the
//! zipper that has lost a message of a route discards the rest of that route.
//!
//! # Recipients
//!
//! Before the entry zipper hands the first message of a flow to an instance, it announces the instance
//! to the source and waits for the confirmation. The source thus knows every instance that may have its
//! messages. If the entry zipper crashes, or the source moves, the source presents them to the next
//! entry zipper, which sends nothing to a group before each of its instances has reported or has lost
//! its lease.
//!
//! # Requests for retransmission
//!
//! ```text
//!  entry ──▶ Resend { group, token, ranges, from }
//!  source ─▶ each message of `ranges`, then each from `from` up to what it has sent (N)
//!  source ─▶ ResendEnd { token, live_from: N }
//! ```
//! What arrives for the group while the request is under way is dropped, and is part of the answer. From
//! N on, messages are forwarded as they arrive: nothing is overtaken, and one round is enough.
//!
//! # Order
//!
//! An instance receives the messages of a flow in ascending order. The exception is flagged as a
//! *redelivery*: a message that was assigned to an instance that died or lost its lease, and that this
//! instance may have received.

//!
//! # Open before zippers and clients use it
//!
//! - The lease must be renewed end to end: an instance may count from the time at which *it* sent the last
//!   probe that the source has answered through the entry zipper. Otherwise an instance that reaches only the
//!   former entry zipper of a source processes what the present one has given to another instance.
//! - Every loss on a route must end in a change of the route, or a member without news must be bound again.
//! - An instance is a member of one group of a flow. Announcements list all members each time.
//! - A report contains everything above the floor. Sets with many ranges cost their square; decoders must
//!   limit them to 256, and never truncate the report that answers a bind.

mod receiving;
mod sequences;
mod source;

pub use receiving::{Receipt, ReceivingFlow, ReceivingReport};
pub use sequences::SequenceSet;
pub use source::{
    AbandonReason, FlowLimits, FlowOffer, FlowOutcome, GroupOffer, LogFull, RecipientGroup,
    Recipients, ResendRequest, SettlementError, SourceFlow, SourceMessage,
};

/// The process of an instance: another process of the same function has another number. Random, so that
/// no two are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u64);

/// A group within a flow. The entry zipper chooses the number, and none is used twice in a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// Orders the routes of a flow to an instance: a higher epoch supersedes a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteEpoch {
    /// How often the source has attached the flow to an entry zipper.
    pub attachment: u32,
    /// How often that entry zipper has bound the instance.
    pub route: u32,
}
