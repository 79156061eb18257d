//! The frames of a session, byte by byte. All numbers are varints (RFC 9000, section 16) unless
//! their size is given.
//!
//! ```text
//! Hello     01 | version 1B | incarnation 8B | view | peer incarnation 8B | epoch | message_max | paths 1B | n | n × (expected, limit)
//! Ready     02 | view
//! Data      03 | lane 1B | offset | bytes of the lane's stream ...
//! Ack       04 | n | n × (lane 1B, expected, limit)
//! Datagram  05 | lane 1B | sequence | payload ...
//! Ping      06 | nonce
//! Pong      07 | nonce
//! Close     08 | code
//! Packet    09 | number | any other frame ...
//! PacketAck 0a | highest | delay µs | n | length | n × (gap, length)
//! ```
//!
//! The last two occur on transports that lose frames: `Packet` numbers a frame so that its
//! loss is detected, and `PacketAck` lists the numbers that arrived, as in QUIC (RFC 9000, section 19.3): `length`
//! numbers down to before a gap, `gap` missing ones less one, and so on.
//!
//! A `nonce` of 0 requests a pong only; another one, 32 times an `offset` plus a lane, also requests an
//! acknowledgement as soon as that lane has reached the offset.
//!
//! The stream of a lane is the sequence of its messages, each as a length and its bytes. A
//! `Data` frame is any piece of that stream: large messages are cut, small ones travel together.
//! `message_max` of a `Hello` also carries the versions and features that its sender speaks
//! ([`crate::version`]). `expected` is the offset of the next byte wanted, `limit` the offset up to which may be sent.

use std::ops::Range;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use selvedge_transport::{FrameHeader, LANES_MAX};

use crate::lane::LaneId;
use crate::segment::PREFIX_LEN_MAX;
use crate::varint::{self, VARINT_MAX};
use crate::version::SessionOffer;

/// The version byte of a `Hello`, which names its layout. Another one is refused with
/// [`CloseCode::Incompatible`]. The versions of the protocol are in the offer: [`crate::version`].
pub(crate) const VERSION: u8 = 1;

/// The longest control frame: a `Hello` with all lanes.
pub(crate) const CONTROL_LEN_MAX: usize = 1 + 1 + 8 + 8 + 8 + 8 + 8 + 1 + 1 + LANES_MAX * 16;

/// What a data frame costs at the most before its payload.
pub(crate) const DATA_HEAD_LEN_MAX: usize = 1 + 1 + 8;

/// What a number costs at the most before the frame that it numbers.
pub(crate) const PACKET_HEAD_LEN_MAX: usize = 1 + 8;

const _: () =
    assert!(PACKET_HEAD_LEN_MAX + DATA_HEAD_LEN_MAX + PREFIX_LEN_MAX <= FrameHeader::CAPACITY);

/// What the position of a lane takes at the most.
const POSITION_LEN_MAX: usize = 1 + 8 + 8;

const _: () = assert!(2 + POSITION_LEN_MAX <= FrameHeader::CAPACITY);

/// How many gaps are remembered. At 30 % loss 64 ranges reach 200 packets back; a packet before
/// them counts as arrived if it arrives.
pub(crate) const RANGES_MAX: usize = 64;

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const READY: u8 = 2;
    pub(super) const DATA: u8 = 3;
    pub(super) const ACK: u8 = 4;
    pub(super) const DATAGRAM: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const PONG: u8 = 7;
    pub(super) const CLOSE: u8 = 8;
    pub(super) const PACKET: u8 = 9;
    pub(super) const PACKET_ACK: u8 = 10;
}

/// The position of one lane, as its receiver reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LanePosition {
    pub(crate) lane: LaneId,
    /// The offset of the next byte wanted: all before it has been delivered.
    pub(crate) expected: u64,
    /// The offset up to which the sender may send.
    pub(crate) limit: u64,
}

/// The offset of a lane up to which the sender of a `Ping` requests an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AckRequest {
    pub(crate) lane: LaneId,
    pub(crate) offset: u64,
}

impl AckRequest {
    const LANE_BITS: u32 = LANES_MAX.trailing_zeros();

    /// As the nonce of a `Ping`. An offset that has no room there, after 2^57 bytes, becomes the highest
    /// that has: then acknowledgements come within their usual time.
    pub(crate) fn nonce(self) -> u64 {
        let offset = self.offset.min(VARINT_MAX >> Self::LANE_BITS);
        offset << Self::LANE_BITS | u64::from(self.lane.number())
    }

