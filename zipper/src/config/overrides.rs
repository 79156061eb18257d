//! Single values from the environment and the command line.

use serde_json::{Map, Value};

use crate::config::{ConfigError, ZipperConfig, error};

/// What variables of the environment begin with.
const PREFIX: &str = "ZIPPER__";

/// One value, and where it comes from.
#[derive(Clone, PartialEq, Eq)]
pub struct Override {
    origin: String,
    path: Vec<String>,
    value: String,
}

impl std::fmt::Debug for Override {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The value may be a secret.
        write!(f, "Override({})", self.origin)
    }
}

impl Override {
    /// Reads `a.b=value`.
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

    /// Those among variables of the environment: `ZIPPER__A__B` is `a.b`.
    pub fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Vec<Self> {
        let read = |(name, value): (String, String)| {
            let path = name.strip_prefix(PREFIX)?;
            Some(Self {
                path: path.split("__").map(str::to_lowercase).collect(),
                origin: name,
                value,
            })
        };
        let mut found: Vec<Self> = variables.filter_map(read).collect();
        // The environment has no order; errors should.
        found.sort_by(|a, b| a.origin.cmp(&b.origin));
        found
    }
}

/// Reads a text whose values some others replace.
pub(super) fn apply(
    text: &str,
    origin: &str,
    overrides: &[Override],
) -> Result<ZipperConfig, ConfigError> {
    let mut whole: Value = error::read(text, origin)?;
    if whole.is_null() {
        whole = Value::Object(Map::new());
    }
    let mut config = ZipperConfig::default();
    for one in overrides {
        let refused = |what: String| ConfigError::at(&one.origin, what);
        let value: Value = error::read(&one.value, &one.origin)?;
        set(&mut whole, &one.path, value).map_err(refused)?;
        config =
            serde_json::from_value(whole.clone()).map_err(|error| refused(describe(&error)))?;
    }
    Ok(config)
}

fn set(at: &mut Value, path: &[String], value: Value) -> Result<(), String> {
    let Some((key, rest)) = path.split_first() else {
        *at = value;
        return Ok(());
    };
    if at.is_null() {
        *at = Value::Object(Map::new());
    }
    let map = at
        .as_object_mut()
        .ok_or_else(|| format!("there is no `{key}` in what is not a map"))?;
    set(map.entry(key.as_str()).or_insert(Value::Null), rest, value)
}

/// As for a file: what was meant.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let quoted: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    match quoted.split_first() {
        Some((found, expected)) if text.starts_with("unknown field") => {
            error::unknown("key", found, expected)
        }
        Some((found, expected)) if text.starts_with("unknown variant") => {
            error::unknown("value", found, expected)
        }
        _ => text,
    }
}
