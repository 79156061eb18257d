//! One direction of a path.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use selvedge_transport::Instant;

/// How a [`Link`] treats its packets. The default loses nothing and takes no time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// The latency in one direction.
    pub latency: Duration,
    /// The maximum of a random additional latency per packet: packets may be reordered.
    pub jitter: Duration,
    /// The share of lost packets, from 0 to 1.
    pub loss: f64,
    /// Loss in bursts, in addition to `loss`.
    pub burst: Option<Burst>,
    /// The share of packets delayed by one further latency, so that others overtake them.
    pub reorder: f64,
    /// The share of duplicated packets.
    pub duplicate: f64,
    /// The share of packets with a flipped bit.
    pub corrupt: f64,
    /// Bytes per second; `None` for no limit.
    pub rate: Option<u64>,
    /// The bytes queued for the rate before more are lost.
    pub queue: u64,
    /// Longer packets are dropped silently.
    pub mtu: usize,
    /// Whether nothing passes.
    pub cut: bool,
}

/// Two states (Gilbert's model): in the bad one all packets are lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst {
    /// The probability that a packet starts a burst.
    pub begins: f64,
    /// The mean length of a burst in packets.
    pub length: f64,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: None,
            reorder: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            rate: None,
            queue: 256 << 10,
            mtu: usize::MAX,
            cut: false,
        }
    }
}

/// A packet that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Bytes,
    /// Whether the bytes differ from those sent. A transport with checksums or keys drops the packet.
    pub is_corrupt: bool,
}

/// The counters of a [`Link`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets sent.
    pub sent: u64,
    /// Packets that never arrive, for any reason.
    pub lost: u64,
    /// Packets that arrive twice.
    pub duplicated: u64,
    /// Packets that arrive corrupted.
    pub corrupted: u64,
}

/// One direction of a path, with its packets in flight.
#[derive(Debug)]
pub struct Link {
    conditions: Conditions,
    /// By arrival, then by order of sending.
    under_way: BTreeMap<(Instant, u64), Packet>,
    number: u64,
    /// When the transmission of the last packet ends.
    busy_until: Option<Instant>,
    in_burst: bool,
    counts: Counts,
}

impl Link {
    /// A link under `conditions`.
    #[must_use]
    pub const fn new(conditions: Conditions) -> Self {
        Self {
            conditions,
            under_way: BTreeMap::new(),
            number: 0,
            busy_until: None,
            in_burst: false,
            counts: Counts {
                sent: 0,
                lost: 0,
                duplicated: 0,
                corrupted: 0,
            },
        }
    }

