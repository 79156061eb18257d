//! Workers that drive endpoints: the only crate with threads and clocks.
//!
//! A [`Driver`] is a pool of threads, each around one `mio::Poll`. A worker owns what it touches:
//! sessions, transports, timers and buffers. An [`Endpoint`] is the user's handle: it shares with
//! its worker two queues and nothing else, whoever sends or receives, blocking or not, with or
//! without an async runtime; [`Endpoint::migrate`] moves everything behind it to another worker,
//! and [`Placement`] does so by itself where workers are unevenly busy.
//!
//! ```no_run
//! # use selvedge_driver::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let driver = Driver::new(Config::default())?;
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

mod accept_rate;
mod actor;
mod bells;
mod clock;
mod config;
mod driver;
mod endpoint;
mod error;
mod inbox;
mod placement;
mod queue;
mod reader;
mod resolver;
mod seldom;
mod sending;
mod shared;
mod simulation;
mod spin;
mod sync;
mod timers;
mod worker;

pub use actor::{Actor, ActorHandle, MailboxSender, Next};
pub use clock::Clock;
pub use config::{DriverConfig, Placement};
pub use driver::{Connected, Dialers, Driver, Listening};
pub use endpoint::Endpoint;
pub use error::{AttachError, DriverError, FlushError, RecvError, TryRecvError};
pub use inbox::{Inbox, Incoming, Reception, Watch};
pub use reader::Reader;
pub use sending::Sending;
pub use simulation::Simulation;

pub use selvedge_endpoint::{
    AttachmentId, CloseReason, Delivery, DetachReason, EncodedBatch, EndpointStats, Event,
    Incompatibility, LaneConfig, LaneId, Message, SendError, SessionConfig, VersionRange,
};
pub use selvedge_transport::*;
