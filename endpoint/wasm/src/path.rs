//! A path of datagrams that loses, duplicates and reorders them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use selvedge_transport::Instant;

const LOSS: f64 = 0.05;
const DUPLICATION: f64 = 0.03;

/// What happened to the datagrams.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PathCounts {
    pub(crate) sent: u32,
    pub(crate) lost: u32,
    pub(crate) duplicated: u32,
    /// Arrived after one that was sent later.
    pub(crate) overtaken: u32,
}

/// One direction; datagrams in flight are ordered by their arrival.
#[derive(Debug, Default)]
pub(crate) struct LossyPath {
    in_flight: BTreeMap<(Instant, u32), Bytes>,
    next: u32,
    highest: u32,
    pub(crate) counts: PathCounts,
}

impl LossyPath {
    pub(crate) fn send(&mut self, now: Instant, rng: &mut Rng, datagram: &Bytes) {
        self.counts.sent += 1;
        if rng.f64() < LOSS {
            self.counts.lost += 1;
            return;
        }
        let copies = match rng.f64() < DUPLICATION {
            true => 2,
            false => 1,
        };
        self.counts.duplicated += copies - 1;
        for _ in 0..copies {
            let latency = Duration::from_micros(rng.u64(5_000..25_000));
            self.next += 1;
            self.in_flight
                .insert((now + latency, self.next), datagram.clone());
        }
    }

    pub(crate) fn receive(&mut self, now: Instant) -> Option<Bytes> {
        let first = self.in_flight.first_entry()?;
        let (at, number) = *first.key();
        if at > now {
            return None;
        }
        if number < self.highest {
            self.counts.overtaken += 1;
        }
        self.highest = self.highest.max(number);
        Some(first.remove())
    }

    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.in_flight.keys().next().map(|(at, _)| *at)
    }
}
