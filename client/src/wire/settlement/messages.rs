//! The messages of settlement as values.

use crate::settlement::{
    AbandonReason, DeclinedRange, FlowOffer, GroupId, InstanceId, ReceivingReport, RecipientGroup,
    ResendRequest, RouteEpoch, SequenceSet,
};
use crate::tag::Tag;
use crate::wire::{DropPolicy, NodeKey};

/// When a message counts as settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SettlementLevel {
    /// When the zipper of the source has sent it on its way to an instance of each group. What is lost on the
    /// way, with a zipper or a path, is not sent again.
    Accepted = 1,
    /// When the process of an instance of each group has read it.
    Received = 2,
    /// When an instance of each group has processed it.
    Processed = 3,
}

/// Identifies a flow everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowId {
    /// The key of the source.
    pub source: NodeKey,
    /// The process of the source: another one numbers its messages anew.
    pub process: u64,
    /// The tag of the messages.
    pub tag: Tag,
    /// Their target.
    pub target: Option<String>,
}

/// A source attaches a flow. The connection has authenticated its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowOpening {
    /// The label of the flow on this connection.
    pub label: u32,
    /// The process of the source.
    pub process: u64,
    /// The tag of the messages.
    pub tag: Tag,
    /// Their target.
    pub target: Option<String>,
    /// When they count as settled.
    pub level: SettlementLevel,
    /// What the source knows of the recipients.
    pub offer: FlowOffer,
}

/// The recipients of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The flow.
    pub label: u32,
    /// The attachment that it belongs to.
    pub attachment: u32,
    /// To be confirmed.
    pub version: u64,
    /// The groups.
    pub groups: Vec<RecipientGroup>,
}

/// Messages that a group does not receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbandonedRange {
    /// The group.
    pub group: GroupId,
    /// Why.
    pub reason: AbandonReason,
    /// The messages.
    pub messages: SequenceSet,
}

/// What has become of the messages of a flow since the last such message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowProgress {
    /// The flow.
    pub label: u32,
    /// The attachment that it belongs to.
    pub attachment: u32,
    /// The recipient sets of messages below are fixed.
    pub routed: u64,
    /// Messages among them that no group receives.
    pub declined: Vec<DeclinedRange>,
    /// Messages that groups have.
    pub settled: Vec<(GroupId, SequenceSet)>,
    /// Messages that groups do not receive.
    pub abandoned: Vec<AbandonedRange>,
}

/// A zipper requests messages again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResendMessage {
    /// The flow.
    pub label: u32,
    /// The attachment that it belongs to.
    pub attachment: u32,
    /// The request.
    pub request: ResendRequest,
}

/// A route to an instance begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteBinding {
    /// The label of the route on this connection.
    pub label: u32,
    /// Supersedes routes with lower epochs.
    pub epoch: RouteEpoch,
    /// The flow.
    pub flow: FlowId,
    /// The group of the flow that the instance belongs to.
    pub group: GroupId,
    /// When messages count as settled.
    pub level: SettlementLevel,
    /// The instance.
    pub instance: InstanceId,
    /// The zipper to which it is connected.
    pub home: NodeKey,
    /// The name of the function.
    pub name: String,
    /// How many more zippers may pass on the route.
    pub hops_left: u8,
}

/// An instance reports on a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportMessage {
    /// The route that it takes back.
    pub label: u32,
    /// Whether the instance leaves in order and processes nothing more.
    pub is_leaving: bool,
    /// What it reports.
    pub report: ReceivingReport,
}

/// Why a route has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteLossReason {
    /// The home has no such instance.
    NoInstance = 1,
    /// A zipper has no path to the home, or has lost the connection.
    NoPath = 2,
    /// There was no room for a message of the route.
    NoRoom = 3,
    /// A zipper does not accept further routes on the connection, or has given the route up.
    Refused = 4,
}

/// A function introduces its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceNotice {
    /// The process.
    pub instance: InstanceId,
    /// Whether messages that it may have processed when it is lost go to another instance, flagged;
    /// otherwise they are reported as abandoned.
    pub redelivers: bool,
}

/// An instance has stalled: it has held a source back for too long. Its zipper disconnects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StalledMessage {
    /// The route to it.
    pub label: u32,
    /// The tag of the flow.
    pub tag: Tag,
    /// The source that it has held back.
    pub source: NodeKey,
    /// How many messages of the flow were assigned to it.
    pub messages: u64,
    /// How long it has reported nothing new, in milliseconds.
    pub millis: u64,
}

/// A message of settlement without a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettlementMessage {
    /// A source attaches a flow.
    FlowOpen(FlowOpening),
    /// The answer to a request is complete.
    ResendEnd {
        /// The flow.
        label: u32,
        /// The group.
        group: GroupId,
        /// The request.
        token: u32,
        /// The first message in the log of the source.
        base: u64,
        /// What was requested below is answered: what did not arrive has been settled.
        complete_below: u64,
    },
    /// The source has noted an announcement.
    Confirm {
        /// The flow.
        label: u32,
        /// The attachment that it belongs to.
        attachment: u32,
        /// Of the announcement.
        version: u64,
    },
    /// The source has removed all messages below from its log.
    Base {
        /// The flow.
        label: u32,
        /// The first message in the log.
        base: u64,
    },
    /// The answer to a probe.
    Alive {
        /// The flow.
        label: u32,
        /// The attachment that it belongs to.
        attachment: u32,
        /// The number of the probe.
        probe: u32,
    },
    /// The source ends a flow without unsettled messages, or gives it up.
    FlowClose {
        /// The flow.
        label: u32,
    },
    /// Recipients hold the source back: sent once a second while that lasts.
    Waiting {
        /// The flow.
        label: u32,
        /// The attachment that it belongs to.
        attachment: u32,
    },
    /// The recipients of a flow.
    Announce(Announcement),
    /// What has become of messages.
    Progress(FlowProgress),
    /// A request for messages.
    Resend(ResendMessage),
    /// Asks the source whether it is still attached.
    Probe {
        /// The flow.
        label: u32,
        /// The attachment that it belongs to.
        attachment: u32,
        /// The number of the probe.
        probe: u32,
    },
    /// A route to an instance begins.
    Bind(RouteBinding),
    /// The sender does not use a route any more.
    Unbind {
        /// The route.
        label: u32,
    },
    /// The source has removed all messages below from its log.
    RaiseFloor {
        /// The route.
        label: u32,
        /// The first message in the log.
        floor: u64,
    },
    /// The lease of an instance is renewed.
    Renew {
        /// The route.
        label: u32,
        /// The stamp of the report that it was renewed for.
        stamp: u64,
    },
    /// An instance has stalled.
    Stalled(StalledMessage),
    /// Asks an instance for a report.
    Ask {
        /// The route.
        label: u32,
    },
    /// An instance reports.
    Report(ReportMessage),
    /// A route has ended: what was sent on it and is not reported did not arrive.
    RouteLost {
        /// The route.
        label: u32,
        /// Why.
        reason: RouteLossReason,
    },
    /// A function introduces its process.
    Instance(InstanceNotice),
    /// A function introduces itself that does not settle, and does not hold sources back: messages for which
    /// it has no room are dropped.
    Observer(DropPolicy),
}
