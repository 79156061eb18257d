//! The messages of settlement, between sources, zippers and instances; only with the feature
//! [`FEATURE_SETTLEMENT`]. [`crate::settlement`] describes the protocol.
//!
//! A *label* stands for a flow on the connection of its source, and for a route on every further
//! connection. The sender of the messages of a flow or route chooses it, and uses it once: a changed route
//! gets another label. Nothing is sent on the label of a route before the report that answers its `Bind`
//! has come back, so the order of the lanes does not matter. All messages of an attachment of a flow are on one lane,
//! here and on its routes. A zipper ignores the opening of an attachment that is older than the one that it knows.
//!
//! ```text
//! lane DATA or BULK, from the source to the instance
//! FlowOpen     20 | label 4B | process 8B | tag 4B | target? | level 1B | offer
//! Message      21 | flags 1B | label 4B | sequence 1 to 8B | [depth 1B] | [trace] | payload ...
//! Resent       22 | flags 1B | label 4B | sequence 1 to 8B | [depth 1B] | group 4B | token 4B | [trace] | payload ...
//! ResendEnd    23 | label 4B | group 4B | token 4B | base 8B | complete below 8B
//! lane CONTROL, from the source to its zipper
//! Confirm      24 | label 4B | attachment 4B | version 8B
//! Base         25 | label 4B | base 8B
//! Alive        26 | label 4B | attachment 4B | probe 4B
//! FlowClose    27 | label 4B                       on the lane DATA, too, behind the FlowOpen of a flow that has left it
//! Waiting      2C | label 4B | attachment 4B
//! lane CONTROL, from the zipper to the source
//! Announce     28 | label 4B | attachment 4B | version 8B | n 2B | n × group
//! Progress     29 | label 4B | attachment 4B | routed 8B | n 2B | n × (reason 1B, set)
//!                 | n 2B | n × (group 4B, set) | n 2B | n × (group 4B, reason 1B, set)
//! Resend       2A | label 4B | attachment 4B | group 4B | token 4B | from: 8B? | bytes 8B | set
//! Probe        2B | label 4B | attachment 4B | probe 4B
//! lane CONTROL, towards the instance
//! Bind         30 | label 4B | epoch 8B | flow | group 4B | level 1B | instance 8B | home 32B | name
//!                 | hops left 1B
//! Unbind       31 | label 4B
//! RaiseFloor   32 | label 4B | floor 8B
//! Renew        33 | label 4B | stamp 8B
//! Stalled      34 | label 4B | tag 4B | source 32B | messages 8B | millis 8B
//! Ask          35 | label 4B
//! lane CONTROL, from the instance
//! Report       38 | label 4B | kind 1B | leaving 1B | epoch 8B | stamp 8B | progress 8B | end 8B
//!                 | processed: set | held: set
//! RouteLost    39 | label 4B | reason 1B
//! Instance     3A | process 8B | redelivers 1B
//! Observer     3B | drop policy 1B
//!
//! flow         source 32B | process 8B | tag 4B | target?
//! group        number 4B | name | only: 8B? | from 8B | until: 8B? | uncertain below 8B | n 2B | n × member 8B
//! offer        attachment 4B | live from 8B | sent max 8B | groups end 4B | n 2B | n × (group, floor 8B, set)
//! set          n 2B | n × (start 8B, length 8B)
//! reason       1 no subscriber, 2 instance lost, 3 instance stalled, 4 forbidden, 5 too deep
//!
//! flags   0 | bytes of the sequence - 1 | trace | 0 | depth | redelivery
//! bit     7 | 6                       4 | 3     | 2 | 1     | 0
//! ```
//!
//! The *depth* of a message is the number of functions that it has passed, at most 127: a function that writes while
//! it processes a message of depth n writes with depth n + 1. What a source writes has depth 0, which is absent.

mod codec;
mod data;
mod messages;

use bytes::Bytes;

use super::WireError;
use crate::settlement::{OFFER_RANGES_MAX, RANGES_MAX};

pub use data::{
    MESSAGE_DEPTH_MAX, MessageMarks, ResentHeader, RoutedHeader, RoutedMessage, append_trace_step,
    put_trace,
};
pub use messages::{
    AbandonedRange, Announcement, FlowId, FlowOpening, FlowProgress, InstanceNotice, ReportMessage,
    ResendMessage, RouteBinding, RouteLossReason, SettlementLevel, SettlementMessage,
    StalledMessage,
};

/// The feature bit of settlement.
pub const FEATURE_SETTLEMENT: u64 = 1 << 6;

/// The largest number of ranges in an encoded set.
pub const SET_RANGES_MAX: usize = if RANGES_MAX > OFFER_RANGES_MAX {
    RANGES_MAX
} else {
    OFFER_RANGES_MAX
};

/// The largest number of flows that are open on a connection. A zipper ends one with more.
pub const OPEN_FLOWS_MAX: usize = 4096;

/// The largest number of groups of a flow.
pub const FLOW_GROUPS_MAX: usize = 1024;

/// The largest number of instances of a group.
pub const GROUP_MEMBERS_MAX: usize = 1024;

/// The kind bytes of settlement.
const KINDS: std::ops::RangeInclusive<u8> = 0x20..=0x3f;

/// Whether the bytes begin like a message of settlement. They may be malformed.
#[must_use]
pub fn is_settlement(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|kind| KINDS.contains(kind))
}

impl SettlementMessage {
    /// Encodes the message.
    ///
    /// # Errors
    /// [`WireError`] for what [`decode`](Self::decode) would refuse.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        let mut out = Vec::new();
        codec::put(self, &mut out)?;
        Ok(out.into())
    }

    /// Decodes a message, except for those with a payload: [`RoutedMessage::read`] reads these.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(mut bytes: Bytes) -> Result<Self, WireError> {
        let message = codec::get(&mut bytes)?;
        match bytes.is_empty() {
            true => Ok(message),
            false => Err(WireError::Trailing(bytes.len())),
        }
    }
}

#[cfg(test)]
mod tests;
