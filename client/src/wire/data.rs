//! The encoding of data: headers, and the short headers of most messages, which are read in place.

use bytes::{Buf, BufMut, Bytes};

use super::{
    Data, NO_SOURCE, Origin, RECIPIENTS_MAX, Recipient, TRACE_MAX, WireError, get_list, get_node,
    get_text, get_u8, get_u64, put_len, put_text,
};
use crate::tag::Tag;

/// The kind byte of data.
pub(super) const DATA_KIND: u8 = 5;

const HAS_SOURCE: u8 = 1;
const HAS_TARGET: u8 = 1 << 1;
const HAS_RECIPIENTS: u8 = 1 << 2;
const HAS_TRACE: u8 = 1 << 3;
const SEQUENCE_LEN_SHIFT: u8 = 4;
const FLAGS_NONE: u8 = 1 << 7;

/// The buffer size that holds most headers.
const HEADER_CAPACITY: usize = 64;

impl Data {
    /// Encodes the message as [`WireMessage::Data`](super::WireMessage::Data).
    ///
    /// # Errors
    /// [`WireError::TooLong`] for texts and lists above their limits.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        let mut out = Vec::with_capacity(HEADER_CAPACITY + self.payload.len());
        self.header().encode(&mut out)?;
        out.extend_from_slice(&self.payload);
        Ok(out.into())
    }

    /// Decodes what [`WireMessage::decode`](super::WireMessage::decode) would decode as data. The
    /// payload is a slice of `bytes`.
    ///
    /// # Errors
    /// [`WireError`].
    #[inline]
    pub fn decode(mut bytes: Bytes) -> Result<Self, WireError> {
        match get_u8(&mut bytes)? {
            DATA_KIND => get(bytes),
            other => Err(WireError::Unknown(other)),
        }
    }

    /// The header, which precedes the payload.
    #[must_use]
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

/// The header, which precedes the payload of [`Data`].
#[derive(Debug, Clone, Copy)]
pub struct MessageHeader<'a> {
    /// The tag.
    pub tag: Tag,
    /// The source, and the number of the message there.
    pub origin: Origin,
    /// How many more zippers may forward the message.
    pub hops_left: u8,
    /// The target; without one, all observers of the tag receive the message.
    pub target: Option<&'a str>,
    /// The functions and their home zippers, if a zipper has selected them.
    pub recipients: &'a [Recipient],
    /// The steps so far, if the message is traced.
    pub trace: Option<&'a [(String, u64)]>,
}

impl MessageHeader<'_> {
    /// Appends the encoded header to `out`.
    ///
    /// # Errors
    /// [`WireError`] for texts and lists that are too long; `out` is unspecified then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let has = |is_present: bool, flag: u8| if is_present { flag } else { 0 };
        let flags = has(self.origin.source != NO_SOURCE, HAS_SOURCE)
            | has(self.target.is_some(), HAS_TARGET)
            | has(!self.recipients.is_empty(), HAS_RECIPIENTS)
            | has(self.trace.is_some(), HAS_TRACE);
        let short = ShortHeader::new(flags, self.tag, self.hops_left, self.origin.sequence);
        out.extend_from_slice(short.bytes());
        if self.origin.source != NO_SOURCE {
            out.extend_from_slice(&self.origin.source);
        }
        if let Some(target) = self.target {
            put_text(target, out)?;
        }
        if !self.recipients.is_empty() {
            put_len(self.recipients.len(), RECIPIENTS_MAX, out)?;
        }
        for recipient in self.recipients {
            put_text(&recipient.name, out)?;
            out.extend_from_slice(&recipient.home);
        }
        if let Some(trace) = self.trace {
            put_len(trace.len(), TRACE_MAX, out)?;
            for (name, micros) in trace {
                put_text(name, out)?;
                out.put_u64(*micros);
            }
        }
        Ok(())
    }
}

/// The first fields of data, and its whole header if no flag is set.
#[derive(Debug, Clone, Copy)]
pub struct ShortHeader([u8; 15], usize);

impl ShortHeader {
    /// The header of a message without target and trace, on the connection of its source.
    #[must_use]
    pub fn plain(tag: Tag, hops_left: u8, sequence: u64) -> Self {
        Self::new(0, tag, hops_left, sequence)
    }

    #[inline]
    fn new(flags: u8, tag: Tag, hops_left: u8, sequence: u64) -> Self {
        let skipped = (sequence.leading_zeros() / 8).min(7);
        let mut bytes = [0; 15];
        bytes[0] = DATA_KIND;
        bytes[1] = flags | (7 - skipped as u8) << SEQUENCE_LEN_SHIFT;
        bytes[2..6].copy_from_slice(&tag.0.to_be_bytes());
        bytes[6] = hops_left;
        bytes[7..].copy_from_slice(&(sequence << (8 * skipped)).to_be_bytes());
        Self(bytes, 15 - skipped as usize)
    }

