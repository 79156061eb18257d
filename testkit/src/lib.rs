//! A seeded network in virtual time, for testing what runs over it.
//!
//! Nothing here waits (but [`Proxy`]): time is a number that leaps to the next thing that happens, so an hour of
//! faults takes milliseconds, and a seed replays it exactly.
//!
//! - [`Link`] is one direction of a path for any packets: latency, jitter, loss (also in bursts),
//!   reordering, duplication, corruption, a rate with its queue, a largest packet, a partition. Use
//!   it to test a protocol of your own: `examples/examples/own_protocol.rs`.
//! - [`World`] runs two [`Session`](selvedge_endpoint::Session)s over any number of [`Path`]s that
//!   come and go.
//! - [`Proxy`] does the same to real sockets, in real time: what runs over UDP or TCP is tested as it is.
//! - [`MemNet`] has transports within the process, `mem:///name`, so that whole hubs run in the driver's
//!   `Simulation`.
//! - [`Oracle`] numbers messages and knows what may and must have arrived.
//!
//! ```
//! use std::time::Duration;
//! use selvedge_testkit::{Conditions, Link};
//! use selvedge_transport::Instant;
//!
//! let (begin, mut rng) = (Instant::now(), fastrand::Rng::with_seed(7));
//! let conditions = Conditions { latency: Duration::from_millis(20), loss: 0.5, ..Conditions::default() };
//! let mut link = Link::new(conditions);
//! for number in 0..100 {
//!     link.send(begin, &mut rng, vec![number].into());
//! }
//! let arrival = link.next_arrival().expect("some get through");
//! assert_eq!(arrival, begin + Duration::from_millis(20));
//! let arrived = std::iter::from_fn(|| link.receive(arrival)).count();
//! assert_eq!(arrived as u64 + link.counts().lost, 100);
//! ```
#![forbid(unsafe_code)]

mod link;
mod mem;
mod oracle;
mod proxy;
mod side;
mod world;

pub use link::{Burst, Conditions, Counts, Link, Packet};
pub use mem::{MemLink, MemNet};
pub use oracle::Oracle;
pub use proxy::Proxy;
pub use side::Side;
pub use world::{Kind, Path, PathId, World};
