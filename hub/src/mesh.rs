//! Who to dial, when, and over which address. Pure: time and randomness are parameters.
//!
//! ```text
//!            ┌──────────────────── way lost ───────────────────┐
//!            ▼                                                 │
//!         Dialing ── an address answered ──▶ Greeting ── up ──▶ Up ⟲ a better address is tried
//!          │    ▲  ◀─ refused, or not heard of ─┘              ▲     at intervals
//!   all failed  │ pause over                                   │
//!          ▼    │                                              │
//!         Pausing ───────────── they dialed ───────────────────┘
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use selvedge_driver::NodeId;

use crate::backoff;

/// How long after one address the next one is tried, if the first has not answered: as in RFC 8305,
/// section 5 (Happy Eyeballs).
pub(crate) const STAGGER: Duration = Duration::from_millis(250);

/// How often a better address than the one in use is tried.
pub(crate) const UPGRADE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a way may be open before anything is heard of the peer's session. A session ends in a tenth
/// of that (3 s of silence by default) what leads nowhere; but it hears nothing of a connection that
/// came to an endpoint in the moment in which that ended.
const GREETING_MAX: Duration = Duration::from_secs(30);

/// An address of a peer to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dial {
    pub(crate) peer: NodeId,
    /// Its place in the peer's list.
    pub(crate) way: usize,
}

#[derive(Debug)]
struct Peer {
    ways: usize,
    state: State,
    failures: u32,
    /// Dials that have not been answered, one flag a way.
    pending: Vec<bool>,
    /// A second connection, where lanes want one.
    spare: Spare,
    /// The way of that one, if this side dialed it.
    spare_way: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spare {
    Unwanted,
    /// It is dialed at that time, over another address if there is one.
    Missing {
        at: Instant,
    },
    There,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Trying the ways in turn; `next` is due at `at`.
    Dialing {
        next: usize,
        at: Instant,
    },
    Pausing {
        until: Instant,
    },
    /// The way is open; whether the peer wants to talk is not known yet.
    Greeting {
        way: usize,
        until: Instant,
    },
    /// Reachable. `way` is the one that this side dialed, if it did; `trying` a better one.
    Up {
        way: Option<usize>,
        trying: Option<usize>,
        retry_at: Instant,
    },
}

/// All wanted peers.
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    /// Whether a second connection is kept to each peer that this side has dialed.
    wants_spare: bool,
    peers: BTreeMap<NodeId, Peer>,
}

impl Mesh {
    /// A mesh without peers.
    pub(crate) fn new(wants_spare: bool) -> Self {
        Self {
            wants_spare,
            ..Self::default()
        }
    }

    /// Wants a peer that has so many addresses; with none it is waited for.
    pub(crate) fn add(&mut self, now: Instant, peer: NodeId, ways: usize) {
        let state = State::Dialing { next: 0, at: now };
        let peer_state = Peer {
            ways,
            state,
            failures: 0,
            pending: vec![false; ways],
            spare: if self.wants_spare {
                Spare::Missing { at: now }
            } else {
                Spare::Unwanted
            },
            spare_way: None,
        };
        self.peers.insert(peer, peer_state);
    }

    /// A peer is not wanted any more.
    pub(crate) fn remove(&mut self, peer: &NodeId) {
        self.peers.remove(peer);
    }

    /// An address answered. Returns whether the connection is of use.
    pub(crate) fn answered(&mut self, now: Instant, dial: Dial) -> bool {
        let Some(peer) = self.peers.get_mut(&dial.peer) else {
            return false;
        };
        peer.pending[dial.way] = false;
        let (way, better) = (dial.way, |way| way > dial.way);
        match &mut peer.state {
            State::Dialing { .. } | State::Pausing { .. } => {
                let until = now + GREETING_MAX;
                peer.state = State::Greeting { way, until };
            }
            State::Greeting { way: worse, .. } if better(*worse) => *worse = way,
            State::Up {
                way: used, trying, ..
            } if used.is_some_and(better) => *trying = Some(way),
            State::Up { trying, .. } if matches!(peer.spare, Spare::Missing { .. }) => {
                *trying = Some(way);
            }
            State::Greeting { .. } | State::Up { .. } => return false,
        }
        true
    }

    /// The peer let go of a way before it had said a word.
    pub(crate) fn refused(&mut self, now: Instant, peer: NodeId, random: f64) {
        if let Some(peer) = self.peers.get_mut(&peer)
            && let State::Greeting { way, .. } = peer.state
        {
            let next = way + 1;
            peer.state = State::Dialing { next, at: now };
            if next >= peer.ways {
                peer.pause(now, random);
            }
        }
    }

