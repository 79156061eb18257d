//! Shards: which cached plans and waiting connections a change of the routes may concern.
//!
//! Tags and nodes are mapped to a fixed number of shards. Two that share one cost each other a lookup or
//! a wake-up; memory does not grow with the tags that sources choose.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use selvedge_client::tag::Tag;
use selvedge_client::wire::NodeKey;
use selvedge_hub::Endpoint;

const SHARD_BITS: u32 = 8;
const SHARDS: usize = 1 << SHARD_BITS;

/// 2^32 divided by the golden ratio: the upper bits of a product are spread evenly (Knuth, volume 3,
/// section 6.4), also for consecutive tags.
const MULTIPLIER: u32 = 0x9e37_79b1;

fn shard_of_tag(tag: Tag) -> usize {
    (tag.0.wrapping_mul(MULTIPLIER) >> (u32::BITS - SHARD_BITS)) as usize
}

fn shard_of_node(node: &NodeKey) -> usize {
    usize::from(node[0]) % SHARDS
}

/// A set of tags and nodes; it may contain others, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ShardSet([u64; SHARDS / 64]);

impl ShardSet {
    #[inline]
    pub(super) fn insert_tag(&mut self, tag: Tag) {
        self.insert(shard_of_tag(tag));
    }

    #[inline]
    pub(super) fn insert_node(&mut self, node: &NodeKey) {
        self.insert(shard_of_node(node));
    }

    #[inline]
    fn insert(&mut self, shard: usize) {
        self.0[shard / 64] |= 1 << (shard % 64);
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
        let mut words = self.0.iter().zip(&other.0);
        words.all(|(own, other)| other & !own == 0)
    }

    fn intersects(&self, other: &Self) -> bool {
        let mut words = self.0.iter().zip(&other.0);
        words.any(|(own, other)| own & other != 0)
    }

    fn shards(&self) -> impl Iterator<Item = usize> {
        (0..SHARDS).filter(|shard| self.0[shard / 64] >> (shard % 64) & 1 != 0)
    }
}

/// Counts the changes that concern each shard.
#[derive(Debug)]
pub(super) struct ShardVersions([AtomicU64; SHARDS]);

impl Default for ShardVersions {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; SHARDS])
    }
}

impl ShardVersions {
    /// The version of the plans for a tag.
    pub(super) fn of(&self, tag: Tag) -> u64 {
        self.0[shard_of_tag(tag)].load(Ordering::Acquire)
    }

    /// The version of what is known of a node.
    pub(super) fn of_node(&self, node: &NodeKey) -> u64 {
        self.0[shard_of_node(node)].load(Ordering::Acquire)
    }

    pub(super) fn increase(&self, concerned: &ShardSet) {
        for shard in concerned.shards() {
            self.0[shard].fetch_add(1, Ordering::Release);
        }
    }
}

/// Endpoints with messages for which there was no room, by the id of their connection, each with the
/// tags and recipients concerned. Some may have received room meanwhile.
#[derive(Debug, Default)]
pub(super) struct WaitingEndpoints(BTreeMap<u64, (Endpoint, ShardSet)>);

impl WaitingEndpoints {
    /// Adds an endpoint, or replaces what it waits for.
    pub(super) fn insert(&mut self, connection: u64, endpoint: &Endpoint, concerns: ShardSet) {
        self.0.insert(connection, (endpoint.clone(), concerns));
    }

    pub(super) fn remove(&mut self, connection: u64) {
        self.0.remove(&connection);
    }

    /// Resumes all endpoints, which stay.
    pub(super) fn resume_all(&self) {
        self.0.values().for_each(|(endpoint, _)| endpoint.resume());
    }

    /// Removes and resumes the endpoints that a change concerns.
    pub(super) fn resume(&mut self, concerned: &ShardSet) {
        self.0.retain(|_, (endpoint, concerns)| {
            let is_concerned = concerns.intersects(concerned);
            if is_concerned {
                endpoint.resume();
            }
            !is_concerned
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_tags(tags: &[u32]) -> ShardSet {
        let mut set = ShardSet::default();
        tags.iter().for_each(|tag| set.insert_tag(Tag(*tag)));
        set
    }

    #[test]
    fn consecutive_tags_are_spread_over_all_shards() {
        for first in [0, 0x10, 0x8000_0000] {
            let mut counts = [0; SHARDS];
            (0..4096).for_each(|tag| counts[shard_of_tag(Tag(first + tag))] += 1);
            let (min, max) = (counts.iter().min(), counts.iter().max());
            assert!(min >= Some(&8) && max <= Some(&32), "{min:?} to {max:?}");
        }
    }

    #[test]
    fn a_set_contains_what_was_inserted_and_intersects_what_it_shares() {
        let (one, two) = (of_tags(&[1, 2, 3]), of_tags(&[3]));
        assert!(one.contains(&two) && !two.contains(&one) && one.intersects(&two));
        let mut node = ShardSet::default();
        assert!(node.is_empty() && one.contains(&node) && !one.intersects(&node));
        node.insert_node(&[255; 32]);
        assert_eq!(node.shards().collect::<Vec<_>>(), [255]);
    }

    #[test]
    fn a_change_increases_the_versions_of_its_tags_only() {
        let versions = ShardVersions::default();
        let tags: Vec<u32> = (0..64).collect();
        versions.increase(&of_tags(&[7, 9]));
        for tag in tags {
            let is_concerned = of_tags(&[7, 9]).contains(&of_tags(&[tag]));
            assert_eq!(versions.of(Tag(tag)), u64::from(is_concerned), "{tag}");
        }
    }
}
