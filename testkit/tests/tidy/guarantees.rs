//! The tests that GUARANTEES.md names exist.

use crate::source::read;
use crate::{Complaint, expect_none, root};

const PAGE: &str = "GUARANTEES.md";

/// The `file: test` pairs of a page, with their lines: a path in backticks names the file for the
/// tests behind it on the same line.
fn named(text: &str) -> Vec<(usize, String, String)> {
    let mut named = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut file = None;
        for quoted in line.split('`').skip(1).step_by(2) {
            if quoted.ends_with(".rs") {
                file = Some(quoted);
            } else if let Some(file) = file
                && is_test_name(quoted)
            {
                named.push((index + 1, file.to_owned(), quoted.to_owned()));
            }
        }
    }
    named
}

/// Tests are named as sentences.
fn is_test_name(word: &str) -> bool {
    word.matches('_').count() >= 2 && word.chars().all(|c| c.is_alphanumeric() || c == '_')
}

fn has_test(source: &str, name: &str) -> bool {
    source.contains(&format!("fn {name}("))
}

#[test]
fn every_promise_names_tests_that_exist() {
    let page = read(PAGE);
    let mut complaints = Vec::new();
    let named = named(&page);
    assert!(named.len() > 40, "only {} tests are named", named.len());
    for (line, file, test) in named {
        let path = root().join(&file);
        if !path.exists() {
            complaints.push(Complaint::new(PAGE, line, format!("there is no {file}")));
        } else if !has_test(&read(&file), &test) {
            let what = format!("there is no test `{test}` in {file}");
            complaints.push(Complaint::new(PAGE, line, what));
        }
    }
    expect_none(
        &complaints,
        "name the test that proves it now, or withdraw the promise",
    );
}

#[test]
fn names_are_found_behind_their_files() {
    let text = "- x: `a/b.rs` `it_is_so`, `and_it_is`; `c.rs` `more_of_it`\n`not_a_test` `x`";
    let found = named(text);
    let pair = |file: &str, test: &str| (1, file.to_owned(), test.to_owned());
    assert_eq!(
        found,
        [
            pair("a/b.rs", "it_is_so"),
            pair("a/b.rs", "and_it_is"),
            pair("c.rs", "more_of_it")
        ]
    );
    assert!(has_test("#[test]\nfn it_is_so() {}", "it_is_so"));
    assert!(!has_test("fn it_is_so_too() {}", "it_is_so"));
}
