//! The functions that a zipper reaches, as it advertises them to its neighbours.

use bytes::{Buf, BufMut, Bytes};

use super::settlement::GROUP_MEMBERS_MAX;
use super::{
    DropPolicy, NodeKey, PATH_MAX, Policy, WireError, get_bool, get_list, get_node, get_option,
    get_tags, get_text, get_u8, get_u64, put_interest, put_len, put_option, put_text,
};
use crate::settlement::InstanceId;
use crate::tag::Tag;

/// The largest number of entries in one interest table.
pub const INTEREST_MAX: usize = 16 * 1024;

/// The longest encoded [`InterestDelta`], in bytes. The longest entry has 6,666 bytes, and 14,864 if it lists
/// instances. A receiver applies a delta under a lock, and one of this length has at most 4,096 tags or
/// 2,048 instances.
pub const INTEREST_DELTA_LEN_MAX: usize = 16 * 1024;

/// The kind bytes of deltas, without and with instances.
pub(super) const DELTA_KIND: u8 = 7;
pub(super) const LISTING_DELTA_KIND: u8 = 8;

/// What follows an entry in a delta that lists instances: nothing, instances, or from this number on, a
/// [`DropPolicy`].
const HOLDS: u8 = 0;
const SETTLES: u8 = 1;
const DROPS: u8 = 1;

/// One function in an interest table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterestEntry {
    /// The name of the function.
    pub name: String,
    /// The tags that the function observes.
    pub tags: Vec<Tag>,
    /// The target whose messages the function receives.
    pub target: Option<String>,
    /// How messages are distributed among the functions of that name.
    pub policy: Policy,
    /// The zippers on the path, from the home of the function to the sender of the table.
    pub path: Vec<NodeKey>,
    /// The instances, if any of the functions has introduced one. Only a delta that lists instances has
    /// this field.
    pub settled: Option<ListedInstances>,
    /// Which messages are dropped for want of room, if each of the functions has such a policy. Without it, and
    /// without instances, the functions hold their sources back. In the same deltas as the instances; an entry
    /// has one of both at the most.
    pub drops: Option<DropPolicy>,
}

/// The instances of functions with one name, target and home that take part in settlement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedInstances {
    /// Whether messages that an instance may have processed when it is lost go to another instance. As
    /// the first of the functions has it.
    pub redelivers: bool,
    /// Those that are connected to the home, sorted: at most [`GROUP_MEMBERS_MAX`], the smallest ones.
    pub instances: Vec<InstanceId>,
    /// Those that are disconnected and may return, or are connected elsewhere by now; likewise.
    pub away: Vec<InstanceId>,
}

/// A function that the sender does not reach any more, or not by a path for the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithdrawnRoute {
    /// The name of the function.
    pub name: String,
    /// The target whose messages the function receives.
    pub target: Option<String>,
    /// The zipper to which the function is connected.
    pub home: NodeKey,
}

/// A change of an interest table. Name, target and home (the first zipper on the path) identify an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterestDelta {
    /// The number of the delta, in sequence. Number 1 begins a new table, which replaces any other.
    pub number: u64,
    /// Whether entries list instances: only with the feature
    /// [`FEATURE_SETTLEMENT`](super::settlement::FEATURE_SETTLEMENT). Otherwise they are left out.
    pub lists_instances: bool,
    /// Entries that are new or replace the entry with the same name, target and home.
    pub updated: Vec<InterestEntry>,
    /// Entries that are removed.
    pub withdrawn: Vec<WithdrawnRoute>,
}

impl InterestEntry {
    /// The number of bytes of the encoded entry in a delta that lists no instances.
    #[must_use]
    pub fn plain_len(&self) -> usize {
        let target = self.target.as_ref().map_or(0, |target| 2 + target.len());
        2 + self.name.len() + 2 + 4 * self.tags.len() + 1 + target + 1 + 2 + 32 * self.path.len()
    }

    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        put_text(&self.name, out)?;
        put_interest(&self.tags, self.target.as_deref(), self.policy, out)?;
        put_len(self.path.len(), PATH_MAX, out)?;
        self.path.iter().for_each(|node| out.put_slice(node));
        Ok(())
    }

    fn decode(b: &mut Bytes) -> Result<Self, WireError> {
        Ok(Self {
            name: get_text(b)?,
            tags: get_tags(b)?,
            target: get_option(b)?,
            policy: Policy::from_byte(get_u8(b)?)?,
            path: get_list(b, PATH_MAX, get_node)?,
            settled: None,
            drops: None,
        })
    }

    fn encode_listing(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        debug_assert!(
            self.settled.is_none() || self.drops.is_none(),
            "settled messages are not dropped"
        );
        self.encode_into(out)?;
        match (&self.settled, self.drops) {
            (Some(listed), _) => {
                out.put_u8(SETTLES);
                listed.put(out)?;
            }
            (None, Some(policy)) => out.put_u8(DROPS + policy as u8),
            (None, None) => out.put_u8(HOLDS),
        }
        Ok(())
    }

    fn decode_listing(b: &mut Bytes) -> Result<Self, WireError> {
        let mut entry = Self::decode(b)?;
        match get_u8(b)? {
            HOLDS => {}
            SETTLES => entry.settled = Some(ListedInstances::get(b)?),
            other => {
                let policy = DropPolicy::from_byte(other - DROPS);
                entry.drops = Some(policy.map_err(|_| WireError::Unknown(other))?);
            }
        }
        Ok(entry)
    }
}

