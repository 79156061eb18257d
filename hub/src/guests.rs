//! Guests: nodes that are accepted without being wanted peers, and forgotten when they stay away.

use std::collections::BTreeMap;
use std::time::Duration;

use selvedge_driver::{FairSlots, Instant, NodeId, PeerNetwork, RecentSet, SlotHolder};

use crate::guest_admission::GuestAdmission;

/// How long a guest may be disconnected before its endpoint ends. Messages for it wait that long. A
/// client that lost its network returns in time: the longest pause between two dials is 10 s.
pub(crate) const AWAY_MAX: Duration = Duration::from_secs(30);

/// How many guests that were admitted are remembered: 128 KiB.
const KNOWN_MAX: usize = 4096;

/// The guests. Pure: time is a parameter.
#[derive(Debug)]
pub(crate) struct Guests {
    max: usize,
    /// How long a guest may wait for its admission; none if each is admitted at once.
    admission_timeout: Option<Duration>,
    waiting: FairSlots<NodeId>,
    known: RecentSet<NodeId>,
    guests: BTreeMap<NodeId, Guest>,
}

#[derive(Debug)]
struct Guest {
    /// Since when it is disconnected; none if it is connected.
    away_since: Option<Instant>,
    /// Until when it must be admitted, and the holder of its slot; none once it is.
    waiting: Option<(Instant, SlotHolder)>,
}

/// There is no room for another guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GuestsFull;

/// Why a guest is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// It was disconnected for too long.
    Away,
    /// It was not admitted in time.
    NotAdmitted,
}

impl Guests {
    pub(crate) fn new(max: usize, admission: Option<GuestAdmission>) -> Self {
        Self {
            max,
            admission_timeout: admission.map(|it| it.timeout),
            waiting: FairSlots::new(admission.map_or(0, |it| it.waiting_max)),
            known: RecentSet::new(KNOWN_MAX),
            guests: BTreeMap::new(),
        }
    }

    /// Changes the largest number. Guests above it stay.
    pub(crate) const fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Accepts a node that is no guest yet, from that network. Returns the guest that it replaces, if it
    /// replaces one.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        guest: NodeId,
        network: Option<PeerNetwork>,
    ) -> Result<Option<NodeId>, GuestsFull> {
        if self.guests.len() - self.waiting.len() >= self.max {
            return Err(GuestsFull);
        }
        let (mut waiting, mut replaced) = (None, None);
        if let Some(timeout) = self.admission_timeout {
            let holder = match self.known.contains(&guest) {
                true => SlotHolder::Known,
                false => SlotHolder::Stranger(network),
            };
            replaced = self.waiting.claim(holder, guest);
            if replaced == Some(guest) {
                return Err(GuestsFull);
            }
            waiting = Some((now + timeout, holder));
        }
        if let Some(replaced) = replaced {
            self.guests.remove(&replaced);
        }
        let accepted = Guest {
            // Disconnected until its session is up, so that a guest which never gets there is forgotten.
            away_since: Some(now),
            waiting,
        };
        self.guests.insert(guest, accepted);
        Ok(replaced)
    }

    /// The user has admitted a guest. Fails if other guests have taken the last room meanwhile.
    pub(crate) fn admit(&mut self, guest: NodeId) -> Result<(), GuestsFull> {
        let Some((_, holder)) = self.guests.get_mut(&guest).and_then(|it| it.waiting.take()) else {
            return Ok(());
        };
        self.waiting.release(holder, &guest);
        self.known.insert(guest);
        if self.guests.len() - self.waiting.len() > self.max {
            return Err(GuestsFull);
        }
        Ok(())
    }

    pub(crate) fn is_guest(&self, peer: &NodeId) -> bool {
        self.guests.contains_key(peer)
    }

    pub(crate) fn up(&mut self, guest: NodeId) {
        self.guests
            .entry(guest)
            .and_modify(|it| it.away_since = None);
    }

    pub(crate) fn down(&mut self, now: Instant, guest: NodeId) {
        self.guests
            .entry(guest)
            .and_modify(|it| it.away_since = Some(now));
    }

    pub(crate) fn remove(&mut self, guest: &NodeId) {
        let removed = self.guests.remove(guest);
        if let Some((_, holder)) = removed.and_then(|it| it.waiting) {
            self.waiting.release(holder, guest);
        }
    }

    /// Removes and returns a guest that has been disconnected, or was not admitted, for too long.
    pub(crate) fn poll_expired(&mut self, now: Instant) -> Option<(NodeId, Expiry)> {
        let expired = self.guests.iter().find_map(|(&guest, it)| {
            let (at, expiry) = it.expiry()?;
            (at <= now).then_some((guest, expiry))
        })?;
        self.remove(&expired.0);
        Some(expired)
    }

    /// When to poll again at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let expiries = self.guests.values().filter_map(Guest::expiry);
        expiries.map(|(at, _)| at).min()
    }
}

