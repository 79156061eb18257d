//! Single values from environment variables and from the command line.

use std::fmt;

use crate::config::document::{ConfigSource, Node};
use crate::config::error::ConfigProblem;

/// Prefix of the environment variables.
const PREFIX: &str = "ZIPPER__";

/// One value, and where it was found.
#[derive(Clone, PartialEq, Eq)]
pub struct Override {
    origin: String,
    path: Vec<String>,
    value: String,
}

impl fmt::Debug for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may be a secret.
        write!(f, "Override({})", self.origin)
    }
}

impl Override {
    /// Parses an option `a.b=value`.
    ///
    /// # Errors
    /// What was expected.
    pub fn from_option(text: &str) -> Result<Self, String> {
        let (path, value) = text
            .split_once('=')
            .filter(|(path, _)| !path.is_empty())
            .ok_or("expected KEY=VALUE, such as limits.clients=10")?;
        Ok(Self {
            origin: format!("--set {path}"),
            path: path.split('.').map(str::to_owned).collect(),
            value: value.to_owned(),
        })
    }

    /// Collects the overrides among environment variables: `ZIPPER__A__B` is `a.b`.
    pub fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Vec<Self> {
        let parse = |(name, value): (String, String)| {
            let path = name.strip_prefix(PREFIX)?;
            Some(Self {
                path: path.split("__").map(str::to_lowercase).collect(),
                origin: name,
                value,
            })
        };
        let mut found: Vec<Self> = variables.filter_map(parse).collect();
        // The environment has no order; the order of errors must be stable.
        found.sort_by(|a, b| a.origin.cmp(&b.origin));
        found
    }

    /// Replaces the value in a document.
    pub(super) fn apply(&self, document: &mut Node) -> Result<(), ConfigProblem> {
        let source = ConfigSource::value(&self.origin, &self.value);
        let value = Node::parse(&source)?;
        document.replace(&self.path, value).map_err(|keys| {
            let (parent, key) = (self.path[..keys].join("."), self.path.join("."));
            ConfigProblem::whole(
                &self.origin,
                format!("`{key}` cannot be set, because `{parent}` is not a map"),
            )
        })
    }
}
