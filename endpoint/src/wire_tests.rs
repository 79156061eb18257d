//! Every frame decodes to what was encoded, and no other bytes decode.

use super::*;
use proptest::prelude::*;

fn positions() -> Vec<LanePosition> {
    (0..3)
        .map(|n| LanePosition {
            lane: LaneId::new(n).unwrap(),
            expected: 1 << (20 * n),
            limit: 1 << 40,
        })
        .collect()
}

fn hello() -> Hello {
    Hello {
        incarnation: 7,
        view: 300,
        peer_incarnation: 9,
        epoch: 2,
        message_max: 64 << 20,
        offer: SessionOffer::SUPPORTED,
        paths_wanted: 2,
        lanes: positions(),
    }
}

fn packet_ack() -> PacketAck {
    PacketAck {
        delay: Duration::from_micros(300),
        ranges: vec![90..100, 70..88, 5..6],
    }
}

fn with_payload(header: FrameHeader) -> Bytes {
    [header.as_slice(), b"payload"].concat().into()
}

fn acknowledged(positions: &[LanePosition]) -> Received {
    let mut encoded = Vec::new();
    for position in positions {
        put_position(*position, &mut encoded);
    }
    Received::Ack(Positions(encoded.into()))
}

/// A decoded frame and its payload.
fn decode_whole(mut frame: Bytes) -> Result<(Received, Bytes), Malformed> {
    let received = decode(&mut frame)?;
    Ok((received, frame))
}

/// One frame of each kind.
fn golden() -> Vec<(Bytes, (Received, Bytes))> {
    let with = |(bytes, received)| {
        let has_payload = matches!(received, Received::Data { .. } | Received::Datagram { .. });
        let payload: &[u8] = if has_payload { b"payload" } else { b"" };
        (bytes, (received, Bytes::from_static(payload)))
    };
    golden_frames().into_iter().map(with).collect()
}

fn golden_frames() -> Vec<(Bytes, Received)> {
    let lane = LaneId::new(5).unwrap();
    let bytes = |header: FrameHeader| Bytes::copy_from_slice(header.as_slice());
    vec![
        (encode_hello(&hello()), Received::Hello(Box::new(hello()))),
        (bytes(ready(70)), Received::Ready { view: 70 }),
        (
            with_payload(data(lane, 1 << 33)),
            Received::Data {
                lane,
                offset: 1 << 33,
            },
        ),
        (encode_ack(&positions()), acknowledged(&positions())),
        (
            with_payload(datagram(lane, 4)),
            Received::Datagram { lane, sequence: 4 },
        ),
        (bytes(ping(1)), Received::Ping(1)),
        (bytes(pong(1)), Received::Pong(1)),
        (
            bytes(close(CloseCode::Aborted)),
            Received::Close(CloseCode::Aborted),
        ),
        (
            encode_packet_ack(&packet_ack()),
            Received::PacketAck(packet_ack()),
        ),
    ]
}

#[test]
fn an_acknowledgement_contains_each_lane_and_one_lane_needs_no_allocation() {
    for count in [1, 3] {
        let positions = &positions()[..count];
        let Ok((Received::Ack(decoded), _)) = decode_whole(encode_ack(positions)) else {
            panic!("the frame is an acknowledgement");
        };
        assert_eq!(decoded.iter().collect::<Vec<_>>(), positions);
        let (header, body) = ack(positions.iter().copied(), FrameHeader::CAPACITY);
        assert_eq!(
            (header.as_slice().is_empty(), body.is_empty()),
            (count > 1, count == 1)
        );
    }
    let (header, body) = ack(positions().into_iter().take(1), 3);
    assert!(
        header.as_slice().is_empty() && !body.is_empty(),
        "the header is too small for it"
    );
}

#[test]
fn every_frame_decodes_to_what_was_encoded() {
    for (bytes, expected) in golden() {
        assert_eq!(decode_whole(bytes), Ok(expected));
    }
}

