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

/// `std::time::Instant` traps on `wasm32-unknown-unknown`; pure code takes the type of `transport/`.
const STD_INSTANT: [&[&str]; 3] = [
    &["time", ":", ":", "Instant"],
    &["time", ":", ":", "{", "Instant"],
    &["time", ":", ":", "{", "Duration", ",", "Instant"],
];

/// Whether the file must run on a target without a clock.
fn is_clockless(path: &str) -> bool {
    let is_pure_transport = path.starts_with("transport/src/")
        && !path.starts_with("transport/src/io/")
        && !path.starts_with("transport/src/conformance/");
    is_pure_transport
        || path.starts_with("endpoint/src/")
        || path == "hub/src/mesh.rs"
        || path.starts_with("hub/src/mesh/")
}

fn std_instants(source: &Source) -> Vec<Violation> {
    let lines = STD_INSTANT.iter().flat_map(|words| source.find(words));
    lines
        .map(|(_, line)| {
            let what = "`std::time::Instant` traps on wasm32".to_owned();
            Violation::new(&source.path, line, what)
        })
        .collect()
}

#[test]
fn pure_code_has_no_time_of_the_standard_library() {
    let pure = || SOURCES.iter().filter(|source| is_clockless(&source.path));
    for path in [
        "endpoint/src/session.rs",
        "transport/src/transport.rs",
        "hub/src/mesh.rs",
    ] {
        assert!(pure().any(|source| source.path == path), "{path} has moved");
    }
    let violations: Vec<_> = pure().flat_map(std_instants).collect();
    expect_none(&violations, "use `selvedge_transport::Instant`");
}

#[test]
fn a_time_of_the_standard_library_is_found() {
    let text = "//! A.\nuse std::time::{Duration, Instant};\nuse std::time::Instant as I;\nuse std::time::Duration;\n";
    let found = std_instants(&Source::parse("endpoint/src/a.rs", text));
    let lines: Vec<_> = found.iter().map(|complaint| complaint.line).collect();
    assert_eq!(lines, [3, 2], "{found:?}");
    assert!(!is_clockless("transport/src/io/clock.rs"));
}

#[test]
fn impure_code_is_found_and_tests_are_free() {
    let text = "//! A.\nuse std::{net, thread};\nfn a() { std::time::Instant::now(); }\nfn b(now: Instant) {}\n#[cfg(test)]\nmod tests { use std::net; }\n";
    let found = impurities(&Source::parse("endpoint/src/a.rs", text));
    let lines: Vec<_> = found.iter().map(|violation| violation.line).collect();
    assert_eq!(lines, [3, 2, 2], "{found:?}");
}