    /// The request of a `Ping`, if it has one besides a pong.
    pub(crate) fn from_nonce(nonce: u64) -> Option<Self> {
        let offset = nonce >> Self::LANE_BITS;
        let lane = LaneId::new((nonce % LANES_MAX as u64) as u8)?;
        (offset > 0).then_some(Self { lane, offset })
    }
}

const _: () = assert!(LANES_MAX.is_power_of_two());

/// How a session introduces itself on a new transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Random, chosen when a session is created: identifies a peer that restarted.
    pub(crate) incarnation: u64,
    /// How often the sender has restarted its streams with its peer since then.
    pub(crate) view: u64,
    /// The incarnation that the sender knows its peer by; 0 for none.
    pub(crate) peer_incarnation: u64,
    /// The dialer numbers its attachments upwards; the higher one replaces the lower.
    pub(crate) epoch: u64,
    /// At most [`crate::version::MESSAGE_MAX`].
    pub(crate) message_max: u64,
    /// The versions and features that the sender speaks; in one number with `message_max`.
    pub(crate) offer: SessionOffer,
    /// How many transports the sender wants to use at a time: the higher number of both counts.
    pub(crate) paths_wanted: u8,
    pub(crate) lanes: Vec<LanePosition>,
}

/// Which numbered packets have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PacketAck {
    /// How long the answer was held back after the highest one arrived.
    pub(crate) delay: Duration,
    /// The highest first; at least one, and none is empty.
    pub(crate) ranges: Vec<Range<u64>>,
}

/// Why a session was closed, on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// Everything was sent and acknowledged.
    Done = 0,
    /// The closing side did not wait.
    Aborted = 1,
    /// Versions or limits do not fit together.
    Incompatible = 2,
    /// The peer broke the protocol.
    Protocol = 3,
}

/// A decoded frame. A payload stays in the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    Hello(Box<Hello>),
    OtherVersion(u8),
    Ready { view: u64 },
    Data { lane: LaneId, offset: u64 },
    Ack(Positions),
    Datagram { lane: LaneId, sequence: u64 },
    Ping(u64),
    Pong(u64),
    Close(CloseCode),
    PacketAck(PacketAck),
}

impl Received {
    /// Whether it is numbered on a transport that loses frames. A `Hello` is repeated until it is
    /// answered; the others are sent again anyway.
    pub(crate) const fn needs_number(&self) -> bool {
        match self {
            Self::Ready { .. }
            | Self::Data { .. }
            | Self::Ack(_)
            | Self::Datagram { .. }
            | Self::Ping(_)
            | Self::Close(_) => true,
            Self::Hello(_) | Self::OtherVersion(_) | Self::Pong(_) | Self::PacketAck(_) => false,
        }
    }
}

/// The positions of an `Ack`, in their encoded form: a list of them would be an allocation for
/// each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Positions(Bytes);

impl Positions {
    fn checked(mut frame: Bytes) -> Result<Self, Malformed> {
        let count = usize::from(get_u8(&mut frame)?);
        let positions = Self(frame);
        let mut rest = &positions.0[..];
        for _ in 0..count {
            Self::next(&mut rest).ok_or(Malformed)?;
        }
        match rest.is_empty() && count <= LANES_MAX {
            true => Ok(positions),
            false => Err(Malformed),
        }
    }

    fn next(rest: &mut &[u8]) -> Option<LanePosition> {
        let lane = LaneId::new(rest.try_get_u8().ok()?)?;
        let (expected, limit) = (varint::get(rest)?, varint::get(rest)?);
        Some(LanePosition {
            lane,
            expected,
            limit,
        })
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = LanePosition> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || Self::next(&mut rest))
    }
}

/// Bytes that are no frame: too short, a wrong type, or a number out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Takes the number off a numbered frame.
#[inline]
pub(crate) fn take_number(frame: &mut Bytes) -> Result<Option<u64>, Malformed> {
    if frame.first() != Some(&kind::PACKET) {
        return Ok(None);
    }
    frame.advance(1);
    get(frame).map(Some)
}

