//! Workloads whose instructions callgrind counts: `.ci/instructions` runs each in its own process and
//! compares the counts with benches/instructions.txt.
//!
//! Counts do not depend on the machine's load, so they reveal changes that are too small for a clock. They
//! are not times: a cache miss counts as one instruction, a system call as none.
//!
//! `cargo run --release -p selvedge-benches --bin instructions` lists the workloads; with a name it runs one.
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

/// Each prepares its work, passes it to [`counted_region`], and asserts the result.
const LOADS: [(&str, fn()); 20] = [
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
    ("router/change_of_10000", route::change_of_10000),
    ("router/change_of_1024_tags", route::change_of_1024_tags),
    ("router/functions_100", route::functions_100),
    ("router/local_1", route::local_1),
    ("router/neighbour_1", route::neighbour_1),
    ("session/datagrams_64_b", sessions::datagrams_64_b),
    ("session/datagrams_8_kib", sessions::datagrams_8_kib),
    ("session/reliable_64_b", sessions::reliable_64_b),
    ("session/reliable_8_kib", sessions::reliable_8_kib),
    ("wasm/core_echo_1_kib", wasm::core_echo_1_kib),
];

/// Repetitions of work that is too small to be counted once, so that the surrounding call does not matter.
const REPEATS: usize = 1000;

/// The counted work: the script passes this name to callgrind. Never inlined, otherwise the function would
/// not exist.
#[inline(never)]
fn counted_region<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

/// Counts the same work [`REPEATS`] times.
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
        // Each workload asserts its result.
        LOADS.iter().for_each(|(_, load)| load());
        assert!(LOADS.is_sorted_by_key(|(name, _)| *name), "as in the file");
    }
}
