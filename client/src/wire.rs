//! The messages between clients and zippers and among zippers. The channel below keeps message
//! boundaries and delivers exactly once, so there is no framing. Numbers are big-endian; a text
//! is its length in 2 bytes and its UTF-8; an option is a byte, 0 or 1, and then the value.
//!
//! ```text
//! Handshake     01 | version 1B | role 1B | name | token? | n 2B | n × tag 4B | target? | policy 1B
//! HandshakeAck  02 | name | node 32B
//! Rejected      03 | code 2B | text
//! Goaway        04 | text
//! Data          05 | flags 1B | tag 4B | hops left 1B | sequence 1 to 8B | [source 32B] | [target]
//!                  | [n 2B, n × (name, home 32B)] | [n 2B, n × (trace: name, micros 8B)] | payload ...
//! Interest      06 | generation 8B | n 2B | n × (name, n 2B, n × tag 4B, target?, policy 1B,
//!                  n 2B, n × node 32B)
//! ```
//!
//! Data has one form only, and what most sources write is short: 8 to 15 bytes before the payload.
//! What is in brackets is there if the flags say so, and only if it says something:
//!
//! ```text
//! flags   0 | bytes of the sequence - 1 | trace | recipients | target | source
//! bit     7 | 6                       4 | 3     | 2          | 1      | 0
//! ```

use bytes::{Buf, BufMut, Bytes};

use crate::tag::Tag;

mod data;

pub use data::{MessageHeader, PlainMessage, ShortHeader, SourcedHeader, is_data};

/// The version that this build speaks.
pub const VERSION: u8 = 2;
/// The longest text: a name, a token, a target or a reason, in bytes.
pub const TEXT_LEN_MAX: usize = 1024;
/// The most tags that one function observes.
pub const TAGS_MAX: usize = 1024;
/// The most recipients that one forwarded message has.
pub const RECIPIENTS_MAX: usize = 1024;
/// The most zippers that one trace lists.
pub const TRACE_MAX: usize = 64;
/// The longest way between zippers, in zippers.
pub const PATH_MAX: usize = 16;
/// The most entries of one table of interest.
pub const INTEREST_MAX: usize = 16 * 1024;

/// Enough for what precedes the payload of most data.
const HEAD_LEN: usize = 64;

/// The id of nobody: a source need not say who it is.
pub const NO_SOURCE: [u8; 32] = [0; 32];

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the message does.
    #[error("the message ends too early")]
    Truncated,
    /// There are bytes behind the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// A kind, role, policy or option byte that has no meaning.
    #[error("byte {0:#04x} has no meaning here")]
    Unknown(u8),
    /// A length or count above its maximum.
    #[error("a length of {len} is above the maximum of {max}")]
    TooLong {
        /// What was found.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// A number with leading zeros, or something that says nothing and need not be there.
    #[error("the message is not in its shortest form")]
    Redundant,
}

macro_rules! byte_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)* }

        impl $name {
            fn from_byte(byte: u8) -> Result<Self, WireError> {
                match byte {
                    $($value => Ok(Self::$variant),)*
                    _ => Err(WireError::Unknown(byte)),
                }
            }
        }
    };
}

byte_enum! {
    /// What the one that connects is.
    Role {
        /// Writes data.
        Source = 1,
        /// Observes tags.
        StreamFunction = 2,
        /// Another zipper.
        Zipper = 3,
    }
}

byte_enum! {
    /// How the instances of one name share the work.
    Policy {
        /// A local instance, else the one at the least distance.
        Nearest = 1,
        /// In turn.
        RoundRobin = 2,
        /// By chance.
        Random = 3,
        /// By the source of the message.
        Hash = 4,
        /// Every instance gets a copy.
        All = 5,
    }
}

/// Why a zipper does not let somebody in, as the code of [`WireMessage::Rejected`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// It broke the protocol.
    Malformed = 400,
    /// Its token is missing or wrong.
    Unauthorized = 401,
    /// It speaks another version.
    Version = 426,
}

/// How a client or zipper introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// See [`VERSION`].
    pub version: u8,
    /// What it is.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// What it shows to be let in.
    pub token: Option<String>,
    /// The tags that it observes.
    pub tags: Vec<Tag>,
    /// The target that it wants messages for.
    pub target: Option<String>,
    /// How it shares with others of its name.
    pub policy: Policy,
}

/// Who sent a message first, and which of its messages it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The id of the source; [`NO_SOURCE`] on the way to its zipper, which knows it.
    pub source: [u8; 32],
    /// Counts the messages of the source.
    pub sequence: u64,
}

/// A function that a message is forwarded for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The name of the function.
    pub name: String,
    /// The zipper that it is connected to.
    pub home: [u8; 32],
}