impl ListedInstances {
    /// The number of bytes in a delta without any instance.
    pub const EMPTY_LEN: usize = 1 + 2 + 2;

    /// The number of bytes of an instance.
    pub const INSTANCE_LEN: usize = size_of::<InstanceId>();

    fn put(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        out.put_u8(u8::from(self.redelivers));
        for list in [&self.instances, &self.away] {
            put_len(list.len(), GROUP_MEMBERS_MAX, out)?;
            list.iter().for_each(|it| out.put_u64(it.0));
        }
        Ok(())
    }

    fn get(b: &mut Bytes) -> Result<Self, WireError> {
        let get = |b: &mut Bytes| get_list(b, GROUP_MEMBERS_MAX, |b| get_u64(b).map(InstanceId));
        Ok(Self {
            redelivers: get_bool(b)?,
            instances: get(b)?,
            away: get(b)?,
        })
    }
}

impl WithdrawnRoute {
    /// The number of bytes of the encoded route.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let target = self.target.as_ref().map_or(0, |target| 2 + target.len());
        2 + self.name.len() + 1 + target + self.home.len()
    }

    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        put_text(&self.name, out)?;
        put_option(self.target.as_deref(), out)?;
        out.put_slice(&self.home);
        Ok(())
    }

    fn decode(b: &mut Bytes) -> Result<Self, WireError> {
        Ok(Self {
            name: get_text(b)?,
            target: get_option(b)?,
            home: get_node(b)?,
        })
    }
}

impl InterestDelta {
    /// The length of an encoded delta without entries: kind, number and two counts.
    pub const EMPTY_LEN: usize = 1 + 8 + 2 + 2;

    /// The kind byte.
    pub(super) const fn kind_byte(&self) -> u8 {
        match self.lists_instances {
            false => DELTA_KIND,
            true => LISTING_DELTA_KIND,
        }
    }

    /// Appends the fields behind the kind byte.
    pub(super) fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        out.put_u64(self.number);
        match self.lists_instances {
            false => put_entries(&self.updated, out)?,
            true => {
                put_len(self.updated.len(), INTEREST_MAX, out)?;
                let mut entries = self.updated.iter();
                entries.try_for_each(|entry| entry.encode_listing(out))?;
            }
        }
        put_len(self.withdrawn.len(), INTEREST_MAX, out)?;
        for route in &self.withdrawn {
            route.encode_into(out)?;
        }
        check_len(out.len())
    }

    /// Reads the fields behind the kind byte.
    pub(super) fn decode(b: &mut Bytes, kind: u8) -> Result<Self, WireError> {
        check_len(1 + b.remaining())?;
        let lists_instances = kind == LISTING_DELTA_KIND;
        Ok(Self {
            number: get_u64(b)?,
            lists_instances,
            updated: match lists_instances {
                false => get_entries(b)?,
                true => get_list(b, INTEREST_MAX, InterestEntry::decode_listing)?,
            },
            withdrawn: get_list(b, INTEREST_MAX, WithdrawnRoute::decode)?,
        })
    }
}

/// Whether a delta is within its limit.
const fn check_len(len: usize) -> Result<(), WireError> {
    let max = INTEREST_DELTA_LEN_MAX;
    match len > max {
        true => Err(WireError::TooLong { len, max }),
        false => Ok(()),
    }
}

pub(super) fn put_entries(entries: &[InterestEntry], out: &mut Vec<u8>) -> Result<(), WireError> {
    put_len(entries.len(), INTEREST_MAX, out)?;
    entries.iter().try_for_each(|entry| entry.encode_into(out))
}