/// Decodes a frame without its number, and leaves its payload in it, if it may have one.
///
/// The fields of frames with data, which are nearly all frames, are read in place: consumed one by
/// one, and passed on with the payload in one large value, they took 23 ns more per frame.
#[inline]
pub(crate) fn decode(frame: &mut Bytes) -> Result<Received, Malformed> {
    let [kind @ (kind::DATA | kind::DATAGRAM), lane, rest @ ..] = &frame[..] else {
        return decode_control(std::mem::take(frame));
    };
    let lane = LaneId::new(*lane).ok_or(Malformed)?;
    let (number, len) = varint::read(rest).ok_or(Malformed)?;
    let received = match *kind {
        kind::DATA => Received::Data {
            lane,
            offset: number,
        },
        _ => Received::Datagram {
            lane,
            sequence: number,
        },
    };
    frame.advance(2 + len);
    Ok(received)
}

/// A frame that has no payload.
fn decode_control(mut frame: Bytes) -> Result<Received, Malformed> {
    let received = match get_u8(&mut frame)? {
        kind::HELLO => return decode_hello(frame),
        kind::READY => Received::Ready {
            view: get(&mut frame)?,
        },
        kind::ACK => return Positions::checked(frame).map(Received::Ack),
        kind::PING => Received::Ping(get(&mut frame)?),
        kind::PONG => Received::Pong(get(&mut frame)?),
        kind::CLOSE => Received::Close(match get(&mut frame)? {
            0 => CloseCode::Done,
            1 => CloseCode::Aborted,
            2 => CloseCode::Incompatible,
            3 => CloseCode::Protocol,
            _ => return Err(Malformed),
        }),
        kind::PACKET_ACK => Received::PacketAck(decode_packet_ack(&mut frame)?),
        _ => return Err(Malformed),
    };
    if frame.is_empty() {
        Ok(received)
    } else {
        Err(Malformed)
    }
}

fn decode_hello(mut frame: Bytes) -> Result<Received, Malformed> {
    let version = get_u8(&mut frame)?;
    if version != VERSION {
        return Ok(Received::OtherVersion(version));
    }
    let (incarnation, view) = (get_u64(&mut frame)?, get(&mut frame)?);
    let (peer_incarnation, epoch) = (get_u64(&mut frame)?, get(&mut frame)?);
    let (offer, message_max) = SessionOffer::unpack(get(&mut frame)?).ok_or(Malformed)?;
    let hello = Hello {
        incarnation,
        view,
        peer_incarnation,
        epoch,
        message_max,
        offer,
        paths_wanted: get_u8(&mut frame)?,
        lanes: decode_lanes(&mut frame)?,
    };
    if hello.incarnation == 0 || !frame.is_empty() {
        return Err(Malformed);
    }
    Ok(Received::Hello(Box::new(hello)))
}

/// The lanes of a `Hello`: all from 0 on, so their numbers are not written.
fn decode_lanes(frame: &mut Bytes) -> Result<Vec<LanePosition>, Malformed> {
    let count = get_u8(frame)?;
    if usize::from(count) > LANES_MAX {
        return Err(Malformed);
    }
    // Room for all at once, now that the count is known to be small.
    let mut positions = Vec::with_capacity(count.into());
    for number in 0..count {
        positions.push(LanePosition {
            lane: LaneId::new(number).ok_or(Malformed)?,
            expected: get(frame)?,
            limit: get(frame)?,
        });
    }
    Ok(positions)
}

fn decode_packet_ack(frame: &mut Bytes) -> Result<PacketAck, Malformed> {
    let (highest, delay) = (get(frame)?, Duration::from_micros(get(frame)?));
    let more = get_u8(frame)?;
    if usize::from(more) >= RANGES_MAX {
        return Err(Malformed);
    }
    let mut ranges = Vec::with_capacity(1 + usize::from(more));
    let mut end = highest + 1;
    for at in 0..=more {
        if at > 0 {
            end = end.checked_sub(get(frame)? + 1).ok_or(Malformed)?;
        }
        let start = end.checked_sub(get(frame)?).ok_or(Malformed)?;
        if start == end {
            return Err(Malformed);
        }
        ranges.push(start..end);
        end = start;
    }
    Ok(PacketAck { delay, ranges })
}

fn get(frame: &mut Bytes) -> Result<u64, Malformed> {
    varint::get(frame).ok_or(Malformed)
}

fn get_u8(frame: &mut Bytes) -> Result<u8, Malformed> {
    frame.try_get_u8().map_err(|_| Malformed)
}

fn get_u64(frame: &mut Bytes) -> Result<u64, Malformed> {
    frame.try_get_u64().map_err(|_| Malformed)
}

