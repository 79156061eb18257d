//! A retained segment of a lane's stream: small messages with their lengths, or one large message.

use bytes::Bytes;
use selvedge_transport::FrameHeader;

use crate::recv_lane::DEFERRED_ALLOC_LEN_MAX;
use crate::varint;

/// How many bytes of a lane's stream the header of a frame may carry: the length of a message below
/// 1 GiB.
pub(crate) const PREFIX_LEN_MAX: usize = 4;

/// A piece of a lane's stream, retained until it is acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) bytes: Bytes,
    /// Whether this is the payload of one large message, whose length precedes it in the stream
    /// only. Otherwise `bytes` contains the lengths.
    pub(crate) is_body: bool,
}

/// The length of a large message, or a part of it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Prefix {
    bytes: [u8; 8],
    /// At most [`PREFIX_LEN_MAX`].
    len: usize,
}

impl Prefix {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Appends the prefix to a header with room for [`PREFIX_LEN_MAX`] more bytes.
    #[inline]
    pub(crate) fn write_to(&self, header: &mut FrameHeader) {
        header.extend_by(self.bytes, self.len);
    }
}

impl Segment {
    /// The length of the segment in the stream, in bytes.
    #[inline]
    pub(crate) const fn len(&self) -> u64 {
        let len = self.bytes.len() as u64;
        match self.is_body {
            true => varint::len(len) as u64 + len,
            false => len,
        }
    }

    /// The content of one frame of at most `len_max` bytes, from the offset `within` on; `None` at the
    /// end of the segment.
    ///
    /// The length of a large message is sent together with its body: a separate frame for the length
    /// of each message of 8 KiB would double the number of frames and halve the bytes per system call.
    /// It is sent separately if the body is cut and the receiver allocates memory for the message as
    /// soon as it has the length.
    #[inline]
    pub(crate) fn piece(&self, within: usize, len_max: usize) -> Option<(Prefix, Bytes)> {
        let (digits, digits_len) = match self.is_body {
            true => varint::encoded(self.bytes.len() as u64),
            false => Default::default(),
        };
        let from = within.saturating_sub(digits_len);
        let remaining = self.bytes.len().checked_sub(from)?;
        if within >= digits_len {
            let len = remaining.min(len_max);
            let body = || (Prefix::default(), self.bytes.slice(from..from + len));
            return (len > 0).then(body);
        }
        let prefix = Prefix {
            bytes: (u64::from_be_bytes(digits) << (8 * within)).to_be_bytes(),
            len: (digits_len - within).min(PREFIX_LEN_MAX).min(len_max),
        };
        let is_whole = within + prefix.len == digits_len;
        let room = len_max - prefix.len;
        let len = match remaining {
            _ if !is_whole => 0,
            ..=DEFERRED_ALLOC_LEN_MAX => remaining.min(room),
            _ if remaining <= room => remaining,
            _ => 0,
        };
        (prefix.len > 0).then(|| (prefix, self.bytes.slice(..len)))
    }

    /// The segment as it appears in the stream.
    #[cfg(test)]
    pub(crate) fn stream(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        if self.is_body {
            varint::put(self.bytes.len() as u64, &mut stream);
        }
        stream.extend_from_slice(&self.bytes);
        stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn large(len: usize) -> Segment {
        Segment {
            bytes: vec![9; len].into(),
            is_body: true,
        }
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
            is_body: bool,
            len_maxs in prop::collection::vec(1..20_000_usize, 1..8),
        ) {
            let bytes = Bytes::from_iter((0..len).map(|at| at as u8));
            let segment = Segment { bytes, is_body };
            let expected = segment.stream();
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