    /// A dial failed.
    pub(crate) fn failed(&mut self, now: Instant, dial: Dial, random: f64) {
        let Some(peer) = self.peers.get_mut(&dial.peer) else {
            return;
        };
        peer.pending[dial.way] = false;
        if let State::Dialing { next, at } = &mut peer.state {
            // No need to wait for one that has answered already.
            *at = now;
            if *next >= peer.ways {
                peer.pause(now, random);
            }
        }
    }

    /// Messages flow to the peer, over another connection than before.
    pub(crate) fn up(&mut self, now: Instant, peer: NodeId) {
        let Some(peer) = self.peers.get_mut(&peer) else {
            return;
        };
        peer.failures = 0;
        let way = match peer.state {
            State::Greeting { way, .. } => Some(way),
            // The one before becomes the second; or it has ended, and the second takes over.
            State::Up { way, trying, .. } if peer.spare != Spare::Unwanted => {
                let second = std::mem::replace(&mut peer.spare_way, way);
                trying.or(second)
            }
            State::Up { trying, .. } => trying,
            State::Dialing { .. } | State::Pausing { .. } => None,
        };
        peer.state = State::Up {
            way,
            trying: None,
            retry_at: now + UPGRADE_INTERVAL,
        };
    }

    /// A second connection to the peer is there, or not any more.
    pub(crate) fn spare(&mut self, now: Instant, peer: NodeId, is_there: bool) {
        if let Some(peer) = self.peers.get_mut(&peer)
            && peer.spare != Spare::Unwanted
        {
            if is_there {
                peer.spare = Spare::There;
            } else {
                peer.spare = Spare::Missing { at: now };
                peer.spare_way = None;
            }
        }
    }

    /// No connection to the peer is left: dial at once.
    pub(crate) fn down(&mut self, now: Instant, peer: NodeId) {
        if let Some(peer) = self.peers.get_mut(&peer)
            && matches!(peer.state, State::Up { .. })
        {
            peer.state = State::Dialing { next: 0, at: now };
        }
    }

    /// The peer that is down is being dialed, by the way that worked. The others have their turn if
    /// that takes long.
    pub(crate) fn redialed(&mut self, now: Instant, dial: Dial) {
        if let Some(peer) = self.peers.get_mut(&dial.peer)
            && let State::Dialing { at, .. } = &mut peer.state
        {
            peer.pending[dial.way] = true;
            *at = now + STAGGER;
        }
    }

    /// The way to the peer, if it is up over one that this side has dialed.
    pub(crate) fn way(&self, peer: &NodeId) -> Option<usize> {
        match self.peers.get(peer)?.state {
            State::Up { way, .. } => way,
            State::Dialing { .. } | State::Pausing { .. } | State::Greeting { .. } => None,
        }
    }

    /// Whether nothing has answered yet.
    pub(crate) fn is_away(&self, peer: &NodeId) -> bool {
        let peer = self.peers.get(peer);
        peer.is_some_and(|peer| matches!(peer.state, State::Dialing { .. }))
    }

    /// The peer said goodbye: dial after a pause, it may be on its way down.
    pub(crate) fn left(&mut self, now: Instant, peer: NodeId, random: f64) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.state = State::Dialing {
                next: peer.ways,
                at: now,
            };
            peer.pause(now, random);
        }
    }

    /// The next dial that is due.
    pub(crate) fn poll_dial(&mut self, now: Instant) -> Option<Dial> {
        let due = self.peers.iter_mut();
        due.filter_map(|(&id, peer)| {
            Some(Dial {
                peer: id,
                way: peer.poll_way(now)?,
            })
        })
        .next()
    }

    /// When to poll again at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::timeout).min()
    }
}

impl Peer {
    fn pause(&mut self, now: Instant, random: f64) {
        // A dial that is under way may still answer; the next round tries the others meanwhile.
        if self.pending.contains(&true) {
            return;
        }
        self.state = State::Pausing {
            until: now + backoff::pause(self.failures, random),
        };
        self.failures = self.failures.saturating_add(1);
    }

