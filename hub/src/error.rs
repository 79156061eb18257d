//! Why a hub could not start.

use selvedge_driver::{Address, DriverError, ListenError, NodeId, ParseAddressError};

/// Why a hub could not start. Nothing is left running or bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// An address does not parse. A mistake of the caller.
    #[error("`{text}` is not an address: {error}")]
    Address {
        /// The text that was given.
        text: String,
        /// What is wrong with it, and how an address is written.
        error: ParseAddressError,
    },
    /// No transport has this scheme. A mistake of the caller; see
    /// [`HubBuilder::dialer`](crate::HubBuilder::dialer).
    #[error(
        "`{0}`: no transport has this scheme; the built-in ones are quic, tcp, tcp+plain, udp and udp+plain"
    )]
    UnknownScheme(Address),
    /// The hub cannot listen at an address, for example because the port is in use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A node cannot be its own peer. A mistake of the caller.
    #[error("{0:#} is this node's own id: a node cannot be its own peer")]
    OwnPeer(NodeId),
    /// The operating system refused a thread or a poller, or the driver has stopped.
    #[error(transparent)]
    Driver(#[from] DriverError),
}
