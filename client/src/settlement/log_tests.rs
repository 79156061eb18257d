//! Tests of the log of a source, with a model.

use std::collections::BTreeMap;

use bytes::Bytes;
use selvedge_hub::EncodedBatch;

use super::segment::{COPY_MAX, KEEP_MIN, RUN_LEN, SPARE_LEN_IDLE, SPARE_LEN_MAX};
use super::*;

/// What a log must hold: each message with its flags, and whether it is released.
#[derive(Default)]
struct LogModel {
    messages: BTreeMap<u64, (Bytes, u8, bool)>,
    next: u64,
    /// Where the segments begin.
    start: u64,
    /// Messages that share memory; the last run may have no end yet.
    runs: Vec<Range<u64>>,
    run_len: usize,
}

impl LogModel {
    fn base(&self) -> u64 {
        self.messages.keys().next().copied().unwrap_or(self.next)
    }

    fn first_held(&self, from: u64) -> Option<u64> {
        let mut from = self.messages.range(from..);
        from.find(|(_, it)| !it.2).map(|(sequence, _)| *sequence)
    }

    /// What the messages below a number cost, and the segments of `SEGMENT_LEN` messages from `start` on, of which
    /// `start` is a multiple, that are released.
    fn cost(&self, start: u64, below: u64) -> (u64, u64) {
        let is_over = |range: Range<u64>| {
            range.end <= self.next && self.messages.range(range).all(|(_, it)| it.2)
        };
        let segments = (start..self.next).step_by(SEGMENT_LEN as usize);
        let released = segments.filter(|from| is_over(*from..from + SEGMENT_LEN));
        let released = released.count() as u64 * RELEASED_COST;
        let counted = self.messages.range(..below).filter(|(sequence, it)| {
            let run = self.runs.iter().find(|run| run.contains(sequence));
            !it.2 || run.is_some_and(|run| !is_over(run.clone()))
        });
        let bytes = counted.map(|(_, it)| cost_of(it.0.len())).sum();
        (bytes, released)
    }

    /// A payload that is `kept` is not copied.
    fn push(&mut self, (payload, kept): (Bytes, bool), flags: u8, head: Option<MessageHead<'_>>) {
        let sequence = self.next;
        self.next += 1;
        let copied_len = match head {
            _ if kept => None,
            Some(head) => Some(EncodedBatch::cost_of(head.bytes.len() + payload.len())),
            None => Some(payload.len()),
        };
        self.messages.insert(sequence, (payload, flags, false));
        let open = self.runs.last_mut().filter(|run| run.end == u64::MAX);
        match (copied_len, open) {
            (None, Some(run)) => run.end = sequence,
            (Some(_), None) => {
                self.runs.push(sequence..u64::MAX);
                self.run_len = 0;
            }
            _ => {}
        }
        self.run_len += copied_len.unwrap_or(0);
        let is_last = (self.next - self.start).is_multiple_of(SEGMENT_LEN);
        if is_last || self.run_len >= RUN_LEN {
            self.end_run();
        }
    }

    fn end_run(&mut self) {
        if let Some(run) = self.runs.last_mut() {
            run.end = run.end.min(self.next);
        }
    }

    fn release(&mut self, messages: Range<u64>) {
        for (_, message) in self.messages.range_mut(messages) {
            message.2 = true;
        }
        // A run ends if none of its messages is left.
        let first = self.runs.last().map_or(0, |run| run.start);
        if self.messages.range(first..).all(|(_, it)| it.2) {
            self.end_run();
        }
    }

    fn remove_below(&mut self, end: u64) {
        self.messages = self.messages.split_off(&end);
        self.release(0..0);
        if self.messages.is_empty() {
            self.start = self.next;
        }
        self.runs.retain(|run| run.end > end);
    }

    /// The messages of a batch, as they are sent.
    fn encoded(&self, messages: Range<u64>) -> Vec<u8> {
        let mut encoded = Vec::new();
        for (sequence, (payload, _, is_released)) in self.messages.range(messages) {
            assert!(!is_released);
            EncodedBatch::append([&head(*sequence), payload], &mut encoded);
        }
        encoded
    }
}

