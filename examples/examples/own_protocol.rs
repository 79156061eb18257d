//! A custom protocol on the simulated network: stop-and-wait, with and without a deliberate bug.
//!
//! `cargo run -p selvedge-examples --example own_protocol`
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::time::Duration;

use selvedge_testkit::{Conditions, Link};
use selvedge_transport::Instant;

/// How long the sender waits for an acknowledgement before it retransmits.
const RETRANSMIT_TIMEOUT: Duration = Duration::from_millis(100);

/// Sends numbers one at a time, each until it is acknowledged. The receiver must detect duplicates.
struct StopAndWait {
    /// The number that is not acknowledged, and when it is sent again.
    next: u8,
    retransmit_at: Instant,
    delivered: Vec<u8>,
    detects_duplicates: bool,
}

impl StopAndWait {
    /// The packet to send now, if any. Time is a parameter and packets are return values, which makes
    /// the protocol testable without a network.
    fn poll_transmit(&mut self, now: Instant) -> Option<u8> {
        (now >= self.retransmit_at).then(|| {
            self.retransmit_at = now + RETRANSMIT_TIMEOUT;
            self.next
        })
    }

    fn handle_number(&mut self, number: u8) -> u8 {
        let is_duplicate = self.delivered.last() == Some(&number);
        if !(is_duplicate && self.detects_duplicates) {
            self.delivered.push(number);
        }
        number
    }

    fn handle_ack(&mut self, now: Instant, number: u8) {
        if number == self.next {
            self.next += 1;
            self.retransmit_at = now;
        }
    }
}

/// Runs the protocol until `count` numbers are acknowledged. Returns the delivered numbers, the virtual
/// time it took and the number of lost packets.
fn run(seed: u64, count: u8, detects_duplicates: bool) -> (Vec<u8>, Duration, u64) {
    let conditions = Conditions {
        latency: Duration::from_millis(20),
        loss: 0.2,
        ..Conditions::default()
    };
    let (begin, mut rng) = (
        Instant::from_origin(Duration::from_secs(1)),
        fastrand::Rng::with_seed(seed),
    );
    let (mut there, mut back) = (Link::new(conditions), Link::new(conditions));
    let (mut now, mut protocol) = (
        begin,
        StopAndWait {
            next: 0,
            retransmit_at: begin,
            delivered: Vec::new(),
            detects_duplicates,
        },
    );
    while protocol.next < count {
        if let Some(number) = protocol.poll_transmit(now) {
            there.send(now, &mut rng, vec![number].into());
        }
        while let Some(packet) = there.receive(now) {
            let ack = protocol.handle_number(packet.bytes[0]);
            back.send(now, &mut rng, vec![ack].into());
        }
        while let Some(packet) = back.receive(now) {
            protocol.handle_ack(now, packet.bytes[0]);
        }
        // Advances the time to the next event.
        let arrivals = [there.next_arrival(), back.next_arrival()];
        let next = arrivals
            .into_iter()
            .flatten()
            .chain([protocol.retransmit_at]);
        now = next.min().map_or(now, |at| at.max(now));
    }
    let lost = there.counts().lost + back.counts().lost;
    (protocol.delivered, now - begin, lost)
}

fn main() {
    let expected: Vec<u8> = (0..100).collect();
    let (delivered, time, lost) = run(1, 100, true);
    assert_eq!(delivered, expected);
    println!("100 numbers in order, {lost} packets lost, {time:?} of virtual time");
    if let Some(seed) = (0..1000).find(|&seed| run(seed, 100, false).0 != expected) {
        println!("without duplicate detection, seed {seed} delivers a wrong sequence");
    }
}
