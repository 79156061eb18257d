//! Options of every command that connects to a zipper as a client.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use selvedge_client::lanes::PAYLOAD_MAX;
use selvedge_client::tag::{Tag, TagError};
use selvedge_client::{Client, ClientOptions, SlowConsumerPolicy, addresses};
use selvedge_hub::{Address, Identity, NodeId};
use selvedge_zipper::config::check_scheme;

use crate::cli::error::CommandError;
use crate::cli::number::number;
use crate::cli::shutdown::{Shutdown, ShutdownArgs};

/// Interval at which a client that connects checks for signals.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What becomes of messages while a function is slower than they come.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum SlowArg {
    /// They wait, and their sources with them.
    #[default]
    Hold,
    /// The oldest of those that wait are dropped.
    DropOldest,
    /// Those that find no room are dropped.
    DropNewest,
}

impl From<SlowArg> for SlowConsumerPolicy {
    fn from(when_slow: SlowArg) -> Self {
        match when_slow {
            SlowArg::Hold => Self::Hold,
            SlowArg::DropOldest => Self::DropOldest,
            SlowArg::DropNewest => Self::DropNewest,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConnectionArgs {
    /// Address of the zipper: `quic://host:port`, `tcp://host:port`, or `host:port`, which tries
    /// both. With several addresses, the first zipper that answers is used, and another one if that
    /// one is gone.
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
    /// addresses is trusted, also one that returns with another key.
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
    #[arg(long, value_name = "BYTES", default_value_t = PAYLOAD_MAX as u64, value_parser = number(64 << 10..=1 << 30))]
    message_max: u64,
    /// Time limit for connecting, in seconds. Until then, addresses that refuse or do not answer are
    /// dialed again.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = number(0..=u64::MAX))]
    timeout: u64,
    /// Waits without limit for a zipper that is not up yet.
    #[arg(long, conflicts_with = "timeout")]
    wait: bool,
    #[command(flatten)]
    pub(crate) shutdown: ShutdownArgs,
}

impl ConnectionArgs {
    /// Longest payload.
    pub(crate) const fn payload_max(&self) -> usize {
        self.message_max as usize
    }

    /// Connects with the options that `options_for` makes from the addresses. A signal ends the process.
    pub(crate) fn connect(
        &self,
        options_for: impl FnOnce(Vec<Address>) -> ClientOptions,
    ) -> Result<Client, CommandError> {
        Ok(Client::connect(self.options(options_for)?)?)
    }

    /// Connects like [`connect`](Self::connect). Returns none if a shutdown is requested first.
    pub(crate) fn connect_until(
        &self,
        shutdown: &Shutdown,
        options_for: impl FnOnce(Vec<Address>) -> ClientOptions,
    ) -> Result<Option<Arc<Client>>, CommandError> {
        let mut connecting = Client::start(self.options(options_for)?)?;
        while !shutdown.is_requested() {
            if let Some(client) = connecting.wait_timeout(POLL_INTERVAL) {
                return Ok(Some(Arc::new(client?)));
            }
        }
        tracing::warn!("the shutdown was requested before a zipper admitted this client");
        Ok(None)
    }

    fn options(
        &self,
        options_for: impl FnOnce(Vec<Address>) -> ClientOptions,
    ) -> Result<ClientOptions, CommandError> {
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
        Ok(ClientOptions {
            node: self.node,
            token: self.token.clone(),
            identity: self.identity.as_deref().map(read_identity).transpose()?,
            timeout: match self.wait {
                true => Duration::MAX,
                false => Duration::from_secs(self.timeout),
            },
            message_max: self.message_max as usize,
            ..options_for(zippers)
        })
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
    warn_if_readable_by_others(path);
    Identity::from_pem(&pem).map_err(|error| CommandError::usage(format!("{file}: {error}")))
}

/// A private key that other users of the machine can read is none.
fn warn_if_readable_by_others(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map_or(0, |it| it.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        let file = path.display();
        tracing::warn!(
            file = %file, mode = format_args!("{mode:04o}"),
            "other users can read the private key; `chmod 600 {file}` prevents it"
        );
    }
}

/// Parses a tag of the command line.
pub(crate) fn tag(text: &str) -> Result<Tag, String> {
    text.parse().map_err(|error: TagError| error.to_string())
}
