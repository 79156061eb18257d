//! Refreshing: changes that concern many routes are applied in parts, so that each part takes a limited
//! time. Pure.

use std::collections::VecDeque;
use std::ops::Bound;
use std::vec;

use selvedge_client::wire::NodeKey;

use super::routes::RouteKey;
use super::{Presence, Router};

/// The largest number of routes that are copied from a table at once.
const COPIED_MAX: usize = 64;

/// Routes that may have another best path, in parts.
///
/// A refresh reads the tables as they are then. So changes may be made between two parts, and routes that
/// have not been refreshed yet remain as they were.
#[derive(Debug, Default)]
pub(super) struct OutdatedRoutes {
    /// To be refreshed first.
    keys: Vec<vec::IntoIter<RouteKey>>,
    /// Neighbours with the key behind which their routes are outdated.
    neighbours: VecDeque<(NodeKey, Option<RouteKey>)>,
}

impl OutdatedRoutes {
    pub(super) fn add(&mut self, keys: Vec<RouteKey>) {
        self.keys.push(keys.into_iter());
    }

    pub(super) fn add_all_of(&mut self, neighbour: NodeKey) {
        self.neighbours.retain(|(other, _)| *other != neighbour);
        self.neighbours.push_back((neighbour, None));
    }

    fn next_key(&mut self) -> Option<RouteKey> {
        while let Some(keys) = self.keys.last_mut() {
            if let Some(key) = keys.next() {
                return Some(key);
            }
            self.keys.pop();
        }
        None
    }
}

impl Router {
    /// Records that a client or neighbour has disconnected or returned; [`advance`](Self::advance) applies
    /// this to the routes of a neighbour.
    pub fn begin_presence(&mut self, node: NodeKey, presence: Presence) {
        self.set_local_presence(node, presence);
        if let Some(table) = self.neighbours.get_mut(&node)
            && table.presence != presence
        {
            table.presence = presence;
            self.outdated.add_all_of(node);
        }
    }

    /// Removes a client or neighbour; [`advance`](Self::advance) applies this to the routes of a
    /// neighbour.
    pub fn begin_removal(&mut self, node: NodeKey) {
        self.set_local(node, None);
        if let Some(table) = self.neighbours.remove(&node) {
            self.outdated.add(table.routes.into_keys().collect());
        }
    }

    /// Refreshes routes, at most so many. Returns whether others are outdated.
    pub fn advance(&mut self, routes_max: usize) -> bool {
        for _ in 0..routes_max {
            let Some(key) = self.outdated.next_key().or_else(|| self.next_outdated()) else {
                return false;
            };
            self.refresh(&key);
        }
        true
    }

    /// The next outdated route of a neighbour that has changed. Some that follow it are copied.
    fn next_outdated(&mut self) -> Option<RouteKey> {
        while let Some((neighbour, last)) = self.outdated.neighbours.front_mut() {
            let begin = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let table = self.neighbours.get(neighbour);
            let rest = table.map(|table| table.routes.range((begin, Bound::Unbounded)));
            let rest = rest.into_iter().flatten().take(COPIED_MAX);
            let keys: Vec<RouteKey> = rest.map(|(key, _)| key.clone()).collect();
            if let Some(key) = keys.last() {
                *last = Some(key.clone());
                self.outdated.add(keys);
                return self.outdated.next_key();
            }
            self.outdated.neighbours.pop_front();
        }
        None
    }
}