pub(crate) fn encode_hello(hello: &Hello) -> Bytes {
    let mut out = Vec::with_capacity(CONTROL_LEN_MAX);
    out.put_slice(&[kind::HELLO, VERSION]);
    out.put_u64(hello.incarnation);
    varint::put(hello.view, &mut out);
    out.put_u64(hello.peer_incarnation);
    varint::put(hello.epoch, &mut out);
    varint::put(hello.offer.pack(hello.message_max), &mut out);
    out.put_u8(hello.paths_wanted);
    out.put_u8(hello.lanes.len() as u8);
    for position in &hello.lanes {
        varint::put(position.expected, &mut out);
        varint::put(position.limit, &mut out);
    }
    out.into()
}

/// An `Ack` of one lane, which is nearly each, is a head alone where `head_max` allows: it needs no
/// memory.
pub(crate) fn ack(
    mut positions: impl Iterator<Item = LanePosition>,
    head_max: usize,
) -> (FrameHeader, Bytes) {
    let (first, second) = (positions.next(), positions.next());
    if let (Some(first), None) = (first, second) {
        let mut bytes = [0; FrameHeader::CAPACITY];
        let mut rest = &mut bytes[..];
        rest.put_slice(&[kind::ACK, 1]);
        put_position(first, &mut rest);
        let len = FrameHeader::CAPACITY - rest.len();
        if len <= head_max {
            let mut head = FrameHeader::EMPTY;
            head.extend(&bytes[..len]);
            return (head, Bytes::new());
        }
    }
    let mut out = Vec::with_capacity(2 + LANES_MAX * POSITION_LEN_MAX);
    out.put_slice(&[kind::ACK, 0]);
    for position in first.into_iter().chain(second).chain(positions) {
        out[1] += 1;
        put_position(position, &mut out);
    }
    (FrameHeader::EMPTY, out.into())
}

/// An `Ack` as the peer receives it.
#[cfg(test)]
pub(crate) fn encode_ack(positions: &[LanePosition]) -> Bytes {
    let (head, body) = ack(positions.iter().copied(), FrameHeader::CAPACITY);
    [head.as_slice(), &body].concat().into()
}

fn put_position(position: LanePosition, out: &mut impl BufMut) {
    out.put_u8(position.lane.number());
    varint::put(position.expected, out);
    varint::put(position.limit, out);
}

pub(crate) fn encode_packet_ack(seen: &PacketAck) -> Bytes {
    let mut out = Vec::with_capacity(32 + seen.ranges.len() * 4);
    out.put_u8(kind::PACKET_ACK);
    let highest = seen.ranges.first().map_or(0, |range| range.end - 1);
    varint::put(highest, &mut out);
    varint::put(seen.delay.as_micros() as u64, &mut out);
    out.put_u8(seen.ranges.len().saturating_sub(1) as u8);
    let mut end = highest + 1;
    for (at, range) in seen.ranges.iter().enumerate() {
        if at > 0 {
            varint::put(end - range.end - 1, &mut out);
        }
        varint::put(range.end - range.start, &mut out);
        end = range.start;
    }
    out.into()
}

/// Numbers a frame: `head` is the head that it has without.
pub(crate) fn packet(number: u64, inner: &FrameHeader) -> FrameHeader {
    let mut outer = head(&[kind::PACKET], number);
    outer.extend(inner.as_slice());
    outer
}

#[inline]
fn head(first: &[u8], number: u64) -> FrameHeader {
    let mut head = FrameHeader::EMPTY;
    head.extend(first);
    let (bytes, len) = varint::encoded(number);
    head.extend_by(bytes, len);
    head
}

pub(crate) fn ready(view: u64) -> FrameHeader {
    head(&[kind::READY], view)
}

#[inline]
pub(crate) fn data(lane: LaneId, offset: u64) -> FrameHeader {
    head(&[kind::DATA, lane.number()], offset)
}

pub(crate) fn datagram(lane: LaneId, sequence: u64) -> FrameHeader {
    head(&[kind::DATAGRAM, lane.number()], sequence)
}

pub(crate) fn ping(nonce: u64) -> FrameHeader {
    head(&[kind::PING], nonce)
}

pub(crate) fn pong(nonce: u64) -> FrameHeader {
    head(&[kind::PONG], nonce)
}

pub(crate) fn close(code: CloseCode) -> FrameHeader {
    head(&[kind::CLOSE], code as u64)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
