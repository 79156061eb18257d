//! What a send buffer accepts, refuses and releases.

use super::*;
use crate::lane::LaneConfig;

fn stream_of(buffer: &mut SendBuffer, lane: LaneId) -> Vec<u8> {
    let mut stream = Vec::new();
    buffer.drain(|from, segment| {
        if from == lane {
            stream.extend(segment.stream());
        }
    });
    stream
}

#[test]
fn the_stream_contains_each_message_as_length_and_bytes() {
    let mut buffer = SendBuffer::new(&SessionConfig::default());
    let large = vec![7; COPY_LEN_MAX + 1];
    for payload in [&b"ab"[..], b"", &large, b"c"] {
        buffer
            .push(LaneId::FIRST, Bytes::copy_from_slice(payload))
            .unwrap();
    }
    let mut expected = b"\x02ab\x00".to_vec();
    varint::put(large.len() as u64, &mut expected);
    expected.extend_from_slice(&large);
    expected.extend_from_slice(b"\x01c");
    assert_eq!(buffer.used(), expected.len() as u64);
    assert_eq!(stream_of(&mut buffer, LaneId::FIRST), expected);
}

#[test]
fn parts_are_encoded_as_one_message() {
    for len in [0, 10, PARTS_LEN_MAX, PARTS_LEN_MAX + 1] {
        let [mut whole, mut parted] = [(); 2].map(|()| SendBuffer::new(&SessionConfig::default()));
        let (head, body) = (&[1; 5][..], &vec![2; len][..]);
        whole
            .push(LaneId::FIRST, [head, body].concat().into())
            .unwrap();
        parted.push_parts(LaneId::FIRST, &[head, body]).unwrap();
        assert_eq!(whole.used(), parted.used());
        assert_eq!(
            stream_of(&mut whole, LaneId::FIRST),
            stream_of(&mut parted, LaneId::FIRST)
        );
    }
}

#[test]
fn a_head_and_a_body_are_encoded_as_one_message_and_a_long_body_is_not_copied() {
    for body_len in [0, 10, COPY_LEN_MAX - 1, COPY_LEN_MAX, 100_000] {
        for head_len in [0, 1, HEAD_LEN_MAX, HEAD_LEN_MAX + 1] {
            let [mut whole, mut parted] =
                [(); 2].map(|()| SendBuffer::new(&SessionConfig::default()));
            let (head, body) = (vec![1; head_len], Bytes::from(vec![2; body_len]));
            let message = [&head, &body[..]].concat();
            whole.push(LaneId::FIRST, message.clone().into()).unwrap();
            parted.push_message(LaneId::FIRST, &head, &body).unwrap();
            assert_eq!(whole.used(), parted.used());
            let mut stream = Vec::new();
            parted.drain(|_, segment| {
                stream.extend(segment.stream());
                if message.len() > COPY_LEN_MAX && head_len <= HEAD_LEN_MAX {
                    assert_eq!(segment.bytes.as_ptr(), body.as_ptr());
                    assert_eq!(segment.into_message(), message);
                }
            });
            assert_eq!(stream_of(&mut whole, LaneId::FIRST), stream);
        }
    }
}

#[test]
fn small_messages_do_not_keep_out_one_that_is_larger_than_the_buffer() {
    let mut buffer = SendBuffer::new(&SessionConfig {
        send_buffer: 100,
        message_max: 1000,
        ..SessionConfig::default()
    });
    let push = |buffer: &mut SendBuffer, len: usize| {
        let pushed = buffer.push(LaneId::FIRST, vec![0; len].into());
        pushed.map_err(|refused| assert_eq!(refused, SendError::Full(vec![0; len].into())))
    };
    push(&mut buffer, 48).unwrap();
    push(&mut buffer, 1).unwrap();
    assert_eq!(buffer.used(), 51);
    // One that fits into the empty buffer has to wait for room, and the larger one for half of the buffer.
    push(&mut buffer, 90).unwrap_err();
    push(&mut buffer, 500).unwrap_err();
    buffer.drain(|_, _| {});
    buffer.release(0, 1);
    push(&mut buffer, 90).unwrap_err();
    push(&mut buffer, 500).unwrap();
    push(&mut buffer, 1).unwrap_err();
}

