//! The interface between the conformance suite and a transport.

use std::io;

use crate::{Address, Admission, Dialer, Identity, Listener};

/// Creates listeners and dialers of one transport for the suite. Its methods may panic, as test
/// code does.
pub trait Harness {
    /// The properties that the checks must expect of the transport.
    fn abilities(&self) -> Abilities;

    /// Creates a listener at an unused address.
    fn listen(&self, identity: &Identity, admission: Admission) -> Box<dyn Listener>;

    /// Creates a dialer.
    fn dialer(&self, identity: &Identity) -> Box<dyn Dialer>;

    /// Connects to the listener at `address` without its protocol: written bytes are sent
    /// unchanged. Writes must not block. Return `None`, the default, if the transport cannot
    /// provide this; the check of invalid handshakes is then skipped.
    fn raw_connection(&self, address: &Address) -> Option<Box<dyn io::Write>> {
        let _ = address;
        None
    }

    /// An address without a listener. Return `None`, the default, if there cannot be one; the check
    /// of unreachable addresses is then skipped.
    fn unreachable_address(&self) -> Option<Address> {
        None
    }
}

/// The properties of a transport. The suite verifies them and skips checks that do not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// The scheme of its addresses.
    pub scheme: &'static str,
    /// [`Info::reliable`](crate::Info::reliable).
    pub reliable: bool,
    /// [`Info::encrypted`](crate::Info::encrypted).
    pub encrypted: bool,
    /// Whether peers prove their identities. Otherwise checks of unexpected and rejected peers are
    /// skipped.
    pub authenticated: bool,
    /// Whether the transport carries [`FrameOrder::Datagram`](crate::FrameOrder::Datagram) frames.
    pub datagrams: bool,
}
