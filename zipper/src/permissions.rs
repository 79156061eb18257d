//! What clients may do: a token or a key gives permissions for ranges of tags. Pure.
//!
//! | permission | allows |
//! |---|---|
//! | write | to send messages with these tags |
//! | observe | to receive messages with these tags, as a function |
//! | admin | to list functions, tags and routes with these tags; with all tags also clients, neighbours, the backlog and the status |
//!
//! A client that presents a token has its permissions, and in addition those of its key. Neighbours are
//! not clients: they are trusted by their keys.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use selvedge_client::tag::{Tag, TagError};
use selvedge_client::wire::{NodeKey, Rejection, Role};
use selvedge_hub::NodeId;

pub use selvedge_client::wire::Permission;
use subtle::ConstantTimeEq;

/// A range of tags that includes both ends. Written as `0x10`, `0x10-0x1f` or `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TagRange {
    /// The first tag.
    pub first: Tag,
    /// The last tag.
    pub last: Tag,
}

impl TagRange {
    /// Every tag.
    pub const ALL: Self = Self {
        first: Tag(0),
        last: Tag(u32::MAX),
    };
}

impl FromStr for TagRange {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        if text == "all" {
            return Ok(Self::ALL);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self {
            first: first.trim().parse()?,
            last: last.trim().parse()?,
        };
        match range.first <= range.last {
            true => Ok(range),
            false => Err(TagError::Malformed(text.to_owned())),
        }
    }
}

/// A set of tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagSet {
    /// In order, without overlaps and gaps of no tag between them.
    ranges: Vec<TagRange>,
}

impl TagSet {
    /// Every tag.
    #[must_use]
    pub fn all() -> Self {
        Self {
            ranges: vec![TagRange::ALL],
        }
    }

    /// Whether the set has no tag.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the set has every tag.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.ranges == [TagRange::ALL]
    }

    /// Whether the set has a tag.
    #[must_use]
    pub fn contains(&self, tag: Tag) -> bool {
        let behind = self.ranges.partition_point(|range| range.first <= tag);
        let range = behind.checked_sub(1).and_then(|at| self.ranges.get(at));
        range.is_some_and(|range| tag <= range.last)
    }
}

impl FromIterator<TagRange> for TagSet {
    fn from_iter<I: IntoIterator<Item = TagRange>>(ranges: I) -> Self {
        let mut sorted: Vec<TagRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut ranges: Vec<TagRange> = Vec::new();
        for range in sorted {
            match ranges.last_mut() {
                Some(last) if range.first.0 <= last.last.0.saturating_add(1) => {
                    last.last = last.last.max(range.last);
                }
                _ => ranges.push(range),
            }
        }
        Self { ranges }
    }
}

/// The tags for which each permission is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// The tags of messages that the client may send.
    pub write: TagSet,
    /// The tags that the client may observe.
    pub observe: TagSet,
    /// The tags that the client may list.
    pub admin: TagSet,
}

impl Permissions {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self {
            write: TagSet::all(),
            observe: TagSet::all(),
            admin: TagSet::all(),
        }
    }

    /// To send and receive every message.
    #[must_use]
    pub fn data() -> Self {
        Self {
            admin: TagSet::default(),
            ..Self::all()
        }
    }

    /// Whether nothing is permitted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.write.is_empty() && self.observe.is_empty() && self.admin.is_empty()
    }

    fn union(&self, other: &Self) -> Self {
        let both = |a: &TagSet, b: &TagSet| a.ranges.iter().chain(&b.ranges).copied().collect();
        Self {
            write: both(&self.write, &other.write),
            observe: both(&self.observe, &other.observe),
            admin: both(&self.admin, &other.admin),
        }
    }
}

/// What a token or a key gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// The name, for logs and errors.
    pub name: String,
    /// When it expires, as the time since 1970; never without it.
    pub expires: Option<Duration>,
    /// The permissions.
    pub permissions: Permissions,
}

impl Grant {
    fn is_expired(&self, now: Duration) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// A token with what it gives.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenGrant {
    /// The token, which is never shown.
    pub token: String,
    /// What it gives.
    pub grant: Grant,
}

impl fmt::Debug for TokenGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenGrant({:?})", self.grant)
    }
}

/// The tokens and keys of a zipper.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessRules {
    /// The tokens.
    pub tokens: Vec<TokenGrant>,
    /// The keys of clients.
    pub keys: BTreeMap<NodeKey, Grant>,
    /// What every client may do, without a token.
    pub anyone: Permissions,
    /// What clients of this host may do in addition, without a token.
    pub this_host: Permissions,
}

/// The permissions of one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// What it may do.
    pub permissions: Permissions,
    /// When a part of it expires, as the time since 1970.
    pub expires: Option<Duration>,
    /// The names of the token and the key, for logs; empty for what every client may do.
    pub granted_by: String,
}

/// What a client presents.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// Its key, which it has proven.
    pub node: NodeKey,
    /// Its token.
    pub token: Option<&'a str>,
    /// Whether it is a process of this host.
    pub is_local: bool,
}

