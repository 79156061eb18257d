//! Encodes and decodes single frames for the instruction counts of the benches; not part of the API.

use bytes::Bytes;
use selvedge_transport::{FrameHeader, LANES_MAX};

use crate::lane::LaneId;
use crate::version::SessionOffer;
use crate::wire::{self, Hello, LanePosition};

/// Frames of all lanes, ready to be encoded.
#[derive(Debug)]
pub struct Frames {
    hello: Hello,
}

impl Frames {
    /// A `Hello` and positions in the middle of a long stream: offsets take four bytes.
    #[must_use]
    pub fn of_all_lanes() -> Self {
        let lanes = (0..LANES_MAX as u8).filter_map(LaneId::new);
        let position = |lane| LanePosition {
            lane,
            expected: 1 << 24,
            limit: 1 << 28,
        };
        Self {
            hello: Hello {
                incarnation: 1 << 60,
                view: 1,
                peer_incarnation: 1 << 61,
                epoch: 1,
                message_max: 1 << 26,
                offer: SessionOffer::SUPPORTED,
                paths_wanted: 1,
                lanes: lanes.map(position).collect(),
            },
        }
    }

    /// A `Hello`.
    #[must_use]
    pub fn hello(&self) -> Bytes {
        wire::encode_hello(&self.hello)
    }

    /// Header and body of an `Ack` of the first `lanes` lanes.
    #[must_use]
    pub fn ack(&self, lanes: usize) -> (FrameHeader, Bytes) {
        let lanes = &self.hello.lanes[..lanes.min(LANES_MAX)];
        wire::ack(lanes.iter().copied(), FrameHeader::CAPACITY)
    }

    /// The header of a `Data` frame, within a `Packet` if it has a number.
    #[must_use]
    pub fn data(&self, lane: LaneId, offset: u64, number: Option<u64>) -> FrameHeader {
        let header = wire::data(lane, offset);
        number.map_or(header, |number| wire::packet(number, &header))
    }
}

/// Decodes a frame, numbered or not. Returns whether it is valid.
#[must_use]
pub fn decodes(mut frame: Bytes) -> bool {
    wire::take_number(&mut frame).is_ok_and(|_| wire::decode(&mut frame).is_ok())
}
