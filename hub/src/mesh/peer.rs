//! When to dial one peer, and at which of its addresses. Pure, like the mesh.
//!
//! ```text
//!            ┌────────────────── connection lost ──────────────────┐
//!            ▼                                                     │
//!         Dialing ── an address answered ──▶ Introducing ── up ──▶ Up ⟲ a better address is
//!          │    ▲  ◀── refused, or timed out ──┘                   ▲    tried at intervals
//!   all failed  │ pause over                                       │
//!          ▼    │                                                  │
//!        BackingOff ───────────── the peer dialed ─────────────────┘
//! ```

use std::time::Duration;

use selvedge_driver::Instant;

use crate::backoff;

/// The delay before the next address is tried if the one before has not answered. As in RFC 8305,
/// section 5 (Happy Eyeballs).
pub(crate) const STAGGER: Duration = Duration::from_millis(250);

/// How often an address that is better than the one in use is tried.
pub(crate) const UPGRADE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a connection may be open before the peer's session has introduced itself. A session
/// detaches a silent transport after a tenth of that (3 s by default), but reports nothing about a
/// connection that was given to an endpoint at the moment when that endpoint ended.
const INTRODUCTION_MAX: Duration = Duration::from_secs(30);

/// A peer that closes its endpoint within this time after it was up has refused this node.
const SHORT_LIFE: Duration = Duration::from_secs(5);

/// The dialing of one peer. Addresses are numbered by their place in the peer's list, the best first.
#[derive(Debug)]
pub(crate) struct PeerDialing {
    address_count: usize,
    state: DialState,
    /// Rounds of dials that have failed since the peer was up.
    failures: u32,
    /// The addresses with a dial under way.
    pending: Vec<bool>,
    /// The addresses at which another node has answered last.
    foreign: Vec<bool>,
    /// The better address that is tried next while the peer is up.
    next_better: usize,
    /// The address with which the next round of dials begins; the one after it begins with the best.
    begin: usize,
    /// Since when the peer is up, as long as it is.
    up_since: Option<Instant>,
    /// How often in succession the peer has closed its endpoint soon after it was up.
    short_lives: u32,
    standby: StandbyPath,
    /// The address of the standby path, if this side dialed it.
    standby_address: Option<usize>,
}

/// A second connection, which carries the redundant lanes too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StandbyPath {
    /// No lane is redundant.
    Unused,
    /// Dialed at that time, at another address if there is one.
    Missing {
        at: Instant,
    },
    Attached,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DialState {
    /// Tries the addresses in order; `next` is due at `at`.
    Dialing {
        next: usize,
        at: Instant,
    },
    BackingOff {
        until: Instant,
    },
    /// The connection is open; the peer's session has not introduced itself.
    Introducing {
        address: usize,
        until: Instant,
    },
    /// Reachable. `address` is the one in use, if this side dialed; `trying` is a better one, or the
    /// standby path, whose connection has been attached.
    Up {
        address: Option<usize>,
        trying: Option<usize>,
        retry_at: Instant,
    },
}

impl PeerDialing {
    /// Begins with the address `first`; later rounds begin with the best one.
    pub(crate) fn new(
        now: Instant,
        address_count: usize,
        first: usize,
        keeps_standby: bool,
    ) -> Self {
        let standby = if keeps_standby {
            StandbyPath::Missing { at: now }
        } else {
            StandbyPath::Unused
        };
        Self {
            address_count,
            state: DialState::Dialing {
                next: first,
                at: now,
            },
            failures: 0,
            pending: vec![false; address_count],
            foreign: vec![false; address_count],
            next_better: 0,
            begin: 0,
            up_since: None,
            short_lives: 0,
            standby,
            standby_address: None,
        }
    }

    /// An address answered. Returns whether its connection is to be used.
    pub(crate) fn answered(&mut self, now: Instant, address: usize) -> bool {
        self.pending[address] = false;
        self.foreign[address] = false;
        let is_better_than = |other| address < other;
        match &mut self.state {
            DialState::Dialing { .. } | DialState::BackingOff { .. } => {
                let until = now + INTRODUCTION_MAX;
                self.state = DialState::Introducing { address, until };
            }
            DialState::Introducing { address: other, .. } if is_better_than(*other) => {
                *other = address;
            }
            DialState::Up {
                address: used,
                trying,
                ..
            } if used.is_some_and(is_better_than) => *trying = Some(address),
            DialState::Up { trying, .. } if matches!(self.standby, StandbyPath::Missing { .. }) => {
                *trying = Some(address);
            }
            DialState::Introducing { .. } | DialState::Up { .. } => return false,
        }
        true
    }

    /// The peer closed a connection before it introduced itself.
    pub(crate) fn refused(&mut self, now: Instant, random: f64) {
        if let DialState::Introducing { address, .. } = self.state {
            let next = address + 1;
            self.state = DialState::Dialing { next, at: now };
            if next >= self.address_count {
                self.back_off(now, random);
            }
        }
    }

    /// A dial failed.
    pub(crate) fn dial_failed(&mut self, now: Instant, address: usize, random: f64) {
        self.pending[address] = false;
        if let DialState::Dialing { next, at } = &mut self.state {
            // The stagger is for an address that does not answer; this one has.
            *at = now;
            if *next >= self.address_count {
                self.back_off(now, random);
            }
        }
    }

    /// Another node has answered at an address.
    pub(crate) fn answered_by_other(&mut self, address: usize) {
        self.foreign[address] = true;
    }

