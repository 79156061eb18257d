//! One name per type in the whole workspace.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{SOURCES, Source};
use crate::{Violation, expect_none};

/// Packages outside the workspace: their types are never in scope beside ours.
const OUTSIDE: [&str; 4] = [
    "benches/compare/",
    "driver/loom/",
    "examples/guests/",
    "fuzz/",
];

/// Names that may occur more than once, each with the reason.
const HOMONYMS: [(&str, &str); 0] = [];

/// The types that a source defines outside tests: `struct`, `enum`, `union`, `trait` and `type`, with
/// their lines. Associated types belong to their trait and do not count.
pub(crate) fn types(source: &Source) -> Vec<(&str, usize)> {
    let text = |at: usize| source.tokens.get(at).map_or("", |t| t.text.as_str());
    let mut types = Vec::new();
    // For each open brace: whether it is the body of an `impl` or a trait.
    let mut bodies: Vec<bool> = Vec::new();
    let mut opens_body = false;
    for (at, token) in source.tokens.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", text);
        let begins_item = matches!(before, "" | "{" | "}" | ";" | "]" | ")" | "pub" | "unsafe");
        match token.text.as_str() {
            "{" => {
                bodies.push(opens_body);
                opens_body = false;
            }
            "}" => {
                bodies.pop();
            }
            "impl" if begins_item => opens_body = true,
            word @ ("struct" | "enum" | "union" | "trait" | "type") if begins_item => {
                opens_body |= word == "trait";
                let associated = word == "type" && bodies.last() == Some(&true);
                let is_name = text(at + 1).starts_with(|c: char| c.is_uppercase());
                if is_name && !associated && !source.is_test_line(token.line) {
                    types.push((text(at + 1), token.line));
                }
            }
            _ => {}
        }
    }
    types
}

/// The sources of the workspace's packages, without their tests, benches and examples.
pub(crate) fn workspace_sources() -> impl Iterator<Item = &'static Source> {
    SOURCES.iter().filter(|source| {
        source.path.contains("/src/") && !OUTSIDE.iter().any(|path| source.path.starts_with(path))
    })
}

/// Every definition of a name that another file defines, too.
fn homonyms<'a>(sources: impl Iterator<Item = &'a Source>) -> Vec<Violation> {
    let mut places: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
    for source in sources {
        for (name, line) in types(source) {
            places.entry(name).or_default().push((&source.path, line));
        }
    }
    let mut violations = Vec::new();
    for (name, places) in places {
        let files: BTreeSet<&str> = places.iter().map(|(path, _)| *path).collect();
        if files.len() > 1 && !HOMONYMS.iter().any(|(allowed, _)| *allowed == name) {
            violations.extend(
                places
                    .iter()
                    .map(|(path, line)| Violation::new(path, *line, format!("`{name}`"))),
            );
        }
    }
    violations
}

#[test]
fn no_type_name_occurs_twice_in_the_workspace() {
    expect_none(
        &homonyms(workspace_sources()),
        "give the more specific type the more specific name, or add the name to HOMONYMS with the reason",
    );
}

#[test]
fn types_are_found_and_homonyms_are_reported() {
    let text = "//! A.\npub(crate) struct A<T>(T);\nimpl B for A<u8> {\n    type C = u8;\n}\ntrait B {\n    type C;\n}\ntype D = u8;\nfn e() -> impl B {\n    enum F {}\n}\n#[cfg(test)]\nmod tests {\n    struct G;\n}\n";
    let one = Source::parse("a/src/a.rs", text);
    assert_eq!(types(&one), [("A", 2), ("B", 6), ("D", 9), ("F", 11)]);
    let two = Source::parse("a/src/b.rs", "//! B.\nenum D {}\nstruct G;\n");
    let found: Vec<_> = homonyms([&one, &two].into_iter())
        .into_iter()
        .map(|violation| (violation.path, violation.line))
        .collect();
    assert_eq!(
        found,
        [("a/src/a.rs".to_owned(), 9), ("a/src/b.rs".to_owned(), 2)]
    );
}