    fn poll_way(&mut self, now: Instant) -> Option<usize> {
        if let State::Pausing { until } | State::Greeting { until, .. } = self.state
            && until <= now
        {
            self.state = State::Dialing { next: 0, at: now };
        }
        match &mut self.state {
            State::Dialing { next, at } => {
                while *next < self.ways && *at <= now {
                    let way = *next;
                    *next += 1;
                    if !std::mem::replace(&mut self.pending[way], true) {
                        *at = now + STAGGER;
                        return Some(way);
                    }
                }
                None
            }
            State::Up { way: Some(way), .. } if let Spare::Missing { at } = &mut self.spare => {
                if *at > now {
                    return None;
                }
                *at = now + UPGRADE_INTERVAL;
                let others = (1..=self.ways).map(|next| (*way + next) % self.ways);
                let other = { others }.find(|&other| !self.pending[other])?;
                self.pending[other] = true;
                Some(other)
            }
            State::Up {
                way: Some(way),
                retry_at,
                ..
            } if self.spare == Spare::Unwanted && *way > 0 && *retry_at <= now => {
                *retry_at = now + UPGRADE_INTERVAL;
                let better = (0..*way).find(|&better| !self.pending[better])?;
                self.pending[better] = true;
                Some(better)
            }
            State::Up { .. } | State::Greeting { .. } | State::Pausing { .. } => None,
        }
    }

