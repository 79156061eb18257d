//! Loads whose instructions callgrind counts: `.ci/instructions` runs each in a process of its own and
//! compares the counts with benches/instructions.txt.
//!
//! A count does not depend on what else the machine does, so a small change shows that no clock would
//! show. It is no time either: a cache miss counts as one instruction, a system call as none.
//!
//! `cargo run --release -p selvedge-benches --bin instructions` names the loads, with a name it runs one.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is run by a script, which reads the names"
)]

mod codec;
mod route;
mod sessions;
mod wasm;

use std::hint::black_box;
use std::process::ExitCode;

/// Each prepares its work, hands it to [`counted_region`], and looks at what came of it.
const LOADS: [(&str, fn()); 18] = [
    ("codec/ack_decode", codec::ack_decode),
    ("codec/ack_encode", codec::ack_encode),
    ("codec/data_decode", codec::data_decode),
    ("codec/data_encode", codec::data_encode),
    ("codec/hello_decode", codec::hello_decode),
    ("codec/hello_encode", codec::hello_encode),
    ("codec/packet_decode", codec::packet_decode),
    ("codec/packet_encode", codec::packet_encode),
    ("codec/tagged_decode", codec::tagged_decode),
    ("codec/tagged_encode", codec::tagged_encode),
    ("router/functions_100", route::functions_100),
    ("router/local_1", route::local_1),
    ("router/neighbour_1", route::neighbour_1),
    ("session/datagrams_64_b", sessions::datagrams_64_b),
    ("session/datagrams_8_kib", sessions::datagrams_8_kib),
    ("session/reliable_64_b", sessions::reliable_64_b),
    ("session/reliable_8_kib", sessions::reliable_8_kib),
    ("wasm/core_echo_1_kib", wasm::core_echo_1_kib),
];

/// How often a load does what is too small to be counted once: the frame around it is lost in it.
const REPEATS: usize = 1000;

/// What is counted: the script tells callgrind this name. Never inlined, or there would be no such
/// function.
#[inline(never)]
fn counted_region<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

/// Counts [`REPEATS`] times the same.
fn counted_repeats<T>(mut work: impl FnMut() -> T) {
    counted_region(|| {
        for _ in 0..REPEATS {
            black_box(work());
        }
    });
}

fn main() -> ExitCode {
    let Some(wanted) = std::env::args().nth(1) else {
        LOADS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let Some((_, load)) = LOADS.iter().find(|(name, _)| *name == wanted) else {
        eprintln!("instructions: no load is called {wanted}");
        return ExitCode::FAILURE;
    };
    load();
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_does_its_work() {
        // Each asserts what came of it.
        LOADS.iter().for_each(|(_, load)| load());
        assert!(LOADS.is_sorted_by_key(|(name, _)| *name), "as in the file");
    }
}
