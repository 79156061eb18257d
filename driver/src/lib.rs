//! Workers that drive endpoints: the only crate with threads and clocks.
//!
//! A [`Driver`] is a pool of threads, each with one `mio::Poll`. A worker owns its sessions, transports, timers
//! and buffers. An [`Endpoint`] is the user's handle: with its worker it shares two queues and a wake flag,
//! whether the user blocks or not, with or without an async runtime. [`Endpoint::migrate`] moves everything
//! behind a handle to another worker, and [`Placement`] does so automatically where workers are unevenly busy.
//!
//! # Life cycle
//!
//! ```text
//!  Driver::new ──▶ Driver::endpoint ──▶ Endpoint (open, without a connection: accepts messages up to its
//!      │                                   │      send buffer, and receives nothing)
//!      ├─ Driver::dial ──▶ Connected ──────┤
//!      └─ Driver::listen ▶ Connected ──────┴─ Endpoint::attach ──▶ connected ──▶ Event::Attached
//!                                                                     │
//!            a further attach replaces the connection, nothing lost ──┤
//!            connection lost: Event::Detached, open until the next ───┤
//!                                                                     ▼
//!  Endpoint::close, or the last handle dropped: accepted messages are delivered ──▶ Event::Closed
//!  Endpoint::abort, or an inbox panics: ends at once, the rest is returned ───────▶ Event::Closed
//!  Driver dropped: endpoints close in order for a second at most, then abort ─────▶ Event::Closed
//! ```
//!
//! An endpoint never dials by itself and a lost connection does not end it: that is the hub's task, or the
//! user's.
//!
//! # Example
//!
//! ```no_run
//! # use selvedge_driver::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let driver = Driver::new(DriverConfig::default())?;
//! let (alice, bob) = (Identity::generate()?, Identity::generate()?);
//! let listener = TcpListener::bind(&"tcp://127.0.0.1:0".parse()?, bob.clone(), Admission::anyone())?;
//! let (accepted, arrivals) = crossbeam_channel::bounded(16);
//! let at = driver.listen(Box::new(listener), move |connected| drop(accepted.try_send(connected)))?;
//! let dialer: Dialers = [std::sync::Arc::new(TcpDialer::new(alice.clone())) as _].into();
//! let dialed = driver.dial_blocking(&dialer, at.address(), Some(bob.node_id()))?;
//! let to_bob = driver.endpoint(SessionConfig::default(), alice.node_id(), bob.node_id())?;
//! let to_alice = driver.endpoint(SessionConfig::default(), bob.node_id(), alice.node_id())?;
//! to_bob.attach(dialed)?;
//! to_alice.attach(arrivals.recv()?)?;
//! to_bob.send(LaneId::FIRST, "hello".into())?;
//! assert_eq!(to_alice.recv()?.payload, "hello");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod actors;
mod clock;
mod config;
mod connected;
mod dial_in_turn;
mod driver;
mod endpoint;
mod error;
mod fair_slots;
mod guard;
mod log_throttle;
mod recent_set;
mod resolver;
mod simulation;
mod sync;
mod wake;
mod worker;

pub use actors::{Actor, ActorHandle, MailboxSender, Next};
pub use clock::Clock;
pub use config::{DriverConfig, Placement};
pub use connected::{Connected, Dialers};
pub use driver::{Driver, Listening};
pub use endpoint::{
    Endpoint, EventWatch, FilterAction, Inbox, Incoming, LaneFilter, Reader, Reception,
    SendBacklog, Sending,
};
pub use error::{AttachError, DriverError, FlushError, RecvError, TryRecvError};
pub use fair_slots::{FairSlots, SlotHolder};
pub use log_throttle::LogThrottle;
pub use recent_set::RecentSet;
pub use simulation::Simulation;

pub use selvedge_endpoint::{
    AttachmentId, CloseReason, Delivery, DetachReason, EncodedBatch, EndpointStats, Event,
    Incompatibility, LaneConfig, LaneId, Message, SendError, SessionConfig, VersionRange,
};
pub use selvedge_transport::*;
