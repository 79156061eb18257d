//! Single frames of a session, and tagged messages of the zipper: encoded and decoded.

use std::hint::black_box;

use bytes::Bytes;
use selvedge_client::tag::Tag;
use selvedge_client::wire::{Data, Origin, Recipient, WireMessage};
use selvedge_endpoint::LaneId;
use selvedge_endpoint::counting::{Frames, decodes};

use crate::counted_repeats;

/// A session acknowledges only the lanes that have advanced, rarely more.
const ACKED_LANES: usize = 4;

/// An offset far into a stream: four bytes as a varint.
const OFFSET: u64 = 1 << 24;

fn data_frame(number: Option<u64>) -> Bytes {
    let head = Frames::of_all_lanes().data(LaneId::FIRST, OFFSET, number);
    [head.as_slice(), &[7; 64]].concat().into()
}

fn decode(frame: &Bytes) {
    assert!(decodes(frame.clone()), "{frame:?}");
    counted_repeats(|| decodes(black_box(frame).clone()));
}

pub(crate) fn ack_decode() {
    let (head, body) = Frames::of_all_lanes().ack(ACKED_LANES);
    decode(&[head.as_slice(), &body].concat().into());
}

pub(crate) fn ack_encode() {
    let frames = Frames::of_all_lanes();
    counted_repeats(|| black_box(&frames).ack(black_box(ACKED_LANES)));
}

pub(crate) fn data_decode() {
    decode(&data_frame(None));
}

pub(crate) fn data_encode() {
    let frames = Frames::of_all_lanes();
    counted_repeats(|| frames.data(LaneId::FIRST, black_box(OFFSET), None));
}

pub(crate) fn hello_decode() {
    decode(&Frames::of_all_lanes().hello());
}

pub(crate) fn hello_encode() {
    let frames = Frames::of_all_lanes();
    counted_repeats(|| black_box(&frames).hello());
}

pub(crate) fn packet_decode() {
    decode(&data_frame(Some(1 << 20)));
}

pub(crate) fn packet_encode() {
    let frames = Frames::of_all_lanes();
    counted_repeats(|| frames.data(LaneId::FIRST, black_box(OFFSET), black_box(Some(1 << 20))));
}

/// A message as one zipper forwards it to another.
fn tagged() -> Data {
    Data {
        tag: Tag(0x10),
        origin: Origin {
            source: [1; 32],
            sequence: 1,
        },
        hops_left: 16,
        target: None,
        recipients: vec![Recipient {
            name: "word-count".into(),
            home: [2; 32],
        }],
        trace: None,
        payload: Bytes::from_static(&[7; 64]),
    }
}

pub(crate) fn tagged_decode() {
    let data = tagged();
    let bytes = data.encode().expect("within all limits");
    assert_eq!(
        WireMessage::decode(bytes.clone()),
        Ok(WireMessage::Data(data))
    );
    counted_repeats(|| WireMessage::decode(black_box(&bytes).clone()));
}

pub(crate) fn tagged_encode() {
    let data = tagged();
    counted_repeats(|| black_box(&data).encode());
}
