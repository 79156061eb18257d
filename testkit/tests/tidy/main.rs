//! The rules of the house that no other tool checks. A failure says where, and what to do.

mod code;
mod guarantees;
mod layers;
mod layout;
mod links;
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

/// A rule broken somewhere.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    path: String,
    line: usize,
    what: String,
}

impl Complaint {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            what: what.into(),
        }
    }
}

/// Fails with every complaint, not only the first, and with the way out.
#[track_caller]
fn expect_none(complaints: &[Complaint], what_to_do: &str) {
    let lines: Vec<String> = complaints
        .iter()
        .map(|c| format!("  {}:{}: {}", c.path, c.line, c.what))
        .collect();
    assert!(
        complaints.is_empty(),
        "\n{}\nWhat to do: {what_to_do}\n",
        lines.join("\n")
    );
}