    /// The peer has become reachable, or its messages have moved to another connection.
    pub(crate) fn up(&mut self, now: Instant) {
        self.failures = 0;
        self.up_since.get_or_insert(now);
        let address = match self.state {
            DialState::Introducing { address, .. } => Some(address),
            // The previous path becomes the standby path; or it has ended, and the standby path
            // takes over.
            DialState::Up {
                address, trying, ..
            } if self.standby != StandbyPath::Unused => {
                let standby_address = std::mem::replace(&mut self.standby_address, address);
                trying.or(standby_address)
            }
            DialState::Up { trying, .. } => trying,
            DialState::Dialing { .. } | DialState::BackingOff { .. } => None,
        };
        self.state = DialState::Up {
            address,
            trying: None,
            retry_at: now + UPGRADE_INTERVAL,
        };
    }

    /// The standby path was attached, or has ended.
    pub(crate) fn standby_changed(&mut self, now: Instant, is_attached: bool) {
        if self.standby == StandbyPath::Unused {
            return;
        }
        if is_attached {
            self.standby = StandbyPath::Attached;
        } else {
            self.standby = StandbyPath::Missing { at: now };
            self.standby_address = None;
        }
    }

    /// The last connection has ended: dial at once.
    pub(crate) fn down(&mut self, now: Instant) {
        self.up_since = None;
        if matches!(self.state, DialState::Up { .. }) {
            self.state = DialState::Dialing { next: 0, at: now };
        }
    }

    /// The address that was in use is being dialed again. The other addresses follow after the stagger.
    pub(crate) fn redialing(&mut self, now: Instant, address: usize) {
        if let DialState::Dialing { at, .. } = &mut self.state {
            self.pending[address] = true;
            *at = now + STAGGER;
        }
    }

    /// The address in use, if the peer is up and this side dialed.
    pub(crate) const fn address_in_use(&self) -> Option<usize> {
        match self.state {
            DialState::Up { address, .. } => address,
            DialState::Dialing { .. }
            | DialState::BackingOff { .. }
            | DialState::Introducing { .. } => None,
        }
    }

    /// Whether no address has answered yet.
    pub(crate) const fn is_dialing(&self) -> bool {
        matches!(self.state, DialState::Dialing { .. })
    }

    /// The peer closed its endpoint: dial after a pause, since it may be shutting down. A peer that does so
    /// soon after it was up does not want this node: the pauses grow, and the other addresses are tried
    /// first, since the peer or another node may answer there.
    pub(crate) fn closed(&mut self, now: Instant, random: f64) {
        let lived = self
            .up_since
            .take()
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if lived < SHORT_LIFE {
            self.short_lives = self.short_lives.saturating_add(1);
            self.failures = self.failures.max(self.short_lives - 1);
            let used = match self.state {
                DialState::Up { address, .. } => address,
                DialState::Introducing { address, .. } => Some(address),
                DialState::Dialing { .. } | DialState::BackingOff { .. } => None,
            };
            self.begin = used.map_or(0, |used| (used + 1) % self.address_count.max(1));
        } else {
            self.short_lives = 0;
        }
        self.state = DialState::Dialing {
            next: self.address_count,
            at: now,
        };
        self.back_off(now, random);
    }

    fn back_off(&mut self, now: Instant, random: f64) {
        // A dial under way may still answer; the next round tries the other addresses meanwhile.
        if self.pending.contains(&true) {
            return;
        }
        self.state = DialState::BackingOff {
            until: now + backoff::pause(self.failures, random),
        };
        self.failures = self.failures.saturating_add(1);
    }

    /// The address to dial now, if one is due.
    pub(crate) fn poll_dial(&mut self, now: Instant) -> Option<usize> {
        if let DialState::BackingOff { until } | DialState::Introducing { until, .. } = self.state
            && until <= now
        {
            let next = std::mem::take(&mut self.begin);
            self.state = DialState::Dialing { next, at: now };
        }
        match &mut self.state {
            DialState::Dialing { next, at } => {
                while *next < self.address_count && *at <= now {
                    let address = *next;
                    *next += 1;
                    if !std::mem::replace(&mut self.pending[address], true) {
                        *at = now + STAGGER;
                        return Some(address);
                    }
                }
                None
            }
            DialState::Up {
                address: Some(used),
                ..
            } if let StandbyPath::Missing { at } = &mut self.standby => {
                if *at > now {
                    return None;
                }
                *at = now + UPGRADE_INTERVAL;
                // The other addresses first, the one in use last.
                let in_order = (1..=self.address_count).map(|n| (*used + n) % self.address_count);
                let is_free = |address: &usize| !self.pending[*address] && !self.foreign[*address];
                let address = { in_order }.find(is_free)?;
                self.pending[address] = true;
                Some(address)
            }
            DialState::Up {
                address: Some(used),
                retry_at,
                ..
            } if self.standby == StandbyPath::Unused && *used > 0 && *retry_at <= now => {
                *retry_at = now + UPGRADE_INTERVAL;
                // In turn: one that never answers must not keep the others from being tried.
                let in_turn = (0..*used).map(|n| (self.next_better + n) % *used);
                let is_free = |address: &usize| !self.pending[*address] && !self.foreign[*address];
                let better = { in_turn }.find(is_free)?;
                self.pending[better] = true;
                self.next_better = better + 1;
                Some(better)
            }
            DialState::Up { .. } | DialState::Introducing { .. } | DialState::BackingOff { .. } => {
                None
            }
        }
    }

    /// When to poll again at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            DialState::Dialing { next, at } => (next < self.address_count).then_some(at),
            DialState::BackingOff { until } | DialState::Introducing { until, .. } => Some(until),
            DialState::Up {
                address, retry_at, ..
            } => match self.standby {
                StandbyPath::Unused => address.is_some_and(|used| used > 0).then_some(retry_at),
                StandbyPath::Missing { at } => address.map(|_| at),
                StandbyPath::Attached => None,
            },
        }
    }
}
