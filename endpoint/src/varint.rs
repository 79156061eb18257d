//! Variable-length integers of RFC 9000, section 16: 1, 2, 4 or 8 bytes, up to 2^62 - 1.

use bytes::{Buf, BufMut, BytesMut};

/// The largest number that can be encoded.
pub(crate) const VARINT_MAX: u64 = (1 << 62) - 1;

/// The encoded length of `value`, in bytes.
pub(crate) const fn len(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

/// Encodes `value` in its shortest form. Values above [`VARINT_MAX`] do not occur: they would be
/// byte counts of more than four exabytes.
pub(crate) fn put(value: u64, out: &mut impl BufMut) {
    debug_assert!(value <= VARINT_MAX, "{value} is beyond a varint");
    match len(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(0x4000 | value as u16),
        4 => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value),
    }
}

/// Appends `value` in its shortest form to a buffer with sufficient capacity. Each form is one store,
/// since the length of each copy is a constant.
#[inline]
pub(crate) fn append(value: u64, out: &mut BytesMut) {
    debug_assert!(value <= VARINT_MAX, "{value} is beyond a varint");
    match len(value) {
        1 => out.extend_from_slice(&[value as u8]),
        2 => out.extend_from_slice(&(0x4000 | value as u16).to_be_bytes()),
        4 => out.extend_from_slice(&(0x8000_0000 | value as u32).to_be_bytes()),
        _ => out.extend_from_slice(&(0xc000_0000_0000_0000 | value).to_be_bytes()),
    }
}

/// Encodes `value` in its shortest form, as an array and the number of bytes used, without a branch
/// per form.
#[inline]
pub(crate) const fn encoded(value: u64) -> ([u8; 8], usize) {
    debug_assert!(value <= VARINT_MAX, "it is beyond a varint");
    let len = len(value);
    let form = len.trailing_zeros() as u64;
    let at_front = value << (64 - 8 * len);
    ((form << 62 | at_front).to_be_bytes(), len)
}

/// The length of a varint that begins with the byte `first`.
pub(crate) const fn len_from_first(first: u8) -> usize {
    1 << (first >> 6)
}

/// Decodes a varint; `None` if it is truncated. Forms longer than necessary are accepted, as in QUIC.
pub(crate) fn get(bytes: &mut impl Buf) -> Option<u64> {
    debug_assert_eq!(
        bytes.chunk().len(),
        bytes.remaining(),
        "the buffer is contiguous"
    );
    let (value, len) = read(bytes.chunk())?;
    bytes.advance(len);
    Some(value)
}

/// Decodes the varint at the front, and returns its length, too. Each form is one load.
#[inline]
pub(crate) fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    Some(match len_from_first(first) {
        1 => (u64::from(first), 1),
        2 => (
            u64::from(u16::from_be_bytes(*bytes.first_chunk()?) & 0x3fff),
            2,
        ),
        4 => (
            u64::from(u32::from_be_bytes(*bytes.first_chunk()?) & 0x3fff_ffff),
            4,
        ),
        _ => (u64::from_be_bytes(*bytes.first_chunk()?) & VARINT_MAX, 8),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_encoded_value_decodes_to_itself(value in 0..=VARINT_MAX) {
            let mut out = Vec::new();
            put(value, &mut out);
            prop_assert_eq!(out.len(), len(value));
            let mut appended = BytesMut::new();
            append(value, &mut appended);
            prop_assert_eq!(&appended, &out);
            let (bytes, len) = encoded(value);
            prop_assert_eq!(&bytes[..len], &out);
            prop_assert_eq!(len_from_first(out[0]), out.len());
            prop_assert_eq!(get(&mut out.as_slice()), Some(value));
            prop_assert_eq!(get(&mut &out[..out.len() - 1]), None);
        }
    }

    #[test]
    fn the_examples_of_the_rfc_decode_to_their_values() {
        let read = |bytes: &[u8]| get(&mut &bytes[..]);
        assert_eq!(read(&[0x25]), Some(37));
        assert_eq!(read(&[0x40, 0x25]), Some(37));
        assert_eq!(read(&[0x7b, 0xbd]), Some(15293));
        assert_eq!(read(&[0x9d, 0x7f, 0x3e, 0x7d]), Some(494_878_333));
        assert_eq!(
            read(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
            Some(151_288_809_941_952_652)
        );
    }
}
