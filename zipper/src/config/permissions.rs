//! `auth: {type: permissions}`: named tokens and keys, each with permissions for ranges of tags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use selvedge_client::wire::TEXT_LEN_MAX;
use selvedge_hub::NodeId;

use crate::config::document::{MapEntry, Node, NodeValue};
use crate::config::error::{ConfigError, ConfigProblem, shorten};
use crate::config::reader::{Problems, Section};
use crate::config::{Auth, AuthToken};
use crate::permissions::{AccessRules, Grant, Permissions, TagRange, TagSet, TokenGrant};

/// The largest number of tokens, and of keys: each token is compared for each client that connects.
const GRANTS_MAX: usize = 1024;

/// Named tokens and keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PermissionsConfig {
    /// The tokens.
    pub tokens: Vec<TokenConfig>,
    /// The keys of clients, with what they give.
    pub keys: BTreeMap<NodeId, Grant>,
    /// What every client may do, without a token.
    pub anyone: Permissions,
}

/// A token, and what it gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenConfig {
    /// Where the token is found.
    pub source: TokenSource,
    /// What it gives, with its name.
    pub grant: Grant,
}

/// Where a token is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// In the configuration.
    Text(AuthToken),
    /// In a file, without the newline at its end. Relative to the configuration file.
    File(PathBuf),
    /// In an environment variable.
    Variable(String),
}

impl PermissionsConfig {
    /// Makes the paths of token files relative to a folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        for token in &mut self.tokens {
            if let TokenSource::File(path) = &mut token.source {
                *path = folder.join(&*path);
            }
        }
    }
}

impl Auth {
    /// The rules, after the tokens of files and environment variables have been read; `None` for the
    /// simple forms.
    ///
    /// # Errors
    /// [`ConfigError`] with every token that cannot be read, at `origin`.
    pub fn access_rules(
        &self,
        origin: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<AccessRules>, ConfigError> {
        let Self::Permissions(config) = self else {
            return Ok(None);
        };
        let (mut tokens, mut problems) = (Vec::<TokenGrant>::new(), Vec::new());
        for TokenConfig { source, grant } in &config.tokens {
            let path = format!("auth.tokens.{}", shorten(&grant.name));
            let token = match source.read(&variable) {
                Ok(token) => token,
                Err(why) => {
                    problems.push(ConfigProblem::whole(origin, format!("`{path}`: {why}")));
                    continue;
                }
            };
            if let Some(same) = tokens.iter().find(|it| it.token == token) {
                let other = shorten(&same.grant.name);
                let message = format!("`{path}`: `{other}` has the same token");
                problems.push(ConfigProblem::whole(origin, message));
            }
            let grant = grant.clone();
            tokens.push(TokenGrant { token, grant });
        }
        if !problems.is_empty() {
            return Err(ConfigError::new(problems));
        }
        let keys = config.keys.iter();
        Ok(Some(AccessRules {
            tokens,
            keys: keys
                .map(|(node, grant)| (*node.as_bytes(), grant.clone()))
                .collect(),
            anyone: config.anyone.clone(),
            this_host: Permissions::default(),
        }))
    }
}

impl TokenSource {
    fn read(&self, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
        let (token, place) = match self {
            Self::Text(AuthToken(token)) => (token.clone(), String::new()),
            Self::Variable(name) => {
                let place = format!("the environment variable {}", shorten(name));
                let token = variable(name).ok_or_else(|| format!("{place} is not set"))?;
                (token, place)
            }
            Self::File(path) => {
                let place = path.display().to_string();
                (
                    read_file(path).map_err(|why| format!("{place}: {why}"))?,
                    place,
                )
            }
        };
        let token = token.trim_end_matches(['\r', '\n']);
        match (1..=TEXT_LEN_MAX).contains(&token.len()) {
            true => Ok(token.to_owned()),
            false => Err(format!("expected a token of 1 to 1024 bytes in {place}")),
        }
    }
}

/// Reads a file that is longer than a token at most by a newline: the path may be that of a device.
fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut text = String::new();
    let read = file.take(TEXT_LEN_MAX as u64 + 3).read_to_string(&mut text);
    read.map_err(|error| format!("cannot be read: {error}"))?;
    Ok(text)
}

/// The keys that belong to `type: permissions`.
pub(super) const KEYS: [&str; 3] = ["tokens", "keys", "anyone"];

/// Reads the keys that belong to `type: permissions`.
pub(super) fn read(section: &Section<'_>, node: &Node, problems: &mut Problems) -> Auth {
    let mut config = PermissionsConfig::default();
    const TOKENS: &str = "{ops: {file: ops.token, admin: all}}";
    let tokens = section
        .get("tokens")
        .map(|node| problems.map(node, "auth.tokens", TOKENS));
    for entry in tokens.unwrap_or_default() {
        config.tokens.extend(read_token(entry, problems));
    }
    const EXAMPLE: &str = "{press: {node: KEY, write: [0x10]}}";
    let keys = section
        .get("keys")
        .map(|node| problems.map(node, "auth.keys", EXAMPLE));
    for entry in keys.unwrap_or_default() {
        read_key(entry, &mut config, problems);
    }
    if let Some(node) = section.get("anyone") {
        let known = ["write", "observe", "admin"];
        if let Some(section) = problems.section(node, "auth.anyone", &known) {
            config.anyone = read_permissions(&section, problems);
        }
    }
    if config.tokens.len().max(config.keys.len()) > GRANTS_MAX {
        problems.add(&node.span, "`auth`: more than 1024 tokens or keys");
    }
    if KEYS.iter().all(|key| section.get(key).is_none()) {
        let message =
            format!("`auth.tokens`: the key is missing; expected {TOKENS}, `keys` or `anyone`");
        problems.add(&node.span, message);
    }
    Auth::Permissions(config)
}