/// A message of a source, with what it takes to route it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// What kind of data it is.
    pub tag: Tag,
    /// Who sent it first.
    pub origin: Origin,
    /// How many more zippers may forward it.
    pub hops_left: u8,
    /// Only functions that want this target get it.
    pub target: Option<String>,
    /// The functions it is forwarded for; only between zippers.
    pub recipients: Vec<Recipient>,
    /// The zippers passed so far, each with its time in microseconds.
    pub trace: Option<Vec<(String, u64)>>,
    /// What was written; a slice of the bytes it was decoded from.
    pub payload: Bytes,
}

/// One function in a table of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterestEntry {
    /// The name of the function.
    pub name: String,
    /// The tags that it observes.
    pub tags: Vec<Tag>,
    /// The target that it wants messages for.
    pub target: Option<String>,
    /// How its instances share.
    pub policy: Policy,
    /// The zippers between: first the one that the function is connected to, last the one that
    /// says so.
    pub path: Vec<[u8; 32]>,
}

/// Any message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireMessage {
    /// The first message of whoever connects.
    Handshake(Handshake),
    /// The zipper lets it in.
    HandshakeAck {
        /// The name of the zipper.
        name: String,
        /// The id of its node.
        node: [u8; 32],
    },
    /// The zipper does not let it in.
    Rejected {
        /// Why, for programs.
        code: u16,
        /// Why, for people.
        message: String,
    },
    /// Whoever says it wants no more data. To a function that said so a zipper says it too, behind the
    /// last data.
    Goaway {
        /// Why.
        message: String,
    },
    /// A message of a source.
    Data(Data),
    /// All that a zipper has functions for; replaces what it said before.
    Interest {
        /// Rises with each table.
        generation: u64,
        /// The table.
        entries: Vec<InterestEntry>,
    },
}

impl Data {
    /// The bytes of [`WireMessage::Data`].
    pub fn encode(&self) -> Result<Bytes, WireError> {
        let mut out = Vec::with_capacity(HEAD_LEN + self.payload.len());
        self.header().encode(&mut out)?;
        out.extend_from_slice(&self.payload);
        Ok(out.into())
    }

    /// Reads what [`WireMessage::decode`] would read as [`WireMessage::Data`]; the payload is a slice of `bytes`.
    #[inline]
    pub fn decode(mut bytes: Bytes) -> Result<Self, WireError> {
        match get_u8(&mut bytes)? {
            data::DATA_KIND => data::get(bytes),
            other => Err(WireError::Unknown(other)),
        }
    }

    /// What precedes the payload.
    pub fn header(&self) -> MessageHeader<'_> {
        MessageHeader {
            tag: self.tag,
            origin: self.origin,
            hops_left: self.hops_left,
            target: self.target.as_deref(),
            recipients: &self.recipients,
            trace: self.trace.as_deref(),
        }
    }
}

impl WireMessage {
    /// The bytes of the message. Refuses what [`WireMessage::decode`] would refuse.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        let mut out = Vec::new();
        match self {
            Self::Handshake(shake) => {
                out.put_slice(&[1, shake.version, shake.role as u8]);
                put_text(&shake.name, &mut out)?;
                put_option(shake.token.as_deref(), &mut out)?;
                put_interest(&shake.tags, shake.target.as_deref(), shake.policy, &mut out)?;
            }
            Self::HandshakeAck { name, node } => {
                out.put_u8(2);
                put_text(name, &mut out)?;
                out.put_slice(node);
            }
            Self::Rejected { code, message } => {
                out.put_u8(3);
                out.put_u16(*code);
                put_text(message, &mut out)?;
            }
            Self::Goaway { message } => {
                out.put_u8(4);
                put_text(message, &mut out)?;
            }
            Self::Data(data) => return data.encode(),
            Self::Interest {
                generation,
                entries,
            } => {
                out.put_u8(6);
                out.put_u64(*generation);
                put_len(entries.len(), INTEREST_MAX, &mut out)?;
                for entry in entries {
                    put_text(&entry.name, &mut out)?;
                    put_interest(&entry.tags, entry.target.as_deref(), entry.policy, &mut out)?;
                    put_len(entry.path.len(), PATH_MAX, &mut out)?;
                    entry.path.iter().for_each(|node| out.put_slice(node));
                }
            }
        }
        Ok(out.into())
    }

    /// Reads a message; the payload of data is a slice of `bytes`.
    pub fn decode(mut bytes: Bytes) -> Result<Self, WireError> {
        let b = &mut bytes;
        let message = match get_u8(b)? {
            1 => {
                let (version, role) = (get_u8(b)?, Role::from_byte(get_u8(b)?)?);
                let (name, token) = (get_text(b)?, get_option(b)?);
                let (tags, target) = (get_tags(b)?, get_option(b)?);
                let policy = Policy::from_byte(get_u8(b)?)?;
                Self::Handshake(Handshake {
                    version,
                    role,
                    name,
                    token,
                    tags,
                    target,
                    policy,
                })
            }
            2 => Self::HandshakeAck {
                name: get_text(b)?,
                node: get_node(b)?,
            },
            3 => Self::Rejected {
                code: get_u16(b)?,
                message: get_text(b)?,
            },
            4 => Self::Goaway {
                message: get_text(b)?,
            },
            data::DATA_KIND => return Ok(Self::Data(data::get(bytes)?)),
            6 => {
                let generation = get_u64(b)?;
                let entries = get_list(b, INTEREST_MAX, |b| {
                    Ok(InterestEntry {
                        name: get_text(b)?,
                        tags: get_tags(b)?,
                        target: get_option(b)?,
                        policy: Policy::from_byte(get_u8(b)?)?,
                        path: get_list(b, PATH_MAX, get_node)?,
                    })
                })?;
                Self::Interest {
                    generation,
                    entries,
                }
            }
            other => return Err(WireError::Unknown(other)),
        };
        if bytes.is_empty() {
            Ok(message)
        } else {
            Err(WireError::Trailing(bytes.len()))
        }
    }
}

