//! Files, sections and tests that pages and comments cite exist.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::links::anchors;
use crate::source::{SOURCES, files, read};
use crate::{Violation, expect_none, root};

/// How the files end that are cited by path.
const EXTENSIONS: [&str; 9] = [
    ".rs", ".md", ".txt", ".toml", ".yaml", ".py", ".sh", ".svg", ".wit",
];
/// Words of a path that stand for any name.
const PLACEHOLDERS: [&str; 3] = ["NAME", "LOAD", "CRATE"];
/// Files that a run creates.
const CREATED: &str = "target/";
/// Words in backticks with this many underscores are names of tests, and exist as identifiers.
const UNDERSCORES: usize = 4;
/// Names of that form that are not ours.
const FOREIGN: [&str; 1] = ["_raw_spin_unlock_irqrestore"];

/// A file that people read, as lines outside code blocks, with their numbers.
struct Text {
    path: String,
    lines: Vec<(usize, String)>,
}

static TEXTS: LazyLock<Vec<Text>> = LazyLock::new(|| {
    let pages = files().into_iter().filter(|path| path.ends_with(".md"));
    let pages = pages.map(|path| Text {
        lines: prose(&read(&path)),
        path,
    });
    let sources = SOURCES.iter().map(|source| Text {
        path: source.path.clone(),
        lines: source.comments.clone(),
    });
    pages.chain(sources).chain(scripts()).collect()
});

static FILES: LazyLock<Vec<String>> = LazyLock::new(files);

/// The comments of the scripts in `.ci/`.
fn scripts() -> impl Iterator<Item = Text> {
    let folder = std::fs::read_dir(root().join(".ci")).expect(".ci/ holds the gate");
    folder.map(|entry| {
        let name = entry.expect("a folder that opened can be read").file_name();
        let path = format!(".ci/{}", name.to_string_lossy());
        let lines = read(&path);
        let comments = lines.lines().enumerate();
        let comments = comments.filter(|(_, line)| line.trim_start().starts_with('#'));
        Text {
            lines: comments.map(|(i, line)| (i + 1, line.to_owned())).collect(),
            path,
        }
    })
}

/// The lines of a page outside code blocks.
pub(crate) fn prose(page: &str) -> Vec<(usize, String)> {
    let mut in_fence = false;
    let mut lines = Vec::new();
    for (index, line) in page.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        } else if !in_fence {
            lines.push((index + 1, line.to_owned()));
        }
    }
    lines
}

/// The paths of files and folders that a line cites, with the text behind each.
fn paths(line: &str) -> Vec<(&str, &str)> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let mut paths = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_path) {
        let before = rest[..start].chars().next_back();
        let word = &rest[start..];
        let end = word.find(|c| !is_path(c)).unwrap_or(word.len());
        let (word, behind) = word.split_at(end);
        rest = behind;
        let word = word.trim_end_matches(['.', '-']);
        let is_variable = before.is_some_and(|c| "$}*>:".contains(c));
        let is_file = EXTENSIONS.iter().any(|end| {
            word.strip_suffix(end)
                .is_some_and(|stem| !stem.is_empty() && !stem.ends_with('/'))
        });
        let is_script = word.starts_with(".ci/") && word.len() > 4;
        if (is_file || is_script) && !is_variable && !word.starts_with(['/', '-']) {
            paths.push((word, behind));
        }
    }
    paths
}

/// The file that `path`, cited in `by`, names: from the root, from the citing file or its crate, or, if
/// the crate has one file of that name, by the end of its path.
fn resolve(by: &str, path: &str) -> Option<String> {
    let folder = by.rsplit_once('/').map_or("", |(folder, _)| folder);
    let crate_folder = by.split('/').next().unwrap_or_default();
    let from = ["", folder, crate_folder, &format!("{crate_folder}/src")];
    let mut places = from.iter().map(|from| {
        let path = format!("{from}/{path}");
        path.trim_start_matches('/').to_owned()
    });
    let end = format!("/{path}");
    let inside = format!("{crate_folder}/");
    places
        .find(|place| root().join(place).exists())
        .or_else(|| {
            let mut inside = FILES.iter().filter(|file| file.starts_with(&inside));
            inside.find(|file| file.ends_with(&end)).cloned()
        })
}

/// The section that the text behind a page's name cites: `, "Section"`.
fn section(behind: &str) -> Option<&str> {
    let behind = behind.trim_start_matches(['`', ')']);
    let behind = behind.strip_prefix(", ")?;
    let behind = behind.strip_prefix("section ").unwrap_or(behind);
    behind.strip_prefix('"')?.split('"').next()
}

