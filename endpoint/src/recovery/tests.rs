//! Losses are detected by gap and by time, and lost data is retransmitted.

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn data(offset: u64) -> Content {
    Content::Data {
        lane: LaneId::FIRST,
        offset,
        len: 1000,
    }
}

/// A recovery with `count` packets in flight, sent a millisecond apart, and when the first was sent.
fn with_packets(count: u64) -> (Recovery, Instant) {
    let begin = Instant::from_origin(Duration::from_secs(1));
    let mut recovery = Recovery::new(begin);
    for number in 0..count {
        recovery.sent(begin + ms(number), 1000, data(number * 1000));
    }
    (recovery, begin)
}

fn ack<const N: usize>(ranges: [(u64, u64); N]) -> PacketAck {
    PacketAck {
        delay: Duration::ZERO,
        ranges: ranges.map(|(start, end)| start..end).to_vec(),
    }
}

#[test]
fn a_packet_is_lost_when_the_third_later_one_is_acknowledged() {
    let (mut recovery, begin) = with_packets(8);
    let now = begin + ms(50);
    let outcome = recovery
        .handle_packet_ack(now, &ack([(3, 4), (1, 2)]))
        .unwrap();
    assert_eq!(outcome.retransmit, [data(0)], "packet 2 may only be late");
    let outcome = recovery.handle_packet_ack(now, &ack([(5, 6)])).unwrap();
    assert_eq!(outcome.retransmit, [data(2000)]);
    assert_eq!(recovery.in_flight, 3000, "packets 4, 6 and 7");
}

#[test]
fn an_overtaken_packet_is_lost_after_nine_eighths_of_a_round_trip() {
    let (mut recovery, begin) = with_packets(2);
    let now = begin + ms(81);
    let outcome = recovery.handle_packet_ack(now, &ack([(1, 2)])).unwrap();
    assert!(outcome.retransmit.is_empty());
    assert_eq!(recovery.timeout(), Some(begin + ms(90)));
    assert!(
        recovery
            .handle_timeout(begin + ms(89))
            .retransmit
            .is_empty()
    );
    assert_eq!(
        recovery.handle_timeout(begin + ms(90)).retransmit,
        [data(0)]
    );
    assert_eq!((recovery.in_flight, recovery.sent.len()), (0, 0));
}

#[test]
fn probes_back_off_and_silence_never_counts_as_loss() {
    let (mut recovery, begin) = with_packets(1);
    recovery
        .handle_packet_ack(begin + ms(40), &ack([(0, 1)]))
        .unwrap();
    let mut now = begin + ms(100);
    recovery.sent(now, 1000, data(1000));
    let window = recovery.congestion.window();
    let mut waits = Vec::new();
    for _ in 0..5 {
        let at = recovery.timeout().unwrap();
        waits.push((at - now).as_millis());
        now = at;
        let outcome = recovery.handle_timeout(now);
        assert!(outcome.is_probe && outcome.lost == 0);
        assert!(
            outcome
                .retransmit
                .iter()
                .all(|content| *content == data(1000))
        );
        recovery.sent(now, 1000, data(1000));
    }
    assert_eq!(waits, [140, 280, 500, 500, 500]);
    assert_eq!(recovery.congestion.window(), window);
}

#[test]
fn a_probe_is_sent_even_if_the_window_is_full() {
    let (mut recovery, begin) = with_packets(12);
    assert!(!recovery.may_send(begin + ms(12)));
    let at = recovery.timeout().unwrap();
    recovery.handle_timeout(at);
    assert!(recovery.may_send(at));
    recovery.sent(at, 1000, data(0));
    recovery.sent(at, 1000, data(1000));
    assert!(!recovery.may_send(at));
}

#[test]
fn frames_become_small_on_a_path_that_drops_large_ones() {
    let (mut recovery, begin) = with_packets(1);
    let mut now = begin;
    for _ in 0..BLACK_HOLE_THRESHOLD {
        assert_eq!(recovery.frame_max(now), usize::MAX);
        now = recovery.timeout().unwrap();
        recovery.handle_timeout(now);
    }
    assert_eq!(recovery.frame_max(now), SMALL_FRAME_LEN);
    assert_eq!(recovery.frame_max(now + SMALL_FRAMES_DURATION), usize::MAX);
}

#[test]
fn an_impossible_acknowledgement_is_refused() {
    let (mut recovery, begin) = with_packets(2);
    assert!(recovery.handle_packet_ack(begin, &ack([])).is_err());
    assert!(recovery.handle_packet_ack(begin, &ack([(2, 3)])).is_err());
    assert!(recovery.handle_packet_ack(begin, &ack([(0, 2)])).is_ok());
    assert!(
        recovery.handle_packet_ack(begin, &ack([(0, 2)])).is_ok(),
        "a duplicate acknowledgement has no effect"
    );
}
