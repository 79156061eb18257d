//! Keeps an [`Endpoint`] up to every wanted peer, over whichever of its addresses answers.
//!
//! ```no_run
//! use selvedge_hub::{Hub, Identity, LaneId};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let (alice, bob) = (Identity::generate()?, Identity::generate()?);
//!     let b = Hub::builder(bob.clone())
//!         .listen("quic://127.0.0.1:0")?
//!         .listen("tcp://127.0.0.1:0")?
//!         .peer(alice.node_id(), &[])?
//!         .start()?;
//!     let reach: Vec<String> = b.addresses().iter().map(|a| a.to_string()).collect();
//!     let reach: Vec<&str> = reach.iter().map(String::as_str).collect();
//!     let a = Hub::builder(alice.clone()).peer(bob.node_id(), &reach)?.start()?;
//!     let to_bob = a.endpoint(bob.node_id()).ok_or("bob is a peer")?;
//!     to_bob.send(LaneId::FIRST, "hello over the best way there is".into())?;
//!     let from_alice = b.endpoint(alice.node_id()).ok_or("alice is a peer")?;
//!     println!("{:?}", from_alice.recv()?.payload);
//!     Ok(())
//! }
//! ```
//!
//! The addresses of a peer are tried in the order given, each a quarter of a second after the one
//! before; the first that answers wins. When the way breaks the next one is tried at once, and
//! messages go on where they stood; when a better one returns, the endpoint moves back. Both sides
//! may dial: one connection stays. What decides is `Mesh`, which has no clock and no socket.
#![forbid(unsafe_code)]

mod backoff;
mod builder;
mod error;
mod event;
mod guests;
mod hub;
mod mesh;
mod peers;
mod redials;
mod service;

pub use builder::HubBuilder;
pub use error::HubError;
pub use event::HubEvent;
pub use hub::Hub;

pub use selvedge_driver::{
    Actor, ActorHandle, Address, Admission, Clock, CloseReason, Connected, Delivery, DialError,
    Dialer, Dialers, Driver, DriverConfig, DriverError, EncodedBatch, Endpoint, Event, FlushError,
    Identity, IdentityError, Inbox, Incoming, Info, LaneConfig, LaneId, ListenError, Listener,
    MailboxSender, Message, Next, NodeId, ParseAddressError, ParseNodeIdError, Reader, RecvError,
    SendError, Sending, SessionConfig, TryRecvError, dialers,
};
