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
//! A loss need not be noticed: a bind that is not answered is repeated, and an instance that has messages
//! is asked for a report every five seconds (`Ask`), and is bound again if it does not answer. Since a route delivers
//! nothing behind a loss, an answer proves that there was none before. So the messages that wait for a slow handler are
//! not sent again.
//!
//! A [`ReceivingFlow`] belongs to a flow *and a group*: an instance may be in two groups of a flow.
//!
//! # Recipients
//!
//! Before the entry zipper hands the first message of a flow to an instance, it announces the instance
//! to the source and waits for the confirmation. The source thus knows every instance that may have its
//! messages. If the entry zipper crashes, or the source moves, the source presents them to the next
//! entry zipper, which sends nothing to a group before each of its instances has reported or has lost
//! its lease. That includes an instance that has left in order, if the source did not learn it in time.
//!
//! # Lease
//!
//! ```text
//!  instance ─▶ Report { stamp: S }    the time of its clock
//!  entry ────▶ Probe { N }            to the source, after it has received S
//!  source ───▶ Alive { N }            only if the flow is attached to that zipper
//!  entry ────▶ Renew { stamp: S }     the instance may process messages until S + 0.9 lease
//! ```
//! An entry zipper gives the messages of an instance to another one at the earliest a lease after it was
//! attached, or after its route to the instance has ended. `S` is earlier than both: if the source has moved,
//! the former entry zipper receives no `Alive`; if the route has ended, no `Renew` follows. No two clocks
//! are compared. An instance without a lease processes nothing, and asks for one by its report when it has
//! something to process: the first message after a pause costs two more round trips. What it holds is
//! dropped when it is bound to another route, because another instance may have received it; what its
//! handler has begun is not.
//!
//! # Requests for retransmission
//!
//! ```text
//!  entry ──▶ Resend { group, token, ranges, from, bytes }
//!  source ─▶ each message of `ranges`, then each from `from` up to what it has sent, at most `bytes`
//!  source ─▶ ResendEnd { token, base, complete_below }
//! ```
//! What arrives for the group while the request is under way is dropped, and is part of the answer.
//! Behind the end of the answer, messages are forwarded as they arrive: nothing is overtaken, and one round
//! is enough unless the limits cut the answer. Then the next request follows. Messages that every group has had
//! are not sent again: the end of an answer states up to where it is complete, so the group has what it lacks.
//!
//! # Recipients without room
//!
//! A zipper stores nothing, and waits for no recipient. What has no room on the way to an instance is
//! *refused*: it is missing there, and is requested when there is room. Other instances and groups
//! continue. What limits the source is its window of unsettled messages. A message that every group has leaves
//! the log and the window wherever it is, so what an instance retains is what it was assigned itself.
//!
//! # Recipients that stall
//!
//! ```text
//!  source ──▶ Waiting     once a second, while its messages wait for settlement
//!  entry  ──▶ Stalled     to the zipper of an instance that has reported nothing new for `stalled_max` (10 s)
//! ```
//! A recipient that processes nothing, and stays connected, would hold the source back for ever. The entry zipper
//! removes it as if its lease had ended, but only while the source waits, and only an instance that reports: one that is
//! silent is suspended or cut off, and has its lease to return. Each report contains how many messages the process has
//! processed, of all flows: one that proceeds with others, behind which these wait, has not stalled. The zipper of the instance disconnects it, with the reason. The
//! process drops what it has not begun, and returns as another instance, once its user reads again.
//!
//! Until the process learns of its end, it may still have a lease and go on with what it has. So such a message may
//! be processed twice, at most once of these without the flag of a redelivery, in any order.
//!
//! # Outputs
//!
//! What an entry zipper has for the source and for instances is state, not a queue, and is pulled when there is
//! room: many changes are one announcement, and many reports are one set of settled messages. So the memory
//! of a flow does not depend on the speed of its peers.
//!
//! # Order
//!
//! An instance receives the messages of a flow in ascending order. The exception is flagged as a
//! *redelivery*: a message that was assigned to an instance that died or lost its lease, and that this
//! instance may have received. What an instance holds when the source moves, and drops later, is flagged if
//! another instance may have received it before.

mod log;
mod progress;
mod protocol;
mod receiving;
mod resending;
mod sequences;
mod source;

use std::time::Duration;

pub use log::LoggedPayload;
pub use progress::FlowOutcome;
pub use protocol::{
    AbandonReason, DeclinedRange, FlowOffer, GroupOffer, OFFER_RANGES_MAX, RANGES_MAX,
    ReceivingReport, RecipientGroup, Recipients, ReportKind, ResendRequest,
};
pub use receiving::{Receipt, ReceivingFlow};
pub use sequences::SequenceSet;
pub use source::{FlowLimits, LogFull, SettlementError, SourceFlow, SourceMessage};

/// How long an instance keeps its messages while it cannot be reached. The same in every process of a
/// fabric.
pub const LEASE: Duration = Duration::from_secs(30);

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
