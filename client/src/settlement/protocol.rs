//! What source, entry zipper and instances inform each other of.

use super::{GroupId, InstanceId, RouteEpoch, SequenceSet};

/// How many ranges a set has at most when it is sent. A receiver must refuse longer ones.
pub const RANGES_MAX: usize = 256;

/// How many ranges the set of a [`GroupOffer`] has at most.
pub const OFFER_RANGES_MAX: usize = 1024;

/// A group of recipients, as the entry zipper announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientGroup {
    /// The group.
    pub group: GroupId,
    /// The name of its functions.
    pub name: String,
    /// The instance that is a group of its own, if each instance receives every message.
    pub only: Option<InstanceId>,
    /// The first message that the group receives.
    pub from: u64,
    /// Behind the last message that the group receives, once it has left.
    pub until: Option<u64>,
    /// The instances that may receive messages.
    pub members: Vec<InstanceId>,
    /// An instance that is gone may have received messages below.
    pub uncertain_below: u64,
}

/// The recipients of a flow. They replace those announced before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipients {
    /// Increases with each announcement of an entry zipper.
    pub version: u64,
    /// The groups.
    pub groups: Vec<RecipientGroup>,
}

/// What a source presents to an entry zipper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowOffer {
    /// How often the source has attached the flow.
    pub attachment: u32,
    /// The first message that the source will send. The recipient sets of those below are fixed.
    pub live_from: u64,
    /// Behind the last message that an earlier entry zipper may have forwarded.
    pub sent_max: u64,
    /// The number of a new group must not be smaller.
    pub groups_end: u32,
    /// The groups with unsettled messages, or that receive further ones.
    pub groups: Vec<GroupOffer>,
}

/// A group of a [`FlowOffer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffer {
    /// The group, and the instances that may have messages.
    pub recipients: RecipientGroup,
    /// The group has every message below.
    pub floor: u64,
    /// Further messages that the group has, in at most [`OFFER_RANGES_MAX`] ranges. If there are more, the
    /// rest is uncertain: it counts as received by an instance that is gone.
    pub settled: SequenceSet,
}

/// The entry zipper requests messages again, for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResendRequest {
    /// The group.
    pub group: GroupId,
    /// Identifies the request.
    pub token: u32,
    /// The messages, in at most [`RANGES_MAX`] ranges.
    pub ranges: SequenceSet,
    /// Requests every message from this one on, too, up to those that have been sent.
    pub from: Option<u64>,
    /// The answer ends once it has as many bytes, and has at least one message. Each message counts its
    /// payload and 64 bytes.
    pub bytes: u64,
}

/// Why a message is not delivered to a group, or to none. In ascending order: of the reasons of several groups,
/// the source counts the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AbandonReason {
    /// No instance of the group has connected in time.
    NoSubscriber,
    /// The last instance of the group was disconnected because it had stalled, and no other one has connected in
    /// time; or it may have received the message, and its group does not want a redelivery.
    InstanceStalled,
    /// An instance that may have received it died, and its group does not want a redelivery.
    InstanceLost,
    /// The source may not write the tag.
    Forbidden,
    /// It has passed as many functions as the entry zipper permits.
    TooDeep,
}

/// Messages that no group receives, although groups may observe their tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclinedRange {
    /// Why.
    pub reason: AbandonReason,
    /// The messages, in at most [`RANGES_MAX`] ranges.
    pub messages: SequenceSet,
}

/// The state of a flow at an instance, for the entry zipper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivingReport {
    /// The route that the report belongs to.
    pub epoch: RouteEpoch,
    /// What the sets contain.
    pub kind: ReportKind,
    /// Messages that the handler has processed, without those that the source has removed from its log.
    pub processed: SequenceSet,
    /// Messages that the handler will process. Empty in news.
    pub held: SequenceSet,
    /// Behind the highest message that was accepted and not dropped.
    pub end: u64,
    /// When the report was sent, in microseconds of the instance's clock. The entry zipper returns it to
    /// extend the lease.
    pub stamp: u64,
    /// How many messages the process has processed, of all flows: whether its handler proceeds.
    pub progress: u64,
}

/// What the sets of a [`ReceivingReport`] contain. Each has at most [`RANGES_MAX`] ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReportKind {
    /// What was processed since the last report, with what is contiguous to it.
    News,
    /// A part of the answer to a bind: further parts follow.
    Part,
    /// The last part of the answer to a bind. The parts together are complete.
    Answer,
}
