//! The style of comments and pages, as far as words show it.

use crate::citations::prose;
use crate::source::{SOURCES, files, read};
use crate::{Violation, expect_none};

/// Words that hide the subject of a sentence or make a component a person.
const WORDS: [&str; 10] = [
    "who", "whom", "whoever", "tell", "tells", "told", "says", "said", "hears", "heard",
];

/// The words above in a line, outside code in backticks.
fn dialect(line: &str) -> Vec<&str> {
    line.split('`')
        .step_by(2)
        .flat_map(|text| text.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .filter(|word| WORDS.contains(&word.to_lowercase().as_str()))
        .collect()
}

fn violations(path: &str, lines: &[(usize, String)]) -> Vec<Violation> {
    let found = lines.iter().flat_map(|(line, text)| {
        dialect(text)
            .into_iter()
            .map(|word| Violation::new(path, *line, format!("`{word}`")))
    });
    found.collect()
}

#[test]
fn comments_and_pages_name_their_subjects() {
    let pages = files().into_iter().filter(|path| path.ends_with(".md"));
    let pages = pages.flat_map(|path| violations(&path, &prose(&read(&path))));
    let comments = SOURCES
        .iter()
        .flat_map(|source| violations(&source.path, &source.comments));
    let found: Vec<_> = pages.chain(comments).collect();
    expect_none(
        &found,
        "name the component and what it does: \"the peer acknowledges\", \"is reported\", \"indicates\"",
    );
}

#[test]
fn functions_are_named_without_these_words() {
    let mut found = Vec::new();
    for source in SOURCES.iter() {
        for (at, line) in source.find(&["fn"]) {
            let name = source.tokens.get(at + 1).map_or("", |t| t.text.as_str());
            if name.split('_').any(|part| WORDS.contains(&part)) {
                found.push(Violation::new(&source.path, line, format!("`{name}`")));
            }
        }
    }
    expect_none(
        &found,
        "name the component and what it does: `an_unknown_version_is_reported`",
    );
}

#[test]
fn words_are_found_outside_code() {
    assert_eq!(
        dialect("A worker that is told, by `who`, says so."),
        ["told", "says"]
    );
    assert!(dialect("`told` is reported; toldness, sayso.").is_empty());
}
