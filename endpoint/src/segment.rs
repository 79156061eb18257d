//! A retained segment of a lane's stream: small messages with their lengths, or one large message.

use bytes::Bytes;
use selvedge_transport::FrameHeader;

use crate::recv_lane::DEFERRED_ALLOC_LEN_MAX;
use crate::varint;

/// The longest head of a message that is sent without a copy of its body.
pub(crate) const HEAD_LEN_MAX: usize = 14;

/// How many bytes of a lane's stream the header of a frame may carry: the length of a message below
/// 1 GiB, and its head.
pub(crate) const PREFIX_LEN_MAX: usize = 4 + HEAD_LEN_MAX;

/// A piece of a lane's stream, retained until it is acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) bytes: Bytes,
    /// If `bytes` are the body of one large message: its length and its head, which precede the body in the
    /// stream. Empty if `bytes` contain the lengths.
    prefix: Prefix,
}

/// The length of a large message and its head, or a part of them.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Prefix {
    bytes: [u8; 24],
    /// At most [`PREFIX_LEN_MAX`] in a piece.
    len: u8,
}

const _: () = assert!(8 + HEAD_LEN_MAX <= 24);

impl Prefix {
    pub(crate) const fn len(&self) -> usize {
        self.len as usize
    }

    /// Appends the prefix to a header with room for [`PREFIX_LEN_MAX`] more bytes.
    #[inline]
    pub(crate) fn write_to(&self, header: &mut FrameHeader) {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes;
        let first = [a, b, c, d, e, f, g, h];
        header.extend_by(first, self.len().min(8));
        if self.len() > 8 {
            header.extend(&self.bytes[8..self.len()]);
        }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    /// The bytes from `from` on, as far as a frame may carry them.
    #[inline]
    fn part(&self, from: usize, len_max: usize) -> Self {
        let len = (self.len() - from).min(PREFIX_LEN_MAX).min(len_max) as u8;
        let mut bytes = self.bytes;
        if from > 0 {
            bytes.rotate_left(from);
        }
        Self { bytes, len }
    }
}

impl Segment {
    /// Messages with their lengths.
    pub(crate) const fn encoded(bytes: Bytes) -> Self {
        let prefix = Prefix {
            bytes: [0; 24],
            len: 0,
        };
        Self { bytes, prefix }
    }

    /// One message in two parts. The head has at most [`HEAD_LEN_MAX`] bytes.
    pub(crate) fn message(head: &[u8], body: Bytes) -> Self {
        let (digits, digits_len) = varint::encoded((head.len() + body.len()) as u64);
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&digits);
        let len = digits_len + head.len();
        bytes[digits_len..len].copy_from_slice(head);
        let prefix = Prefix {
            bytes,
            len: len as u8,
        };
        Self {
            bytes: body,
            prefix,
        }
    }

    /// Whether this is one message, and `bytes` do not contain its length.
    #[inline]
    pub(crate) const fn is_message(&self) -> bool {
        self.prefix.len > 0
    }

    /// The one message that this is.
    pub(crate) fn into_message(self) -> Bytes {
        let digits = varint::read(self.prefix.as_slice()).map_or(0, |(_, digits)| digits);
        match &self.prefix.as_slice()[digits..] {
            [] => self.bytes,
            head => [head, &self.bytes].concat().into(),
        }
    }

    /// The length of the segment in the stream, in bytes.
    #[inline]
    pub(crate) const fn len(&self) -> u64 {
        (self.prefix.len() + self.bytes.len()) as u64
    }

