//! What the suite needs to know of a transport.

use std::io;

use crate::{Address, Admission, Dialer, Identity, Listener};

/// Makes the listeners and dialers of one transport. Its methods may panic: it is test code.
pub trait Harness {
    /// What the transport says of itself.
    fn abilities(&self) -> Abilities;

    /// A new listener, at an address that nobody else uses.
    fn listen(&self, identity: &Identity, admission: Admission) -> Box<dyn Listener>;

    /// A new dialer.
    fn dialer(&self, identity: &Identity) -> Box<dyn Dialer>;

    /// Somebody who has connected to a listener at `address`, but does not speak the protocol: what
    /// is written goes onto the wire as it is. Must not block. `None` where that cannot be staged.
    fn raw_connection(&self, address: &Address) -> Option<Box<dyn io::Write>> {
        let _ = address;
        None
    }

    /// An address at which nobody listens. `None` where that cannot be staged.
    fn unreachable_address(&self) -> Option<Address> {
        None
    }
}

/// What a transport can do. The checks hold it to that, and leave out what it cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// The scheme of its addresses.
    pub scheme: &'static str,
    /// [`Info::reliable`](crate::Info::reliable).
    pub reliable: bool,
    /// [`Info::encrypted`](crate::Info::encrypted).
    pub encrypted: bool,
    /// Whether peers prove their identities. Without that, a wrong peer cannot be told.
    pub authenticated: bool,
    /// Whether [`FrameOrder::Datagram`](crate::FrameOrder::Datagram) is carried.
    pub datagrams: bool,
}