    /// Changes the conditions. What is under way stays so.
    pub const fn set(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// The current conditions.
    #[must_use]
    pub const fn conditions(&self) -> Conditions {
        self.conditions
    }

    /// The counters so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The number of packets in flight.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Sends a packet; `rng` determines its fate.
    pub fn send(&mut self, now: Instant, rng: &mut Rng, bytes: Bytes) {
        self.counts.sent += 1;
        let Some(leaves) = self.departure(now, rng, bytes.len()) else {
            self.counts.lost += 1;
            return;
        };
        let copies = 1 + usize::from(rng.f64() < self.conditions.duplicate);
        self.counts.duplicated += copies as u64 - 1;
        for _ in 0..copies {
            let packet = self.packet(rng, &bytes);
            let arrives = leaves + self.delay(rng);
            self.number += 1;
            self.under_way.insert((arrives, self.number), packet);
        }
    }

    /// When the transmission of a packet ends; `None` if it is lost.
    fn departure(&mut self, now: Instant, rng: &mut Rng, len: usize) -> Option<Instant> {
        let conditions = self.conditions;
        if let Some(burst) = conditions.burst {
            let turns = if self.in_burst {
                1.0 / burst.length.max(1.0)
            } else {
                burst.begins
            };
            self.in_burst ^= rng.f64() < turns;
        }
        let in_burst = self.in_burst && conditions.burst.is_some();
        if conditions.cut || in_burst || rng.f64() < conditions.loss || len > conditions.mtu {
            return None;
        }
        let Some(rate) = conditions.rate else {
            return Some(now);
        };
        let begins = self.busy_until.map_or(now, |until| until.max(now));
        let waits = (begins - now).as_secs_f64() * rate as f64;
        if waits + len as f64 > conditions.queue as f64 {
            return None;
        }
        let leaves = begins + Duration::from_secs_f64(len as f64 / rate as f64);
        self.busy_until = Some(leaves);
        Some(leaves)
    }

    fn delay(&self, rng: &mut Rng) -> Duration {
        let Conditions {
            latency,
            jitter,
            reorder,
            ..
        } = self.conditions;
        let held_back = if rng.f64() < reorder {
            latency
        } else {
            Duration::ZERO
        };
        latency + held_back + jitter.mul_f64(rng.f64())
    }

    fn packet(&mut self, rng: &mut Rng, bytes: &Bytes) -> Packet {
        if bytes.is_empty() || rng.f64() >= self.conditions.corrupt {
            return Packet {
                bytes: bytes.clone(),
                is_corrupt: false,
            };
        }
        self.counts.corrupted += 1;
        let mut changed = BytesMut::from(&bytes[..]);
        let bit = rng.usize(..changed.len() * 8);
        changed[bit / 8] ^= 1 << (bit % 8);
        Packet {
            bytes: changed.freeze(),
            is_corrupt: true,
        }
    }

    /// The next packet that has arrived by `now`.
    pub fn receive(&mut self, now: Instant) -> Option<Packet> {
        let first = self.under_way.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// When the next packet arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Instant> {
        self.under_way.keys().next().map(|(arrives, _)| *arrives)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(conditions: Conditions, count: usize) -> (Vec<(Duration, Packet)>, Counts) {
        let (begin, mut rng) = (
            Instant::from_origin(Duration::from_secs(1)),
            Rng::with_seed(1),
        );
        let mut link = Link::new(conditions);
        for number in 0..count {
            let bytes = (number as u32).to_be_bytes().to_vec();
            link.send(begin, &mut rng, bytes.into());
        }
        let mut arrived = Vec::new();
        while let Some(now) = link.next_arrival() {
            arrived.extend(link.receive(now).map(|packet| (now - begin, packet)));
        }
        (arrived, link.counts())
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn each_fault_happens_as_often_as_asked() {
        let conditions = Conditions {
            loss: 0.1,
            duplicate: 0.05,
            corrupt: 0.02,
            ..Conditions::default()
        };
        let (arrived, counts) = run(conditions, 100_000);
        assert_eq!(
            arrived.len() as u64,
            100_000 - counts.lost + counts.duplicated
        );
        assert!((9_500..10_500).contains(&counts.lost), "{counts:?}");
        assert!((4_200..4_800).contains(&counts.duplicated), "{counts:?}");
        assert!((1_700..2_100).contains(&counts.corrupted), "{counts:?}");
    }

    #[test]
    fn bursts_lose_neighbours() {
        let burst = Burst {
            begins: 0.01,
            length: 10.0,
        };
        let conditions = Conditions {
            burst: Some(burst),
            ..Conditions::default()
        };
        let (arrived, counts) = run(conditions, 100_000);
        let numbers = arrived.iter().map(|(_, packet)| &packet.bytes[..]);
        let numbers: Vec<u32> = numbers
            .map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
            .collect();
        let gaps = numbers.windows(2).filter(|two| two[1] > two[0] + 1).count();
        let mean = counts.lost as f64 / gaps as f64;
        assert!((8.0..12.0).contains(&mean), "{mean} a burst");
    }

    #[test]
    fn the_rate_spreads_packets_and_its_queue_is_bounded() {
        let conditions = Conditions {
            latency: ms(10),
            rate: Some(4_000),
            queue: 40,
            ..Conditions::default()
        };
        let (arrived, counts) = run(conditions, 100);
        let times: Vec<u64> = arrived
            .iter()
            .map(|(at, _)| at.as_millis() as u64)
            .collect();
        assert_eq!(times, (11..=20).collect::<Vec<_>>());
        assert_eq!(counts.lost, 90);
    }

    #[test]
    fn jitter_and_reordering_let_packets_overtake() {
        for conditions in [
            Conditions {
                jitter: ms(5),
                ..Conditions::default()
            },
            Conditions {
                latency: ms(5),
                reorder: 0.1,
                ..Conditions::default()
            },
        ] {
            let (arrived, _) = run(conditions, 1000);
            let bytes: Vec<_> = arrived.iter().map(|(_, packet)| &packet.bytes).collect();
            assert!(!bytes.is_sorted());
        }
    }

    #[test]
    fn what_is_cut_or_too_long_vanishes() {
        for conditions in [
            Conditions {
                cut: true,
                ..Conditions::default()
            },
            Conditions {
                mtu: 3,
                ..Conditions::default()
            },
        ] {
            let (arrived, counts) = run(conditions, 10);
            assert_eq!((arrived.len(), counts.lost), (0, 10));
        }
    }
}
