//! Options of every command that connects to a zipper as a client.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge_client::lanes::PAYLOAD_MAX;
use selvedge_client::tag::{Tag, TagError};
use selvedge_client::{Client, ClientOptions, addresses};
use selvedge_hub::{Address, Identity, NodeId};
use selvedge_zipper::config::check_scheme;

use crate::cli::error::CommandError;

/// Time limit for a graceful close.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct ConnectionArgs {
    /// Address of the zipper: `quic://host:port`, `tcp://host:port`, or `host:port`, which tries
    /// both. With several addresses, the first zipper that answers is used.
    #[arg(
        short,
        long,
        value_name = "ADDR",
        required = true,
        env = "ZIPPER_ZIPPER",
        value_delimiter = ','
    )]
    zipper: Vec<String>,
    /// Key that the zipper must prove, as printed by `zipper keygen`. Without it, any zipper at the
    /// address is trusted.
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Token, if the zipper is configured with `auth: {type: token}`.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "ZIPPER_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// Key file made by `zipper keygen`. Without it, each run uses a new key.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Longest payload in bytes. Must equal `limits.message_max_bytes` of the zipper.
    #[arg(long, value_name = "BYTES", default_value_t = PAYLOAD_MAX as u64, value_parser = clap::value_parser!(u64).range(1024..=1 << 30))]
    message_max: u64,
    /// Time limit for connecting, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

impl ConnectionArgs {
    /// Longest payload.
    pub(crate) const fn payload_max(&self) -> usize {
        self.message_max as usize
    }

    /// Connects with the options that `options_for` makes from the addresses.
    pub(crate) fn connect(
        &self,
        options_for: impl FnOnce(Vec<Address>) -> ClientOptions,
    ) -> Result<Client, CommandError> {
        let mut zippers = Vec::new();
        for text in &self.zipper {
            let refused = |error: &dyn Display| {
                let shown: String = text.chars().take(60).collect();
                CommandError::usage(format!("--zipper {shown}: {error}"))
            };
            let parsed = addresses(text).map_err(|error| refused(&error))?;
            for address in &parsed {
                check_scheme(address).map_err(|error| refused(&error))?;
            }
            zippers.extend(parsed);
        }
        let options = ClientOptions {
            node: self.node,
            token: self.token.clone(),
            identity: self.identity.as_deref().map(read_identity).transpose()?,
            timeout: Duration::from_secs(self.timeout),
            message_max: self.message_max as usize,
            ..options_for(zippers)
        };
        Ok(Client::connect(options)?)
    }
}

/// Reads a key file.
pub(crate) fn read_identity(path: &Path) -> Result<Identity, CommandError> {
    let file = path.display();
    let pem = std::fs::read_to_string(path).map_err(|error| {
        CommandError::usage(format!(
            "{file}: {error}; `zipper keygen {file}` creates a key"
        ))
    })?;
    Identity::from_pem(&pem).map_err(|error| CommandError::usage(format!("{file}: {error}")))
}

/// Parses a tag of the command line.
pub(crate) fn tag(text: &str) -> Result<Tag, String> {
    text.parse().map_err(|error: TagError| error.to_string())
}
