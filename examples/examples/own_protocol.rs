//! A protocol of your own on the simulated network: stop-and-wait, with a deliberate fault and without.
//!
//! `cargo run -p selvedge-examples --example own_protocol`
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::time::Duration;

use selvedge_testkit::{Conditions, Link};
use selvedge_transport::Instant;

/// How long the sender waits for an answer before it says the same again.
const PATIENCE: Duration = Duration::from_millis(100);

/// Sends numbers one at a time, each until it is answered. The receiver must tell a repeat from news.
struct StopAndWait {
    /// The number to deliver next, and when to say it again.
    next: u8,
    again_at: Instant,
    delivered: Vec<u8>,
    knows_repeats: bool,
}

impl StopAndWait {
    /// Time is a parameter, and packets come and go by calls: so it can be tested like this.
    fn sender_says(&mut self, now: Instant) -> Option<u8> {
        (now >= self.again_at).then(|| {
            self.again_at = now + PATIENCE;
            self.next
        })
    }

    fn receiver_hears(&mut self, number: u8) -> u8 {
        let is_repeat = self.delivered.last() == Some(&number);
        if !(is_repeat && self.knows_repeats) {
            self.delivered.push(number);
        }
        number
    }

    fn sender_hears(&mut self, now: Instant, number: u8) {
        if number == self.next {
            self.next += 1;
            self.again_at = now;
        }
    }
}

/// Runs it until `count` numbers have been answered; returns what was delivered, and how long it took.
fn run(seed: u64, count: u8, knows_repeats: bool) -> (Vec<u8>, Duration, u64) {
    let weather = Conditions {
        latency: Duration::from_millis(20),
        loss: 0.2,
        ..Conditions::default()
    };
    let (begin, mut rng) = (
        Instant::from_origin(Duration::from_secs(1)),
        fastrand::Rng::with_seed(seed),
    );
    let (mut there, mut back) = (Link::new(weather), Link::new(weather));
    let (mut now, mut protocol) = (
        begin,
        StopAndWait {
            next: 0,
            again_at: begin,
            delivered: Vec::new(),
            knows_repeats,
        },
    );
    while protocol.next < count {
        if let Some(number) = protocol.sender_says(now) {
            there.send(now, &mut rng, vec![number].into());
        }
        while let Some(packet) = there.receive(now) {
            let answer = protocol.receiver_hears(packet.bytes[0]);
            back.send(now, &mut rng, vec![answer].into());
        }
        while let Some(packet) = back.receive(now) {
            protocol.sender_hears(now, packet.bytes[0]);
        }
        // Leap to the next thing that happens.
        let arrivals = [there.next_arrival(), back.next_arrival()];
        let next = arrivals.into_iter().flatten().chain([protocol.again_at]);
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
        println!("without the check for repeats, seed {seed} shows the fault");
    }
}
