//! The configuration of `zipper serve`: YAML, with the keys of YoMo where the meaning is the same.
//!
//! Later values replace earlier ones: the file, environment variables
//! (`ZIPPER__LIMITS__CLIENTS=10`), options (`--set limits.clients=10`). All problems of a
//! configuration are reported at once, each with its place, its key and what was expected.

mod changes;
mod document;
mod error;
mod metrics;
mod overrides;
mod permissions;
mod reader;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use selvedge_client::lanes::PAYLOAD_MAX;
use selvedge_hub::{Address, NodeId};
use tracing::level_filters::LevelFilter;

pub use error::{ConfigError, ConfigProblem};
pub use overrides::Override;
pub use permissions::{PermissionsConfig, TokenConfig, TokenSource};
pub use reader::check_scheme;

use crate::config::document::{ConfigSource, Node};
use crate::config::reader::Problems;
use crate::zipper::FUNCTION_DEPTH;

/// Maximum size of a configuration, in bytes.
pub const LEN_MAX: u64 = 1 << 20;

/// Configuration of a zipper.
#[derive(Debug, Clone, PartialEq)]
pub struct ZipperConfig {
    /// Name in logs and traces. Default `zipper`.
    pub name: String,
    /// Key file made by `zipper keygen`, relative to the configuration file. Without it, the zipper
    /// has a new key at each start, which other zippers do not know.
    pub identity: Option<PathBuf>,
    /// Addresses to listen on. Default: QUIC and TCP on port 9000 of the loopback interface. Addresses
    /// that other hosts can reach require a token or [`Auth::Open`].
    pub listen: Option<Vec<Address>>,
    /// With `port`, a short form of `listen` for QUIC and TCP. Default 127.0.0.1.
    pub host: Option<String>,
    /// See `host`.
    pub port: Option<u16>,
    /// What clients must present. Default: nothing, for clients of this host only.
    pub auth: Auth,
    /// Other zippers, by name.
    pub mesh: BTreeMap<String, NeighbourConfig>,
    /// Limits.
    pub limits: LimitsConfig,
    /// The address at which metrics and health are served over HTTP, which requires no token. Other
    /// addresses than loopback are refused unless `public: true` permits them. Default: none.
    pub metrics: Option<SocketAddr>,
    /// Log level, unless the command line sets one. Default: info.
    pub log: Option<LevelFilter>,
}

impl Default for ZipperConfig {
    fn default() -> Self {
        Self {
            name: "zipper".into(),
            identity: None,
            listen: None,
            host: None,
            port: None,
            auth: Auth::default(),
            mesh: BTreeMap::new(),
            limits: LimitsConfig::default(),
            metrics: None,
            log: None,
        }
    }
}

/// What clients must present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// Nothing: every client of this host is accepted. The zipper listens on loopback addresses only.
    #[default]
    None,
    /// Nothing: every client of every host is accepted.
    Open,
    /// A token.
    Token {
        /// The token: 1 to 1,024 bytes.
        token: AuthToken,
    },
    /// One of several tokens, or a key; each gives permissions.
    Permissions(PermissionsConfig),
}

/// A token, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthToken(pub String);

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthToken(..)")
    }
}

/// Another zipper of the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct NeighbourConfig {
    /// Its key, as printed by `zipper keygen`.
    pub node: NodeId,
    /// Its addresses, the best one first. Without one, the neighbour is expected to dial.
    pub addresses: Vec<Address>,
}

/// Limits of a zipper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Maximum number of connected clients, 1 to 65536. Default 1024.
    pub clients: usize,
    /// Threads that serve connections, 1 to 256. Default 1.
    pub workers: NonZeroUsize,
    /// Time that a worker may poll before it sleeps, in microseconds, 0 to 50. Polling shortens
    /// round trips between idle cores and takes more CPU time while messages arrive; a worker polls
    /// only while it pays. Default 50.
    pub spin_us: u64,
    /// Send buffer of each client and zipper, in bytes, 64 KiB to 1 GiB: when it is full, senders
    /// are subject to backpressure. Default 16 MiB.
    pub send_buffer_bytes: u64,
    /// Longest payload that a client may send, in bytes, 64 KiB to 1 GiB. Default 67043328: 64 MiB less
    /// 64 KiB for the header.
    pub message_max_bytes: usize,
    /// How long a function may hold a source back and process nothing new before it is disconnected, in
    /// seconds, 1 to 3600. Default 10.
    pub stalled_max: u64,
    /// How many functions a message may pass, 1 to 127: what the last one writes is dropped. It ends cycles of
    /// functions. Default 8.
    pub function_depth: u8,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            clients: 1024,
            workers: NonZeroUsize::MIN,
            spin_us: 50,
            send_buffer_bytes: 16 << 20,
            message_max_bytes: PAYLOAD_MAX,
            stalled_max: 10,
            function_depth: FUNCTION_DEPTH,
        }
    }
}

impl ZipperConfig {
    /// Reads a file and applies the overrides.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        let unreadable = |error| ConfigProblem::whole(&origin, format!("cannot be read: {error}"));
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(ConfigProblem::whole(&origin, "is a directory, not a file").into());
        }
        if metadata.len() > LEN_MAX {
            return Err(ConfigProblem::whole(&origin, "is longer than 1 MiB").into());
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        let text = String::from_utf8(bytes).map_err(|_| {
            ConfigProblem::whole(&origin, "is not UTF-8 text; expected a YAML file")
        })?;
        let mut config = Self::parse(&text, &origin, overrides)?;
        if let Some(folder) = path.parent() {
            config.resolve(folder);
        }
        Ok(config)
    }

    /// Parses a text that was found at `origin`, and applies the overrides.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, origin: &str, overrides: &[Override]) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let mut document = Node::parse(&ConfigSource::file(origin, text))?;
        for one in overrides {
            if let Err(problem) = one.apply(&mut document) {
                problems.0.push(problem);
            }
        }
        let config = reader::read(&document, &mut problems);
        if problems.0.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::new(problems.0))
        }
    }

    /// Makes the paths of files relative to a folder.
    fn resolve(&mut self, folder: &Path) {
        if let Some(identity) = &mut self.identity {
            *identity = folder.join(&*identity);
        }
        if let Auth::Permissions(permissions) = &mut self.auth {
            permissions.resolve(folder);
        }
    }

    /// Addresses to listen on.
    ///
    /// # Errors
    /// What is wrong with `host`; never after [`parse`](Self::parse).
    pub fn addresses(&self) -> Result<Vec<Address>, String> {
        if let Some(listen) = &self.listen {
            return Ok(listen.clone());
        }
        let (host, port) = (self.host.as_deref(), self.port.unwrap_or(9000));
        let host = host.unwrap_or("127.0.0.1");
        ["quic", "tcp"]
            .iter()
            .map(|scheme| {
                let text = format!("{scheme}://{host}:{port}");
                let address: Option<Address> = text.parse().ok();
                let address = address.filter(|address| address.as_socket().is_some());
                address.ok_or_else(|| {
                    let host = error::shorten(host);
                    format!("`host`: expected an IP address, such as 0.0.0.0; found `{host}`")
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
