//! Endpoints: the handles of the user, and the queues that these share with a worker.

mod backlog;
mod consumed;
mod handle;
mod inbox;
mod lane_filter;
mod queue;
mod reader;
mod received;
mod sending;
mod shared;
mod unread;
mod waiters;

pub use backlog::SendBacklog;
pub use handle::Endpoint;
pub use inbox::{EventWatch, Inbox, Incoming, Reception};
pub use lane_filter::{FilterAction, LaneFilter};
pub use reader::Reader;
pub use sending::Sending;

pub(crate) use consumed::Consumed;
pub(crate) use received::ReceivedData;
pub(crate) use shared::{EndpointCommand, EndpointShared, Workers};
pub(crate) use unread::Unread;
