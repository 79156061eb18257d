//! The options of a client.

use std::sync::Arc;
use std::time::Duration;

use selvedge_hub::{Address, Dialer, Driver, DriverConfig, Identity, NodeId};

use crate::client::flows::{AcknowledgeMode, InstanceLossPolicy};
use crate::lanes::PAYLOAD_MAX;
use crate::settlement::FlowLimits;
use crate::tag::Tag;
use crate::wire::settlement::SettlementLevel;
use crate::wire::{DropPolicy, Policy, Role};

/// What a client is, and where its zippers are.
///
/// [`source`](Self::source) and [`function`](Self::function) give defaults for every field. Names,
/// tokens and targets have at most 1,024 bytes, and a function at most 1,024 tags.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The addresses of zippers, the preferred ones of each first. The client dials all of them, keeps the
    /// zipper that answers first, and moves to another one if that is gone.
    pub zippers: Vec<Address>,
    /// The key of the zipper. Without one, the client connects to any zipper at the addresses.
    pub node: Option<NodeId>,
    /// The identity of the client. Without one, the client generates a new key.
    pub identity: Option<Identity>,
    /// The token that authorizes the client, if the zipper requires one.
    pub token: Option<String>,
    /// Whether the client is a source or a function.
    pub role: Role,
    /// The name of the client, which must not be empty. Functions with one name share the messages.
    pub name: String,
    /// The tags that a function observes: at least one.
    pub tags: Vec<Tag>,
    /// The target of a function: of messages with a target it receives those with this one.
    pub target: Option<String>,
    /// How messages are distributed among the functions of that name.
    pub policy: Policy,
    /// The time for connecting, until a zipper has admitted the client: meanwhile addresses that fail are
    /// dialed again. `Duration::MAX` waits without limit. Default: 10 s.
    pub timeout: Duration,
    /// The longest payload, in bytes. It must be equal to that of the zipper, or neither admits the other.
    /// Default: [`PAYLOAD_MAX`], 64 MiB less 64 KiB for the header.
    pub message_max: usize,
    /// The driver whose workers serve the client; without one, a driver of its own with one worker. Many
    /// clients in one process should share a driver: otherwise each of 64 clients wakes a worker of its
    /// own, while one worker reads for all of them.
    pub driver: Option<Arc<Driver>>,
    /// Dialers of additional transports, which precede the built-in ones.
    pub dialers: Vec<Arc<dyn Dialer>>,
    /// How long the worker of an own driver may poll before it sleeps, as long as polling pays; at most
    /// 50 us. See [`DriverConfig::spin`].
    pub spin: Duration,
    /// When a message that the client writes counts as settled; until then the client retains it, and sends
    /// it again if a zipper may have lost it. Without a level, messages that a zipper may have lost are
    /// counted as [`uncertain`](crate::Client::uncertain), as are those that are written while the zipper
    /// in use is of a version that does not settle messages. Default: when a function of each name has
    /// processed it.
    pub level: Option<SettlementLevel>,
    /// How much the client retains for each tag and target. All flows together retain up to 64 MiB, where
    /// each message counts its payload and 64 bytes. A flow without room blocks its writers only.
    pub flow_limits: FlowLimits,
    /// When a message that a function receives counts as processed. Default: when it is read.
    pub acknowledge: AcknowledgeMode,
    /// What becomes of messages that this function may have processed when it is lost. Default: another
    /// instance receives them.
    pub on_instance_loss: InstanceLossPolicy,
    /// What becomes of messages for which this function has no room. Default: they wait.
    pub slow_consumer: SlowConsumerPolicy,
}

/// What becomes of messages for which a function has no room, because it reads more slowly than they come.
///
/// With a policy other than [`Hold`](Self::Hold) a function never holds a source back, and does not settle:
/// sources do not wait for it, and do not send again what it has lost. It learns what it has missed from the
/// numbers of each source and tag ([`ReceivedMessage::sequence`](crate::ReceivedMessage::sequence)), which are
/// consecutive if it receives everything; the zipper counts what it drops. What is delivered is in order. Functions of
/// one name should have the same policy: those that drop messages receive nothing from sources that settle while
/// others of their name settle. For zippers of an earlier version every function holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowConsumerPolicy {
    /// They wait. Sources are held back, or retain what is not settled.
    #[default]
    Hold,
    /// The oldest of those that wait are dropped. At the zipper up to 1 MiB is queued in the send buffer, behind
    /// which the latest 4 MiB wait, where each message counts its length and 64 bytes; the receive window of a
    /// client is 4 MiB. So a function that has not read for a while reads up to 5 MiB of older messages first.
    DropOldest,
    /// New ones are dropped while the send buffer of the zipper is full (16 MiB by default).
    DropNewest,
}

impl SlowConsumerPolicy {
    /// How the policy is sent, if it is not the default.
    pub(super) const fn drop_policy(self) -> Option<DropPolicy> {
        match self {
            Self::Hold => None,
            Self::DropOldest => Some(DropPolicy::Oldest),
            Self::DropNewest => Some(DropPolicy::Newest),
        }
    }
}

impl ClientOptions {
    /// A source: it writes messages and observes no tags.
    #[must_use]
    pub fn source(name: impl Into<String>, zippers: Vec<Address>) -> Self {
        Self {
            zippers,
            node: None,
            identity: None,
            token: None,
            role: Role::Source,
            name: name.into(),
            tags: Vec::new(),
            target: None,
            policy: Policy::Nearest,
            timeout: Duration::from_secs(10),
            message_max: PAYLOAD_MAX,
            driver: None,
            dialers: Vec::new(),
            spin: DriverConfig::default().spin,
            level: Some(SettlementLevel::Processed),
            flow_limits: FlowLimits::default(),
            acknowledge: AcknowledgeMode::default(),
            on_instance_loss: InstanceLossPolicy::default(),
            slow_consumer: SlowConsumerPolicy::default(),
        }
    }

    /// A function, which observes the tags and may write messages.
    #[must_use]
    pub fn function(name: impl Into<String>, tags: Vec<Tag>, zippers: Vec<Address>) -> Self {
        Self {
            role: Role::StreamFunction,
            tags,
            ..Self::source(name, zippers)
        }
    }
}
