//! The configuration of `zipper serve`: YAML, with YoMo's keys where they mean the same.
//!
//! Later beats earlier: the file, environment variables (`ZIPPER__LIMITS__CLIENTS=10`), options
//! (`--set limits.clients=10`). An error says which file, line and column, or which variable or
//! option, and what was meant.

mod error;
mod overrides;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use selvedge_hub::{Address, NodeId};
use serde::{Deserialize, Deserializer, de};

pub use error::ConfigError;
pub use overrides::Override;

/// The longest configuration, in bytes.
pub const LEN_MAX: u64 = 1 << 20;

/// What a zipper is told.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZipperConfig {
    /// What people call it. Default `zipper`.
    pub name: String,
    /// The key made by `zipper keygen`; a path, from where the file is. Without it, a new key each
    /// time: other zippers cannot know it.
    pub identity: Option<PathBuf>,
    /// Where it listens. Default QUIC and TCP on port 9000 of every interface.
    pub listen: Option<Vec<Text<Address>>>,
    /// With `port`, short for `listen` on QUIC and TCP there. Default 0.0.0.0.
    pub host: Option<String>,
    /// See `host`.
    pub port: Option<u16>,
    /// Who is let in. Default everybody.
    pub auth: Auth,
    /// Other zippers, by a name for people.
    pub mesh: BTreeMap<String, Neighbour>,
    /// Bounds.
    pub limits: Limits,
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
            limits: Limits::default(),
        }
    }
}

/// Who is let in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Auth {
    /// Everybody who has a key.
    #[default]
    None,
    /// Those who show this.
    Token {
        /// At most 1,024 bytes, not empty.
        token: Secret,
    },
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text.len() > selvedge_client::wire::TEXT_LEN_MAX {
            return Err(de::Error::custom("a token has 1 to 1024 bytes"));
        }
        Ok(Self(text))
    }
}

/// Another zipper.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Its key, as `zipper keygen` prints it.
    pub node: Text<NodeId>,
    /// Where it is, the best address first. Without one it is waited for.
    #[serde(default)]
    pub addresses: Vec<Text<Address>>,
}

/// Bounds of what a zipper takes on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Clients at once, 1 to 65536. Default 1024.
    pub clients: usize,
    /// Threads that serve connections, 1 to 256. Default 1.
    pub workers: NonZeroUsize,
    /// How long a worker may poll before it sleeps, in microseconds, 0 to 50: shorter round trips
    /// between idle cores, for more of a core while messages come. Only while it pays. Default 50.
    pub spin_us: u64,
    /// Bytes that wait for one client or zipper before whoever sends them is held back, 64 KiB to
    /// 1 GiB. Default 16 MiB.
    pub send_buffer_bytes: u64,
    /// The longest message, in bytes, 1 KiB to 1 GiB. Default 64 MiB.
    pub message_max_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 1024,
            workers: NonZeroUsize::MIN,
            spin_us: 50,
            send_buffer_bytes: 16 << 20,
            message_max_bytes: 64 << 20,
        }
    }
}

/// A value that is read from a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = text.parse().map(Self);
        parsed.map_err(|error| de::Error::custom(format!("`{text}`: {error}")))
    }
}

impl ZipperConfig {
    /// Reads a file, and what overrides it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Self, ConfigError> {
        let unreadable = |error: std::io::Error| ConfigError::unreadable(path, &error);
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(ConfigError::whole(path, "is a directory, not a file"));
        }
        if metadata.len() > LEN_MAX {
            return Err(ConfigError::whole(path, "is longer than 1 MiB"));
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| ConfigError::whole(path, "is not UTF-8: is it a configuration?"))?;
        let mut config = Self::parse(&text, &path.display().to_string(), overrides)?;
        if let (Some(identity), Some(folder)) = (&mut config.identity, path.parent()) {
            *identity = folder.join(&*identity);
        }
        Ok(config)
    }

    /// Reads a text that was found at `origin`, and what overrides it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, origin: &str, overrides: &[Override]) -> Result<Self, ConfigError> {
        let mut config: Self = error::read(text, origin)?;
        if !overrides.is_empty() {
            config = overrides::apply(text, origin, overrides)?;
        }
        let checked = config.check();
        checked.map_err(|why| ConfigError::check(text, origin, why))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let Limits {
            clients,
            workers,
            spin_us,
            send_buffer_bytes,
            message_max_bytes,
        } = self.limits;
        let in_range = |key, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err((key, format!("must be {min} to {max}, and is {value}")))
        };
        in_range("clients", clients as u64, 1, 65_536)?;
        in_range("workers", workers.get() as u64, 1, 256)?;
        in_range("spin_us", spin_us, 0, 50)?;
        in_range("send_buffer_bytes", send_buffer_bytes, 64 << 10, 1 << 30)?;
        in_range(
            "message_max_bytes",
            message_max_bytes as u64,
            1 << 10,
            1 << 30,
        )?;
        if self.name.is_empty() || self.name.len() > 255 {
            return Err(("name", "must have 1 to 255 bytes".into()));
        }
        if self.listen.is_some() && (self.host.is_some() || self.port.is_some()) {
            let why = "`host` and `port` are short for `listen`: give one or the other";
            return Err(("listen", why.into()));
        }
        let mut known = BTreeMap::new();
        for (name, neighbour) in &self.mesh {
            if let Some(other) = known.insert(neighbour.node.0.to_string(), name) {
                return Err(("mesh", format!("`{other}` and `{name}` have the same key")));
            }
        }
        let addresses = self.addresses().map_err(|why| ("host", why))?;
        let mut known = BTreeSet::new();
        let mut fixed = addresses.iter().map(ToString::to_string);
        // A port of 0 is a free one.
        match fixed.find(|it| !it.ends_with(":0") && !known.insert(it.clone())) {
            Some(twice) => Err(("listen", format!("`{twice}` is there twice"))),
            None => Ok(()),
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What is wrong with `host`; never after [`parse`](Self::parse).
    pub fn addresses(&self) -> Result<Vec<Address>, String> {
        if let Some(listen) = &self.listen {
            return Ok(listen.iter().map(|Text(address)| address.clone()).collect());
        }
        let (host, port) = (self.host.as_deref(), self.port.unwrap_or(9000));
        let host = host.unwrap_or("0.0.0.0");
        ["quic", "tcp"]
            .iter()
            .map(|scheme| format!("{scheme}://{host}:{port}"))
            .map(|text| text.parse().map_err(|error| format!("`{text}`: {error}")))
            .collect()
    }
}

#[cfg(test)]
mod tests;
