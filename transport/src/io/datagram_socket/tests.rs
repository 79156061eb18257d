//! Tests of batches, ECN codepoints, events and full sockets.

use std::time::Duration;

use mio::{Events, Poll};

use super::*;

/// Two sockets connected to each other; the first is registered.
fn pair(poll: &Poll) -> [DatagramSocket; 2] {
    let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let far = DatagramSocket::listening(any).unwrap();
    let mut near = DatagramSocket::dialing(far.local_addr()).unwrap();
    near.register(poll.registry(), Token(0)).unwrap();
    [near, far]
}

fn transmit(near: &mut DatagramSocket, far: &DatagramSocket, contents: &[u8]) -> SendResult {
    near.send(&quinn_udp::Transmit {
        destination: far.local_addr(),
        ecn: None,
        contents,
        segment_size: None,
        src_ip: None,
    })
}

fn send(near: &mut DatagramSocket, far: &DatagramSocket) -> SendResult {
    transmit(near, far, b"question")
}

/// The lengths of all datagrams that have arrived.
fn lens(socket: &mut DatagramSocket) -> Vec<usize> {
    let mut buffer = ReadBuffer::default();
    let datagrams = socket.drain(&mut buffer).into_iter();
    datagrams.map(|(_, bytes)| bytes.len()).collect()
}

#[test]
fn ecn_codepoints_arrive_by_both_send_paths() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let mut fars = [(); 2].map(|()| DatagramSocket::listening(host.parse().unwrap()).unwrap());
        let mut near = DatagramSocket::dialing(fars[0].local_addr()).unwrap();
        let mut buffer = ReadBuffer::default();
        for ecn in [None, Some(EcnCodepoint::Ect0), Some(EcnCodepoint::Ce), None] {
            for (at, segment_size) in [(0, None), (1, None), (0, Some(4)), (0, None)] {
                let socket = &mut fars[at];
                let sent = near.send(&quinn_udp::Transmit {
                    destination: socket.local_addr(),
                    ecn,
                    contents: b"question",
                    segment_size,
                    src_ip: None,
                });
                assert_eq!(sent, SendResult::Sent);
                let arrived = socket.drain(&mut buffer);
                assert!(!arrived.is_empty(), "{host}");
                for (meta, _) in arrived {
                    assert_eq!(meta.ecn, ecn, "{host}");
                }
            }
        }
    }
}

/// The number of pending events.
fn events(poll: &mut Poll) -> usize {
    let mut events = Events::with_capacity(4);
    poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
    events.iter().count()
}

#[test]
fn a_send_causes_no_event() {
    let mut poll = Poll::new().unwrap();
    let [mut near, mut far] = pair(&poll);
    for _ in 0..10 {
        assert_eq!(send(&mut near, &far), SendResult::Sent);
        near.update_interest(poll.registry()).unwrap();
        // The datagram has arrived, so it has left the send buffer.
        assert_eq!(lens(&mut far), [8]);
        assert_eq!(events(&mut poll), 0);
    }
}

#[test]
fn datagrams_of_any_length_arrive_whole_and_in_order() {
    let poll = Poll::new().unwrap();
    let [mut near, mut far] = pair(&poll);
    let mut buffer = ReadBuffer::default();
    let long = BATCH_LEN_MAX;
    for case in [
        &[1, 2][..],
        &[long, 1, long],
        &[1, long, 1],
        &[long, long, long, long],
        &[
            RECEIVE_LEN / 2,
            RECEIVE_LEN / 2,
            RECEIVE_LEN / 2 - 1,
            40_000,
        ],
    ] {
        let sent: Vec<_> = (7..)
            .zip(case)
            .map(|(byte, &len)| vec![byte; len])
            .collect();
        for contents in &sent {
            assert_eq!(transmit(&mut near, &far, contents), SendResult::Sent);
        }
        let arrived = far.drain(&mut buffer);
        let arrived: Vec<_> = arrived.into_iter().map(|(_, bytes)| bytes).collect();
        assert!(arrived == sent, "{case:?}");
    }
}

#[test]
fn datagrams_after_a_complete_receive_cause_an_event() {
    let mut poll = Poll::new().unwrap();
    let [mut near, mut far] = pair(&poll);
    near.deregister(poll.registry()).unwrap();
    far.register(poll.registry(), Token(1)).unwrap();
    let mut buffer = ReadBuffer::default();
    for count in [1, 2, 3, 1, 4] {
        for _ in 0..count {
            assert_eq!(send(&mut near, &far), SendResult::Sent);
        }
        assert_eq!(events(&mut poll), 1, "{count}");
        let mut arrived = 0;
        let mut is_drained = false;
        while !is_drained {
            let received = far.recv(&mut buffer).unwrap();
            arrived += received.batches.into_iter().flatten().flatten().count();
            is_drained = received.is_drained;
        }
        assert_eq!(arrived, count);
        assert_eq!(events(&mut poll), 0, "{count}");
    }
}

#[test]
fn a_full_socket_becomes_writable_also_in_another_poll() {
    let (mut poll, mut other) = (Poll::new().unwrap(), Poll::new().unwrap());
    let [mut near, far] = pair(&poll);
    for moves in [false, true] {
        fault_injection::set(1);
        assert_eq!(send(&mut near, &far), SendResult::Blocked);
        fault_injection::set(0);
        if moves {
            near.deregister(poll.registry()).unwrap();
            std::mem::swap(&mut poll, &mut other);
            near.register(poll.registry(), Token(1)).unwrap();
        } else {
            near.update_interest(poll.registry()).unwrap();
        }
        assert_eq!(events(&mut poll), 1);
        assert_eq!(send(&mut near, &far), SendResult::Sent);
        near.update_interest(poll.registry()).unwrap();
        events(&mut poll);
        assert_eq!(send(&mut near, &far), SendResult::Sent);
        assert_eq!(events(&mut poll), 0);
    }
}

#[test]
fn a_batch_never_exceeds_the_limit_of_one_send() {
    for len in 1..=65_535_usize {
        let segments = segments_max(len, 64);
        assert!((1..=SEGMENTS_MAX).contains(&segments), "{len}");
        assert!(segments == 1 || segments * len <= BATCH_LEN_MAX, "{len}");
    }
    assert_eq!(segments_max(1452, 64), 44);
    assert_eq!(segments_max(8952, 64), 7);
    assert_eq!(segments_max(1452, 1), 1);
}

#[test]
fn a_batch_is_split_at_its_stride() {
    let meta = DatagramMeta {
        remote: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1),
        local_ip: None,
        ecn: None,
    };
    let lens = |bytes: &[u8], stride| {
        let bytes = BytesMut::from(bytes);
        ReceivedBatch {
            bytes,
            stride,
            meta,
        }
        .map(|one| one.len())
        .collect::<Vec<_>>()
    };
    assert_eq!(lens(&[0; 10], 4), [4, 4, 2]);
    assert_eq!(lens(&[0; 10], 10), [10]);
    assert_eq!(lens(&[0; 3], 0), [3]);
    assert_eq!(lens(&[], 0), [0_usize; 0]);
}
