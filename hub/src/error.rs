//! Why a hub could not start.

use selvedge_driver::{Address, DriverError, ListenError, NodeId, ParseAddressError};

/// Why a hub could not start. The message says whose fault it is and what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// An address does not parse. The caller's fault.
    #[error("`{text}` is not an address: {error}")]
    Address {
        /// What was given.
        text: String,
        /// What is wrong with it.
        error: ParseAddressError,
    },
    /// No transport has this scheme. The caller's fault.
    #[error("`{0}`: this build has transports for quic, tcp, tcp+plain, udp and udp+plain only")]
    UnknownScheme(Address),
    /// The hub cannot listen there: the port is in use, say.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A node is not its own peer. The caller's fault.
    #[error("{0:#} is this node itself, and cannot be its own peer")]
    OwnPeer(NodeId),
    /// The operating system refused, or the driver has stopped.
    #[error(transparent)]
    Driver(#[from] DriverError),
}
