//! The messages between clients and zippers, and among zippers.
//!
//! The session below keeps message boundaries and delivers exactly once, so there is no framing.
//! Numbers are big-endian. A text is its length in 2 bytes and its UTF-8. An optional value (`?`) is
//! preceded by a byte, 0 or 1; the part in brackets of an acknowledgement is present if bytes are
//! left.
//!
//! ```text
//! Handshake     01 | version 1B | role 1B | name | token? | n 2B | n × tag 4B | target? | policy 1B
//! HandshakeAck  02 | name | node 32B | [version 1B | features 8B]
//! VersionOffer  02 | 0000 | "selvedge/offer" | min 1B | max 1B | features 8B | required 8B
//! Rejected      03 | code 2B | text
//! Goaway        04 | text
//! Data          05 | flags 1B | tag 4B | hops left 1B | sequence 1 to 8B | [source 32B] | [target]
//!                  | [n 2B, n × (name, home 32B)] | [n 2B, n × (trace: name, micros 8B)] | payload ...
//! Interest      06 | generation 8B | n 2B | n × entry
//! InterestDelta 07 | number 8B | n 2B | n × entry | n 2B | n × (name, target?, home 32B)
//! (of instances) 08 | number 8B | n 2B | n × (entry, custody) | n 2B | n × (name, target?, home 32B)
//! entry            name | n 2B | n × tag 4B | target? | policy 1B | n 2B | n × node 32B
//! custody          00, or 01 | instances, or 02 (drop the oldest), or 03 (drop the newest)
//! instances        redelivers 1B | n 2B | n × instance 8B | n 2B | n × disconnected instance 8B
//! AdminRequest  10 | id 4B | query 1B | position: n 2B, n bytes
//! AdminReply    11 | id 4B | 00 | n 2B | n × (n 1B, n × (name, kind 1B, value)) | position?
//!               11 | id 4B | 01 | code 2B | text
//! Denial        12 | permission 1B | n 2B | n × tag 4B
//! ```
//!
//! Each message has exactly one encoding. Most sources write data with a short header: 8 to 15 bytes
//! before the payload. A part of data in brackets is present if its flag is set, and an absent part
//! means that there is no such value:
//!
//! ```text
//! flags   0 | bytes of the sequence - 1 | trace | recipients | target | source
//! bit     7 | 6                       4 | 3     | 2          | 1      | 0
//! ```
//!
//! # Versions
//!
//! The connecting side sends a [`VersionOffer`] before its handshake: the range of versions that it
//! speaks, the features that it implements, and the features that it requires of the other side.
//! The zipper selects the highest version that is in both ranges and the features that both sides
//! implement, and answers with them in its acknowledgement ([`Negotiated`]).
//!
//! - A feature bit that the receiver does not know is ignored unless the sender requires it.
//! - A required feature that the receiver lacks, or ranges without a common version, end the
//!   connection with a rejection that names both ranges ([`VersionError`]).
//! - A message or field that depends on a feature or on a newer version is sent only after the
//!   acknowledgement has selected it. No peer has to skip what it cannot read.
//! - Each side of a pair of zippers sends an offer. Both compute the same result.
//!
//! ## Version 2
//!
//! Version 2 has no offers, and its decoder refuses unknown kinds and trailing bytes. It ignores an
//! acknowledgement that it did not expect, however. An offer therefore has the layout of such an
//! acknowledgement: an empty name, and 32 bytes that begin with a mark instead of a node key. The
//! version byte of the handshake is the lowest version of the range, so a zipper of version 2
//! accepts the handshake if the range includes 2. Its acknowledgement has no [`Negotiated`] part:
//! the version is 2, without features. A client of version 2 sends no offer and receives that form.
//!
//! | connecting side | zipper | result |
//! |---|---|---|
//! | offer, handshake | of version 3 or later | highest common version, common features |
//! | offer, handshake | of version 2, ignores the offer | version 2, no features |
//! | handshake of version 2 | of version 3 or later | version 2, no features |

use std::fmt;

