//! The glossary of ARCHITECTURE.md defines each term once, and its types exist.

use std::collections::BTreeSet;

use crate::names::{types, workspace_sources};
use crate::source::read;
use crate::{Violation, expect_none};

const PAGE: &str = "ARCHITECTURE.md";
const HEADING: &str = "## Glossary";

/// The terms in the first column of the glossary, with their lines: `a`, b -> two terms.
fn terms(page: &str) -> Vec<(usize, String)> {
    let lines = page.lines().enumerate();
    let section = lines
        .skip_while(|(_, line)| *line != HEADING)
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "));
    let rows = section.filter(|(_, line)| line.starts_with('|'));
    // The head and the line below it.
    let cells = rows
        .skip(2)
        .filter_map(|(index, line)| Some((index + 1, line.split('|').nth(1)?)));
    cells
        .flat_map(|(line, cell)| {
            cell.split(',')
                .map(move |term| (line, term.trim().to_owned()))
        })
        .collect()
}

/// The identifier that a term is, if it is one: in backticks, or with a capital.
fn identifier(term: &str) -> Option<&str> {
    let name = term.trim_matches('`');
    let is_identifier = term.starts_with('`') || term.starts_with(|c: char| c.is_uppercase());
    is_identifier.then_some(name)
}

fn faults(page: &str, types: &BTreeSet<&str>) -> Vec<Violation> {
    let mut seen = BTreeSet::new();
    let mut violations = Vec::new();
    for (line, term) in terms(page) {
        let plain = term.trim_matches('`').to_lowercase();
        if !seen.insert(plain) {
            violations.push(Violation::new(PAGE, line, format!("{term} has two rows")));
        }
        if identifier(&term).is_some_and(|name| !types.contains(name)) {
            violations.push(Violation::new(
                PAGE,
                line,
                format!("no type is named {term}"),
            ));
        }
    }
    violations
}

#[test]
fn each_term_of_the_glossary_is_defined_once_and_its_types_exist() {
    let page = read(PAGE);
    let types: BTreeSet<&str> = workspace_sources()
        .flat_map(types)
        .map(|(name, _)| name)
        .collect();
    let count = terms(&page).len();
    assert!(count > 30, "{PAGE}: only {count} terms below `{HEADING}`");
    expect_none(
        &faults(&page, &types),
        "keep one row per term, named as the code names it; a term that is no type has no capital",
    );
}

#[test]
fn repeated_and_unknown_terms_are_found() {
    let page = "# A\n| x | x |\n## Glossary\n\n| term | meaning |\n|---|---|\n| `A`, b | c |\n| B | d |\n| `E` | f |\n## G\n| `H` | i |\n";
    let types = BTreeSet::from(["A", "B"]);
    let found = faults(page, &types);
    let lines: Vec<_> = found.iter().map(|violation| violation.line).collect();
    assert_eq!(lines, [8, 9], "{found:?}");
}
