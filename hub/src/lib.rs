//! Keeps an [`Endpoint`] connected to every wanted peer, at the best of its addresses that answers.
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
//!     let addresses = b.addresses().to_vec();
//!     let a = Hub::builder(alice.clone()).peer_at(bob.node_id(), addresses)?.start()?;
//!     let to_bob = a.endpoint(bob.node_id()).ok_or("bob is a peer")?;
//!     to_bob.send(LaneId::FIRST, "hello over the best address".into())?;
//!     let from_alice = b.endpoint(alice.node_id()).ok_or("alice is a peer")?;
//!     println!("{:?}", from_alice.recv()?.payload);
//!     Ok(())
//! }
//! ```
//!
//! A hub tries the addresses of a peer in the order given, 250 ms apart, and uses the first that
//! answers. When a connection breaks, the hub dials again at once, and the endpoint resumes where the
//! connection broke. A better address is tried every 10 s, and the endpoint moves to it. After a
//! round of failed dials the hub pauses, for 50 ms at first and 10 s at most. Both sides may dial:
//! one connection stays. The decisions are made by `Mesh`, which is pure.
//!
//! A hub may also accept guests, nodes that it does not know ([`HubBuilder::guests`]). With
//! [`HubBuilder::guest_admission`] a guest has a small buffer and little time until the user admits it
//! ([`Endpoint::admit`]), for example because it has presented a token.
#![forbid(unsafe_code)]

mod admission_log;
mod backoff;
mod builder;
mod dial_error_log;
mod error;
mod event;
mod fast_redial;
mod guest_admission;
mod guests;
mod hub;
mod mesh;
mod mesh_actor;
mod peers;

pub use builder::HubBuilder;
pub use error::HubError;
pub use event::HubEvent;
pub use guest_admission::GuestAdmission;
pub use hub::Hub;

pub use selvedge_driver::{
    Actor, ActorHandle, Address, Admission, Clock, CloseReason, Connected, Delivery, DialError,
    Dialer, Dialers, Driver, DriverConfig, DriverError, EncodedBatch, Endpoint, Event, FairSlots,
    FilterAction, FlushError, Identity, IdentityError, Inbox, Incoming, Incompatibility, Info,
    Instant, LaneConfig, LaneFilter, LaneId, ListenError, Listener, LogThrottle, MailboxSender,
    Message, Next, NodeId, ParseAddressError, ParseNodeIdError, PeerNetwork, Reader, RecentSet,
    RecvError, SendBacklog, SendError, Sending, SessionConfig, TryRecvError, VersionRange, dialers,
};
