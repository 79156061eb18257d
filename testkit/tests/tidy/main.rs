//! Rules of the workspace that no other tool checks. A failure states the place and the remedy.

mod citations;
mod code;
mod glossary;
mod guarantees;
mod layers;
mod layout;
mod links;
mod names;
mod prose;
mod purity;
mod source;

use std::path::{Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    let testkit = Path::new(env!("CARGO_MANIFEST_DIR"));
    testkit
        .parent()
        .expect("the crate lies in the repository")
        .to_owned()
}

/// A place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    path: String,
    line: usize,
    what: String,
}

impl Violation {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            what: what.into(),
        }
    }
}

/// Fails with every violation, not only the first, and with the remedy.
#[track_caller]
fn expect_none(violations: &[Violation], what_to_do: &str) {
    let lines: Vec<String> = violations
        .iter()
        .map(|c| format!("  {}:{}: {}", c.path, c.line, c.what))
        .collect();
    assert!(
        violations.is_empty(),
        "\n{}\nWhat to do: {what_to_do}\n",
        lines.join("\n")
    );
}
