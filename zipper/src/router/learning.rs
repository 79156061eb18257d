//! Learning: the interest tables of neighbours, whole or as deltas. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use selvedge_client::wire::{INTEREST_MAX, InterestDelta, InterestEntry, NodeKey, PATH_MAX};

use super::Router;
use super::routes::RouteKey;

/// Why a delta of a neighbour is refused. The neighbour has violated the protocol; a retry helps only after
/// a new table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LearnError {
    /// Deltas before this one are missing, or it was sent before.
    #[error("interest delta {number} follows delta {last}")]
    OutOfOrder {
        /// The number of the delta.
        number: u64,
        /// The number of the previous delta; 0 if there was none.
        last: u64,
    },
    /// The table of the neighbour has more than [`INTEREST_MAX`] entries.
    #[error("an interest table has more than {INTEREST_MAX} entries")]
    TooManyEntries,
}

impl Router {
    /// Replaces the interest table of a neighbour. Entries are ignored if their path contains this
    /// zipper, is too long or does not end at the neighbour.
    pub fn learn(&mut self, neighbour: NodeKey, entries: Vec<InterestEntry>) {
        self.begin_learning(neighbour, entries);
        self.advance(usize::MAX);
    }

    /// The same; [`advance`](Self::advance) applies the table to the routes.
    pub fn begin_learning(&mut self, neighbour: NodeKey, entries: Vec<InterestEntry>) {
        let mut routes = BTreeMap::<RouteKey, Arc<InterestEntry>>::new();
        for entry in entries {
            if let Some((key, entry)) = self.accept(neighbour, entry) {
                let known = routes.get(&key);
                if known.is_none_or(|known| entry.path.len() < known.path.len()) {
                    routes.insert(key, entry.into());
                }
            }
        }
        let table = self.neighbours.entry(neighbour).or_default();
        let mut changed = Vec::new();
        for (key, entry) in &mut routes {
            match table.routes.remove(key) {
                // The same piece of memory, which is recognised as already advertised.
                Some(old) if old == *entry => *entry = old,
                _ => changed.push(key.clone()),
            }
        }
        let withdrawn = std::mem::replace(&mut table.routes, routes);
        changed.extend(withdrawn.into_keys());
        self.outdated.add(changed);
    }

    /// Applies a delta to the interest table of a neighbour. Entries that [`learn`](Self::learn) ignores
    /// are removed. [`advance`](Self::advance) applies the first one, which replaces the table, to the routes.
    ///
    /// # Errors
    /// [`LearnError`].
    pub fn learn_delta(
        &mut self,
        neighbour: NodeKey,
        delta: InterestDelta,
    ) -> Result<(), LearnError> {
        let table = self.neighbours.entry(neighbour).or_default();
        let (number, last) = (delta.number, table.last_delta);
        if number == 1 {
            table.last_delta = 1;
            self.begin_learning(neighbour, delta.updated);
            return Ok(());
        }
        if last == 0 || number != last.wrapping_add(1) {
            return Err(LearnError::OutOfOrder { number, last });
        }
        table.last_delta = number;
        for route in &delta.withdrawn {
            self.set_route(neighbour, RouteKey::from(route), None)?;
        }
        for entry in delta.updated {
            let key = RouteKey::of_entry(&entry);
            let accepted = self.accept(neighbour, entry).map(|(_, entry)| entry);
            if let Some(key) = key {
                self.set_route(neighbour, key, accepted)?;
            }
        }
        Ok(())
    }

    /// Replaces one entry of a table.
    fn set_route(
        &mut self,
        neighbour: NodeKey,
        key: RouteKey,
        entry: Option<InterestEntry>,
    ) -> Result<(), LearnError> {
        let table = self.neighbours.entry(neighbour).or_default();
        let old = table.routes.get(&key);
        if old.map(|old| &**old) == entry.as_ref() {
            return Ok(());
        }
        match entry {
            Some(_) if old.is_none() && table.routes.len() >= INTEREST_MAX => {
                return Err(LearnError::TooManyEntries);
            }
            Some(entry) => _ = table.routes.insert(key.clone(), entry.into()),
            None => _ = table.routes.remove(&key),
        }
        self.refresh(&key);
        Ok(())
    }

    /// The key of an entry, and the entry with each tag and instance once in order; `None` if its path is not usable.
    fn accept(
        &self,
        neighbour: NodeKey,
        mut entry: InterestEntry,
    ) -> Option<(RouteKey, InterestEntry)> {
        let path = &entry.path;
        let is_usable =
            path.last() == Some(&neighbour) && path.len() <= PATH_MAX && !path.contains(&self.own);
        if !is_usable {
            return None;
        }
        entry.tags.sort_unstable();
        entry.tags.dedup();
        if let Some(listed) = &mut entry.settled {
            for list in [&mut listed.instances, &mut listed.away] {
                list.sort_unstable();
                list.dedup();
            }
        }
        Some((RouteKey::of_entry(&entry)?, entry))
    }
}
