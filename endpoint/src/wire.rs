//! The wire format of the frames of a session. All numbers are varints (RFC 9000, section 16) unless
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
//! The last two occur on transports that lose frames: `Packet` numbers a frame so that its loss can be
//! detected, and `PacketAck` lists the numbers that arrived, as in QUIC (RFC 9000, section 19.3):
//! `length` numbers downwards from `highest`, then for each gap the count of missing numbers less one,
//! and the `length` of the next range.
//!
//! A `nonce` of 0 requests only a `Pong`. Any other `nonce` is 32 times an `offset` plus a lane, and also
//! requests an acknowledgement as soon as that lane has reached the offset.
//!
//! The stream of a lane is the sequence of its messages, each as a length and its bytes. A
//! `Data` frame is any piece of that stream: large messages are split, small ones share a frame.
//! `message_max` of a `Hello` also carries the versions and features that its sender supports
//! ([`crate::version`]). `expected` is the offset of the next byte, `limit` the offset up to which the
//! peer may send.

use std::ops::Range;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use selvedge_transport::{FrameHeader, LANES_MAX};

use crate::event::CloseReason;
use crate::lane::LaneId;
use crate::segment::PREFIX_LEN_MAX;
use crate::varint::{self, VARINT_MAX};
use crate::version::{Incompatibility, SessionOffer};

/// The version byte of a `Hello`, which identifies its layout. Any other byte is refused with
/// [`CloseCode::Incompatible`]. The versions of the protocol are in the offer: [`crate::version`].
pub(crate) const VERSION: u8 = 1;

/// The longest control frame: a `Hello` with all lanes.
pub(crate) const CONTROL_LEN_MAX: usize = 1 + 1 + 8 + 8 + 8 + 8 + 8 + 1 + 1 + LANES_MAX * 16;

/// The maximum length of the header of a data frame.
pub(crate) const DATA_HEADER_LEN_MAX: usize = 1 + 1 + 8;

/// The maximum length of the number before a numbered frame.
pub(crate) const PACKET_HEADER_LEN_MAX: usize = 1 + 8;

const _: () =
    assert!(PACKET_HEADER_LEN_MAX + DATA_HEADER_LEN_MAX + PREFIX_LEN_MAX <= FrameHeader::CAPACITY);

/// The maximum length of the position of a lane.
const POSITION_LEN_MAX: usize = 1 + 8 + 8;

const _: () = assert!(2 + POSITION_LEN_MAX <= FrameHeader::CAPACITY);

/// How many ranges of received numbers are stored. At 30 % loss 64 ranges reach 200 packets back; an
/// older packet that arrives counts as new.
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
    /// The offset of the next expected byte: everything before it has been delivered.
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

    /// The nonce of a `Ping`. An offset that does not fit, after 2^57 bytes, becomes the highest that
    /// does: from then on acknowledgements arrive after their normal delay.
    pub(crate) fn nonce(self) -> u64 {
        let offset = self.offset.min(VARINT_MAX >> Self::LANE_BITS);
        offset << Self::LANE_BITS | u64::from(self.lane.number())
    }

    /// The request in the nonce of a `Ping`; `None` if it requests only a `Pong`.
    pub(crate) fn from_nonce(nonce: u64) -> Option<Self> {
        let offset = nonce >> Self::LANE_BITS;
        let lane = LaneId::new((nonce % LANES_MAX as u64) as u8)?;
        (offset > 0).then_some(Self { lane, offset })
    }
}

const _: () = assert!(LANES_MAX.is_power_of_two());

/// The first frame of a session on a new transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Random, chosen when a session is created: identifies a peer that restarted.
    pub(crate) incarnation: u64,
    /// How often the sender has restarted its streams with its peer since then.
    pub(crate) view: u64,
    /// The incarnation of the peer as known to the sender; 0 if unknown.
    pub(crate) peer_incarnation: u64,
    /// The dialer numbers its attachments in ascending order; the higher number replaces the lower.
    pub(crate) epoch: u64,
    /// At most [`crate::version::MESSAGE_MAX`].
    pub(crate) message_max: u64,
    /// The versions and features that the sender supports; encoded in one number with `message_max`.
    pub(crate) offer: SessionOffer,
    /// How many transports the sender wants to use at a time: the higher number of both counts.
    pub(crate) paths_wanted: u8,
    pub(crate) lanes: Vec<LanePosition>,
}

/// Which numbered packets have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PacketAck {
    /// How long the acknowledgement was delayed after the arrival of the highest number.
    pub(crate) delay: Duration,
    /// In descending order; at least one range, and none is empty.
    pub(crate) ranges: Vec<Range<u64>>,
}

/// Why a session was closed, on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// Everything was sent and acknowledged.
    Done = 0,
    /// The closing side did not wait for acknowledgements.
    Aborted = 1,
    /// The versions or limits of the two sides are incompatible.
    Incompatible = 2,
    /// The peer broke the protocol.
    Protocol = 3,
}

