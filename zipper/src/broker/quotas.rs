//! Limits the tags that the functions of one zipper observe together. Pure.
//!
//! The functions of one name and target are one entry of the interest table that neighbours receive. A
//! table beyond the limits of its encoding could not be sent at all, so that one client would hide the
//! functions of all others.

use std::collections::HashMap;

use selvedge_client::tag::Tag;
use selvedge_client::wire::{NodeKey, TAGS_MAX};

/// The largest number of tags of all functions of a zipper.
const ZIPPER_TAGS_MAX: usize = 256 * 1024;

/// A function does not fit. A retry helps once other functions have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuotaExceeded {
    #[error(
        "the functions of this name and target would observe more than {TAGS_MAX} tags together"
    )]
    Name,
    #[error("the functions of this zipper would observe more than {ZIPPER_TAGS_MAX} tags together")]
    Zipper,
}

/// A name and a target.
type GroupName = (String, Option<String>);

/// The tags that the functions of a zipper observe.
#[derive(Debug, Default)]
pub(crate) struct TagQuotas {
    functions: HashMap<NodeKey, (GroupName, Vec<Tag>)>,
    /// How many functions of each name and target observe each tag.
    groups: HashMap<GroupName, HashMap<Tag, usize>>,
    /// The number of tags of all functions.
    total: usize,
}

impl TagQuotas {
    /// Adds a function, which replaces a former one of that node.
    pub(crate) fn add(
        &mut self,
        node: NodeKey,
        name: &str,
        target: Option<&str>,
        tags: &[Tag],
    ) -> Result<(), QuotaExceeded> {
        self.remove(node);
        let mut tags = tags.to_vec();
        tags.sort_unstable();
        tags.dedup();
        if self.total + tags.len() > ZIPPER_TAGS_MAX {
            return Err(QuotaExceeded::Zipper);
        }
        let group_name = (name.to_owned(), target.map(str::to_owned));
        let known = self.groups.get(&group_name);
        let is_new = |tag: &&Tag| known.is_none_or(|known| !known.contains_key(*tag));
        let new = tags.iter().filter(is_new).count();
        if known.map_or(0, HashMap::len) + new > TAGS_MAX {
            return Err(QuotaExceeded::Name);
        }
        let group = self.groups.entry(group_name.clone()).or_default();
        for tag in &tags {
            *group.entry(*tag).or_default() += 1;
        }
        self.total += tags.len();
        self.functions.insert(node, (group_name, tags));
        Ok(())
    }

    pub(crate) fn remove(&mut self, node: NodeKey) {
        let Some((name, tags)) = self.functions.remove(&node) else {
            return;
        };
        self.total -= tags.len();
        let Some(group) = self.groups.get_mut(&name) else {
            return;
        };
        for tag in tags {
            if let Some(count) = group.get_mut(&tag) {
                *count -= 1;
                if *count == 0 {
                    group.remove(&tag);
                }
            }
        }
        if group.is_empty() {
            self.groups.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeKey {
        let mut node = [0; 32];
        node[..8].copy_from_slice(&number.to_le_bytes());
        node
    }

    fn tags(from: usize, count: usize) -> Vec<Tag> {
        (from..from + count).map(|tag| Tag(tag as u32)).collect()
    }

    #[test]
    fn the_functions_of_one_name_and_target_share_the_tags_of_one_entry() {
        let mut quotas = TagQuotas::default();
        assert_eq!(quotas.add(node(1), "f", None, &tags(0, 1000)), Ok(()));
        assert_eq!(
            quotas.add(node(2), "f", None, &tags(0, 1000)),
            Ok(()),
            "the same"
        );
        let exceeded = Err(QuotaExceeded::Name);
        assert_eq!(quotas.add(node(3), "f", None, &tags(1000, 25)), exceeded);
        assert_eq!(quotas.add(node(3), "f", None, &tags(1000, 24)), Ok(()));
        assert_eq!(
            quotas.add(node(4), "f", Some("t"), &tags(2000, 1024)),
            Ok(())
        );
        assert_eq!(quotas.add(node(5), "g", None, &tags(3000, 1024)), Ok(()));
        quotas.remove(node(1));
        assert_eq!(quotas.add(node(6), "f", None, &tags(5000, 1)), exceeded);
        quotas.remove(node(2));
        assert_eq!(quotas.add(node(6), "f", None, &tags(5000, 1000)), Ok(()));
    }

    #[test]
    fn the_functions_of_a_zipper_share_the_tags_of_one_table() {
        let mut quotas = TagQuotas::default();
        for number in 0..ZIPPER_TAGS_MAX / TAGS_MAX {
            let added = quotas.add(node(number), &number.to_string(), None, &tags(0, TAGS_MAX));
            assert_eq!(added, Ok(()));
        }
        let another = |quotas: &mut TagQuotas| quotas.add(node(1 << 20), "f", None, &tags(0, 1));
        assert_eq!(another(&mut quotas), Err(QuotaExceeded::Zipper));
        quotas.remove(node(0));
        assert_eq!(another(&mut quotas), Ok(()));
    }

    #[test]
    fn functions_that_leave_or_return_leave_nothing_behind() {
        let mut quotas = TagQuotas::default();
        for _ in 0..2 {
            for name in ["f", "g"] {
                let doubled = [tags(0, 10), tags(0, 10)].concat();
                assert_eq!(quotas.add(node(1), name, None, &doubled), Ok(()));
                assert_eq!((quotas.total, quotas.groups.len()), (10, 1));
            }
        }
        quotas.remove(node(1));
        quotas.remove(node(1));
        assert_eq!((quotas.total, quotas.groups.len()), (0, 0));
        assert!(quotas.functions.is_empty());
    }
}
