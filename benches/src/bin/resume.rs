//! How long a cut connection keeps a message: beside the handshake of its transport and a round
//! trip, interleaved.
//!
//! `cargo run --release -p selvedge-benches --bin resume`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::time::Instant;

use selvedge_benches::cut::{HubCut, SpareCut};
use selvedge_benches::measure::median;

/// How often each is tried.
const ROUNDS: usize = 20;

fn micros(act: impl FnOnce()) -> f64 {
    let began = Instant::now();
    act();
    began.elapsed().as_secs_f64() * 1e6
}

fn main() {
    for scheme in ["quic", "tcp", "tcp+plain"] {
        let hub = HubCut::new(scheme);
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            let ahead = SpareCut::new(scheme);
            times[0].push(micros(|| ahead.handshake()));
            times[1].push(micros(|| ahead.round_trip()));
            hub.rest();
            times[2].push(micros(|| hub.cut_and_deliver()));
            times[3].push(micros(|| ahead.cut_and_deliver()));
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
}