    /// The encoded header.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// The header of data whose only optional part is its source, as zippers send it to most functions.
#[derive(Debug, Clone, Copy)]
pub struct SourcedHeader([u8; 47], usize);

impl SourcedHeader {
    /// The header of a message of `source`, which is not [`NO_SOURCE`].
    #[inline]
    pub fn new(tag: Tag, hops_left: u8, sequence: u64, source: &[u8; 32]) -> Self {
        debug_assert!(*source != NO_SOURCE, "the flag announces a source");
        let ShortHeader(short, len) = ShortHeader::new(HAS_SOURCE, tag, hops_left, sequence);
        let mut bytes = [0; 47];
        bytes[..15].copy_from_slice(&short);
        bytes[len..len + 32].copy_from_slice(source);
        Self(bytes, len + 32)
    }

    /// The encoded header.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// The fields of data without optional parts, as most sources write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainMessage {
    /// The tag.
    pub tag: Tag,
    /// The number of the message at its source.
    pub sequence: u64,
    /// The offset of the payload.
    pub payload_at: usize,
}

impl PlainMessage {
    /// Reads data that has no optional part, in place. Returns `None` for anything else.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::read_with(bytes, 0)
    }

    /// Reads data whose only optional part is its source, in place. Returns `None` for anything else.
    #[must_use]
    pub fn read_sourced(bytes: &[u8]) -> Option<Self> {
        let plain = Self::read_with(bytes, HAS_SOURCE)?;
        let (source, _) = bytes.get(plain.payload_at..)?.split_first_chunk()?;
        (bytes[1] & HAS_SOURCE != 0 && *source != NO_SOURCE).then(|| Self {
            payload_at: plain.payload_at + source.len(),
            ..plain
        })
    }

    /// The key of the source of a message that was read by [`read_sourced`](Self::read_sourced) from `bytes`.
    #[must_use]
    pub fn source_in(&self, bytes: &[u8]) -> [u8; 32] {
        let before = bytes.get(..self.payload_at);
        let source = before.and_then(<[u8]>::last_chunk);
        source.copied().unwrap_or(NO_SOURCE)
    }

    /// Reads the mandatory fields, if only allowed flags are set.
    #[inline(always)]
    fn read_with(bytes: &[u8], allowed: u8) -> Option<Self> {
        let (&[DATA_KIND, flags, a, b, c, d, _hops_left], rest) = bytes.split_first_chunk()? else {
            return None;
        };
        let len = usize::from(flags >> SEQUENCE_LEN_SHIFT) + 1;
        let digits = rest.get(..len)?;
        let others = flags & !(7 << SEQUENCE_LEN_SHIFT | allowed);
        let is_plain = others == 0 && (digits[0] > 0 || len == 1);
        is_plain.then(|| Self {
            tag: Tag(u32::from_be_bytes([a, b, c, d])),
            sequence: number(digits),
            payload_at: 7 + len,
        })
    }
}

fn number(digits: &[u8]) -> u64 {
    digits
        .iter()
        .fold(0, |number, &digit| number << 8 | u64::from(digit))
}

/// Whether the bytes begin like data. They may be malformed.
#[must_use]
pub fn is_data(bytes: &[u8]) -> bool {
    bytes.first() == Some(&DATA_KIND)
}

/// Decodes data behind the kind byte. The mandatory fields are read in one step: reading them byte by
/// byte took 5 % of the time of a 64 B hop.
#[inline]
pub(super) fn get(mut bytes: Bytes) -> Result<Data, WireError> {
    let flags = *bytes.first().ok_or(WireError::Truncated)?;
    if flags & FLAGS_NONE != 0 {
        return Err(WireError::Unknown(flags));
    }
    let has = |flag: u8| flags & flag != 0;
    let fixed = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
    let (&[_, a, b, c, d, hops_left], rest) = fixed;
    let tag = Tag(u32::from_be_bytes([a, b, c, d]));
    let len = usize::from(flags >> SEQUENCE_LEN_SHIFT) + 1;
    let (digits, rest) = rest.split_at_checked(len).ok_or(WireError::Truncated)?;
    if digits[0] == 0 && len > 1 {
        return Err(WireError::Redundant);
    }
    let sequence = number(digits);
    let source = match has(HAS_SOURCE) {
        true => *rest.first_chunk().ok_or(WireError::Truncated)?,
        false => NO_SOURCE,
    };
    bytes.advance(6 + len + if has(HAS_SOURCE) { source.len() } else { 0 });
    let b = &mut bytes;
    let target = match has(HAS_TARGET) {
        true => Some(get_text(b)?),
        false => None,
    };
    let recipients = match has(HAS_RECIPIENTS) {
        true => get_list(b, RECIPIENTS_MAX, |b| {
            Ok(Recipient {
                name: get_text(b)?,
                home: get_node(b)?,
            })
        })?,
        false => Vec::new(),
    };
    let trace = match has(HAS_TRACE) {
        true => Some(get_list(b, TRACE_MAX, |b| Ok((get_text(b)?, get_u64(b)?)))?),
        false => None,
    };
    if has(HAS_SOURCE) && source == NO_SOURCE || has(HAS_RECIPIENTS) && recipients.is_empty() {
        return Err(WireError::Redundant);
    }
    Ok(Data {
        tag,
        origin: Origin { source, sequence },
        hops_left,
        target,
        recipients,
        trace,
        payload: bytes,
    })
}
