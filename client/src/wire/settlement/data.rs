//! Messages with a payload: headers that are read in place and written without an allocation.

use bytes::{BufMut, Bytes};

use crate::settlement::GroupId;
use crate::wire::{TRACE_MAX, WireError, get_list, get_text, get_u64, put_len, put_text};

const MESSAGE_KIND: u8 = 0x21;
const RESENT_KIND: u8 = 0x22;

const IS_REDELIVERY: u8 = 1;
const HAS_DEPTH: u8 = 1 << 1;
const HAS_TRACE: u8 = 1 << 3;
const SEQUENCE_LEN_SHIFT: u8 = 4;
const FLAGS: u8 = IS_REDELIVERY | HAS_DEPTH | HAS_TRACE | 7 << SEQUENCE_LEN_SHIFT;

/// The longest header of a message: kind, flags, label, sequence, depth.
const ROUTED_LEN_MAX: usize = 2 + 4 + 8 + 1;
/// And of one that is sent again: group and token.
const RESENT_LEN_MAX: usize = ROUTED_LEN_MAX + 8;

/// The greatest depth of a message: after so many functions, further ones are not counted.
pub const MESSAGE_DEPTH_MAX: u8 = 127;

/// What the header of a message has beside its label and its number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageMarks {
    /// Whether another instance may have processed the message.
    pub is_redelivery: bool,
    /// Whether a trace precedes the payload.
    pub has_trace: bool,
    /// How many functions the message has passed, at most [`MESSAGE_DEPTH_MAX`].
    pub depth: u8,
}

/// The header of a message of a flow or route.
#[derive(Debug, Clone, Copy)]
pub struct RoutedHeader {
    bytes: [u8; 16],
    len: u8,
}

impl RoutedHeader {
    /// A header. A message with a trace has it in front of its payload.
    #[inline]
    #[must_use]
    pub fn new(label: u32, sequence: u64, marks: MessageMarks) -> Self {
        let (bytes, len) = header(MESSAGE_KIND, label, sequence, marks);
        let len = len as u8;
        Self { bytes, len }
    }

    /// The encoded header.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl AsRef<[u8]> for RoutedHeader {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// The header of a message that was requested for one group.
#[derive(Debug, Clone, Copy)]
pub struct ResentHeader {
    bytes: [u8; RESENT_LEN_MAX],
    len: u8,
}

impl ResentHeader {
    /// A header. A message with a trace has it in front of its payload.
    #[must_use]
    pub fn new(
        label: u32,
        sequence: u64,
        (group, token): (GroupId, u32),
        marks: MessageMarks,
    ) -> Self {
        let (first, len) = header(RESENT_KIND, label, sequence, marks);
        let mut bytes = [0; RESENT_LEN_MAX];
        bytes[..len].copy_from_slice(&first[..len]);
        bytes[len..len + 4].copy_from_slice(&group.0.to_be_bytes());
        bytes[len + 4..len + 8].copy_from_slice(&token.to_be_bytes());
        Self {
            bytes,
            len: len as u8 + 8,
        }
    }

