//! Sets of sequence numbers, kept as ranges. Pure.

use std::ops::Range;

use smallvec::SmallVec;

/// A set of sequence numbers as sorted ranges, of which no two touch.
///
/// Most sets consist of one range that grows at its end, which costs a comparison and no memory beside
/// the set. Everything else is a binary search and a shift of the ranges behind the change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SequenceSet(SmallVec<[Range<u64>; 1]>);

impl SequenceSet {
    /// Whether a number is in the set.
    #[inline]
    #[must_use]
    pub fn contains(&self, sequence: u64) -> bool {
        match self.0.last() {
            None => false,
            Some(last) if sequence >= last.start => sequence < last.end,
            Some(_) => {
                let at = self.0.partition_point(|range| range.end <= sequence);
                self.0[at].start <= sequence
            }
        }
    }

    /// Adds a range. An empty one changes nothing.
    #[inline]
    pub fn insert(&mut self, range: Range<u64>) {
        match self.0.last_mut() {
            Some(last) if last.end == range.start && !range.is_empty() => last.end = range.end,
            _ => self.insert_anywhere(range),
        }
    }

    fn insert_anywhere(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // Every range that touches the new one is merged into it.
        let from = self.0.partition_point(|it| it.end < range.start);
        let to = self.0.partition_point(|it| it.start <= range.end);
        if from < to {
            range.start = range.start.min(self.0[from].start);
            range.end = range.end.max(self.0[to - 1].end);
            self.0.drain(from + 1..to);
            self.0[from] = range;
        } else {
            self.0.insert(from, range);
        }
    }

