//! A set that few flows need.

use std::ops::{Deref, Range};
use std::sync::LazyLock;

use selvedge_client::settlement::SequenceSet;

static EMPTY: LazyLock<SequenceSet> = LazyLock::new(SequenceSet::default);

/// A set that is a pointer as long as it is empty.
#[derive(Debug, Default)]
pub(super) struct RareSet(Option<Box<SequenceSet>>);

impl RareSet {
    pub(super) fn insert(&mut self, range: Range<u64>) {
        self.0.get_or_insert_default().insert(range);
    }

    pub(super) fn insert_all(&mut self, other: &SequenceSet) {
        if !other.is_empty() {
            self.0.get_or_insert_default().insert_all(other);
        }
    }

    pub(super) fn remove(&mut self, range: Range<u64>) {
        if let Some(set) = &mut self.0 {
            set.remove(range);
            self.0.take_if(|set| set.is_empty());
        }
    }

    pub(super) fn remove_all(&mut self, other: &SequenceSet) {
        if let Some(set) = &mut self.0 {
            set.remove_all(other);
            self.0.take_if(|set| set.is_empty());
        }
    }

    pub(super) fn take(&mut self) -> SequenceSet {
        self.0.take().map_or_else(SequenceSet::default, |set| *set)
    }
}

impl Deref for RareSet {
    type Target = SequenceSet;

    fn deref(&self) -> &SequenceSet {
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

impl From<SequenceSet> for RareSet {
    fn from(set: SequenceSet) -> Self {
        Self((!set.is_empty()).then(|| Box::new(set)))
    }
}