#[test]
fn parts_are_refused_as_one_message_and_returned_as_one() {
    let mut buffer = SendBuffer::new(&SessionConfig {
        send_buffer: 100,
        message_max: 1000,
        ..SessionConfig::default()
    });
    let push =
        |buffer: &mut SendBuffer, len| buffer.push_parts(LaneId::FIRST, &[b"a", &vec![b'b'; len]]);
    push(&mut buffer, 89).unwrap();
    assert!(buffer.is_full(LaneId::FIRST, 9) && !buffer.is_full(LaneId::FIRST, 7));
    let refused = push(&mut buffer, 8).unwrap_err();
    assert_eq!(refused, SendError::Full("abbbbbbbb".into()));
    let refused = push(&mut buffer, 1000).unwrap_err();
    assert!(matches!(&refused, SendError::TooLarge { payload, .. } if payload.len() == 1001));
    push(&mut buffer, 6).unwrap();
    buffer.close();
    let refused = push(&mut buffer, 1).unwrap_err();
    assert_eq!(refused, SendError::Closed("ab".into()));
    assert!(!buffer.is_full(LaneId::FIRST, 9), "it is closed, not full");
}

#[test]
fn a_full_send_buffer_returns_the_message() {
    let config = SessionConfig {
        send_buffer: 100,
        ..SessionConfig::default()
    };
    let mut buffer = SendBuffer::new(&config);
    buffer
        .push(LaneId::FIRST, Bytes::from(vec![1; 500]))
        .unwrap();
    let refused = buffer
        .push(LaneId::FIRST, Bytes::from_static(b"x"))
        .unwrap_err();
    assert!(
        matches!(&refused, SendError::Full(payload) if payload == "x"),
        "{refused:?}"
    );
    buffer.release(0, 502);
    buffer
        .push(LaneId::FIRST, Bytes::from_static(b"x"))
        .unwrap();
    buffer.close();
    assert!(matches!(
        buffer.push(LaneId::FIRST, Bytes::new()),
        Err(SendError::Closed(_))
    ));
}

#[test]
fn shrinking_frees_the_memory_of_a_past_burst_but_no_unsent_message() {
    let mut buffer = SendBuffer::new(&SessionConfig::default());
    let burst = |buffer: &mut SendBuffer| {
        for _ in 0..100 {
            let payload = Bytes::from_static(&[7; 1000]);
            buffer.push(LaneId::FIRST, payload).expect("it has room");
        }
    };
    burst(&mut buffer);
    buffer.shrink();
    assert_eq!(stream_of(&mut buffer, LaneId::FIRST).len(), 100 * 1002);
    assert!(buffer.lanes[0].chunk.capacity() > 0);
    buffer.shrink();
    let lane = &buffer.lanes[0];
    let held = (lane.chunk.capacity(), lane.segments.capacity());
    assert_eq!((held, lane.chunk_len), ((0, 0), CHUNK_LEN_MIN));
    burst(&mut buffer);
    assert_eq!(stream_of(&mut buffer, LaneId::FIRST).len(), 100 * 1002);
}

#[test]
fn a_lane_that_sends_little_keeps_no_memory_of_a_past_burst() {
    let mut buffer = SendBuffer::new(&SessionConfig::default());
    for _ in 0..1000 {
        let payload = Bytes::from_static(&[7; 1000]);
        buffer.push(LaneId::FIRST, payload).expect("it has room");
    }
    buffer.drain(|_, _| {});
    assert!(buffer.lanes[0].spare.len() > 10);
    for _ in 0..10 {
        buffer
            .push(LaneId::FIRST, Bytes::from_static(b"x"))
            .unwrap();
        buffer.drain(|_, _| {});
    }
    assert_eq!(buffer.lanes[0].spare.len(), 0);
}

#[test]
fn a_best_effort_lane_drops_its_oldest_and_counts() {
    let lane = LaneConfig {
        delivery: Delivery::BestEffort,
        ..LaneConfig::default()
    };
    let config = SessionConfig {
        lanes: vec![lane],
        best_effort_buffer: 10,
        ..SessionConfig::default()
    };
    let mut buffer = SendBuffer::new(&config);
    for byte in 0..5 {
        buffer
            .push(LaneId::FIRST, Bytes::from(vec![byte; 4]))
            .unwrap();
    }
    let (kept, dropped) = buffer.drain_best_effort(LaneId::FIRST);
    assert_eq!(kept, [vec![3; 4], vec![4; 4]]);
    assert_eq!(dropped, 3);
    let long = Bytes::from(vec![0; BEST_EFFORT_LEN_MAX + 1]);
    assert!(matches!(
        buffer.push(LaneId::FIRST, long),
        Err(SendError::TooLarge {
            message_max: BEST_EFFORT_LEN_MAX,
            ..
        })
    ));
}