impl Guest {
    fn expiry(&self) -> Option<(Instant, Expiry)> {
        let away = self.away_since.map(|at| (at + AWAY_MAX, Expiry::Away));
        let waiting = self.waiting.map(|(until, _)| (until, Expiry::NotAdmitted));
        away.into_iter().chain(waiting).min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const GUEST: NodeId = NodeId::new([1; 32]);

    const ADMISSION: GuestAdmission = GuestAdmission {
        buffer: 16 << 10,
        timeout: Duration::from_secs(5),
        waiting_max: 4,
    };

    fn node(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    fn network(number: u8) -> Option<PeerNetwork> {
        Some(IpAddr::from([192, 0, 2, number]).into())
    }

    #[test]
    fn guests_are_admitted_up_to_the_maximum_and_leaving_makes_room() {
        let (mut guests, now) = (Guests::new(1, None), Instant::now());
        assert_eq!(guests.accept(now, GUEST, None), Ok(None));
        assert_eq!(guests.accept(now, node(2), None), Err(GuestsFull));
        guests.remove(&GUEST);
        assert_eq!(guests.accept(now, node(2), None), Ok(None));
    }

    #[test]
    fn a_guest_that_stays_away_is_forgotten_and_one_that_returns_is_not() {
        let (mut guests, now) = (Guests::new(1, None), Instant::now());
        guests.accept(now, GUEST, None).unwrap();
        assert_eq!(
            guests.poll_timeout(),
            Some(now + AWAY_MAX),
            "it was never up"
        );
        guests.up(GUEST);
        assert_eq!(guests.poll_timeout(), None);
        guests.down(now, GUEST);
        assert_eq!(guests.poll_timeout(), Some(now + AWAY_MAX));
        guests.up(GUEST);
        assert_eq!(guests.poll_expired(now + AWAY_MAX), None);
        guests.down(now, GUEST);
        let expired = guests.poll_expired(now + AWAY_MAX);
        assert_eq!(expired, Some((GUEST, Expiry::Away)));
        assert!(!guests.is_guest(&GUEST));
    }

    #[test]
    fn a_guest_that_is_not_admitted_in_time_is_forgotten_also_while_it_is_connected() {
        let (mut guests, now) = (Guests::new(2, Some(ADMISSION)), Instant::now());
        for guest in [GUEST, node(2)] {
            guests.accept(now, guest, None).unwrap();
            guests.up(guest);
        }
        assert_eq!(guests.admit(GUEST), Ok(()));
        let end = now + ADMISSION.timeout;
        assert_eq!(guests.poll_timeout(), Some(end));
        let expired = Some((node(2), Expiry::NotAdmitted));
        assert_eq!(guests.poll_expired(end), expired);
        assert_eq!(
            (guests.poll_expired(end), guests.poll_timeout()),
            (None, None)
        );
        assert!(guests.is_guest(&GUEST) && guests.waiting.is_empty());
    }

    #[test]
    fn waiting_guests_take_no_room_from_admitted_ones_and_replace_each_other_fairly() {
        let (mut guests, now) = (Guests::new(2, Some(ADMISSION)), Instant::now());
        for number in 1..=4 {
            assert_eq!(guests.accept(now, node(number), network(1)), Ok(None));
        }
        let replaced = guests.accept(now, node(5), network(2));
        assert_eq!(replaced, Ok(Some(node(1))));
        assert!(!guests.is_guest(&node(1)));
        let replaced = guests.accept(now, node(6), network(1));
        assert_eq!(replaced, Ok(Some(node(2))), "of its own network");
        for guest in [node(5), node(6)] {
            assert_eq!(guests.admit(guest), Ok(()));
        }
        assert_eq!(guests.accept(now, node(7), network(3)), Err(GuestsFull));
        assert_eq!(guests.admit(node(3)), Err(GuestsFull));
        guests.remove(&node(3));
        guests.remove(&node(5));
        assert_eq!(guests.accept(now, node(7), network(3)), Ok(None));
    }

    #[test]
    fn a_guest_that_was_admitted_before_replaces_strangers_and_is_replaced_by_none() {
        let (mut guests, now) = (Guests::new(8, Some(ADMISSION)), Instant::now());
        guests.accept(now, GUEST, network(1)).unwrap();
        guests.admit(GUEST).unwrap();
        guests.remove(&GUEST);
        for number in 11..=14 {
            guests.accept(now, node(number), network(number)).unwrap();
        }
        assert_eq!(guests.accept(now, GUEST, network(11)), Ok(Some(node(11))));
        for number in 21..=40 {
            let replaced = guests.accept(now, node(number), network(number));
            assert_ne!(replaced, Ok(Some(GUEST)));
        }
        assert!(guests.is_guest(&GUEST));
    }
}
