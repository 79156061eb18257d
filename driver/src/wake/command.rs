//! Commands to a worker that concern no endpoint.

use std::sync::{Arc, Weak};

use selvedge_transport::{DialError, DialTarget, Dialer, Listener};

use crate::connected::Connected;

/// Receives the result of a dial.
pub(crate) type DialCallback = Box<dyn FnOnce(Result<Connected, DialError>) + Send>;

/// Receives each connection that a listener has accepted and whose handshake is done.
pub(crate) type AcceptCallback = Arc<dyn Fn(Connected) + Send + Sync>;

/// A command to a worker.
pub(crate) enum WorkerCommand {
    Dial {
        dialer: Arc<dyn Dialer>,
        target: DialTarget,
        done: DialCallback,
    },
    Listen {
        listener: Box<dyn Listener>,
        accepted: AcceptCallback,
        /// The listener is dropped once this cannot be upgraded.
        wanted: Weak<()>,
    },
    /// A listener may have become unwanted.
    Unlisten,
    Stop,
}
