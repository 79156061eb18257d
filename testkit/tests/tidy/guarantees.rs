//! GUARANTEES.md numbers its guarantees, and each has a section with its proof.

use crate::source::read;
use crate::{Violation, expect_none};

const PAGE: &str = "GUARANTEES.md";

/// Lines and the numbers on them.
type Numbers = Vec<(usize, usize)>;

/// The numbers at the start of the list, `| [G1](#g1) | ..`, and of the sections, `### G1`, with lines.
fn numbers(page: &str) -> (Numbers, Numbers) {
    let number = |line: &str, before: &str| -> Option<usize> {
        let digits = line.strip_prefix(before)?;
        let end = digits.find(|c: char| !c.is_ascii_digit());
        digits[..end.unwrap_or(digits.len())].parse().ok()
    };
    let all = |before: &str| {
        let lines = page.lines().enumerate();
        lines
            .filter_map(|(index, line)| Some((index + 1, number(line, before)?)))
            .collect()
    };
    (all("| [G"), all("### G"))
}

/// The text of each section with a number.
fn sections(page: &str) -> Vec<(usize, String)> {
    let starts = numbers(page).1;
    let lines: Vec<&str> = page.lines().collect();
    starts
        .into_iter()
        .map(|(line, _)| {
            let body = lines[line..]
                .iter()
                .take_while(|line| !line.starts_with('#'));
            (line, body.copied().collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

#[test]
fn guarantees_are_numbered_and_each_has_a_section_with_a_proof() {
    let page = read(PAGE);
    let (listed, proven) = numbers(&page);
    let mut violations = Vec::new();
    assert!(
        listed.len() > 20,
        "{PAGE}: only {} guarantees",
        listed.len()
    );
    for numbers in [&listed, &proven] {
        for (index, (line, number)) in numbers.iter().enumerate() {
            if *number != index + 1 {
                let what = format!("G{number} stands in place {}", index + 1);
                violations.push(Violation::new(PAGE, *line, what));
            }
        }
    }
    if listed.len() != proven.len() {
        let what = format!(
            "{} are listed, {} have a section",
            listed.len(),
            proven.len()
        );
        violations.push(Violation::new(PAGE, 1, what));
    }
    for (line, text) in sections(&page) {
        if !text.contains(".rs`") && !text.contains("`.ci/") && !text.contains("`fuzz/`") {
            violations.push(Violation::new(PAGE, line, "the section names no test"));
        }
    }
    expect_none(
        &violations,
        "number the list and the sections alike, and cite in each section the tests that prove it",
    );
}

#[test]
fn numbers_and_sections_are_found() {
    let page =
        "| [G1](#g1) | a |\n| [G2](#g2) | b |\n## Proofs\n### G1\n`c.rs` `d`\n### G2\nnone\n";
    assert_eq!(numbers(page), (vec![(1, 1), (2, 2)], vec![(4, 1), (6, 2)]));
    let texts: Vec<_> = sections(page).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["`c.rs` `d`", "none"]);
}