/// What is wrong with the paths and sections that a text cites.
fn lost_paths(text: &Text) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, (line, words)) in text.lines.iter().enumerate() {
        for (path, behind) in paths(words) {
            if path.starts_with(CREATED) || PLACEHOLDERS.iter().any(|name| path.contains(name)) {
                continue;
            }
            let Some(file) = resolve(&text.path, path) else {
                let what = format!("there is no {path}");
                violations.push(Violation::new(&text.path, *line, what));
                continue;
            };
            // The section may end on the next line.
            let next = text.lines.get(index + 1).map_or("", |(_, line)| line);
            let behind = format!("{behind} {next}");
            if let Some(section) = section(&behind).filter(|_| file.ends_with(".md"))
                && !anchors(&read(&file)).contains(&anchors(&format!("# {section}"))[0])
            {
                let what = format!("{file} has no section \"{section}\"");
                violations.push(Violation::new(&text.path, *line, what));
            }
        }
    }
    violations
}

/// The words between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The tests and the functions `name()` that a line cites, each with the file before it on the line, if
/// there is one.
fn tests(line: &str) -> Vec<(Option<&str>, &str)> {
    let mut file = None;
    let mut tests = Vec::new();
    for word in quoted(line) {
        let is_name = |word: &str| {
            word.chars()
                .all(|c| c.is_lowercase() || c.is_numeric() || c == '_')
        };
        let underscores = if file.is_some() { 2 } else { UNDERSCORES };
        let function = word.strip_suffix("()").filter(|name| is_name(name));
        if word.ends_with(".rs") {
            file = Some(word);
        } else if let Some(function) = function.filter(|_| file.is_some()) {
            tests.push((file, function));
        } else if is_name(word) && word.matches('_').count() >= underscores {
            tests.push((file, word));
        }
    }
    tests
}

fn has_function(source: &str, name: &str) -> bool {
    source.contains(&format!("fn {name}(")) || source.contains(&format!("fn {name}<"))
}

/// Every identifier of our sources that is long enough for a test's name.
static NAMES: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
    let tokens = SOURCES.iter().flat_map(|source| &source.tokens);
    tokens
        .map(|token| token.text.as_str())
        .filter(|text| text.matches('_').count() >= UNDERSCORES)
        .collect()
});

fn lost_tests(text: &Text) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (line, words) in &text.lines {
        for (file, test) in tests(words) {
            let file = file.and_then(|file| resolve(&text.path, file));
            let found = match &file {
                Some(file) => has_function(&read(file), test),
                None => NAMES.contains(test) || FOREIGN.contains(&test),
            };
            if !found {
                let place = file.unwrap_or_else(|| "any source".to_owned());
                let what = format!("there is no `{test}` in {place}");
                violations.push(Violation::new(&text.path, *line, what));
            }
        }
    }
    violations
}

#[test]
fn every_cited_file_and_section_exists() {
    let violations: Vec<_> = TEXTS.iter().flat_map(lost_paths).collect();
    expect_none(
        &violations,
        "cite the file that holds it now, from the root or from here, or move the fact into the project",
    );
}

#[test]
fn every_cited_test_exists() {
    let violations: Vec<_> = TEXTS.iter().flat_map(lost_tests).collect();
    expect_none(&violations, "cite the test by its name of today");
}

#[test]
fn citations_are_found() {
    let line =
        "See `a/b.rs`, .ci/run and (c.md, \"D e\"); not https://x.org/y.md, $Z/f.sh or g.rs().";
    let found: Vec<_> = paths(line).into_iter().map(|(path, _)| path).collect();
    assert_eq!(found, ["a/b.rs", ".ci/run", "c.md", "g.rs"]);
    assert_eq!(section(paths(line)[2].1), Some("D e"));
    assert_eq!(section("` and more"), None);
    assert_eq!(
        tests("`a/b.rs` `it_is_so`; `c`"),
        [(Some("a/b.rs"), "it_is_so")]
    );
    assert_eq!(tests("`it_is_so` `a_b_c_d_e`"), [(None, "a_b_c_d_e")]);
    assert_eq!(tests("`x()` `a/b.rs` `c()`"), [(Some("a/b.rs"), "c")]);

    let text = |line: &str| Text {
        path: "README.md".to_owned(),
        lines: vec![(1, line.to_owned())],
    };
    assert!(lost_paths(&text("`testkit/src/lib.rs`, target/x.md")).is_empty());
    assert!(lost_paths(&text("ARCHITECTURE.md, \"Glossary\"")).is_empty());
    assert_eq!(lost_paths(&text("no-such-page.md")).len(), 1);
    assert_eq!(lost_paths(&text("ARCHITECTURE.md, \"Nothing\"")).len(), 1);
    let here = "`testkit/tests/tidy/citations.rs`";
    assert!(lost_tests(&text(&format!("{here} `citations_are_found`"))).is_empty());
    assert_eq!(
        lost_tests(&text(&format!("{here} `no_such_test_{}`", "here"))).len(),
        1
    );
}
