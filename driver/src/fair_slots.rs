//! Shares a bounded number of slots among the networks that claim them. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use selvedge_transport::PeerNetwork;

/// The claimant of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotHolder {
    /// A peer, or a peer of a network, that was admitted before.
    Known,
    /// A stranger of that network. Addresses that belong to no network share one.
    Stranger(Option<PeerNetwork>),
}

/// Slots of peers that have not proven anything yet, such as handshakes in progress.
///
/// A free slot is given to anyone. When all are in use, a claim evicts the oldest slot of the network that
/// holds most, counted with the claim: the policy of longest queue drop for shared buffers (Suter et al.,
/// "Design considerations for supporting TCP with per-flow queueing", 1998). A network that floods
/// therefore competes with itself, and a peer that answers quickly completes even within it. Known peers
/// are evicted only by each other, and only while they hold more than half of the slots; strangers have
/// the other half.
#[derive(Debug)]
pub struct FairSlots<K> {
    max: usize,
    len: usize,
    /// The number of claims so far.
    claims: u64,
    /// The slots of each holder, the oldest first, with the number of their claim.
    slots: BTreeMap<SlotHolder, VecDeque<(u64, K)>>,
}

impl<K: PartialEq> FairSlots<K> {
    /// `max` free slots.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            len: 0,
            claims: 0,
            slots: BTreeMap::new(),
        }
    }

    /// The number of slots in use.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no slot is in use.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Claims a slot. Returns the key whose slot was evicted for it; that of the claim itself if there is no
    /// slot for it.
    pub fn claim(&mut self, holder: SlotHolder, key: K) -> Option<K> {
        let evicted = if self.len < self.max {
            None
        } else {
            match self.victim(holder).and_then(|victim| self.pop(victim)) {
                Some(evicted) => Some(evicted),
                None => return Some(key),
            }
        };
        self.claims += 1;
        self.len += 1;
        let slots = self.slots.entry(holder).or_default();
        slots.push_back((self.claims, key));
        evicted
    }

    /// Frees the slot of `key`, if it has one.
    pub fn release(&mut self, holder: SlotHolder, key: &K) {
        let Some(slots) = self.slots.get_mut(&holder) else {
            return;
        };
        if let Some(at) = slots.iter().position(|(_, held)| held == key) {
            slots.remove(at);
            self.len -= 1;
        }
        if slots.is_empty() {
            self.slots.remove(&holder);
        }
    }

    /// The holder whose oldest slot makes room for a claim.
    fn victim(&self, claimant: SlotHolder) -> Option<SlotHolder> {
        let held = |holder| self.slots.get(&holder).map_or(0, VecDeque::len);
        let known = held(SlotHolder::Known) + usize::from(claimant == SlotHolder::Known);
        if known > self.max.div_ceil(2) && held(SlotHolder::Known) > 0 {
            return Some(SlotHolder::Known);
        }
        let strangers = self
            .slots
            .iter()
            .filter(|(it, _)| **it != SlotHolder::Known);
        let busiest = strangers.max_by_key(|(holder, slots)| {
            let len = slots.len() + usize::from(**holder == claimant);
            (len, Reverse(slots.front().map(|(claim, _)| *claim)))
        });
        busiest.map(|(holder, _)| *holder)
    }

    fn pop(&mut self, holder: SlotHolder) -> Option<K> {
        let slots = self.slots.get_mut(&holder)?;
        let (_, key) = slots.pop_front()?;
        self.len -= 1;
        if slots.is_empty() {
            self.slots.remove(&holder);
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn stranger(number: u8) -> SlotHolder {
        let ip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, number));
        SlotHolder::Stranger(Some(ip.into()))
    }

    #[test]
    fn one_network_uses_all_slots_and_then_replaces_its_own() {
        let mut slots = FairSlots::new(3);
        let evicted = [1, 2, 3, 4, 5].map(|key| slots.claim(stranger(1), key));
        assert_eq!(evicted, [None, None, None, Some(1), Some(2)]);
        assert_eq!(slots.len(), 3);
    }

    #[test]
    fn a_flood_from_one_network_evicts_no_other() {
        let mut slots = FairSlots::new(8);
        (0..100).for_each(|key| {
            slots.claim(stranger(1), key);
        });
        for (number, key) in [(2, 200), (3, 300), (4, 400)] {
            let evicted = slots.claim(stranger(number), key);
            assert!(evicted.is_some_and(|it| it < 100), "{evicted:?}");
        }
        for key in 100..200 {
            let evicted = slots.claim(stranger(1), key);
            assert!(evicted.is_some_and(|it| it < 200), "{evicted:?}");
        }
    }

    #[test]
    fn among_networks_with_one_slot_each_the_oldest_is_evicted() {
        let mut slots = FairSlots::new(2);
        let claims = [(9, 1), (8, 2), (7, 3), (6, 4)];
        let evicted = claims.map(|(number, key)| slots.claim(stranger(number), key));
        assert_eq!(evicted, [None, None, Some(1), Some(2)]);
    }

    #[test]
    fn known_peers_evict_strangers_and_leave_them_half_of_the_slots() {
        let mut slots = FairSlots::new(4);
        (0..4).for_each(|key| {
            slots.claim(stranger(key), key);
        });
        let evicted = [10, 11, 12].map(|key| slots.claim(SlotHolder::Known, key));
        assert_eq!(evicted, [Some(0), Some(1), Some(10)]);
        assert_eq!(slots.claim(stranger(9), 20), Some(2));
        assert_eq!(
            slots.claim(stranger(9), 21),
            Some(20),
            "it holds two by then"
        );
    }

    #[test]
    fn a_released_slot_is_free_and_a_claim_without_any_slot_is_refused() {
        let mut slots = FairSlots::new(1);
        assert_eq!(slots.claim(SlotHolder::Known, 1), None);
        assert_eq!(slots.claim(stranger(1), 2), Some(2));
        slots.release(stranger(1), &2);
        slots.release(SlotHolder::Known, &1);
        assert!(slots.is_empty());
        assert_eq!(slots.claim(stranger(1), 3), None);
        assert_eq!(FairSlots::new(0).claim(stranger(1), 1), Some(1));
    }
}