fn read_token(entry: &MapEntry, problems: &mut Problems) -> Option<TokenConfig> {
    const KNOWN: [&str; 7] = [
        "token", "file", "env", "expires", "write", "observe", "admin",
    ];
    let path = format!("auth.tokens.{}", shorten(&entry.key));
    let section = problems.section(&entry.node, &path, &KNOWN)?;
    let text = section.get("token").and_then(|node| match &node.value {
        NodeValue::Scalar(text) if (1..=TEXT_LEN_MAX).contains(&text.len()) => Some(text.clone()),
        _ => {
            // The value is a secret.
            let message = format!("`{path}.token`: expected a text of 1 to 1024 bytes");
            problems.add(&node.span, message);
            None
        }
    });
    let file = section.text(problems, "file", 1..=4096, "ops.token");
    let variable = section.text(problems, "env", 1..=255, "OPS_TOKEN");
    let given = ["token", "file", "env"].map(|key| section.get(key).is_some());
    if given.iter().filter(|is_given| **is_given).count() != 1 {
        let message = format!("`{path}`: expected one of `token`, `file` and `env`");
        problems.add(&entry.key_span, message);
    }
    let grant = read_grant(&section, entry, problems);
    let source = text
        .map(|text| TokenSource::Text(AuthToken(text)))
        .or_else(|| file.map(|file| TokenSource::File(file.into())))
        .or_else(|| variable.map(TokenSource::Variable))?;
    Some(TokenConfig { source, grant })
}

fn read_key(entry: &MapEntry, config: &mut PermissionsConfig, problems: &mut Problems) {
    const KNOWN: [&str; 5] = ["node", "expires", "write", "observe", "admin"];
    const NODE: &str = "the 64 hexadecimal digits that `zipper keygen --show FILE` prints";
    let path = format!("auth.keys.{}", shorten(&entry.key));
    let Some(section) = problems.section(&entry.node, &path, &KNOWN) else {
        return;
    };
    let grant = read_grant(&section, entry, problems);
    let Some(value) = section.get("node") else {
        let message = format!("`{path}.node`: the key is missing; expected {NODE}");
        return problems.add(&entry.key_span, message);
    };
    let node: Option<NodeId> = problems.scalar(value, &format!("{path}.node"), NODE);
    let Some(node) = node else { return };
    if let Some(other) = config.keys.get(&node) {
        let message = format!("`{path}.node`: `{}` has the same key", shorten(&other.name));
        problems.add(&value.span, message);
    }
    config.keys.insert(node, grant);
}

fn read_grant(section: &Section<'_>, entry: &MapEntry, problems: &mut Problems) -> Grant {
    let permissions = read_permissions(section, problems);
    let has_none = ["write", "observe", "admin"].map(|key| section.get(key).is_none());
    if has_none == [true; 3] {
        let message = format!(
            "`{}`: it permits nothing; expected `write`, `observe` or `admin`, such as \
             `write: [0x10-0x1f]`",
            section.path
        );
        problems.add(&entry.key_span, message);
    }
    Grant {
        name: entry.key.clone(),
        expires: section.get("expires").and_then(|node| {
            let path = section.path_of("expires");
            read_time(node, &path, problems)
        }),
        permissions,
    }
}

fn read_permissions(section: &Section<'_>, problems: &mut Problems) -> Permissions {
    let mut tags = |key| match section.get(key) {
        Some(node) => read_tags(node, &section.path_of(key), problems),
        None => TagSet::default(),
    };
    Permissions {
        write: tags("write"),
        observe: tags("observe"),
        admin: tags("admin"),
    }
}

/// `all`, a tag, a range, or a list of these.
fn read_tags(node: &Node, path: &str, problems: &mut Problems) -> TagSet {
    const EXPECTED: &str = "`all`, or tags and ranges, such as [0x10, 0x20-0x2f]";
    let mut range = |node: &Node| problems.scalar::<TagRange>(node, path, EXPECTED);
    match &node.value {
        NodeValue::List(items) => items.iter().filter_map(range).collect(),
        _ => range(node).into_iter().collect(),
    }
}

/// A date, or a time with a date, of UTC; as the time since 1970.
fn read_time(node: &Node, path: &str, problems: &mut Problems) -> Option<Duration> {
    const EXPECTED: &str = "a time of UTC, such as 2027-01-31 or 2027-01-31T18:00:00Z";
    let time = match &node.value {
        NodeValue::Scalar(text) => parse_time(text),
        _ => None,
    };
    if time.is_none() {
        problems.unexpected(node, path, EXPECTED);
    }
    time
}

fn parse_time(text: &str) -> Option<Duration> {
    let time = match text.len() {
        10 => humantime::parse_rfc3339(&format!("{text}T00:00:00Z")),
        _ => humantime::parse_rfc3339(text),
    };
    time.ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()
}

#[cfg(test)]
#[path = "permissions_tests.rs"]
mod tests;
