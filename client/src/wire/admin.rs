//! Requests of operators to a zipper, and the answers in pages.
//!
//! The rows of a page name their fields, so a later zipper can add fields without another version.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};

use super::{
    NodeKey, PATH_MAX, TAGS_MAX, TEXT_LEN_MAX, WireError, get_bool, get_len, get_list, get_node,
    get_tags, get_text, get_u8, get_u16, get_u32, get_u64, put_len, put_text,
};
use crate::tag::Tag;

/// The feature bit of [`AdminRequest`] and [`AdminReply`].
pub const FEATURE_ADMIN: u64 = 1 << 4;

/// The longest position in a list: two texts and a key.
pub const CURSOR_LEN_MAX: usize = 2 * (2 + TEXT_LEN_MAX) + 32;
/// The longest answer behind its kind, in bytes. It bounds what a decoder allocates.
pub const REPLY_LEN_MAX: usize = 128 * 1024;
/// The largest number of rows in one page.
pub const PAGE_ROWS_MAX: usize = 256;
/// The largest number of fields in one row.
pub const ROW_FIELDS_MAX: usize = 64;
/// The largest number of texts in one value.
pub const TEXTS_MAX: usize = 64;

macro_rules! queries {
    ($($(#[$doc:meta])* $variant:ident = $value:literal, $name:literal;)*) => {
        /// What an operator asks a zipper for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum AdminQuery { $($(#[$doc])* $variant = $value,)* }

        impl AdminQuery {
            /// The query with that number, if this build implements it.
            #[must_use]
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($value => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for AdminQuery {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $name,)* })
            }
        }
    };
}

queries! {
    /// The zipper itself: one row.
    Zipper = 1, "zipper";
    /// The connected clients, and those whose return is awaited.
    Clients = 2, "clients";
    /// The functions that are connected to this zipper.
    Functions = 3, "functions";
    /// The observed tags, with the names of the functions.
    Tags = 4, "tags";
    /// The functions at other zippers, each with the best path.
    Routes = 5, "routes";
    /// The other zippers.
    Neighbours = 6, "neighbours";
    /// The clients and zippers that have not acknowledged everything.
    Backlog = 7, "backlog";
    /// To read the configuration again. The rows are the settings that have changed, each with whether the
    /// new value is in use.
    Reload = 8, "reload";
    /// The functions that hold sources back, those that do so for longest first.
    Slow = 9, "slow";
}

/// A request of an operator, which the zipper answers with one [`AdminReply`]. A client sends the next
/// request after the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminRequest {
    /// Returned in the answer.
    pub id: u32,
    /// The number of an [`AdminQuery`]. A zipper answers an unknown one with [`AdminReply::Refused`].
    pub query: u8,
    /// The position at which the page begins: empty, or [`AdminReply::Page::next`] of the page before.
    pub after: Bytes,
}

/// The answer to an [`AdminRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminReply {
    /// A part of a list.
    Page {
        /// The id of the request.
        id: u32,
        /// The rows; possibly none although others follow.
        rows: Vec<AdminRow>,
        /// The position of the next page; `None` at the end of the list.
        next: Option<Bytes>,
    },
    /// The zipper refuses the request. The connection stays.
    Refused {
        /// The id of the request.
        id: u32,
        /// The reason for programs, as in HTTP: 403 without the permission `admin`, 404 for an unknown
        /// query, 400 for an invalid position, 422 for a configuration that is wrong, 429 if another reload
        /// is in progress, 501 if this zipper cannot reload.
        code: u16,
        /// The reason for people.
        message: String,
    },
}

/// A row of a list: fields with their names, in the order in which they are to be shown. The name of a
/// field ends with its unit: `_bytes`, `_ms`, or none for a count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdminRow {
    /// The fields.
    pub fields: Vec<(String, AdminValue)>,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminValue {
    /// A count, a size or a duration.
    Number(u64),
    /// A text, such as a name that a client has chosen.
    Text(String),
    /// Whether something holds.
    Flag(bool),
    /// The key of a node.
    Node(NodeKey),
    /// Tags.
    Tags(Vec<Tag>),
    /// The keys of the nodes of a path.
    Nodes(Vec<NodeKey>),
    /// Texts, such as names.
    Texts(Vec<String>),
}

impl AdminRow {
    /// Appends a field.
    pub fn push(&mut self, name: &str, value: AdminValue) {
        self.fields.push((name.to_owned(), value));
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&AdminValue> {
        let mut fields = self.fields.iter();
        fields.find_map(|(field, value)| (field == name).then_some(value))
    }

    /// The length of the row in a page, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let fields = self.fields.iter();
        let len = |(name, value): &(String, AdminValue)| 2 + name.len() + 1 + value.encoded_len();
        1 + fields.map(len).sum::<usize>()
    }
}

