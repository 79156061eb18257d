//! What a Transport carries: frames, pulled from a session and pushed into one.

use bytes::{BufMut, Bytes, BytesMut};

/// The most lanes that two nodes can have between them.
pub const LANES_MAX: usize = 32;

/// Which order a frame keeps, and whether it may be lost.
///
/// On a reliable transport frames of one flow arrive in the order in which they were taken, all of
/// them. Different flows are independent: a transport that can (QUIC: a stream a flow) does not let
/// a loss on one hold another, so no order holds between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameOrder {
    /// The session's own words: Hello, Ack, Ping, Close.
    Control,
    /// Data of one lane, below [`LANES_MAX`].
    Lane(u8),
    /// At most once, in any order, at most [`Info::datagram_max`](crate::Info::datagram_max) bytes.
    Datagram,
}

/// The first bytes of a frame, kept in place: no allocation for what is written anew each time.
#[derive(Debug, Clone, Copy)]
pub struct FrameHeader {
    bytes: [u8; Self::CAPACITY],
    len: u8,
}

impl FrameHeader {
    /// The longest head: a type, a lane and two 8-byte varints fit.
    pub const CAPACITY: usize = 23;

    /// No bytes.
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

    /// All bytes that it has room for. Those behind [`as_slice`](Self::as_slice) mean nothing: they are
    /// there for who copies heads, since a copy of a known length needs no call.
    #[must_use]
    #[inline]
    pub const fn padded(&self) -> &[u8; Self::CAPACITY] {
        &self.bytes
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// When more than [`FrameHeader::CAPACITY`] bytes come together: the writer of the layout counts them.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        let from = usize::from(self.len);
        self.bytes[from..from + bytes.len()].copy_from_slice(bytes);
        self.len += u8::try_from(bytes.len()).expect("the copy above fitted into 23 bytes");
    }

    /// Appends the first `len` of `bytes`: as [`extend`](Self::extend), but all are stored where there is
    /// room, which needs no call.
    ///
    /// # Panics
    /// As `extend`, and when `len` is greater than 8.
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

/// One frame on its way out: a small head, and a body that is sent from where it lies.
///
/// The peer receives both as one piece of [`Bytes`].
#[derive(Debug, Clone)]
pub struct Frame {
    /// The order that it keeps.
    pub order: FrameOrder,
    /// The first bytes.
    pub header: FrameHeader,
    /// The rest.
    pub body: Bytes,
}

impl Frame {
    /// The length of head and body together, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.header.len) + self.body.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies head and body to the end of `out`.
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
    /// No lane.
    pub const EMPTY: Self = Self(0);

    /// Adds a lane; lanes from [`LANES_MAX`] on are ignored.
    pub fn insert(&mut self, lane: u8) {
        self.0 |= 1_u32.checked_shl(u32::from(lane)).unwrap_or(0);
    }

    /// Whether `lane` is in the set.
    #[must_use]
    pub const fn contains(self, lane: u8) -> bool {
        lane < 32 && self.0 >> lane & 1 == 1
    }
}

/// What a transport can take just now, told to a [`FrameSource`].
#[derive(Debug, Clone, Copy)]
pub struct SendCapacity {
    /// The longest frame, head and body together, in bytes.
    pub frame_max: usize,
    /// The longest frame of [`FrameOrder::Datagram`]; 0 when none can be taken.
    pub datagram_max: usize,
    /// Lanes of which no frame can be taken now (their QUIC stream is blocked, say).
    pub blocked: LaneSet,
    /// Whether control frames cannot be taken now.
    pub control_blocked: bool,
}

/// Where a transport takes frames from. It asks only while it has room, so that what goes next is
/// decided at the last moment, and nothing queues below the session.
pub trait FrameSource {
    /// The next frame to send that fits into `capacity`; `None` when there is none for now.
    ///
    /// A frame that is handed out is the transport's: it arrives, or the transport ends.
    fn next_frame(&mut self, capacity: &SendCapacity) -> Option<Frame>;
}

/// Where a transport puts the frames it received.
pub trait FrameSink {
    /// Takes one frame, whole, of at most [`Info::frame_max`](crate::Info::frame_max) bytes.
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
    fn a_lane_set_holds_what_was_put_in() {
        let mut set = LaneSet::EMPTY;
        set.insert(0);
        set.insert(31);
        set.insert(200);
        let held: Vec<u8> = (0..=255).filter(|&lane| set.contains(lane)).collect();
        assert_eq!(held, [0, 31]);
    }

    #[test]
    fn a_head_holds_what_was_appended_in_either_way_up_to_its_end() {
        let digits = [1, 2, 3, 4, 5, 6, 7, 8];
        let (mut header, mut expected) = (FrameHeader::EMPTY, Vec::new());
        for len in [0, 8, 1, 4, 2, 7, 1] {
            header.extend_by(digits, len);
            expected.extend_from_slice(&digits[..len]);
            assert_eq!(header.as_slice(), expected);
            assert_eq!(header.padded()[..expected.len()], expected);
        }
        assert_eq!(expected.len(), FrameHeader::CAPACITY, "it is full");
    }

    #[test]
    fn a_frame_is_its_head_and_its_body() {
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
