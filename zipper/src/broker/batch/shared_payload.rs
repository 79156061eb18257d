//! Shared payloads: copies that several recipients of a batch receive are encoded once for all of them.

use std::ops::Range;

use selvedge_hub::{EncodedBatch, Incoming};

use super::fan_out::{OutgoingCopy, SHARED_LEN_MIN, parts};

/// The number of different queues among which identical ones are searched for.
const LISTS_MAX: usize = 8;

/// The encoded batches of one queue, each with the range of copies that it contains.
pub(super) type SharedBatches = Vec<(Range<usize>, EncodedBatch)>;

/// For each list the index of the first identical one, if at least two are identical.
pub(super) fn groups<'a>(lists: impl Iterator<Item = &'a [usize]>) -> Vec<Option<usize>> {
    let mut different: Vec<(usize, &[usize])> = Vec::new();
    let mut groups = Vec::new();
    for (at, list) in lists.enumerate() {
        let first = different.iter().find(|(_, known)| *known == list);
        let first = first.map(|(first, _)| *first);
        if let Some(first) = first {
            groups[first] = Some(first);
        } else if different.len() < LISTS_MAX {
            different.push((at, list));
        }
        groups.push(first);
    }
    groups
}

/// Encodes consecutive copies that fit into one frame, if together they are long enough to be shared.
pub(super) fn batches(
    list: &[usize],
    (headers, copies): (&[u8], &[OutgoingCopy]),
    incoming: &Incoming<'_>,
) -> SharedBatches {
    let message = |&copy: &usize| parts(headers, &copies[copy], incoming);
    let (mut batches, mut batch, mut len) = (SharedBatches::new(), 0..0, 0);
    let mut end = |batch: Range<usize>, len: usize| {
        if len >= SHARED_LEN_MIN {
            let messages = list[batch.clone()].iter().map(message);
            batches.push((batch, EncodedBatch::new(messages)));
        }
    };
    for (at, copy) in list.iter().enumerate() {
        let [header, payload] = message(copy);
        let cost = EncodedBatch::cost_of(header.len() + payload.len());
        let is_alone = copies[*copy].is_shared();
        if is_alone || len + cost > EncodedBatch::LEN_GOOD {
            end(batch, len);
            (batch, len) = (at..at, 0);
        }
        if is_alone {
            batch = at + 1..at + 1;
        } else {
            (batch.end, len) = (at + 1, len + cost);
        }
    }
    end(batch, len);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_same_copies_are_identical() {
        let lists: [&[usize]; 6] = [&[1, 2], &[1], &[1, 2], &[2], &[1], &[1, 2]];
        let found = groups(lists.into_iter());
        assert_eq!(found, [Some(0), Some(1), Some(0), None, Some(1), Some(0)]);
        assert_eq!(groups([].into_iter()), []);
    }

    #[test]
    fn identical_lists_are_found_among_a_limited_number() {
        let lists: Vec<_> = (0..LISTS_MAX + 1).map(|n| [n]).collect();
        let twice = lists.iter().chain(&lists).map(|list| &list[..]);
        let found = groups(twice);
        let shared_payload = |at: usize| (at < LISTS_MAX).then_some(at);
        let expected = (0..=LISTS_MAX).map(shared_payload);
        assert_eq!(found, expected.clone().chain(expected).collect::<Vec<_>>());
    }
}
