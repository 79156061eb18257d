//! Connected transports, and the dialers that make them.

use std::sync::Arc;

use bytes::Bytes;
use selvedge_transport::{Address, Dialer, Info, NodeId, Transport};

/// Dialers, of which the scheme of an address selects one.
pub type Dialers = Arc<[Arc<dyn Dialer>]>;

/// A transport whose handshake is done: pass it to [`Endpoint::attach`](crate::Endpoint::attach). If it is
/// dropped, the connection breaks.
#[derive(Debug)]
pub struct Connected {
    pub(crate) transport: Box<dyn Transport>,
    /// Frames that arrived together with the end of the handshake.
    pub(crate) early: Vec<Bytes>,
    pub(crate) peer: NodeId,
}

impl Connected {
    /// The authenticated peer.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.peer
    }

    /// Protocol and addresses of the connection.
    #[must_use]
    pub fn info(&self) -> &Info {
        self.transport.info()
    }
}

/// The dialer for the scheme of `address`.
pub(crate) fn dialer_for(dialers: &Dialers, address: &Address) -> Option<Arc<dyn Dialer>> {
    let mut all = dialers.iter();
    let chosen = all.find(|dialer| dialer.schemes().contains(&address.scheme()));
    chosen.cloned()
}
