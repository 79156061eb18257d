//! A bounded set that forgets what was inserted longest ago. Pure.

use std::collections::VecDeque;

/// The values that were inserted most recently, such as the networks of peers that were admitted.
#[derive(Debug)]
pub struct RecentSet<T> {
    max: usize,
    /// The most recent last.
    values: VecDeque<T>,
}

impl<T: PartialEq> RecentSet<T> {
    /// An empty set of at most `max` values.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            values: VecDeque::new(),
        }
    }

    /// Inserts a value, or renews it.
    pub fn insert(&mut self, value: T) {
        if let Some(at) = self.values.iter().rposition(|known| *known == value) {
            self.values.remove(at);
        }
        self.values.push_back(value);
        if self.values.len() > self.max {
            self.values.pop_front();
        }
    }

    /// Whether the set contains a value. It searches the most recent values first.
    #[must_use]
    pub fn contains(&self, value: &T) -> bool {
        self.values.iter().rev().any(|known| known == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_that_were_inserted_longest_ago_are_forgotten() {
        let mut set = RecentSet::new(3);
        for value in [1, 2, 3, 1, 4] {
            set.insert(value);
        }
        let contained = [1, 2, 3, 4].map(|value| set.contains(&value));
        assert_eq!(contained, [true, false, true, true]);
    }
}