fn put_len(len: usize, max: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
    if len > max {
        return Err(WireError::TooLong { len, max });
    }
    out.put_u16(len as u16);
    Ok(())
}

fn put_text(text: &str, out: &mut Vec<u8>) -> Result<(), WireError> {
    put_len(text.len(), TEXT_LEN_MAX, out)?;
    out.put_slice(text.as_bytes());
    Ok(())
}

fn put_option(text: Option<&str>, out: &mut Vec<u8>) -> Result<(), WireError> {
    out.put_u8(u8::from(text.is_some()));
    text.map_or(Ok(()), |text| put_text(text, out))
}

fn put_interest(
    tags: &[Tag],
    target: Option<&str>,
    policy: Policy,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    put_len(tags.len(), TAGS_MAX, out)?;
    for tag in tags {
        out.put_u32(tag.0);
    }
    put_option(target, out)?;
    out.put_u8(policy as u8);
    Ok(())
}

fn get_u8(b: &mut Bytes) -> Result<u8, WireError> {
    b.try_get_u8().map_err(|_| WireError::Truncated)
}

fn get_u16(b: &mut Bytes) -> Result<u16, WireError> {
    b.try_get_u16().map_err(|_| WireError::Truncated)
}

fn get_u32(b: &mut Bytes) -> Result<u32, WireError> {
    b.try_get_u32().map_err(|_| WireError::Truncated)
}

fn get_u64(b: &mut Bytes) -> Result<u64, WireError> {
    b.try_get_u64().map_err(|_| WireError::Truncated)
}

fn get_node(b: &mut Bytes) -> Result<[u8; 32], WireError> {
    let mut node = [0; 32];
    b.try_copy_to_slice(&mut node)
        .map_err(|_| WireError::Truncated)?;
    Ok(node)
}

fn get_bool(b: &mut Bytes) -> Result<bool, WireError> {
    match get_u8(b)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(WireError::Unknown(other)),
    }
}

fn get_len(b: &mut Bytes, max: usize) -> Result<usize, WireError> {
    let len = usize::from(get_u16(b)?);
    if len > max {
        Err(WireError::TooLong { len, max })
    } else {
        Ok(len)
    }
}

fn get_text(b: &mut Bytes) -> Result<String, WireError> {
    let len = get_len(b, TEXT_LEN_MAX)?;
    let raw = b.get(..len).ok_or(WireError::Truncated)?;
    let text = std::str::from_utf8(raw)
        .map_err(|_| WireError::NotUtf8)?
        .to_owned();
    b.advance(len);
    Ok(text)
}

fn get_option(b: &mut Bytes) -> Result<Option<String>, WireError> {
    if get_bool(b)? {
        get_text(b).map(Some)
    } else {
        Ok(None)
    }
}

fn get_tags(b: &mut Bytes) -> Result<Vec<Tag>, WireError> {
    get_list(b, TAGS_MAX, |b| get_u32(b).map(Tag))
}

/// Grows with what is there, not with what the count promises.
fn get_list<T>(
    b: &mut Bytes,
    max: usize,
    mut item: impl FnMut(&mut Bytes) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let len = get_len(b, max)?;
    let mut list = Vec::new();
    for _ in 0..len {
        list.push(item(b)?);
    }
    Ok(list)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
