//! Counts the bytes that the user has consumed, for which the peer gets credit.

use selvedge_endpoint::LaneId;

/// Bytes consumed from each lane since they were last turned into credit.
#[derive(Debug, Default)]
pub(crate) struct Consumed {
    /// By lane, up to the last lane that anything was consumed from.
    bytes: Vec<u64>,
    total: u64,
}

impl Consumed {
    #[inline]
    pub(crate) fn add(&mut self, lane: LaneId, cost: u64) {
        let lane = usize::from(lane.number());
        if self.bytes.len() <= lane {
            self.bytes.resize(lane + 1, 0);
        }
        self.bytes[lane] += cost;
        self.total += cost;
    }

    /// Moves the counts of `other` here.
    pub(crate) fn merge(&mut self, other: &mut Self) {
        let lanes = self.bytes.len().max(other.bytes.len());
        self.bytes.resize(lanes, 0);
        for (bytes, more) in self.bytes.iter_mut().zip(&mut other.bytes) {
            *bytes += std::mem::take(more);
        }
        self.total += std::mem::take(&mut other.total);
    }

    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Passes the count of each lane to `credit`, and resets it.
    pub(crate) fn drain(&mut self, mut credit: impl FnMut(LaneId, u64)) {
        if self.total == 0 {
            return;
        }
        self.total = 0;
        for (number, bytes) in (0..).zip(&mut self.bytes) {
            if *bytes > 0
                && let Some(lane) = LaneId::new(number)
            {
                credit(lane, std::mem::take(bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_counts_include_lanes_from_which_nothing_was_consumed_before() {
        let add = |consumed: &mut Consumed, lane| {
            consumed.add(LaneId::new(lane).unwrap(), 5);
        };
        let (mut all, mut more) = (Consumed::default(), Consumed::default());
        add(&mut all, 0);
        add(&mut more, 0);
        add(&mut more, 2);
        all.merge(&mut more);
        assert_eq!((all.total(), more.total()), (15, 0));
        let mut credit = Vec::new();
        all.drain(|lane, bytes| credit.push((lane.number(), bytes)));
        assert_eq!(credit, [(0, 10), (2, 5)]);
    }
}
