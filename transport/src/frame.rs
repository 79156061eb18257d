//! The frames that a transport carries, and the traits that supply and receive them.

use bytes::{BufMut, Bytes, BytesMut};

/// The maximum number of lanes between two nodes.
pub const LANES_MAX: usize = 32;

/// The ordering and reliability that a frame requires.
///
/// A reliable transport delivers all frames of one order (control, or one lane) in the order in
/// which it accepted them. There is no ordering between different orders: QUIC maps each to a
/// stream of its own, so a loss on one does not delay the others (no head-of-line blocking).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameOrder {
    /// A control frame of the session, such as Hello, Ack, Ping or Close.
    Control,
    /// Data of one lane; lane numbers are below [`LANES_MAX`].
    Lane(u8),
    /// An unreliable, unordered frame, delivered at most once, of at most
    /// [`Info::datagram_max`](crate::Info::datagram_max) bytes.
    Datagram,
}

/// The first bytes of a frame, stored inline: fields that differ in each frame need no allocation.
#[derive(Debug, Clone, Copy)]
pub struct FrameHeader {
    bytes: [u8; Self::CAPACITY],
    len: u8,
}

impl FrameHeader {
    /// The maximum length of a header, in bytes: a type, a lane, two 8-byte varints, and the length and the
    /// first bytes of a message.
    pub const CAPACITY: usize = 37;

    /// An empty header.
    pub const EMPTY: Self = Self {
        bytes: [0; Self::CAPACITY],
        len: 0,
    };

    /// The bytes written so far.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The whole array. Bytes after the length of [`as_slice`](Self::as_slice) are padding. A copy
    /// of this constant length compiles to moves instead of a call of `memcpy`.
    #[must_use]
    #[inline]
    pub const fn padded(&self) -> &[u8; Self::CAPACITY] {
        &self.bytes
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// If the header would exceed [`FrameHeader::CAPACITY`] bytes. The encoder of the frame layout
    /// guarantees that it does not.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        let from = usize::from(self.len);
        self.bytes[from..from + bytes.len()].copy_from_slice(bytes);
        self.len += u8::try_from(bytes.len()).expect("the copy above fitted into 37 bytes");
    }

    /// Appends the first `len` of `bytes`. Unlike [`extend`](Self::extend) it stores all eight
    /// bytes where they fit, which needs no call of `memcpy`.
    ///
    /// # Panics
    /// As [`extend`](Self::extend), and if `len` is greater than 8.
    #[inline]
    pub fn extend_by(&mut self, bytes: [u8; 8], len: usize) {
        let from = usize::from(self.len);
        match self.bytes[from..].first_chunk_mut() {
            Some(space) if len <= 8 => {
                *space = bytes;
                self.len += len as u8;
            }
            _ => self.extend(&bytes[..len]),
        }
    }
}

/// One outgoing frame: a small header, and a body that is sent from its own memory without a copy.
///
/// The peer receives both as one contiguous [`Bytes`].
#[derive(Debug, Clone)]
pub struct Frame {
    /// The ordering and reliability that the frame requires.
    pub order: FrameOrder,
    /// The first bytes of the frame.
    pub header: FrameHeader,
    /// The remaining bytes.
    pub body: Bytes,
}

impl Frame {
    /// The length of header and body together, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.header.len) + self.body.len()
    }

    /// Whether header and body are both empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends header and body to `out`.
    pub fn write_to(&self, out: &mut BytesMut) {
        out.put_slice(self.header.as_slice());
        out.put_slice(&self.body);
    }
}

/// A set of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneSet(u32);

const _: () = assert!(LANES_MAX <= u32::BITS as usize);

impl LaneSet {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// The set of all lanes.
    pub const ALL: Self = Self(u32::MAX);

    /// Adds a lane. Lanes of [`LANES_MAX`] and above are ignored.
    pub fn insert(&mut self, lane: u8) {
        self.0 |= 1_u32.checked_shl(u32::from(lane)).unwrap_or(0);
    }

    /// Whether `lane` is in the set.
    #[must_use]
    pub const fn contains(self, lane: u8) -> bool {
        lane < 32 && self.0 >> lane & 1 == 1
    }
}

/// The frames that a transport can accept at present. It is passed to [`FrameSource::next_frame`].
#[derive(Debug, Clone, Copy)]
pub struct SendCapacity {
    /// The maximum length of a frame, header and body together, in bytes.
    pub frame_max: usize,
    /// The maximum length of a [`FrameOrder::Datagram`] frame, in bytes; 0 if none can be accepted.
    pub datagram_max: usize,
    /// The lanes of which no frame can be accepted, for example because their QUIC stream is
    /// blocked by flow control.
    pub blocked: LaneSet,
    /// Whether no control frame can be accepted.
    pub control_blocked: bool,
}

/// The supplier of outgoing frames; a session implements it.
///
/// A transport pulls a frame only while it can send one. The session therefore selects the next
/// frame at the last moment, and no queue forms below it.
pub trait FrameSource {
    /// Returns the next frame that fits `capacity`, or `None` if there is none at present.
    ///
    /// The transport owns a returned frame: a reliable transport delivers it or ends.
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame>;
}

/// The receiver of incoming frames; a session implements it.
pub trait FrameSink {
    /// Accepts one complete frame of at most [`Info::frame_max`](crate::Info::frame_max) bytes.
    fn frame(&mut self, frame: Bytes);
}

impl FrameSink for Vec<Bytes> {
    fn frame(&mut self, frame: Bytes) {
        self.push(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_set_contains_the_inserted_lanes() {
        let mut set = LaneSet::EMPTY;
        set.insert(0);
        set.insert(31);
        set.insert(200);
        let held: Vec<u8> = (0..=255).filter(|&lane| set.contains(lane)).collect();
        assert_eq!(held, [0, 31]);
    }

    #[test]
    fn both_append_methods_fill_a_header_to_its_capacity() {
        let digits = [1, 2, 3, 4, 5, 6, 7, 8];
        let (mut header, mut expected) = (FrameHeader::EMPTY, Vec::new());
        for len in [0, 8, 1, 8, 4, 8, 2, 5, 1] {
            header.extend_by(digits, len);
            expected.extend_from_slice(&digits[..len]);
            assert_eq!(header.as_slice(), expected);
            assert_eq!(header.padded()[..expected.len()], expected);
        }
        assert_eq!(expected.len(), FrameHeader::CAPACITY, "it is full");
    }

    #[test]
    fn a_frame_is_written_as_header_and_body() {
        let mut header = FrameHeader::EMPTY;
        header.extend(b"ab");
        let frame = Frame {
            order: FrameOrder::Control,
            header,
            body: Bytes::from_static(b"cd"),
        };
        let mut out = BytesMut::new();
        frame.write_to(&mut out);
        assert_eq!((&out[..], frame.len()), (&b"abcd"[..], 4));
    }
}
