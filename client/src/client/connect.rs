//! Finds the nearest of several zippers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::bounded;
use selvedge_hub::{
    Address, DialError, Driver, DriverConfig, DriverError, Hub, HubError, Identity, IdentityError,
    NodeId, ParseAddressError, SessionConfig, dialers,
};

use crate::client::ClientOptions;
use crate::lanes::session_config;
use crate::wire::{Handshake, VERSION, WireError, WireMessage};

/// How much longer than the first the other addresses of a zipper may take to answer.
const SPREAD: Duration = Duration::from_millis(250);

/// Why there is no connection to a zipper. The message says whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller's fault.
    #[error("no zipper to connect to: give the address of one, such as quic://127.0.0.1:9000")]
    NoAddress,
    /// No zipper answered.
    #[error("no zipper answers: {0}")]
    Unreachable(String),
    /// The zipper does not want this client; the message says why.
    #[error("the zipper refuses: {message} (code {code})")]
    Rejected {
        /// Why, for programs: see [`Rejection`](crate::wire::Rejection).
        code: u16,
        /// Why, for people.
        message: String,
    },
    /// It answered, and said nothing in time.
    #[error("the zipper at {0} does not let this client in, and does not say why")]
    Silent(NodeId),
    /// The caller's fault: texts that are too long.
    #[error("the introduction cannot be written: {0}")]
    Wire(#[from] WireError),
    /// No randomness for a key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The operating system refused.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The operating system refused.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The operating system refused.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// The addresses that people mean: `host:port` is QUIC there, and TCP if that does not answer.
///
/// # Errors
/// What is wrong with the text.
pub fn addresses(text: &str) -> Result<Vec<Address>, ParseAddressError> {
    if text.contains("://") {
        return Ok(vec![text.parse()?]);
    }
    ["quic", "tcp"]
        .iter()
        .map(|scheme| format!("{scheme}://{text}").parse())
        .collect()
}

pub(super) fn handshake(options: &ClientOptions) -> Result<Bytes, WireError> {
    WireMessage::Handshake(Handshake {
        version: VERSION,
        role: options.role,
        name: options.name.clone(),
        token: options.token.clone(),
        tags: options.tags.clone(),
        target: options.target.clone(),
        policy: options.policy,
    })
    .encode()
}

/// A hub whose only peer is the zipper that answered first.
pub(super) fn dial(
    options: &ClientOptions,
    deadline: Instant,
) -> Result<(Hub, NodeId), ConnectError> {
    let identity = match &options.identity {
        Some(identity) => identity.clone(),
        None => Identity::generate()?,
    };
    let driver = match &options.driver {
        Some(driver) => Arc::clone(driver),
        None => Arc::new(Driver::new(DriverConfig {
            spin: options.spin,
            ..DriverConfig::default()
        })?),
    };
    let (node, ways) = find(options, &identity, &driver, deadline)?;
    let send_buffer = SessionConfig::default().send_buffer;
    let hub = Hub::builder(identity)
        .driver(driver)
        .session(session_config(send_buffer, options.message_max))
        .peer_at(node, ways)?
        .start()?;
    Ok((hub, node))
}

/// Who answers first, and at which addresses.
fn find(
    options: &ClientOptions,
    identity: &Identity,
    driver: &Driver,
    deadline: Instant,
) -> Result<(NodeId, Vec<Address>), ConnectError> {
    let zippers = &options.zippers;
    if zippers.is_empty() {
        return Err(ConnectError::NoAddress);
    }
    if let Some(node) = options.node {
        // The hub finds out which of them answers.
        return Ok((node, zippers.clone()));
    }
    let dialers = dialers(identity);
    let (answer, answers) = bounded(zippers.len());
    for (at, address) in zippers.iter().enumerate() {
        let answer = answer.clone();
        let done = move |result: Result<selvedge_hub::Connected, DialError>| {
            let _nobody_waits_any_more = answer.send((at, result.map(|it| it.peer())));
        };
        driver.dial(&dialers, address, None, done);
    }
    drop(answer);
    let (mut found, mut failures, mut deadline) = (None, Vec::new(), deadline);
    let mut ways = Vec::new();
    while let Ok((at, result)) = answers.recv_deadline(deadline) {
        match result {
            Ok(node) if *found.get_or_insert(node) == node => {
                deadline = deadline.min(Instant::now() + SPREAD);
                ways.push(at);
            }
            Ok(_) => tracing::debug!(address = %zippers[at], "a zipper further away"),
            Err(error) => failures.push(format!("{}: {error}", zippers[at])),
        }
    }
    // The order is the caller's: the best first.
    ways.sort_unstable();
    let ways = ways.into_iter().map(|at| zippers[at].clone()).collect();
    found.map(|node| (node, ways)).ok_or_else(|| {
        if failures.len() < zippers.len() {
            failures.push("the others did not answer in time".into());
        }
        ConnectError::Unreachable(failures.join("; "))
    })
}