impl AdminValue {
    const fn kind(&self) -> u8 {
        match self {
            Self::Number(_) => 1,
            Self::Text(_) => 2,
            Self::Flag(_) => 3,
            Self::Node(_) => 4,
            Self::Tags(_) => 5,
            Self::Nodes(_) => 6,
            Self::Texts(_) => 7,
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Number(_) => 8,
            Self::Text(text) => 2 + text.len(),
            Self::Flag(_) => 1,
            Self::Node(_) => 32,
            Self::Tags(tags) => 2 + 4 * tags.len(),
            Self::Nodes(nodes) => 2 + 32 * nodes.len(),
            Self::Texts(texts) => 2 + texts.iter().map(|text| 2 + text.len()).sum::<usize>(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        out.put_u8(self.kind());
        match self {
            Self::Number(number) => out.put_u64(*number),
            Self::Text(text) => put_text(text, out)?,
            Self::Flag(flag) => out.put_u8(u8::from(*flag)),
            Self::Node(node) => out.put_slice(node),
            Self::Tags(tags) => {
                put_len(tags.len(), TAGS_MAX, out)?;
                tags.iter().for_each(|tag| out.put_u32(tag.0));
            }
            Self::Nodes(nodes) => {
                put_len(nodes.len(), PATH_MAX, out)?;
                nodes.iter().for_each(|node| out.put_slice(node));
            }
            Self::Texts(texts) => {
                put_len(texts.len(), TEXTS_MAX, out)?;
                for text in texts {
                    put_text(text, out)?;
                }
            }
        }
        Ok(())
    }

    fn get(b: &mut Bytes) -> Result<Self, WireError> {
        Ok(match get_u8(b)? {
            1 => Self::Number(get_u64(b)?),
            2 => Self::Text(get_text(b)?),
            3 => Self::Flag(get_bool(b)?),
            4 => Self::Node(get_node(b)?),
            5 => Self::Tags(get_tags(b)?),
            6 => Self::Nodes(get_list(b, PATH_MAX, get_node)?),
            7 => Self::Texts(get_list(b, TEXTS_MAX, get_text)?),
            other => return Err(WireError::Unknown(other)),
        })
    }
}

impl AdminRequest {
    /// Appends the fields behind the kind byte.
    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        out.put_u32(self.id);
        out.put_u8(self.query);
        put_cursor(&self.after, out)
    }

    /// Reads the fields behind the kind byte.
    pub(super) fn get(b: &mut Bytes) -> Result<Self, WireError> {
        Ok(Self {
            id: get_u32(b)?,
            query: get_u8(b)?,
            after: get_cursor(b)?,
        })
    }
}

impl AdminReply {
    /// The id of the request.
    #[must_use]
    pub const fn id(&self) -> u32 {
        match self {
            Self::Page { id, .. } | Self::Refused { id, .. } => *id,
        }
    }

    /// Appends the fields behind the kind byte.
    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let start = out.len();
        out.put_u32(self.id());
        match self {
            Self::Page { rows, next, .. } => {
                out.put_u8(0);
                put_len(rows.len(), PAGE_ROWS_MAX, out)?;
                for row in rows {
                    row.put(out)?;
                }
                out.put_u8(u8::from(next.is_some()));
                if let Some(next) = next {
                    put_cursor(next, out)?;
                }
            }
            Self::Refused { code, message, .. } => {
                out.put_u8(1);
                out.put_u16(*code);
                put_text(message, out)?;
            }
        }
        check_len(out.len() - start)
    }

    /// Reads the fields behind the kind byte.
    pub(super) fn get(b: &mut Bytes) -> Result<Self, WireError> {
        check_len(b.remaining())?;
        let id = get_u32(b)?;
        if get_bool(b)? {
            let (code, message) = (get_u16(b)?, get_text(b)?);
            return Ok(Self::Refused { id, code, message });
        }
        let rows = get_list(b, PAGE_ROWS_MAX, AdminRow::get_from)?;
        let next = match get_bool(b)? {
            true => Some(get_cursor(b)?),
            false => None,
        };
        Ok(Self::Page { id, rows, next })
    }
}

impl AdminRow {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let (len, max) = (self.fields.len(), ROW_FIELDS_MAX);
        if len > max {
            return Err(WireError::TooLong { len, max });
        }
        out.put_u8(len as u8);
        for (name, value) in &self.fields {
            put_text(name, out)?;
            value.put(out)?;
        }
        Ok(())
    }

    fn get_from(b: &mut Bytes) -> Result<Self, WireError> {
        let (len, max) = (usize::from(get_u8(b)?), ROW_FIELDS_MAX);
        if len > max {
            return Err(WireError::TooLong { len, max });
        }
        let mut fields = Vec::new();
        for _ in 0..len {
            fields.push((get_text(b)?, AdminValue::get(b)?));
        }
        Ok(Self { fields })
    }
}

const fn check_len(len: usize) -> Result<(), WireError> {
    let max = REPLY_LEN_MAX;
    match len > max {
        true => Err(WireError::TooLong { len, max }),
        false => Ok(()),
    }
}

fn put_cursor(cursor: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    put_len(cursor.len(), CURSOR_LEN_MAX, out)?;
    out.put_slice(cursor);
    Ok(())
}

fn get_cursor(b: &mut Bytes) -> Result<Bytes, WireError> {
    let len = get_len(b, CURSOR_LEN_MAX)?;
    if b.remaining() < len {
        return Err(WireError::Truncated);
    }
    Ok(b.split_to(len))
}
