//! The tables of a router for operators, in a stable order and in parts.

use std::collections::BTreeSet;
use std::ops::Bound;

use selvedge_client::tag::Tag;
use selvedge_client::wire::{InterestEntry, NodeKey};

use super::routes::RouteKey;
use super::{FunctionSpec, Presence, Router};

/// The position of a remote function in the list of routes: name, target, home.
pub(crate) type RoutePosition<'a> = (&'a str, Option<&'a str>, NodeKey);

/// The best path to a remote function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteView<'a> {
    pub(crate) home: NodeKey,
    /// The neighbour to which messages are forwarded.
    pub(crate) via: NodeKey,
    pub(crate) entry: &'a InterestEntry,
}

impl<'a> RouteView<'a> {
    pub(crate) fn position(&self) -> RoutePosition<'a> {
        (&self.entry.name, self.entry.target.as_deref(), self.home)
    }
}

impl Router {
    /// At most `max` functions of this zipper behind a key, in the order of their keys.
    pub(crate) fn functions_after(
        &self,
        after: Option<NodeKey>,
        max: usize,
    ) -> impl Iterator<Item = (NodeKey, &FunctionSpec, Presence)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let functions = self.local.range((start, Bound::Unbounded)).take(max);
        functions.map(|(node, it)| (*node, &it.function, it.presence()))
    }

    /// At most `max` tags behind a tag, in their order, with the names of the functions that observe them.
    pub(crate) fn tags_after(
        &self,
        after: Option<Tag>,
        max: usize,
    ) -> impl Iterator<Item = (Tag, BTreeSet<&str>)> {
        let tags = self.tags.groups_after(after).take(max);
        tags.map(|(tag, groups)| (tag, groups.iter().map(|group| &*group.name).collect()))
    }

    /// At most `max` remote functions behind a position.
    pub(crate) fn routes_after(
        &self,
        after: Option<RoutePosition<'_>>,
        max: usize,
    ) -> impl Iterator<Item = RouteView<'_>> + use<'_> {
        let start = after.map_or(Bound::Unbounded, |(name, target, home)| {
            Bound::Excluded(RouteKey::new(name, target, home))
        });
        let routes = self.routes.range((start, Bound::Unbounded));
        let remote = routes.filter_map(|(key, route)| {
            Some(RouteView {
                home: key.home,
                via: route.via()?,
                entry: &route.entry,
            })
        });
        remote.take(max)
    }

    /// The number of functions at this zipper, of routes to others, and of observed tags.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let routes = self.routes.len().saturating_sub(self.local_groups.len());
        (self.local.len(), routes, self.tags.len())
    }

    /// The number of functions that a neighbour reaches.
    pub(crate) fn reached_by(&self, neighbour: &NodeKey) -> usize {
        let table = self.neighbours.get(neighbour);
        table.map_or(0, |table| table.routes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_client::wire::Policy;

    fn function(name: &str, tags: &[u32]) -> FunctionSpec {
        FunctionSpec {
            name: name.into(),
            tags: tags.iter().copied().map(Tag).collect(),
            target: None,
            policy: Policy::Nearest,
            instance: None,
            drops: None,
        }
    }

    fn entry(name: &str, home: u8) -> InterestEntry {
        InterestEntry {
            name: name.into(),
            tags: vec![Tag(9)],
            target: None,
            policy: Policy::Nearest,
            path: vec![[home; 32], [200; 32]],
            settled: None,
            drops: None,
        }
    }

    fn router() -> Router {
        let mut router = Router::new([0; 32], 1);
        for n in 1..=5 {
            router.add_function([n; 32], function("f", &[u32::from(n), u32::from(n) + 1]));
        }
        let entries = vec![entry("b", 2), entry("a", 3), entry("b", 1)];
        router.learn([200; 32], entries);
        router
    }

    #[test]
    fn the_parts_of_a_list_are_the_list() {
        let router = router();
        let (mut functions, mut tags, mut routes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..4 {
            let after = functions.last().copied();
            functions.extend(router.functions_after(after, 2).map(|(node, ..)| node));
            let after = tags.last().map(|(tag, _)| *tag);
            tags.extend(router.tags_after(after, 2));
            let after = routes.last().map(RouteView::position);
            let more = router.routes_after(after, 1);
            routes.extend(more);
        }
        assert_eq!(functions, [1, 2, 3, 4, 5].map(|n| [n; 32]));
        let names: Vec<_> = tags
            .iter()
            .map(|(tag, names)| (tag.0, names.len()))
            .collect();
        assert_eq!(
            names,
            [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (9, 2)]
        );
        let homes: Vec<_> = routes.iter().map(RouteView::position).collect();
        let expected = [("a", 3), ("b", 1), ("b", 2)];
        assert_eq!(homes, expected.map(|(name, home)| (name, None, [home; 32])));
        assert_eq!(
            (router.counts(), router.reached_by(&[200; 32])),
            ((5, 3, 7), 3)
        );
        // The functions of this zipper are one route.
        assert_eq!(router.routes(), 4);
    }
}