impl From<CloseCode> for CloseReason {
    /// What the `Close` of the peer means.
    fn from(code: CloseCode) -> Self {
        match code {
            CloseCode::Done => Self::Peer,
            CloseCode::Aborted => Self::PeerAborted,
            CloseCode::Incompatible => Self::Incompatible(Incompatibility::Refused),
            CloseCode::Protocol => Self::Protocol,
        }
    }
}

/// A decoded frame, without its payload.
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
    /// Whether it may be the first frame on a transport: before it, nothing else is accepted.
    pub(crate) const fn introduces(&self) -> bool {
        matches!(
            self,
            Self::Hello(_) | Self::OtherVersion(_) | Self::Close(_)
        )
    }

    /// Whether a session that has ended ignores it.
    pub(crate) const fn is_obsolete_after_close(&self) -> bool {
        !self.introduces() && !matches!(self, Self::PacketAck(_))
    }

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

/// The positions of an `Ack` in encoded form: a list of them would be an allocation per frame.
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

    /// The positions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = LanePosition> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || Self::next(&mut rest))
    }
}

/// An invalid frame: truncated, of an unknown type, or with a number out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Removes the number of a numbered frame.
#[inline]
pub(crate) fn take_number(frame: &mut Bytes) -> Result<Option<u64>, Malformed> {
    if frame.first() != Some(&kind::PACKET) {
        return Ok(None);
    }
    frame.advance(1);
    get(frame).map(Some)
}

/// Decodes a frame without number. Its payload, if its type has one, remains in `frame`.
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

/// Decodes a frame of a type without payload.
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

/// Decodes the lanes of a `Hello`. They are consecutive from 0 on, so their numbers are not encoded.
fn decode_lanes(frame: &mut Bytes) -> Result<Vec<LanePosition>, Malformed> {
    let count = get_u8(frame)?;
    if usize::from(count) > LANES_MAX {
        return Err(Malformed);
    }
    // One allocation is enough, since the count has been checked.
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

/// Encodes an `Ack`. One with a single lane, which is nearly every one, needs no allocation if its
/// length is at most `header_max`: the whole frame is in the header.
pub(crate) fn ack(
    mut positions: impl Iterator<Item = LanePosition>,
    header_max: usize,
) -> (FrameHeader, Bytes) {
    let (first, second) = (positions.next(), positions.next());
    if let (Some(first), None) = (first, second) {
        let mut bytes = [0; FrameHeader::CAPACITY];
        let mut rest = &mut bytes[..];
        rest.put_slice(&[kind::ACK, 1]);
        put_position(first, &mut rest);
        let len = FrameHeader::CAPACITY - rest.len();
        if len <= header_max {
            let mut header = FrameHeader::EMPTY;
            header.extend(&bytes[..len]);
            return (header, Bytes::new());
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
    let (header, body) = ack(positions.iter().copied(), FrameHeader::CAPACITY);
    [header.as_slice(), &body].concat().into()
}

fn put_position(position: LanePosition, out: &mut impl BufMut) {
    out.put_u8(position.lane.number());
    varint::put(position.expected, out);
    varint::put(position.limit, out);
}

pub(crate) fn encode_packet_ack(ack: &PacketAck) -> Bytes {
    let mut out = Vec::with_capacity(32 + ack.ranges.len() * 4);
    out.put_u8(kind::PACKET_ACK);
    let highest = ack.ranges.first().map_or(0, |range| range.end - 1);
    varint::put(highest, &mut out);
    varint::put(ack.delay.as_micros() as u64, &mut out);
    out.put_u8(ack.ranges.len().saturating_sub(1) as u8);
    let mut end = highest + 1;
    for (at, range) in ack.ranges.iter().enumerate() {
        if at > 0 {
            varint::put(end - range.end - 1, &mut out);
        }
        varint::put(range.end - range.start, &mut out);
        end = range.start;
    }
    out.into()
}

/// The header of a numbered frame, given the header without the number.
pub(crate) fn packet(number: u64, inner: &FrameHeader) -> FrameHeader {
    let mut outer = header(&[kind::PACKET], number);
    outer.extend(inner.as_slice());
    outer
}

#[inline]
fn header(first: &[u8], number: u64) -> FrameHeader {
    let mut header = FrameHeader::EMPTY;
    header.extend(first);
    let (bytes, len) = varint::encoded(number);
    header.extend_by(bytes, len);
    header
}

pub(crate) fn ready(view: u64) -> FrameHeader {
    header(&[kind::READY], view)
}

#[inline]
pub(crate) fn data(lane: LaneId, offset: u64) -> FrameHeader {
    header(&[kind::DATA, lane.number()], offset)
}

pub(crate) fn datagram(lane: LaneId, sequence: u64) -> FrameHeader {
    header(&[kind::DATAGRAM, lane.number()], sequence)
}

pub(crate) fn ping(nonce: u64) -> FrameHeader {
    header(&[kind::PING], nonce)
}

pub(crate) fn pong(nonce: u64) -> FrameHeader {
    header(&[kind::PONG], nonce)
}

pub(crate) fn close(code: CloseCode) -> FrameHeader {
    header(&[kind::CLOSE], code as u64)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