fn head(sequence: u64) -> [u8; 2] {
    [sequence as u8, 7]
}

/// Compares the batches that begin with a run, or with the message `at`. Returns how many there are.
fn check_batches(log: &MessageLog, model: &LogModel, at: u64) -> usize {
    let starts = model.runs.iter().map(|run| run.start).chain([at]);
    let batches = starts.filter(|at| {
        let Some(found) = (0..3).find_map(|attachment| log.batch(*at, attachment)) else {
            return false;
        };
        let messages = *at..at + found.len;
        let cost = messages.clone().filter_map(|it| log.cost(it));
        assert_eq!(found.cost, cost.sum::<u64>());
        assert!(found.batch.bytes()[..] == model.encoded(messages)[..]);
        true
    });
    batches.count()
}

/// The length of a payload: also at the limits.
fn draw_len(rng: &mut fastrand::Rng, usual: usize) -> usize {
    match rng.u8(..20) {
        0 => rng.usize(COPY_MAX - 1..COPY_MAX + 3),
        1 => rng.usize(KEEP_MIN - 1..KEEP_MIN + 3),
        2 => 0,
        _ => rng.usize(..usual),
    }
}

#[test]
fn a_log_holds_what_was_written_and_not_released_and_counts_its_memory() {
    let mut batches = 0;
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut log, mut model) = (MessageLog::default(), LogModel::default());
        let len_usual = rng.usize(1..2000);
        let mut attachment = None;
        for step in 0..4000_u32 {
            if rng.u8(..50) == 0 {
                attachment = rng.bool().then(|| rng.u32(..3));
            }
            for _ in 0..rng.usize(..12) {
                let len = draw_len(&mut rng, len_usual);
                let payload = Bytes::from(vec![step as u8; len]);
                let bytes = head(model.next);
                let head = attachment.map(|attachment| MessageHead {
                    attachment,
                    bytes: &bytes,
                });
                let logged = match rng.bool() {
                    true => LoggedPayload::Copied(&payload),
                    false => LoggedPayload::Kept(&payload),
                };
                let kept_from = match logged {
                    LoggedPayload::Copied(_) => COPY_MAX + 1,
                    LoggedPayload::Kept(_) => KEEP_MIN + 1,
                };
                log.push(logged, step as u8, head);
                model.push((payload.clone(), len >= kept_from), step as u8, head);
            }
            let (start, before) = (log.start, log.bytes());
            let freed = match rng.u8(..8) {
                0 => {
                    let end = rng.u64(model.base()..=model.next.min(model.base() + 200));
                    model.remove_below(end);
                    log.remove_below(end)
                }
                1..5 => {
                    let from = rng.u64(model.base()..=model.next);
                    let to = model.next.min(from + rng.u64(..300));
                    model.release(from..to);
                    log.release(from..to)
                }
                _ => 0,
            };
            let (bytes, released) = model.cost(log.start, u64::MAX);
            assert_eq!(log.bytes(), bytes + released, "seed {seed}, step {step}");
            let released_before = model.cost(start, u64::MAX).1;
            assert!(freed <= before && (released_before > 0 || log.bytes() <= before));
            let below = rng.u64(model.base()..=model.next);
            // What is behind must not be released.
            if model.messages.range(below..).all(|(_, it)| !it.2) {
                assert_eq!(log.bytes_below(below), model.cost(log.start, below).0);
            }
            assert_eq!((log.base(), log.next()), (model.base(), model.next));
            let at = rng.u64(model.base()..=model.next);
            assert_eq!(log.first_held(at), model.first_held(at));
            if let Some(held) = model.first_held(at) {
                let (payload, flags, _) = &model.messages[&held];
                let found = log.get(held).map(|(it, flags)| (it.to_vec(), flags));
                assert_eq!(found, Some((payload.to_vec(), *flags)));
                assert_eq!(log.cost(held), Some(cost_of(payload.len())));
            }
            batches += check_batches(&log, &model, at);
        }
        log.remove_below(model.next);
        assert_eq!((log.bytes(), log.segments.len()), (0, 0));
        assert!(log.memory.len() <= SPARE_LEN_IDLE && log.spare.len() <= SPARE_IDLE_MAX);
    }
    assert!(batches > 100, "{batches}");
}