    /// Removes a range.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let from = self.0.partition_point(|it| it.end <= range.start);
        let to = self.0.partition_point(|it| it.start < range.end);
        if from >= to {
            return;
        }
        let before = self.0[from].start..range.start;
        let behind = range.end..self.0[to - 1].end;
        self.0.drain(from..to);
        for rest in [behind, before] {
            if !rest.is_empty() {
                self.0.insert(from, rest);
            }
        }
        self.release();
    }

    /// Removes every number below `end`.
    pub fn remove_below(&mut self, end: u64) {
        let at = self.0.partition_point(|range| range.end <= end);
        if at > 0 {
            self.0.drain(..at);
            self.release();
        }
        if let Some(first) = self.0.first_mut() {
            first.start = first.start.max(end);
        }
    }

    /// An empty set needs no memory.
    fn release(&mut self) {
        if self.0.is_empty() {
            self.0 = SmallVec::new();
        }
    }

    /// Adds every number of another set.
    pub fn insert_all(&mut self, other: &Self) {
        other.ranges().for_each(|range| self.insert(range));
    }

    /// Removes every number of another set.
    pub fn remove_all(&mut self, other: &Self) {
        if self.is_empty() {
            return;
        }
        other.ranges().for_each(|range| self.remove(range));
    }

    /// The numbers of `range` that are not in the set.
    #[must_use]
    pub fn missing_from(&self, range: Range<u64>) -> Self {
        let mut missing = Self::from(range);
        missing.remove_all(self);
        missing
    }

    /// The numbers that both sets have.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let ranges = other.ranges().flat_map(|range| self.within(range).0);
        ranges.collect()
    }

    /// The numbers of the set that are in `range`.
    #[must_use]
    pub fn within(&self, range: Range<u64>) -> Self {
        let from = self.0.partition_point(|it| it.end <= range.start);
        let concerned = self.0[from..].iter().take_while(|it| it.start < range.end);
        let clipped = concerned.map(|it| it.start.max(range.start)..it.end.min(range.end));
        clipped.collect()
    }

    /// The first number from `start` on that is not in the set.
    #[must_use]
    pub fn first_missing(&self, start: u64) -> u64 {
        let at = self.0.partition_point(|range| range.end <= start);
        match self.0.get(at) {
            Some(range) if range.start <= start => range.end,
            _ => start,
        }
    }

    /// The smallest number.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|range| range.start)
    }

    /// The smallest number from `start` on.
    #[must_use]
    pub fn first_from(&self, start: u64) -> Option<u64> {
        let at = self.0.partition_point(|range| range.end <= start);
        self.0.get(at).map(|range| range.start.max(start))
    }

    /// The largest number.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|range| range.end - 1)
    }

    /// The ranges in ascending order.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + ExactSizeIterator + '_ {
        self.0.iter().cloned()
    }

    /// The range that a number is in, from its first to its last number in the set.
    #[must_use]
    pub fn range_of(&self, sequence: u64) -> Option<Range<u64>> {
        let at = self.0.partition_point(|range| range.end <= sequence);
        let range = self.0.get(at)?;
        (range.start <= sequence).then(|| range.clone())
    }

    /// Removes the first `count` ranges, or all. Returns them.
    #[must_use]
    pub fn take_ranges(&mut self, count: usize) -> Self {
        if count >= self.0.len() {
            return std::mem::take(self);
        }
        Self(self.0.drain(..count).collect())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Range<u64>> for SequenceSet {
    fn from(range: Range<u64>) -> Self {
        let mut set = Self::default();
        set.insert(range);
        set
    }
}

impl FromIterator<Range<u64>> for SequenceSet {
    fn from_iter<T: IntoIterator<Item = Range<u64>>>(ranges: T) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Change {
        Insert(Range<u64>),
        Remove(Range<u64>),
        RemoveBelow(u64),
    }

    fn ranges() -> impl Strategy<Value = Range<u64>> {
        (0..40_u64, 0..12_u64).prop_map(|(start, len)| start..start + len)
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            4 => ranges().prop_map(Change::Insert),
            2 => ranges().prop_map(Change::Remove),
            1 => (0..20_u64).prop_map(Change::RemoveBelow),
        ];
        prop::collection::vec(change, 1..40)
    }

    #[test]
    fn a_set_that_is_empty_again_has_no_memory_of_its_own() {
        let filled = || -> SequenceSet { (0..9_u64).map(|it| 2 * it..2 * it + 1).collect() };
        let (mut removed, mut below) = (filled(), filled());
        assert!(filled().0.spilled());
        removed.remove(0..20);
        below.remove_below(20);
        assert!(removed.is_empty() && !removed.0.spilled());
        assert!(below.is_empty() && !below.0.spilled());
    }

    proptest! {
        #[test]
        fn a_set_of_ranges_holds_the_numbers_that_a_plain_set_holds(changes in changes()) {
            let (mut set, mut model) = (SequenceSet::default(), BTreeSet::new());
            for change in changes {
                match change {
                    Change::Insert(range) => {
                        set.insert(range.clone());
                        model.extend(range);
                    }
                    Change::Remove(range) => {
                        set.remove(range.clone());
                        model.retain(|number| !range.contains(number));
                    }
                    Change::RemoveBelow(end) => {
                        set.remove_below(end);
                        model.retain(|&number| number >= end);
                    }
                }
                let held: BTreeSet<u64> = set.ranges().flatten().collect();
                prop_assert_eq!(&held, &model);
                let sorted: Vec<_> = set.ranges().collect();
                // None is empty, and no two touch.
                prop_assert!(sorted.iter().all(|range| !range.is_empty()));
                prop_assert!(sorted.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert_eq!(set.first(), model.first().copied());
                prop_assert_eq!(set.last(), model.last().copied());
                for number in 0..60 {
                    prop_assert_eq!(set.contains(number), model.contains(&number));
                    prop_assert_eq!(set.first_from(number), model.range(number..).next().copied());
                    let range = sorted.iter().find(|it| it.contains(&number));
                    prop_assert_eq!(set.range_of(number), range.cloned());
                    let first_missing = (number..).find(|it| !model.contains(it));
                    prop_assert_eq!(Some(set.first_missing(number)), first_missing);
                }
                let (mut rest, count) = (set.clone(), sorted.len() / 2);
                let mut taken = rest.take_ranges(count);
                prop_assert_eq!(taken.ranges().len(), count);
                taken.insert_all(&rest);
                prop_assert_eq!(&taken, &set);
                let within: BTreeSet<u64> = set.within(5..30).ranges().flatten().collect();
                let expected: BTreeSet<u64> = model.iter().copied().filter(|it| (5..30).contains(it)).collect();
                prop_assert_eq!(within, expected);
                let missing: BTreeSet<u64> = set.missing_from(5..30).ranges().flatten().collect();
                let expected = (5..30).filter(|it| !model.contains(it)).collect();
                prop_assert_eq!(missing, expected);
            }
        }
    }
}