use bytes::{Buf, BufMut, Bytes};

use crate::tag::Tag;

mod admin;
mod data;
mod denial;
mod interest;
pub mod settlement;
mod versions;

pub use admin::{
    AdminQuery, AdminReply, AdminRequest, AdminRow, AdminValue, CURSOR_LEN_MAX, FEATURE_ADMIN,
    PAGE_ROWS_MAX, REPLY_LEN_MAX, ROW_FIELDS_MAX, TEXTS_MAX,
};
pub use data::{MessageHeader, PlainMessage, ShortHeader, SourcedHeader, is_data};
pub use denial::{Denial, FEATURE_DENIALS, Permission};
pub use interest::{
    INTEREST_DELTA_LEN_MAX, INTEREST_MAX, InterestDelta, InterestEntry, ListedInstances,
    WithdrawnRoute,
};
pub use versions::{
    FEATURES, INTEREST_DELTAS, Negotiated, VERSION, VERSION_MIN, VersionError, VersionOffer,
};

/// The public key of a node, which identifies it.
pub type NodeKey = [u8; 32];

/// The longest text (a name, a token, a target or a reason), in bytes.
pub const TEXT_LEN_MAX: usize = 1024;
/// The largest number of tags that one function observes.
pub const TAGS_MAX: usize = 1024;
/// The largest number of recipients of one forwarded message.
pub const RECIPIENTS_MAX: usize = 1024;
/// The largest number of steps in one trace.
pub const TRACE_MAX: usize = 64;
/// The longest path between two zippers, in zippers.
pub const PATH_MAX: usize = 16;
/// The longest handshake, in bytes: kind, version, role and policy; name, token, tags and target with
/// their lengths.
pub const HANDSHAKE_LEN_MAX: usize =
    4 + (2 + TEXT_LEN_MAX) + 2 * (1 + 2 + TEXT_LEN_MAX) + (2 + 4 * TAGS_MAX);

/// The key of no node: stands for the source on the connection of the source itself.
pub const NO_SOURCE: NodeKey = [0; 32];

/// Why bytes cannot be decoded, or a message cannot be encoded. A retry does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end within the message.
    #[error("the message is truncated")]
    Truncated,
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// A byte that is not a known kind, role, policy, flag or option.
    #[error("unknown value {0:#04x}")]
    Unknown(u8),
    /// A length or count above its maximum.
    #[error("a length of {len} is above the maximum of {max}")]
    TooLong {
        /// The length or count.
        len: usize,
        /// The maximum.
        max: usize,
    },
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// A number with leading zeros, or a part that is present but empty.
    #[error("the message is not in its shortest encoding")]
    Redundant,
}

macro_rules! byte_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)* }

        impl $name {
            pub(in crate::wire) fn from_byte(byte: u8) -> Result<Self, WireError> {
                match byte {
                    $($value => Ok(Self::$variant),)*
                    _ => Err(WireError::Unknown(byte)),
                }
            }
        }
    };
}

// Behind the macro, which it uses.
mod policy;

pub use policy::{DropPolicy, Policy};

byte_enum! {
    /// The role of the connecting side.
    Role {
        /// A client that writes data.
        Source = 1,
        /// A client that observes tags, and may write data.
        StreamFunction = 2,
        /// Another zipper.
        Zipper = 3,
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::StreamFunction => "function",
            Self::Zipper => "zipper",
        })
    }
}

/// Why a zipper refuses a peer: the code of [`WireMessage::Rejected`]. Unless stated otherwise, a retry
/// does not help before the peer is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The peer violated the protocol.
    Malformed = 400,
    /// The token is missing or wrong.
    Unauthorized = 401,
    /// The key is not trusted for the role, or token and key permit nothing of what the peer is for.
    Forbidden = 403,
    /// The function has stalled, and has held a source back. A retry helps once it reads again.
    Stalled = 408,
    /// The peers have no protocol version in common.
    Version = 426,
    /// A protocol feature that one side requires is missing on the other side.
    Feature = 428,
    /// Wrong tokens came from the network of the peer. A retry helps after the time in the message.
    Throttled = 429,
    /// The zipper has its maximum of clients, or no room for another function of that name or for as many
    /// tags. A retry helps once others have left.
    Full = 503,
}