/// Why a client has no permission at all. The client has to present something else; a retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// No token of the zipper is the presented one.
    #[error("the token is wrong")]
    WrongToken,
    /// The token or the key was valid.
    #[error("the {kind} `{name}` has expired")]
    Expired {
        /// `token` or `key`.
        kind: &'static str,
        /// Its name in the configuration of the zipper.
        name: String,
    },
    /// A client without a token has no permission here.
    #[error("this zipper requires a token")]
    TokenRequired,
    /// The token or the key permits other things than the client is for.
    #[error("no permission to {0}")]
    Useless(&'static str),
    /// Keys are listed, and that of the client is not among them.
    #[error("this zipper does not know the key {0}, and no token was presented")]
    UnknownKey(NodeId),
}

impl AccessError {
    /// The code with which a client is refused.
    #[must_use]
    pub const fn rejection(&self) -> Rejection {
        match self {
            Self::Useless(_) => Rejection::Forbidden,
            _ => Rejection::Unauthorized,
        }
    }
}

impl AccessRules {
    /// One token that permits everything, or without it: everything to clients of this host, and the
    /// exchange of messages to others.
    #[must_use]
    pub fn simple(token: Option<&str>) -> Self {
        let Some(token) = token else {
            return Self {
                anyone: Permissions::data(),
                this_host: Permissions::all(),
                ..Self::default()
            };
        };
        let grant = Grant {
            name: "token".into(),
            expires: None,
            permissions: Permissions::all(),
        };
        let token = token.to_owned();
        Self {
            tokens: vec![TokenGrant { token, grant }],
            ..Self::default()
        }
    }

    /// What a client may do at a time since 1970.
    ///
    /// # Errors
    /// [`AccessError`]: nothing.
    pub fn admit(&self, client: Credentials<'_>, now: Duration) -> Result<Access, AccessError> {
        let of_token = client.token.map(|token| self.find_token(token));
        let of_key = self.keys.get(&client.node);
        let mut access = Access::default();
        // A wrong token is refused although the key may suffice: it would be used by mistake.
        if let Some(of_token) = of_token {
            let grant = of_token.or_else(|| self.needs_no_token().then_some(&NOTHING));
            let grant = grant.ok_or(AccessError::WrongToken)?;
            access.add(grant, "token", now)?;
        }
        match of_key.map(|grant| access.add(grant, "key", now)) {
            Some(Err(expired)) if client.token.is_none() => return Err(expired),
            _ => (),
        }
        access.permissions = access.permissions.union(&self.anyone);
        if client.is_local {
            access.permissions = access.permissions.union(&self.this_host);
        }
        match access.permissions.is_empty() {
            false => Ok(access),
            true if self.tokens.is_empty() => {
                Err(AccessError::UnknownKey(NodeId::new(client.node)))
            }
            true => Err(AccessError::TokenRequired),
        }
    }

    /// Whether no token is configured: clients may present any then, as they always could.
    const fn needs_no_token(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The grant of a token. Every token is compared, in a time that depends on their lengths only.
    fn find_token(&self, presented: &str) -> Option<&Grant> {
        let presented = presented.as_bytes();
        let tokens = self.tokens.iter();
        tokens.fold(None, |found, it| {
            let is_equal = bool::from(presented.ct_eq(it.token.as_bytes()));
            if is_equal { Some(&it.grant) } else { found }
        })
    }
}

/// What a token gives that is presented although none is required.
static NOTHING: Grant = Grant {
    name: String::new(),
    expires: None,
    permissions: Permissions {
        write: TagSet { ranges: Vec::new() },
        observe: TagSet { ranges: Vec::new() },
        admin: TagSet { ranges: Vec::new() },
    },
};

impl Access {
    /// Checks that a client can do anything with its permissions.
    ///
    /// # Errors
    /// [`AccessError::Useless`].
    pub fn check_role(&self, role: Role, observed: &[Tag]) -> Result<(), AccessError> {
        let Permissions {
            write,
            observe,
            admin,
        } = &self.permissions;
        let observes_any = observed.iter().any(|tag| observe.contains(*tag));
        match role {
            Role::StreamFunction if !observes_any && write.is_empty() => Err(AccessError::Useless(
                "observe one of these tags, or to write",
            )),
            Role::Source if write.is_empty() && admin.is_empty() => {
                Err(AccessError::Useless("write, or to ask as an operator"))
            }
            // It sends messages of any source, and receives what others send.
            Role::Zipper if !write.is_all() || !observe.is_all() => {
                Err(AccessError::Useless("act as a zipper"))
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, grant: &Grant, kind: &'static str, now: Duration) -> Result<(), AccessError> {
        if grant.is_expired(now) {
            let name = grant.name.clone();
            return Err(AccessError::Expired { kind, name });
        }
        self.permissions = self.permissions.union(&grant.permissions);
        self.expires = match (self.expires, grant.expires) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        if !grant.name.is_empty() {
            let separator = if self.granted_by.is_empty() { "" } else { ", " };
            self.granted_by += &format!("{separator}{kind} {}", grant.name);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "permissions_tests.rs"]
mod tests;
