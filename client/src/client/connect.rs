//! A client that is being connected, and why that may fail.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};
use selvedge_hub::{
    Address, Driver, DriverConfig, DriverError, HubError, Identity, IdentityError, MailboxSender,
    NodeId, ParseAddressError,
};

use crate::client::connector::{ClientCommand, Connector};
use crate::client::introduction::{Introducer, IntroductionMessages};
use crate::client::{Client, ClientOptions};
use crate::wire::{VersionError, WireError};

/// Why there is no connection to a zipper.
///
/// Each variant names the side that has to act, and whether a retry helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller has given no address. A retry does not help.
    #[error("no zipper to connect to: give the address of one, such as quic://127.0.0.1:9000")]
    NoAddress,
    /// No zipper has answered in time: the address or the key is wrong, the zipper is down, or the
    /// network is. A retry helps once the zipper can be reached.
    #[error("no zipper answers: {0}")]
    Unreachable(String),
    /// The zipper has refused the client. A retry helps only with other options, such as the token, except
    /// if the zipper is [full](crate::wire::Rejection::Full), or does not look at tokens for a while
    /// ([`Throttled`](crate::wire::Rejection::Throttled)): then the client has tried again until its timeout.
    #[error("the zipper refuses this client: {message} (code {code})")]
    Rejected {
        /// The reason for programs: see [`Rejection`](crate::wire::Rejection).
        code: u16,
        /// The reason for people.
        message: String,
    },
    /// The zipper is connected but has not acknowledged the introduction in time: it is overloaded, or
    /// is not a zipper. A retry may help.
    #[error("the node {0} has neither admitted nor refused this client in time")]
    Silent(NodeId),
    /// A text or list in the options is too long, or the zipper has sent a malformed message. A retry
    /// does not help.
    #[error("the introduction failed: {0}")]
    Wire(#[from] WireError),
    /// Client and zipper speak different versions of the protocol. A retry helps once the older side is
    /// upgraded.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The operating system has provided no randomness for a key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The operating system has refused a resource of the hub. A retry helps once it is available.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The operating system has refused a resource of the driver. A retry helps once it is available.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The caller has dropped the driver before the zipper answered. A retry needs another driver.
    #[error("the driver has stopped")]
    Stopped,
}

/// The addresses that a text stands for: an address with a scheme itself, `host:port` QUIC and TCP
/// there.
///
/// # Errors
/// [`ParseAddressError`] with the part of the text that is wrong.
pub fn addresses(text: &str) -> Result<Vec<Address>, ParseAddressError> {
    if text.contains("://") {
        return Ok(vec![text.parse()?]);
    }
    ["quic", "tcp"]
        .iter()
        .map(|scheme| format!("{scheme}://{text}").parse())
        .collect()
}

/// A client that is being connected by [`Client::start`]. Dropping it ends the attempt.
#[derive(Debug)]
pub struct Connecting {
    mail: MailboxSender<ClientCommand>,
    result: Receiver<Result<Client, ConnectError>>,
    is_over: bool,
}

impl Connecting {
    pub(super) fn start(options: ClientOptions) -> Result<Self, ConnectError> {
        let identity = match &options.identity {
            Some(identity) => identity.clone(),
            None => Identity::generate()?,
        };
        if options.node.is_none() && options.zippers.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        let driver = match &options.driver {
            Some(driver) => Arc::clone(driver),
            None => Arc::new(Driver::new(DriverConfig {
                spin: options.spin,
                ..DriverConfig::default()
            })?),
        };
        // A timeout that no clock can express is none.
        let deadline = driver.now().checked_add(options.timeout);
        let messages = IntroductionMessages::new(&options)?;
        let random = fastrand::Rng::with_seed(driver.random_u64()?);
        let process = (driver.random_u64()?, driver.clock().clone());
        let (sender, result) = bounded(1);
        let hosting = Arc::clone(&driver);
        let hosted = hosting.spawn_actor("zipper-client", |mail| {
            let introducer = Introducer::new(mail, options, identity, messages, process);
            Connector::new(driver, introducer, deadline, random, sender)
        })?;
        Ok(Self {
            mail: hosted.sender().clone(),
            result,
            is_over: false,
        })
    }

    /// The client or the error, as soon as it is known and only once. Never blocks.
    pub fn poll(&mut self) -> Option<Result<Client, ConnectError>> {
        let result = match self.result.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) if self.is_over => return None,
            Err(TryRecvError::Disconnected) => Err(ConnectError::Stopped),
        };
        self.is_over = true;
        Some(result)
    }

    /// Like [`poll`](Self::poll), but blocks for at most `timeout`.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<Client, ConnectError>> {
        let result = match self.result.recv_timeout(timeout) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) if self.is_over => return None,
            Err(RecvTimeoutError::Disconnected) => Err(ConnectError::Stopped),
        };
        self.is_over = true;
        Some(result)
    }

    pub(super) fn wait(mut self) -> Result<Client, ConnectError> {
        let result = self.result.recv();
        self.is_over = true;
        result.unwrap_or(Err(ConnectError::Stopped))
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if !self.is_over {
            self.mail.send(ClientCommand::Stop);
        }
    }
}