impl Rejection {
    /// Whether the same peer may be admitted later.
    pub(crate) const fn is_temporary(code: u16) -> bool {
        code == Self::Full as u16 || code == Self::Throttled as u16
    }
}

/// The introduction of the connecting side, which may follow a [`VersionOffer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The lowest version that the sender speaks: with an offer, its [`VersionOffer::min`].
    pub version: u8,
    /// The role of the sender.
    pub role: Role,
    /// The name of the sender. Functions with one name share the work.
    pub name: String,
    /// The token that authorizes the sender.
    pub token: Option<String>,
    /// The tags that the sender observes.
    pub tags: Vec<Tag>,
    /// The target whose messages the sender receives.
    pub target: Option<String>,
    /// How messages are distributed among the functions of that name.
    pub policy: Policy,
}

/// The source of a message, and the number that the source gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The key of the source. On the connection of the source itself it is [`NO_SOURCE`], since the
    /// session has authenticated that key.
    pub source: NodeKey,
    /// The number of the message at its source.
    pub sequence: u64,
}

/// A function that a message is forwarded to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The name of the function.
    pub name: String,
    /// The zipper to which the function is connected.
    pub home: NodeKey,
}

/// A message of a source, with the fields that route it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// The tag, which functions select messages by.
    pub tag: Tag,
    /// The source, and the number of the message there.
    pub origin: Origin,
    /// How many more zippers may forward the message.
    pub hops_left: u8,
    /// The target: only functions with this target receive the message.
    pub target: Option<String>,
    /// The functions that the message is forwarded to; empty except between zippers.
    pub recipients: Vec<Recipient>,
    /// The steps so far, each with its time in microseconds since 1970, if the message is traced.
    pub trace: Option<Vec<(String, u64)>>,
    /// The payload: a slice of the bytes that were decoded.
    pub payload: Bytes,
}

/// Any message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireMessage {
    /// The connecting side introduces itself.
    Handshake(Handshake),
    /// The versions and features that the connecting side speaks; precedes its handshake.
    VersionOffer(VersionOffer),
    /// The zipper admits the connecting side.
    HandshakeAck {
        /// The name of the zipper.
        name: String,
        /// The key of the zipper.
        node: NodeKey,
        /// The selected version and features, if the connecting side sent an offer.
        negotiated: Option<Negotiated>,
    },
    /// The zipper refuses the connecting side and closes the connection.
    Rejected {
        /// The reason for programs, see [`Rejection`].
        code: u16,
        /// The reason for people.
        message: String,
    },
    /// The sender wants no more data. A zipper answers a function with the same message on the data
    /// lane, behind the last data.
    Goaway {
        /// The reason for people.
        message: String,
    },
    /// A message of a source.
    Data(Data),
    /// All functions that a zipper reaches; replaces its previous table.
    Interest {
        /// Increases with each table.
        generation: u64,
        /// The table.
        entries: Vec<InterestEntry>,
    },
    /// A change of the functions that a zipper reaches, if [`INTEREST_DELTAS`] was negotiated.
    InterestDelta(InterestDelta),
    /// An operator asks a zipper; only with the feature [`FEATURE_ADMIN`].
    AdminRequest(AdminRequest),
    /// The answer to an operator.
    AdminReply(AdminReply),
    /// A client lacks a permission; only with the feature [`FEATURE_DENIALS`].
    Denial(Denial),
}

