//! The endpoint has no clock, thread, socket or randomness: they are parameters.

use crate::source::{SOURCES, Source};
use crate::{Complaint, expect_none};

/// Words that only impure code needs, and what they bring.
const IMPURE: [(&[&str], &str); 9] = [
    (&["Instant", ":", ":", "now"], "a clock"),
    (&["SystemTime"], "a clock"),
    (&["thread"], "threads"),
    (&["net"], "sockets"),
    (&["mio"], "sockets"),
    (&["rand"], "randomness"),
    (&["fastrand"], "randomness"),
    (&["getrandom"], "randomness"),
    (&["RandomState"], "randomness"),
];

fn impurities(source: &Source) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (words, brings) in IMPURE {
        for (_, line) in source.find(words) {
            if !source.is_test_line(line) {
                let what = format!("`{}` brings {brings}", words.concat());
                complaints.push(Complaint::new(&source.path, line, what));
            }
        }
    }
    complaints
}

#[test]
fn the_endpoint_is_pure() {
    let endpoint = || {
        SOURCES
            .iter()
            .filter(|source| source.path.starts_with("endpoint/src/"))
    };
    assert!(endpoint().count() > 0, "endpoint/src has moved: say where");
    let complaints: Vec<_> = endpoint().flat_map(impurities).collect();
    expect_none(
        &complaints,
        "take it as a parameter (`now: Instant`, a seed), or do it in driver/",
    );
}

#[test]
fn impure_code_is_found_and_tests_are_free() {
    let text = "//! A.\nuse std::{net, thread};\nfn a() { std::time::Instant::now(); }\nfn b(now: Instant) {}\n#[cfg(test)]\nmod tests { use std::net; }\n";
    let found = impurities(&Source::parse("endpoint/src/a.rs", text));
    let lines: Vec<_> = found.iter().map(|complaint| complaint.line).collect();
    assert_eq!(lines, [3, 2, 2], "{found:?}");
}
