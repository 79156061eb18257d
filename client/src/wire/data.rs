//! The bytes of data: its head, written and read, and what most sources write, read where it lies.

use bytes::{Buf, BufMut, Bytes};

use super::{
    Data, NO_SOURCE, Origin, RECIPIENTS_MAX, Recipient, TRACE_MAX, WireError, get_list, get_node,
    get_text, get_u64, put_len, put_text,
};
use crate::tag::Tag;

/// The byte before data that tells it from other messages.
pub(super) const DATA_KIND: u8 = 5;

const HAS_SOURCE: u8 = 1;
const HAS_TARGET: u8 = 1 << 1;
const HAS_RECIPIENTS: u8 = 1 << 2;
const HAS_TRACE: u8 = 1 << 3;
const SEQUENCE_LEN_SHIFT: u8 = 4;
const FLAGS_NONE: u8 = 1 << 7;

/// What precedes the payload of data. See [`Data`].
#[derive(Debug, Clone, Copy)]
pub struct MessageHeader<'a> {
    /// What kind of data it is.
    pub tag: Tag,
    /// The source, and the message's number there.
    pub origin: Origin,
    /// How many more zippers it may pass.
    pub hops_left: u8,
    /// Which observers of the tag are meant; all if absent.
    pub target: Option<&'a str>,
    /// The groups and home zippers, if a zipper has chosen them.
    pub recipients: &'a [Recipient],
    /// The route so far, if it is traced.
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

/// How data begins; all that precedes its payload if there are no flags.
#[derive(Debug, Clone, Copy)]
pub struct ShortHeader([u8; 15], usize);

impl ShortHeader {
    /// For a source that says neither target nor trace.
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

    /// The header as it is sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// How data begins of which its zipper says only who sent it: all that precedes its payload.
#[derive(Debug, Clone, Copy)]
pub struct SourcedHeader([u8; 47], usize);

impl SourcedHeader {
    /// Of `source`, which is somebody.
    #[inline]
    pub fn new(tag: Tag, hops_left: u8, sequence: u64, source: &[u8; 32]) -> Self {
        debug_assert!(*source != NO_SOURCE, "a flag says that there is one");
        let ShortHeader(short, len) = ShortHeader::new(HAS_SOURCE, tag, hops_left, sequence);
        let mut bytes = [0; 47];
        bytes[..15].copy_from_slice(&short);
        bytes[len..len + 32].copy_from_slice(source);
        Self(bytes, len + 32)
    }

    #[inline]
    /// The header as it is sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

/// Data without anything that the flags tell of, as most sources write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainMessage {
    /// What kind of data it is.
    pub tag: Tag,
    /// The number of the message at its source.
    pub sequence: u64,
    /// Where the payload begins.
    pub payload_at: usize,
}

impl PlainMessage {
    /// Reads it where it lies; none if it is anything else, or nothing at all.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::read_with(bytes, 0)
    }

    /// Reads it where it lies, as it comes from a zipper: with who sent it first.
    pub fn read_sourced(bytes: &[u8]) -> Option<Self> {
        let plain = Self::read_with(bytes, HAS_SOURCE)?;
        let (source, _) = bytes.get(plain.payload_at..)?.split_first_chunk()?;
        (bytes[1] & HAS_SOURCE != 0 && *source != NO_SOURCE).then(|| Self {
            payload_at: plain.payload_at + source.len(),
            ..plain
        })
    }

    /// Reads what there is in any data, if no flags are set but the allowed ones.
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

/// Whether it is data, of whatever worth.
pub fn is_data(bytes: &[u8]) -> bool {
    bytes.first() == Some(&DATA_KIND)
}

/// Reads data behind the byte of its kind. What all data has is read where it lies, in one step: byte
/// by byte it took a twentieth of a hop of 64 B.
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