    /// The content of one frame of at most `len_max` bytes, from the offset `within` on; `None` at the
    /// end of the segment.
    ///
    /// The length and the head of a large message are sent together with its body: a separate frame for the
    /// length of each message of 8 KiB would double the number of frames and halve the bytes per system
    /// call. They are sent separately if the body is cut and the receiver allocates memory for the message
    /// as soon as it has the length.
    #[inline]
    pub(crate) fn piece(&self, within: usize, len_max: usize) -> Option<(Prefix, Bytes)> {
        let prefix_len = self.prefix.len();
        let from = within.saturating_sub(prefix_len);
        let remaining = self.bytes.len().checked_sub(from)?;
        if within >= prefix_len {
            let len = remaining.min(len_max);
            let body = || (Prefix::default(), self.bytes.slice(from..from + len));
            return (len > 0).then(body);
        }
        let prefix = self.prefix.part(within, len_max);
        let is_whole = within + prefix.len() == prefix_len;
        let room = len_max - prefix.len();
        let len = match remaining {
            _ if !is_whole => 0,
            _ if prefix_len + remaining <= DEFERRED_ALLOC_LEN_MAX => remaining.min(room),
            _ if remaining <= room => remaining,
            _ => 0,
        };
        (prefix.len > 0).then(|| (prefix, self.bytes.slice(..len)))
    }

    /// The segment as it appears in the stream.
    #[cfg(test)]
    pub(crate) fn stream(&self) -> Vec<u8> {
        [self.prefix.as_slice(), &self.bytes].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn large(len: usize) -> Segment {
        Segment::message(&[], vec![9; len].into())
    }

    fn lens(segment: &Segment, within: usize, len_max: usize) -> Option<(usize, usize)> {
        let (prefix, body) = segment.piece(within, len_max)?;
        Some((prefix.len(), body.len()))
    }

    #[test]
    fn the_length_of_a_large_message_is_sent_with_its_body_unless_the_receiver_allocates_for_it() {
        let segment = large(10_000);
        assert_eq!(lens(&segment, 0, 8000), Some((2, 7998)));
        assert_eq!(lens(&segment, 8000, 8000), Some((0, 2002)));
        assert_eq!(lens(&segment, 10_002, 8000), None);
        let larger = large(DEFERRED_ALLOC_LEN_MAX + 1);
        assert_eq!(lens(&larger, 0, 8000), Some((4, 0)));
        assert_eq!(
            lens(&larger, 4, DEFERRED_ALLOC_LEN_MAX),
            Some((0, DEFERRED_ALLOC_LEN_MAX))
        );
        assert_eq!(
            lens(&larger, 4 + DEFERRED_ALLOC_LEN_MAX, 8000),
            Some((0, 1))
        );
        let whole = lens(&larger, 0, DEFERRED_ALLOC_LEN_MAX + 5);
        assert_eq!(whole, Some((4, DEFERRED_ALLOC_LEN_MAX + 1)));
    }

    proptest! {
        #[test]
        fn pieces_make_up_the_stream_wherever_they_are_cut(
            len in 1..40_000_usize,
            head in prop::option::of(prop::collection::vec(any::<u8>(), 0..=HEAD_LEN_MAX)),
            len_maxs in prop::collection::vec(1..20_000_usize, 1..8),
        ) {
            let bytes = Bytes::from_iter((0..len).map(|at| at as u8));
            let segment = match &head {
                Some(head) => Segment::message(head, bytes.clone()),
                None => Segment::encoded(bytes.clone()),
            };
            let mut expected = Vec::new();
            if let Some(head) = &head {
                varint::put((head.len() + len) as u64, &mut expected);
                expected.extend_from_slice(head);
                prop_assert_eq!(segment.clone().into_message(), [head, &bytes[..]].concat());
            }
            expected.extend_from_slice(&bytes);
            prop_assert_eq!(&segment.stream(), &expected);
            prop_assert_eq!(segment.len(), expected.len() as u64);
            let (mut stream, mut len_maxs) = (Vec::new(), len_maxs.into_iter().cycle());
            while let Some(len_max) = len_maxs.next()
                && let Some((prefix, body)) = segment.piece(stream.len(), len_max)
            {
                let mut header = FrameHeader::EMPTY;
                prefix.write_to(&mut header);
                prop_assert!(header.as_slice().len() <= PREFIX_LEN_MAX);
                let piece_len = header.as_slice().len() + body.len();
                prop_assert!((1..=len_max).contains(&piece_len));
                stream.extend_from_slice(header.as_slice());
                stream.extend_from_slice(&body);
            }
            prop_assert_eq!(stream, expected);
        }
    }
}
