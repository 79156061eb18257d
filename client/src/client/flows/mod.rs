//! Settlement in a client: what it writes is retained until it is settled, what it reads is reported.
//!
//! ```text
//!  write ──▶ Outbound ── FlowOpen, messages ──▶ zipper          zipper ── messages ──▶ Inbound ──▶ read
//!            │  ▲ one SourceFlow                                                       │  ▲ one ReceivingFlow
//!            │  │ per tag and target                                                   │  │ per flow
//!   actor ───┘  └── Announce, Progress, Resend, Probe ── ControlHandler ── Bind, Renew ┘  └── actor
//! ```
//!
//! - [`Outbound`] is the state of the source side. It is behind the lock of the endpoint in use, so that the
//!   numbers of messages and their order in the send buffer agree, and a full send buffer makes messages
//!   wait in the log. A flow with a long message moves to a [lane](crate::lanes::BULK) for such flows.
//! - [`Inbound`] is the state of the receiving side. The threads of the user read messages, and reports leave
//!   after 256 of them, when none is left, and 5 ms after the first one.
//! - [`ControlHandler`] handles control messages on the worker, so that they do not depend on the user.
//!
//! The actor of the client continues what waits for room in the send buffer, and drives the time limits.

mod control;
mod delivery;
mod inbound;
mod inbound_flow;
mod inbound_state;
mod outbound;
mod outbound_flow;
mod outcome;
mod plain;
mod run;
mod sessions;
mod sink;

pub(super) use control::{ControlHandler, settles};
pub(super) use delivery::{DeliveryHandle, RoutedDelivery};
pub(super) use inbound::Inbound;
pub(super) use outbound::{FlowRefusal, FlowWrite, Outbound};
pub(super) use run::ReaderRun;
pub(super) use sessions::SessionKey;
pub(super) use sink::EndpointSink;

pub use inbound::{AcknowledgeMode, InstanceLossPolicy};
pub use outcome::{FlowSummary, OutcomeSummary};
