//! The functions that a zipper reaches, as it advertises them to its neighbours.

use bytes::{Buf, BufMut, Bytes};

use super::{
    NodeKey, PATH_MAX, Policy, WireError, get_list, get_node, get_option, get_tags, get_text,
    get_u8, get_u64, put_interest, put_len, put_option, put_text,
};
use crate::tag::Tag;

/// The largest number of entries in one interest table.
pub const INTEREST_MAX: usize = 16 * 1024;

/// The longest encoded [`InterestDelta`], in bytes. The longest entry has 6,666 bytes. A receiver applies
/// a delta under a lock, and one of this length has at most 4,096 tags.
pub const INTEREST_DELTA_LEN_MAX: usize = 16 * 1024;

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
    /// Entries that are new or replace the entry with the same name, target and home.
    pub updated: Vec<InterestEntry>,
    /// Entries that are removed.
    pub withdrawn: Vec<WithdrawnRoute>,
}

impl InterestEntry {
    /// The number of bytes of the encoded entry.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
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

    /// Appends the fields behind the kind byte.
    pub(super) fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        out.put_u64(self.number);
        put_entries(&self.updated, out)?;
        put_len(self.withdrawn.len(), INTEREST_MAX, out)?;
        for route in &self.withdrawn {
            route.encode_into(out)?;
        }
        check_len(out.len())
    }

    /// Reads the fields behind the kind byte.
    pub(super) fn decode(b: &mut Bytes) -> Result<Self, WireError> {
        check_len(1 + b.remaining())?;
        Ok(Self {
            number: get_u64(b)?,
            updated: get_entries(b)?,
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
        }
    }

    #[test]
    fn two_of_the_longest_entries_fit_into_a_delta_and_a_third_is_refused() {
        let mut delta = InterestDelta {
            number: 1,
            updated: vec![entry(); 2],
            withdrawn: Vec::new(),
        };
        let len = |delta: &InterestDelta| {
            let bytes = WireMessage::InterestDelta(delta.clone()).encode()?;
            Ok::<_, WireError>(bytes.len())
        };
        let expected = InterestDelta::EMPTY_LEN + 2 * entry().encoded_len();
        assert_eq!(len(&delta), Ok(expected));
        delta.updated.push(entry());
        let len_refused = expected + entry().encoded_len();
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
            let expected = InterestDelta::EMPTY_LEN + short.encoded_len() + route.encoded_len();
            let delta = InterestDelta {
                number: 2,
                updated: vec![short],
                withdrawn: vec![route],
            };
            let bytes = WireMessage::InterestDelta(delta).encode().unwrap();
            assert_eq!(bytes.len(), expected);
        }
    }
}