    fn timeout(&self) -> Option<Instant> {
        match self.state {
            State::Dialing { next, at } => (next < self.ways).then_some(at),
            State::Pausing { until } | State::Greeting { until, .. } => Some(until),
            State::Up { way, retry_at, .. } => match self.spare {
                Spare::Unwanted => way.is_some_and(|way| way > 0).then_some(retry_at),
                Spare::Missing { at } => way.map(|_| at),
                Spare::There => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId::new([7; 32]);

    fn mesh(ways: usize) -> (Mesh, Instant) {
        let (mut mesh, now) = (Mesh::default(), Instant::now());
        mesh.add(now, PEER, ways);
        (mesh, now)
    }

    fn ways(mesh: &mut Mesh, now: Instant) -> Vec<usize> {
        std::iter::from_fn(|| mesh.poll_dial(now))
            .map(|dial| dial.way)
            .collect()
    }

    #[test]
    fn addresses_are_tried_one_behind_the_other() {
        let (mut mesh, now) = mesh(2);
        assert_eq!(ways(&mut mesh, now), [0]);
        assert_eq!(mesh.poll_timeout(), Some(now + STAGGER));
        assert_eq!(ways(&mut mesh, now + STAGGER), [1]);
        assert_eq!(mesh.poll_timeout(), None, "both are under way");
    }

    #[test]
    fn an_address_that_fails_makes_way_for_the_next_at_once() {
        let (mut mesh, now) = mesh(2);
        ways(&mut mesh, now);
        mesh.failed(now, Dial { peer: PEER, way: 0 }, 0.0);
        assert_eq!(ways(&mut mesh, now), [1]);
    }

    #[test]
    fn n18_ten_thousand_clients_of_a_restarted_server_return_in_time_and_not_at_once() {
        const CLIENTS: usize = 10_000;
        /// What the server can greet in 100 ms, and for how long it is away.
        const GREETED_MAX: usize = 200;
        const AWAY: Duration = Duration::from_secs(20);
        let tick = Duration::from_millis(100);
        let (begin, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| mesh(1).0).collect();
        let (mut now, mut up, mut most) = (begin, 0, 0);
        while up < CLIENTS {
            let (mut dials, mut greeted) = (0, 0);
            for client in &mut clients {
                let Some(dial) = client.poll_dial(now) else {
                    continue;
                };
                dials += 1;
                if now >= begin + AWAY && greeted < GREETED_MAX {
                    greeted += 1;
                    client.answered(now, dial);
                    client.up(now, PEER);
                } else {
                    client.failed(now, dial, rng.f64());
                }
            }
            up += greeted;
            if now > begin + Duration::from_secs(5) {
                most = most.max(dials);
            }
            now += tick;
            let waited = now - begin;
            assert!(waited < AWAY + Duration::from_secs(30), "{up} are up");
        }
        println!(
            "all up {:?} after the server; at most {most} in 100 ms",
            now - begin - AWAY
        );
        assert!(most <= CLIENTS / 10, "{most} dials within 100 ms");
    }

    #[test]
    fn when_all_have_failed_the_pause_grows() {
        let (mut mesh, mut now) = mesh(1);
        let mut pauses = Vec::new();
        for _ in 0..4 {
            assert_eq!(ways(&mut mesh, now), [0]);
            mesh.failed(now, Dial { peer: PEER, way: 0 }, 1.0);
            let until = mesh.poll_timeout().unwrap();
            pauses.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(pauses, [100, 200, 400, 800]);
    }

    #[test]
    fn a_better_address_is_tried_again_and_wins() {
        let (mut mesh, now) = mesh(2);
        ways(&mut mesh, now);
        mesh.failed(now, Dial { peer: PEER, way: 0 }, 0.0);
        ways(&mut mesh, now);
        assert!(mesh.answered(now, Dial { peer: PEER, way: 1 }));
        mesh.up(now, PEER);
        let later = now + UPGRADE_INTERVAL;
        assert_eq!(mesh.poll_timeout(), Some(later));
        assert_eq!(ways(&mut mesh, later), [0]);
        assert!(mesh.answered(now, Dial { peer: PEER, way: 0 }));
        mesh.up(later, PEER);
        assert_eq!(mesh.poll_timeout(), None, "there is no better one");
    }

    #[test]
    fn a_second_connection_is_dialed_over_another_address_and_kept() {
        let (mut mesh, now) = (Mesh::new(true), Instant::now());
        mesh.add(now, PEER, 2);
        assert_eq!(ways(&mut mesh, now), [0]);
        assert!(mesh.answered(now, Dial { peer: PEER, way: 0 }));
        mesh.up(now, PEER);
        assert_eq!(ways(&mut mesh, now), [1]);
        assert!(mesh.answered(now, Dial { peer: PEER, way: 1 }));
        mesh.up(now, PEER);
        mesh.spare(now, PEER, true);
        assert_eq!(mesh.poll_timeout(), None, "both are there");
        // One is lost, whichever: it is dialed again, and not more often than now and then.
        mesh.spare(now, PEER, false);
        assert_eq!(ways(&mut mesh, now), [0]);
        mesh.failed(now, Dial { peer: PEER, way: 0 }, 0.5);
        assert_eq!(mesh.poll_timeout(), Some(now + UPGRADE_INTERVAL));
        assert_eq!(ways(&mut mesh, now + UPGRADE_INTERVAL), [0]);
    }

    #[test]
    fn a_worse_address_that_answers_late_is_not_used() {
        let (mut mesh, now) = mesh(2);
        ways(&mut mesh, now);
        ways(&mut mesh, now + STAGGER);
        assert!(mesh.answered(now, Dial { peer: PEER, way: 0 }));
        assert!(!mesh.answered(now, Dial { peer: PEER, way: 1 }));
    }

    /// A mesh whose peer was up over the first of so many ways, and is down.
    fn lost(ways_len: usize) -> (Mesh, Instant) {
        let (mut mesh, now) = mesh(ways_len);
        ways(&mut mesh, now);
        assert!(mesh.answered(now, Dial { peer: PEER, way: 0 }));
        mesh.up(now, PEER);
        mesh.down(now, PEER);
        (mesh, now)
    }

    #[test]
    fn a_lost_way_is_dialed_again_at_once() {
        let (mut mesh, now) = lost(1);
        assert_eq!(ways(&mut mesh, now), [0]);
    }

    #[test]
    fn a_lost_way_that_is_dialed_already_leaves_the_others_their_turn() {
        let (mut mesh, now) = lost(2);
        let again = Dial { peer: PEER, way: 0 };
        mesh.redialed(now, again);
        assert_eq!(ways(&mut mesh, now), [0; 0]);
        assert_eq!(mesh.poll_timeout(), Some(now + STAGGER));
        assert_eq!(ways(&mut mesh, now + STAGGER), [1]);
        mesh.failed(now + STAGGER, again, 0.0);
        assert!(mesh.answered(now, Dial { peer: PEER, way: 1 }));
    }

    #[test]
    fn a_lost_way_that_could_not_be_dialed_is_dialed_in_its_turn() {
        let (mut mesh, now) = lost(1);
        let again = Dial { peer: PEER, way: 0 };
        mesh.redialed(now, again);
        mesh.failed(now, again, 0.0);
        assert_eq!(ways(&mut mesh, now), [0]);
    }

    #[test]
    fn a_way_that_was_answered_and_of_which_nothing_is_heard_is_dialed_again() {
        let (mut mesh, now) = mesh(1);
        assert_eq!(ways(&mut mesh, now), [0]);
        assert!(mesh.answered(now, Dial { peer: PEER, way: 0 }));
        let later = mesh.poll_timeout().unwrap();
        assert_eq!(ways(&mut mesh, later - STAGGER), [0; 0]);
        assert_eq!(ways(&mut mesh, later), [0]);
    }

    #[test]
    fn a_peer_that_answers_and_then_refuses_is_not_dialed_in_a_circle() {
        let (mut mesh, mut now) = mesh(1);
        let mut pauses = Vec::new();
        for _ in 0..4 {
            assert_eq!(ways(&mut mesh, now), [0]);
            assert!(mesh.answered(now, Dial { peer: PEER, way: 0 }));
            mesh.refused(now, PEER, 1.0);
            let until = mesh.poll_timeout().unwrap();
            pauses.push((until - now).as_millis());
            now = until;
        }
        assert_eq!(pauses, [100, 200, 400, 800]);
    }
}
