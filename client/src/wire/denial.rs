//! A notice that a zipper has refused a part of what a client does, while the connection stays.

use bytes::{BufMut, Bytes};

use super::{TAGS_MAX, WireError, get_tags, get_u8, put_len};
use crate::tag::Tag;

/// The feature bit of [`Denial`].
pub const FEATURE_DENIALS: u64 = 1 << 5;

/// What a client may do with messages of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// To send messages.
    Write = 1,
    /// To receive messages.
    Observe = 2,
    /// To ask for lists.
    Admin = 3,
}

impl Permission {
    const fn from_byte(byte: u8) -> Result<Self, WireError> {
        match byte {
            1 => Ok(Self::Write),
            2 => Ok(Self::Observe),
            3 => Ok(Self::Admin),
            other => Err(WireError::Unknown(other)),
        }
    }
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Observe => "observe",
            Self::Admin => "admin",
        })
    }
}

/// A client lacks a permission: the zipper drops its messages of these tags, or does not send them to it.
/// Sent at most once a second, so it may not name every tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What the client may not do.
    pub permission: Permission,
    /// With which tags.
    pub tags: Vec<Tag>,
}

impl Denial {
    /// Appends the fields behind the kind byte.
    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        out.put_u8(self.permission as u8);
        put_len(self.tags.len(), TAGS_MAX, out)?;
        self.tags.iter().for_each(|tag| out.put_u32(tag.0));
        Ok(())
    }

    /// Reads the fields behind the kind byte.
    pub(super) fn get(b: &mut Bytes) -> Result<Self, WireError> {
        Ok(Self {
            permission: Permission::from_byte(get_u8(b)?)?,
            tags: get_tags(b)?,
        })
    }
}