pub(super) fn get_entries(b: &mut Bytes) -> Result<Vec<InterestEntry>, WireError> {
    get_list(b, INTEREST_MAX, InterestEntry::decode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{TAGS_MAX, TEXT_LEN_MAX, WireMessage};

    fn entry() -> InterestEntry {
        InterestEntry {
            name: "n".repeat(TEXT_LEN_MAX),
            tags: vec![Tag(7); TAGS_MAX],
            target: Some("t".repeat(TEXT_LEN_MAX)),
            policy: Policy::Hash,
            path: vec![[3; 32]; PATH_MAX],
            settled: None,
            drops: None,
        }
    }

    fn longest_list() -> ListedInstances {
        ListedInstances {
            redelivers: true,
            instances: vec![InstanceId(9); GROUP_MEMBERS_MAX],
            away: Vec::new(),
        }
    }

    #[test]
    fn two_of_the_longest_entries_fit_into_a_delta_and_a_third_is_refused() {
        let mut delta = InterestDelta {
            number: 1,
            lists_instances: false,
            updated: vec![entry(); 2],
            withdrawn: Vec::new(),
        };
        let len = |delta: &InterestDelta| {
            let bytes = WireMessage::InterestDelta(delta.clone()).encode()?;
            Ok::<_, WireError>(bytes.len())
        };
        let expected = InterestDelta::EMPTY_LEN + 2 * entry().plain_len();
        assert_eq!(len(&delta), Ok(expected));
        delta.updated.push(entry());
        let len_refused = expected + entry().plain_len();
        let max = INTEREST_DELTA_LEN_MAX;
        assert_eq!(
            len(&delta),
            Err(WireError::TooLong {
                len: len_refused,
                max
            })
        );
        let mut bytes = vec![7; 1 + max];
        bytes[1..9].fill(0);
        let refused = WireMessage::decode(bytes.into());
        assert_eq!(refused, Err(WireError::TooLong { len: 1 + max, max }));
    }

    #[test]
    fn the_lengths_of_entries_and_withdrawn_routes_are_those_of_their_encodings() {
        for target in [None, Some("target".to_owned())] {
            let short = InterestEntry {
                name: "f".into(),
                target: target.clone(),
                ..entry()
            };
            let route = WithdrawnRoute {
                name: "name".into(),
                target,
                home: [9; 32],
            };
            let expected = InterestDelta::EMPTY_LEN + short.plain_len() + route.encoded_len();
            let delta = InterestDelta {
                number: 2,
                lists_instances: false,
                updated: vec![short],
                withdrawn: vec![route],
            };
            let bytes = WireMessage::InterestDelta(delta).encode().unwrap();
            assert_eq!(bytes.len(), expected);
        }
    }

    #[test]
    fn the_longest_entry_with_the_most_instances_fits_into_a_delta() {
        let entry = InterestEntry {
            settled: Some(longest_list()),
            ..entry()
        };
        let list_len =
            ListedInstances::EMPTY_LEN + GROUP_MEMBERS_MAX * ListedInstances::INSTANCE_LEN;
        assert_eq!(entry.plain_len() + 1 + list_len, 14_864);
        let delta = InterestDelta {
            number: 1,
            lists_instances: true,
            updated: vec![entry],
            withdrawn: Vec::new(),
        };
        let message = WireMessage::InterestDelta(delta);
        let bytes = message.encode().unwrap();
        assert_eq!(bytes.len(), InterestDelta::EMPTY_LEN + 14_864);
        assert_eq!(WireMessage::decode(bytes), Ok(message));
        let mut list = longest_list();
        list.instances.push(InstanceId(10));
        assert!(list.put(&mut Vec::new()).is_err());
    }

    #[test]
    fn a_delta_without_instances_is_encoded_as_before_them() {
        let mut short = InterestEntry {
            name: "f".into(),
            target: None,
            tags: vec![Tag(1)],
            path: vec![[2; 32]],
            ..entry()
        };
        let encode = |entry: &InterestEntry, lists_instances| {
            let delta = InterestDelta {
                number: 3,
                lists_instances,
                updated: vec![entry.clone()],
                withdrawn: Vec::new(),
            };
            WireMessage::InterestDelta(delta).encode().unwrap()
        };
        let expected = encode(&short, false);
        assert_eq!(expected[0], 7);
        short.settled = Some(longest_list());
        assert_eq!(encode(&short, false), expected);
        let listing = encode(&short, true);
        assert_eq!(listing[0], 8);
        let Ok(WireMessage::InterestDelta(delta)) = WireMessage::decode(listing) else {
            panic!("it decodes");
        };
        assert_eq!(delta.updated, [short]);
    }

    #[test]
    fn a_drop_policy_is_in_listing_deltas_only_and_unknown_ones_are_refused() {
        let plain = InterestEntry {
            name: "f".into(),
            target: None,
            tags: vec![Tag(1)],
            path: vec![[2; 32]],
            ..entry()
        };
        let delta = |drops, lists_instances| InterestDelta {
            number: 3,
            lists_instances,
            updated: vec![InterestEntry {
                drops,
                ..plain.clone()
            }],
            withdrawn: Vec::new(),
        };
        let encode = |delta| WireMessage::InterestDelta(delta).encode().unwrap();
        for drops in [None, Some(DropPolicy::Oldest), Some(DropPolicy::Newest)] {
            let listing = delta(drops, true);
            let decoded = WireMessage::decode(encode(listing.clone()));
            assert_eq!(decoded, Ok(WireMessage::InterestDelta(listing)));
            assert_eq!(encode(delta(drops, false)), encode(delta(None, false)));
        }
        let mut bytes = encode(delta(Some(DropPolicy::Newest), true)).to_vec();
        let at = bytes.len() - 3;
        assert_eq!(bytes[at], 3);
        for unknown in [4, u8::MAX] {
            bytes[at] = unknown;
            let decoded = WireMessage::decode(bytes.clone().into());
            assert_eq!(decoded, Err(WireError::Unknown(unknown)));
        }
    }
}
