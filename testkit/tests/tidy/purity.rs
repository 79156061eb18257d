//! The endpoint has no clock, thread, socket or randomness: they are parameters.

use crate::source::{SOURCES, Source};
use crate::{Violation, expect_none};

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

fn impurities(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (words, brings) in IMPURE {
        for (_, line) in source.find(words) {
            if !source.is_test_line(line) {
                let what = format!("`{}` brings {brings}", words.concat());
                violations.push(Violation::new(&source.path, line, what));
            }
        }
    }
    violations
}

#[test]
fn the_endpoint_is_pure() {
    let endpoint = || {
        SOURCES
            .iter()
            .filter(|source| source.path.starts_with("endpoint/src/"))
    };
    assert!(
        endpoint().count() > 0,
        "endpoint/src has moved: correct the path"
    );
    let violations: Vec<_> = endpoint().flat_map(impurities).collect();
    expect_none(
        &violations,
        "take it as a parameter (`now: Instant`, a seed), or do it in driver/",
    );
}

#[test]
fn impure_code_is_found_and_tests_are_free() {
    let text = "//! A.\nuse std::{net, thread};\nfn a() { std::time::Instant::now(); }\nfn b(now: Instant) {}\n#[cfg(test)]\nmod tests { use std::net; }\n";
    let found = impurities(&Source::parse("endpoint/src/a.rs", text));
    let lines: Vec<_> = found.iter().map(|violation| violation.line).collect();
    assert_eq!(lines, [3, 2, 2], "{found:?}");
}