#[test]
fn a_batch_has_the_heads_of_one_attachment_and_no_message_that_is_released() {
    let log_of = |attachments: &dyn Fn(u64) -> Option<u32>| {
        let mut log = MessageLog::default();
        for sequence in 0..SEGMENT_LEN {
            let head = attachments(sequence).map(|attachment| MessageHead {
                attachment,
                bytes: b"head",
            });
            log.push(LoggedPayload::Copied(&[1; 300]), 0, head);
        }
        log
    };
    let mut log = log_of(&|_| Some(5));
    let batch = |log: &MessageLog, at| log.batch(at, 5).map(|it| (it.len, it.cost));
    assert_eq!(batch(&log, 0), Some((64, 64 * 364)));
    assert_eq!(batch(&log, 1), None);
    assert!(log.batch(0, 4).is_none() && log.batch(0, 6).is_none());
    log.release(9..10);
    assert_eq!(batch(&log, 0), None);
    for log in [
        log_of(&|_| None),
        log_of(&|sequence| (sequence != 0).then_some(5)),
        log_of(&|sequence| (sequence != 63).then_some(5)),
        log_of(&|sequence| Some(if sequence == 20 { 6 } else { 5 })),
    ] {
        assert_eq!(batch(&log, 0), None);
        let message = (LoggedPayload::Copied(&[1; 300]), 0);
        assert_eq!(log.get(63), Some(message));
    }
}

#[test]
fn a_payload_with_memory_of_its_own_is_not_copied_if_it_is_long_and_is_free_once_it_is_released() {
    for (len, is_kept) in [(KEEP_MIN, false), (KEEP_MIN + 1, true), (1 << 20, true)] {
        let payload = Bytes::from(vec![1; len]);
        let mut log = MessageLog::default();
        log.push(LoggedPayload::Kept(&payload), 0, None);
        let logged = log.get(0).map(|(it, _)| it.as_ptr());
        assert_eq!(logged == Some(payload.as_ptr()), is_kept, "{len} bytes");
        assert_eq!(payload.is_unique(), !is_kept);
        log.release(0..1);
        assert!(payload.is_unique());
    }
}

#[test]
fn a_released_part_of_a_log_needs_almost_no_memory() {
    let mut log = MessageLog::default();
    for _ in 0..100_000 {
        log.push(LoggedPayload::Copied(&[0; 100]), 0, None);
    }
    log.release(1..100_000);
    // The first and the last segment remain.
    assert!(log.bytes() < 2 * 64 * 164 + 100_000 / 64 * RELEASED_COST);
    let held = log.segments.iter().flatten().count();
    assert_eq!(held, 2);
    assert_eq!(log.first_held(1), None);
}

#[test]
fn segments_are_kept_for_further_messages_and_fewer_in_an_idle_log() {
    let mut log = MessageLog::default();
    let written = (SPARE_MAX as u64 + 10) * SEGMENT_LEN;
    for _ in 0..=written {
        log.push(LoggedPayload::Copied(&[0; 10]), 0, None);
    }
    log.remove_below(written);
    assert_eq!(log.spare.len(), SPARE_MAX);
    log.remove_below(written + 1);
    assert_eq!(log.spare.len(), SPARE_IDLE_MAX);
}

#[test]
fn the_memory_of_released_payloads_is_used_again_and_limited() {
    let mut log = MessageLog::default();
    let write = |log: &mut MessageLog, count: usize| {
        (0..count).for_each(|_| log.push(LoggedPayload::Copied(&[0; 1024]), 0, None));
    };
    // A run has 32 of them, and a segment has two runs.
    write(&mut log, 33);
    log.release(0..32);
    assert!(log.memory.len() >= RUN_LEN);
    write(&mut log, 32);
    assert_eq!(log.memory.len(), 0);
    write(&mut log, 10_000);
    log.release(0..log.next() - 1);
    let len = log.memory.len();
    assert!((SPARE_LEN_MAX / 2..=SPARE_LEN_MAX).contains(&len), "{len}");
}
