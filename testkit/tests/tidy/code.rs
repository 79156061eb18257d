//! Forbidden code: unsafe code, unfinished code, tests that sleep or never run.

use crate::layers::{from_root, packages, text};
use crate::source::{SOURCES, Source, read};
use crate::{Violation, expect_none};

/// Where `unsafe` may stand: the host's cache, and the guests' side of the core ABI.
const UNSAFE: [&str; 2] = [
    "wasm-host/src/cache.rs",
    "examples/guests/core-guest/src/lib.rs",
];
const GUESTS: &str = "examples/guests/";

fn everywhere(find: fn(&Source) -> Vec<Violation>) -> Vec<Violation> {
    SOURCES.iter().flat_map(find).collect()
}

fn unsafe_code(source: &Source) -> Vec<Violation> {
    if UNSAFE.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let exported = |at: usize| {
        let next: Vec<_> = source.tokens[at + 1..]
            .iter()
            .take(2)
            .map(|t| t.text.as_str())
            .collect();
        // A name that the host looks up: there is no safe way to write it.
        source.path.starts_with(GUESTS) && next == ["(", "no_mangle"]
    };
    let found = source.find(&["unsafe"]).filter(|(at, _)| !exported(*at));
    found
        .map(|(_, line)| Violation::new(&source.path, line, "`unsafe`"))
        .collect()
}

fn unfinished_code(source: &Source) -> Vec<Violation> {
    let found = |name: &'static str| {
        let words = [name, "!"];
        let lines: Vec<_> = source.find(&words).map(|(_, line)| line).collect();
        lines
            .into_iter()
            .map(move |line| Violation::new(&source.path, line, format!("`{name}!`")))
    };
    ["todo", "unimplemented", "dbg"]
        .into_iter()
        .flat_map(found)
        .collect()
}

/// Sleeps in tests that no comment explains, on their line or on the one before.
fn sleeping_tests(source: &Source) -> Vec<Violation> {
    let called = |at: usize| at == 0 || !matches!(&*source.tokens[at - 1].text, "." | "fn");
    let explained = |line: usize| {
        let before = line
            .checked_sub(2)
            .and_then(|index| source.lines.get(index));
        let before = before.is_some_and(|text| text.trim_start().starts_with("// "));
        before || source.lines[line - 1].contains("// ")
    };
    source
        .find(&["sleep", "("])
        .filter(|&(at, line)| source.is_test_line(line) && called(at) && !explained(line))
        .map(|(_, line)| Violation::new(&source.path, line, "a test sleeps without a reason"))
        .collect()
}

/// Ignored tests whose reason names no script of `.ci/` that runs ignored tests.
fn tests_that_never_run(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (at, line) in source.find(&["ignore"]) {
        let around = |index: usize| source.tokens.get(index).map_or("", |t| t.text.as_str());
        let before = at.checked_sub(1).map_or("", around);
        let attribute = before == "[" || (before == "," && around(at + 1) == "=");
        if !attribute || !matches!(around(at + 1), "]" | "=") {
            continue;
        }
        let reason = if around(at + 1) == "=" {
            around(at + 2)
        } else {
            ""
        };
        if !job(reason).is_some_and(|job| script(&job).contains("--ignored")) {
            let what = format!("#[ignore = {reason}]: no job runs it");
            violations.push(Violation::new(&source.path, line, what));
        }
    }
    violations
}

/// The first script of `.ci/` that a text names.
fn job(reason: &str) -> Option<String> {
    let name = &reason[reason.find(".ci/")?..];
    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || "./_-".contains(c)));
    Some(name[..end.unwrap_or(name.len())].to_owned())
}

fn script(path: &str) -> String {
    std::fs::read_to_string(crate::root().join(path)).unwrap_or_default()
}

#[test]
fn unsafe_code_is_in_one_file_of_the_host() {
    expect_none(
        &everywhere(unsafe_code),
        "use a safe crate; if there is none, put it to the maintainers and give it a file of its own",
    );
}

#[test]
fn every_crate_but_the_host_forbids_unsafe_code() {
    let mut violations = Vec::new();
    for package in packages() {
        if text(&package, "name") == "selvedge-wasm-host" {
            continue;
        }
        for target in package["targets"].as_array().expect("a list") {
            let kind = target["kind"][0].as_str().unwrap_or_default();
            let path = from_root(text(target, "src_path"));
            let source = Source::parse(&path, &read(&path));
            let words = ["#", "!", "[", "forbid", "(", "unsafe_code", ")", "]"];
            if matches!(kind, "lib" | "bin") && source.find(&words).next().is_none() {
                violations.push(Violation::new(&path, 1, "it does not forbid unsafe code"));
            }
        }
    }
    expect_none(
        &violations,
        "write `#![forbid(unsafe_code)]` below the crate's doc",
    );
}

#[test]
fn every_crate_takes_the_workspace_s_lints() {
    let mut violations = Vec::new();
    for package in packages() {
        let manifest = from_root(text(&package, "manifest_path"));
        if !read(&manifest).contains("[lints]\nworkspace = true\n") {
            violations.push(Violation::new(
                &manifest,
                1,
                "it has lints of its own or none",
            ));
        }
    }
    expect_none(
        &violations,
        "end the manifest with `[lints]` and `workspace = true`",
    );
}

#[test]
fn nothing_unfinished_is_left() {
    expect_none(
        &everywhere(unfinished_code),
        "finish it or take it out; what is left is an issue",
    );
}

#[test]
fn no_test_sleeps_without_a_reason() {
    expect_none(
        &everywhere(sleeping_tests),
        "wait for what is expected, with a deadline, or use virtual time; if only time can show it, give the reason in a comment beside it",
    );
}

#[test]
fn an_ignored_test_names_the_job_that_runs_it() {
    expect_none(
        &everywhere(tests_that_never_run),
        "write `#[ignore = \"what it is: .ci/NAME runs it\"]`; .ci/figures runs measurements",
    );
}

#[test]
fn what_may_not_be_written_is_found() {
    let lines = |find: fn(&Source) -> Vec<Violation>, path: &str, text: &str| {
        let violations = find(&Source::parse(path, text));
        violations
            .iter()
            .map(|violation| violation.line)
            .collect::<Vec<_>>()
    };
    let text = "// unsafe\n#[unsafe(no_mangle)]\nfn a() { unsafe { b() } }\n";
    assert_eq!(lines(unsafe_code, "hub/src/a.rs", text), [2, 3]);
    assert_eq!(
        lines(unsafe_code, "examples/guests/a/src/lib.rs", text),
        [3]
    );
    assert!(lines(unsafe_code, UNSAFE[0], text).is_empty());

    let text = "fn a() { \"todo!\" }\nfn b() { todo!() }\nfn c() {\n    dbg!(1);\n}\n";
    assert_eq!(lines(unfinished_code, "hub/src/a.rs", text), [2, 4]);

    let text = "fn a() {\n    sleep(D);\n    thread::sleep(D); // The kernel reports no event.\n    x.sleep(D);\n}\n";
    assert_eq!(lines(sleeping_tests, "hub/tests/a.rs", text), [2]);
    assert!(lines(sleeping_tests, "hub/src/a.rs", text).is_empty());

    let text = "#[ignore]\nfn a() {}\n#[ignore = \"slow\"]\nfn b() {}\n#[ignore = \"a measurement: .ci/figures runs it\"]\nfn c(ignore: u8) {}\n";
    assert_eq!(lines(tests_that_never_run, "hub/tests/a.rs", text), [1, 3]);
}
