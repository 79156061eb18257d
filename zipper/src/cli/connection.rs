//! The options of all commands that connect to a zipper.

use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge_client::tag::Tag;
use selvedge_client::{Client, ClientOptions, addresses};
use selvedge_hub::{Identity, NodeId};

use crate::cli::fault::Fault;

/// How long an orderly end may take.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Connection {
    /// Where the zipper is: `quic://host:port`, `tcp://host:port`, or `host:port` for both. Given
    /// several times, the zipper that answers first is used.
    #[arg(
        short,
        long,
        value_name = "ADDR",
        required = true,
        env = "ZIPPER_ZIPPER",
        value_delimiter = ','
    )]
    zipper: Vec<String>,
    /// The key that the zipper must have, as `zipper keygen` prints it. Without it, any zipper at
    /// the address is trusted.
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// What to show to be let in.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "ZIPPER_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// A key made by `zipper keygen`. Without it, a new one each time.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The longest message, in bytes: as `limits.message_max_bytes` of the zipper says.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(1024..=1 << 30))]
    message_max: u64,
    /// How long connecting may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

impl Connection {
    /// The longest payload: a zipper takes some bytes of a message for its head.
    pub(crate) fn payload_max(&self) -> usize {
        let max = self.message_max as usize;
        max - (max / 64).clamp(256, 64 << 10)
    }

    /// Connects as what `make` says, given the addresses.
    pub(crate) fn connect(
        &self,
        make: impl FnOnce(Vec<selvedge_hub::Address>) -> ClientOptions,
    ) -> Result<Client, Fault> {
        let mut zippers = Vec::new();
        for text in &self.zipper {
            let parsed = addresses(text);
            zippers
                .extend(parsed.map_err(|error| Fault::usage(format!("--zipper {text}: {error}")))?);
        }
        let options = ClientOptions {
            node: self.node,
            token: self.token.clone(),
            identity: self.identity.as_deref().map(read_identity).transpose()?,
            timeout: Duration::from_secs(self.timeout),
            message_max: self.message_max as usize,
            ..make(zippers)
        };
        Ok(Client::connect(options)?)
    }
}

/// Reads a key file.
pub(crate) fn read_identity(path: &Path) -> Result<Identity, Fault> {
    let shown = path.display();
    let pem = std::fs::read_to_string(path).map_err(|error| {
        Fault::usage(format!(
            "{shown}: {error}; `zipper keygen {shown}` makes a key"
        ))
    })?;
    Identity::from_pem(&pem).map_err(|error| Fault::usage(format!("{shown}: {error}")))
}

/// Reads a tag from the command line.
pub(crate) fn tag(text: &str) -> Result<Tag, String> {
    text.parse()
        .map_err(|error: selvedge_client::tag::TagError| error.to_string())
}
