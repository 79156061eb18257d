//! Links between our pages lead somewhere.

use crate::source::{files, read};
use crate::{Violation, expect_none, root};

/// The targets of `[..](target)` and of `[..]: target`, with their lines; not in code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut in_fence = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        if in_fence {
            continue;
        }
        // Every second piece lies between backticks.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for rest in prose.split("](").skip(1) {
            links.extend(
                rest.split([')', ' '])
                    .next()
                    .map(|target| (index + 1, target.to_owned())),
            );
        }
        if let Some((_, target)) = prose.split_once("]: ").filter(|_| prose.starts_with('[')) {
            links.push((index + 1, target.trim().to_owned()));
        }
    }
    links
}

/// The anchors of a page's headings, as GitHub makes them.
pub(crate) fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// What is wrong with a link from a page, if anything is.
fn fault(page: &str, target: &str) -> Option<&'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = if path.is_empty() {
        page.to_owned()
    } else {
        format!("{folder}/{path}")
    };
    let file = root().join(path.trim_start_matches('/'));
    if !file.exists() {
        return Some("nothing is there");
    }
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    let found =
        anchor.is_empty() || !path.ends_with(".md") || anchors(&text()).iter().any(|a| a == anchor);
    (!found).then_some("the page has no such heading")
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let mut violations = Vec::new();
    for page in files().iter().filter(|path| path.ends_with(".md")) {
        for (line, target) in links(&read(page)) {
            if let Some(fault) = fault(page, &target) {
                violations.push(Violation::new(page, line, format!("{target}: {fault}")));
            }
        }
    }
    expect_none(
        &violations,
        "correct the link, or take it out with what it led to",
    );
}

#[test]
fn links_are_found_and_followed() {
    let text = "[a](b.md) and [c](d.md#e \"f\")\n```\n[g](h)\n```\n`[i](j)` [k](l)\n[m]: n.md\n";
    let found = links(text);
    let found: Vec<_> = found
        .iter()
        .map(|(line, target)| (*line, target.as_str()))
        .collect();
    assert_eq!(found, [(1, "b.md"), (1, "d.md#e"), (5, "l"), (6, "n.md")]);
    assert_eq!(
        anchors("# A\n## Life of a `message`, twice\n"),
        ["a", "life-of-a-message-twice"]
    );

    assert_eq!(fault("README.md", "https://example.com/x"), None);
    assert_eq!(fault("README.md", "ARCHITECTURE.md#glossary"), None);
    assert_eq!(fault("ARCHITECTURE.md", "#glossary"), None);
    assert_eq!(fault("wasm-host/ABI.md", "../README.md"), None);
    assert!(fault("ARCHITECTURE.md", "#no-such-heading").is_some());
    assert!(fault("README.md", "no-such-page.md").is_some());
}