#[test]
fn f1_a_truncated_frame_is_malformed() {
    for (bytes, whole) in golden() {
        for len in 0..bytes.len() {
            let decoded = decode_whole(bytes.slice(..len));
            match whole.0 {
                // The payload of these extends to the end of the frame, whatever its length.
                Received::Data { .. } | Received::Datagram { .. } if decoded.is_ok() => {
                    assert_ne!(decoded, Ok(whole.clone()));
                }
                _ => assert_eq!(decoded, Err(Malformed), "{whole:?} cut to {len}"),
            }
        }
    }
}

#[test]
fn f3_an_unknown_kind_is_malformed_and_another_version_is_reported() {
    for kind in (0..=255).filter(|kind| !(1..=8).contains(kind) && *kind != 10) {
        let frame = vec![kind, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode_whole(frame.into()), Err(Malformed), "{kind}");
    }
    for version in (0..=255).filter(|version| *version != VERSION) {
        let mut other = encode_hello(&hello()).to_vec();
        other[1] = version;
        let reported = (Received::OtherVersion(version), Bytes::new());
        assert_eq!(decode_whole(other.into()), Ok(reported));
    }
}

#[test]
fn f4_no_flipped_bit_panics() {
    for (bytes, _) in golden() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Both results are valid; the test is that it returns.
            let _ = decode_whole(flipped.into());
        }
    }
}

#[test]
fn f5_a_count_beyond_the_bytes_or_the_lanes_is_malformed() {
    assert_eq!(
        decode_whole(Bytes::from_static(&[4, 32, 0, 0])),
        Err(Malformed)
    );
    assert_eq!(decode_whole(Bytes::from_static(&[4, 255])), Err(Malformed));
    assert_eq!(
        decode_whole(Bytes::from_static(&[3, 32, 0])),
        Err(Malformed)
    );
}

#[test]
fn ranges_that_overlap_are_empty_or_fall_below_zero_are_malformed() {
    for bytes in [
        &[10, 5, 0, 0, 0][..],
        &[10, 5, 0, 0, 7],
        &[10, 5, 0, 1, 2, 3, 1],
        &[10, 5, 0, 1, 2, 0, 0],
        &[10, 5, 0, 64],
    ] {
        let decoded = decode_whole(Bytes::copy_from_slice(bytes));
        assert_eq!(decoded, Err(Malformed), "{bytes:?}");
    }
}

#[test]
fn a_number_is_removed_and_does_not_nest() {
    let inner = ping(3);
    let header = packet(300, &inner);
    let mut frame = Bytes::copy_from_slice(header.as_slice());
    assert_eq!(take_number(&mut frame), Ok(Some(300)));
    assert_eq!(decode_whole(frame), Ok((Received::Ping(3), Bytes::new())));
    let nested = packet(1, &header);
    let mut frame = Bytes::copy_from_slice(nested.as_slice());
    assert_eq!(take_number(&mut frame), Ok(Some(1)));
    assert_eq!(decode_whole(frame), Err(Malformed));
    assert_eq!(take_number(&mut Bytes::from_static(&[9])), Err(Malformed));
}

#[test]
fn f8_the_golden_bytes_of_version_1_do_not_change() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let all: Vec<String> = golden().iter().map(|(bytes, _)| hex(bytes)).collect();
    assert_eq!(
        all,
        [
            "01010000000000000007412c00000000000000090284000000020301c00001000000000080100000c000010000000000c000010000000000c000010000000000",
            "024046",
            "0305c0000002000000007061796c6f6164",
            "04030001c0000100000000000180100000c00001000000000002c000010000000000c000010000000000",
            "0505047061796c6f6164",
            "0601",
            "0701",
            "0801",
            "0a4063412c020a01123f01",
        ]
    );
}

proptest! {
    #[test]
    fn the_request_of_a_ping_decodes_to_what_was_encoded(lane in 0..LANES_MAX as u8, offset in 1_u64..1 << 57) {
        let lane = LaneId::new(lane).unwrap();
        let request = AckRequest { lane, offset };
        prop_assert_eq!(AckRequest::from_nonce(request.nonce()), Some(request));
        let most = AckRequest { lane, offset: offset << 7 | 1 << 63 }.nonce();
        prop_assert!(most <= VARINT_MAX);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_whole(bytes.into());
    }
}
