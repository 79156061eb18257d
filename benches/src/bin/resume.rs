//! How long a cut connection delays a message, beside the handshake of its transport and a round trip,
//! interleaved.
//!
//! `cargo run --release -p selvedge-benches --bin resume [scheme]...`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::time::Instant;

use selvedge_benches::cut::{HubCut, SpareCut};
use selvedge_benches::measure::median;

/// The number of attempts for each.
const ROUNDS: usize = 60;

/// A second connection is cut in one of this many rounds: it takes two new drivers, and one of them may wait
/// a second for the cut connection to end.
const SPARE_EVERY: usize = 3;

fn micros(act: impl FnOnce()) -> f64 {
    let began = Instant::now();
    act();
    began.elapsed().as_secs_f64() * 1e6
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    for scheme in ["quic", "tcp", "tcp+plain"] {
        if asked.is_empty() || asked.iter().any(|it| it == scheme) {
            compare(scheme);
        }
    }
}

fn compare(scheme: &str) {
    let (hub, pair) = (HubCut::new(scheme), SpareCut::new(scheme));
    let mut times = [const { Vec::new() }; 4];
    for round in 0..ROUNDS {
        times[0].push(micros(|| pair.handshake()));
        times[1].push(micros(|| pair.round_trip()));
        hub.rest();
        times[2].push(micros(|| hub.cut_and_deliver()));
        if round % SPARE_EVERY == 0 {
            let ahead = SpareCut::new(scheme);
            times[3].push(micros(|| ahead.cut_and_deliver()));
        }
    }
    println!(
        "\n**Resume after a cut, {scheme}**\n\n| | median (range) | of a handshake |\n|---|---|---|"
    );
    let base = median(times[0].clone()).1;
    let names = [
        "handshake",
        "round trip",
        "hub: cut to first new message",
        "second one attached: cut to first new message",
    ];
    for (name, times) in names.into_iter().zip(times) {
        let (low, mid, high) = median(times);
        let ratio = mid / base;
        println!("| {name} | {mid:.0} us ({low:.0} to {high:.0}) | {ratio:.2} |");
    }
}