impl WireMessage {
    /// The name of the kind, for logs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "Handshake",
            Self::VersionOffer(_) => "VersionOffer",
            Self::HandshakeAck { .. } => "HandshakeAck",
            Self::Rejected { .. } => "Rejected",
            Self::Goaway { .. } => "Goaway",
            Self::Data(_) => "Data",
            Self::Interest { .. } => "Interest",
            Self::InterestDelta(_) => "InterestDelta",
            Self::AdminRequest(_) => "AdminRequest",
            Self::AdminReply(_) => "AdminReply",
            Self::Denial(_) => "Denial",
        }
    }

    /// Encodes the message.
    ///
    /// # Errors
    /// [`WireError`] for what [`WireMessage::decode`] would refuse.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        let mut out = Vec::new();
        match self {
            Self::Handshake(it) => {
                out.put_slice(&[1, it.version, it.role as u8]);
                put_text(&it.name, &mut out)?;
                put_option(it.token.as_deref(), &mut out)?;
                put_interest(&it.tags, it.target.as_deref(), it.policy, &mut out)?;
            }
            Self::HandshakeAck {
                name,
                node,
                negotiated,
            } => {
                out.put_u8(2);
                put_text(name, &mut out)?;
                out.put_slice(node);
                if let Some(it) = negotiated {
                    it.encode_into(&mut out);
                }
            }
            Self::VersionOffer(offer) => {
                out.put_u8(2);
                offer.encode_into(&mut out);
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
                interest::put_entries(entries, &mut out)?;
            }
            Self::InterestDelta(delta) => {
                out.put_u8(delta.kind_byte());
                delta.encode_into(&mut out)?;
            }
            Self::AdminRequest(it) => {
                out.put_u8(0x10);
                it.put(&mut out)?;
            }
            Self::AdminReply(it) => {
                out.put_u8(0x11);
                it.put(&mut out)?;
            }
            Self::Denial(it) => {
                out.put_u8(0x12);
                it.put(&mut out)?;
            }
        }
        Ok(out.into())
    }

    /// Decodes a message. The payload of data is a slice of `bytes`.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(mut bytes: Bytes) -> Result<Self, WireError> {
        let b = &mut bytes;
        let message = match get_u8(b)? {
            1 => Self::Handshake(get_handshake(b)?),
            2 => get_ack(b)?,
            3 => Self::Rejected {
                code: get_u16(b)?,
                message: get_text(b)?,
            },
            4 => Self::Goaway {
                message: get_text(b)?,
            },
            data::DATA_KIND => return Ok(Self::Data(data::get(bytes)?)),
            6 => Self::Interest {
                generation: get_u64(b)?,
                entries: interest::get_entries(b)?,
            },
            kind @ (interest::DELTA_KIND | interest::LISTING_DELTA_KIND) => {
                Self::InterestDelta(InterestDelta::decode(b, kind)?)
            }
            0x10 => Self::AdminRequest(AdminRequest::get(b)?),
            0x11 => Self::AdminReply(AdminReply::get(b)?),
            0x12 => Self::Denial(Denial::get(b)?),
            other => return Err(WireError::Unknown(other)),
        };
        if bytes.is_empty() {
            Ok(message)
        } else {
            Err(WireError::Trailing(bytes.len()))
        }
    }
}

fn get_handshake(b: &mut Bytes) -> Result<Handshake, WireError> {
    Ok(Handshake {
        version: get_u8(b)?,
        role: Role::from_byte(get_u8(b)?)?,
        name: get_text(b)?,
        token: get_option(b)?,
        tags: get_tags(b)?,
        target: get_option(b)?,
        policy: Policy::from_byte(get_u8(b)?)?,
    })
}

fn get_ack(b: &mut Bytes) -> Result<WireMessage, WireError> {
    let (name, node) = (get_text(b)?, get_node(b)?);
    let negotiated = Negotiated::decode(b)?;
    let offer = match negotiated {
        None => VersionOffer::from_ack(&name, &node),
        Some(_) => None,
    };
    Ok(match offer {
        Some(offer) => WireMessage::VersionOffer(offer),
        None => WireMessage::HandshakeAck {
            name,
            node,
            negotiated,
        },
    })
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

fn get_node(b: &mut Bytes) -> Result<NodeKey, WireError> {
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

/// Allocates for the items that are present, not for the declared count.
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