    /// The encoded header.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

const fn flags(marks: MessageMarks) -> u8 {
    let redelivery = if marks.is_redelivery {
        IS_REDELIVERY
    } else {
        0
    };
    let depth = if marks.depth > 0 { HAS_DEPTH } else { 0 };
    redelivery | depth | if marks.has_trace { HAS_TRACE } else { 0 }
}

/// The fields that both headers have, and their length. They are composed in registers: bytes that are stored one by one
/// and then loaded together take 5 ns.
#[inline]
fn header(kind: u8, label: u32, sequence: u64, marks: MessageMarks) -> ([u8; 16], usize) {
    debug_assert!(marks.depth <= MESSAGE_DEPTH_MAX, "a reader refuses it");
    let leading = (sequence | 1).leading_zeros() / 8;
    let digits = 8 - leading;
    let flags = flags(marks) | (digits as u8 - 1) << SEQUENCE_LEN_SHIFT;
    let fixed = u128::from(kind) << 40 | u128::from(flags) << 32 | u128::from(label);
    let sequence = u128::from(sequence << (8 * leading));
    let depth = u128::from(marks.depth) << (72 - 8 * digits);
    let bytes = (fixed << 80 | sequence << 16 | depth).to_be_bytes();
    let len = 6 + digits + u32::from(marks.depth > 0);
    (bytes, len as usize)
}

/// A message of a flow or route, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutedMessage {
    /// The flow or route.
    pub label: u32,
    /// The number of the message in its flow.
    pub sequence: u64,
    /// Whether another instance may have processed it.
    pub is_redelivery: bool,
    /// Whether a trace precedes the payload.
    pub has_trace: bool,
    /// How many functions it has passed.
    pub depth: u8,
    /// The group and the request that it was sent again for.
    pub resent: Option<(GroupId, u32)>,
    /// Where the trace or the payload begins.
    pub body_at: usize,
}

impl RoutedMessage {
    /// Reads the header; `None` if the bytes are not a message of a flow or route in its only encoding.
    #[inline]
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (&[kind, flags, a, b, c, d], rest) = bytes.split_first_chunk()?;
        if !matches!(kind, MESSAGE_KIND | RESENT_KIND) || flags & !FLAGS != 0 {
            return None;
        }
        let len = usize::from(flags >> SEQUENCE_LEN_SHIFT) + 1;
        let digits = rest.get(..len)?;
        if digits[0] == 0 && len > 1 {
            return None;
        }
        let number = |number, &digit| number << 8 | u64::from(digit);
        let mut rest = &rest[len..];
        let depth = match flags & HAS_DEPTH {
            0 => 0,
            _ => {
                let (&depth, behind) = rest.split_first()?;
                rest = behind;
                Some(depth).filter(|it| (1..=MESSAGE_DEPTH_MAX).contains(it))?
            }
        };
        let mut message = Self {
            label: u32::from_be_bytes([a, b, c, d]),
            sequence: digits.iter().fold(0, number),
            is_redelivery: flags & IS_REDELIVERY != 0,
            has_trace: flags & HAS_TRACE != 0,
            depth,
            resent: None,
            body_at: bytes.len() - rest.len(),
        };
        if kind == RESENT_KIND {
            let (group, rest) = rest.split_first_chunk()?;
            let token = rest.first_chunk()?;
            message.resent = Some((
                GroupId(u32::from_be_bytes(*group)),
                u32::from_be_bytes(*token),
            ));
            message.body_at += 8;
        }
        Some(message)
    }

    /// The label of a message, whose other fields are not looked at: what a relay needs.
    #[inline]
    #[must_use]
    pub fn label_of(bytes: &[u8]) -> Option<u32> {
        match bytes.first_chunk()? {
            &[MESSAGE_KIND, _, a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
            _ => None,
        }
    }

    /// Whether a trace precedes the payload of a message with a label, see [`label_of`](Self::label_of).
    #[inline]
    #[must_use]
    pub fn has_trace_in(bytes: &[u8]) -> bool {
        bytes.get(1).is_some_and(|flags| flags & HAS_TRACE != 0)
    }

    /// The first bytes of a message under another label; the bytes from the sixth on follow them.
    ///
    /// `bytes` are those of a message with a label, see [`label_of`](Self::label_of).
    #[inline]
    #[must_use]
    pub fn relabelled(bytes: &[u8], label: u32) -> [u8; 6] {
        let [a, b, c, d] = label.to_be_bytes();
        [MESSAGE_KIND, bytes.get(1).copied().unwrap_or(0), a, b, c, d]
    }

    /// The trace and the payload of a message.
    ///
    /// # Errors
    /// [`WireError`] if there is a trace that cannot be decoded.
    pub fn split_body(&self, bytes: Bytes) -> Result<(Option<Trace>, Bytes), WireError> {
        let mut body = bytes.slice(self.body_at.min(bytes.len())..);
        let trace = match self.has_trace {
            true => Some(get_trace(&mut body)?),
            false => None,
        };
        Ok((trace, body))
    }
}

/// The names and times of the nodes that a message has passed.
type Trace = Vec<(String, u64)>;

fn get_trace(b: &mut Bytes) -> Result<Trace, WireError> {
    get_list(b, TRACE_MAX, |b| Ok((get_text(b)?, get_u64(b)?)))
}

/// Writes the trace in front of a payload with a further step, unless it has its largest length.
///
/// # Errors
/// [`WireError`] if the body does not begin with a trace, or the name is too long.
pub fn append_trace_step(body: Bytes, name: &str, micros: u64) -> Result<Bytes, WireError> {
    let mut payload = body;
    let mut trace = get_trace(&mut payload)?;
    if trace.len() < TRACE_MAX {
        trace.push((name.to_owned(), micros));
    }
    let mut out = Vec::with_capacity(payload.len() + 64 * trace.len());
    put_trace(&trace, &mut out)?;
    out.extend_from_slice(&payload);
    Ok(out.into())
}

/// Writes a trace, which precedes the payload.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn put_trace(trace: &[(String, u64)], out: &mut Vec<u8>) -> Result<(), WireError> {
    put_len(trace.len(), TRACE_MAX, out)?;
    for (name, micros) in trace {
        put_text(name, out)?;
        out.put_u64(*micros);
    }
    Ok(())
}
