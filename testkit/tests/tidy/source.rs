//! The repository's files, and Rust sources as tokens.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::LazyLock;

use proc_macro2::{Delimiter, LineColumn, TokenStream, TokenTree};

use crate::root;

/// Every Rust source of the repository, read once.
pub(crate) static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let paths = files().into_iter().filter(|path| path.ends_with(".rs"));
    paths
        .map(|path| Source::parse(&path, &read(&path)))
        .collect()
});

/// A Rust source.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the repository's root, with `/`.
    pub(crate) path: String,
    pub(crate) lines: Vec<String>,
    /// Without comments. A string is one token and keeps its quotes, so it equals no word.
    pub(crate) tokens: Vec<Token>,
    /// The text of each comment, documentation included, by line; of a block comment, of each line.
    pub(crate) comments: Vec<(usize, String)>,
    test_modules: Vec<RangeInclusive<usize>>,
}

#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
}

impl Source {
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let stream: TokenStream = text
            .parse()
            .unwrap_or_else(|error| panic!("{path} does not read as Rust: {error}"));
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut literals = Vec::new();
        literal_spans(stream.clone(), &mut literals);
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        Self {
            path: path.to_owned(),
            comments: comments(&lines, &literals),
            test_modules: test_modules(&tokens),
            lines,
            tokens,
        }
    }

    /// A test in whole: it lies in a `tests` folder or is named for it.
    pub(crate) fn is_test_file(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.split('/').any(|part| part == "tests")
    }

    /// In a test file or in an inline module that only tests are built with.
    pub(crate) fn is_test_line(&self, line: usize) -> bool {
        self.is_test_file() || self.test_modules.iter().any(|lines| lines.contains(&line))
    }

    /// Lines outside inline test modules.
    pub(crate) fn own_lines(&self) -> usize {
        let tests: usize = self
            .test_modules
            .iter()
            .map(|m| m.end() - m.start() + 1)
            .sum();
        self.lines.len() - tests
    }

    /// Where these tokens stand one behind the other: the index and line of the first.
    pub(crate) fn find<'a>(
        &'a self,
        words: &'a [&str],
    ) -> impl Iterator<Item = (usize, usize)> + 'a {
        let windows = self.tokens.windows(words.len()).enumerate();
        windows
            .filter(move |(_, window)| {
                window
                    .iter()
                    .zip(words)
                    .all(|(token, word)| token.text == *word)
            })
            .map(|(index, window)| (index, window[0].line))
    }
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        let mut push = |text: String, line| tokens.push(Token { text, line });
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                push(open.to_owned(), line);
                flatten(group.stream(), tokens);
                let line = group.span_close().end().line;
                tokens.push(Token {
                    text: close.to_owned(),
                    line,
                });
            }
            other => push(other.to_string(), line),
        }
    }
}

/// Where literals start and end: text inside them is no comment. Doc comments, too, are literals to
/// the parser.
fn literal_spans(stream: TokenStream, spans: &mut Vec<(LineColumn, LineColumn)>) {
    for tree in stream {
        match tree {
            TokenTree::Group(group) => literal_spans(group.stream(), spans),
            TokenTree::Literal(literal) => {
                spans.push((literal.span().start(), literal.span().end()));
            }
            _ => {}
        }
    }
}

/// The text behind `//` or between `/*` and `*/`, with its line.
fn comments(lines: &[String], literals: &[(LineColumn, LineColumn)]) -> Vec<(usize, String)> {
    let mut comments = Vec::new();
    let mut in_block = false;
    for (index, line) in lines.iter().enumerate() {
        let inside_literal = |column| {
            let at = LineColumn {
                line: index + 1,
                column,
            };
            literals.iter().any(|(start, end)| *start < at && at < *end)
        };
        let chars: Vec<char> = line.chars().collect();
        let starts = |at: usize| chars[at] == '/' && matches!(chars.get(at + 1), Some('/' | '*'));
        let start = if in_block {
            Some(0)
        } else {
            (0..chars.len()).find(|&at| starts(at) && !inside_literal(at))
        };
        let Some(start) = start else { continue };
        let text: String = chars[start..].iter().collect();
        in_block = (in_block || text.starts_with("/*")) && !text.contains("*/");
        let text = text.trim_start_matches(['/', '!', '*']).trim();
        comments.push((index + 1, text.to_owned()));
    }
    comments
}

/// The lines of each `#[cfg(test)] mod name { .. }`.
fn test_modules(tokens: &[Token]) -> Vec<RangeInclusive<usize>> {
    let mut modules = Vec::new();
    for start in 0..tokens.len() {
        let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
        if (text(start), text(start + 1), text(start + 2)) != ("#", "[", "cfg") {
            continue;
        }
        let mut at = closing(tokens, start + 1);
        let condition = &tokens[start..at];
        let has = |word| condition.iter().any(|token| token.text == word);
        if !has("test") || has("not") {
            continue;
        }
        at += 1;
        while text(at) == "#" {
            at = closing(tokens, at + 1) + 1;
        }
        if text(at) == "mod" && text(at + 2) == "{" {
            modules.push(tokens[start].line..=tokens[closing(tokens, at + 2)].line);
        }
    }
    modules
}

/// The index of what closes the group that opens at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len() - 1
}

/// Every file below the root, from there, with `/`. What is built or begins with a dot is left out.
pub(crate) fn files() -> Vec<String> {
    let mut files = Vec::new();
    walk(&root(), &mut |path, is_folder| {
        if !is_folder {
            files.push(path);
        }
    });
    files
}

/// Every folder, likewise.
pub(crate) fn folders() -> Vec<String> {
    let mut folders = Vec::new();
    walk(&root(), &mut |path, is_folder| {
        if is_folder {
            folders.push(path);
        }
    });
    folders
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn walk(folder: &Path, visit: &mut dyn FnMut(String, bool)) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for entry in entries {
        let entry = entry.expect("a folder that opened can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        let path = entry.path();
        let from_root = path.strip_prefix(root()).expect("it lies below the root");
        let is_folder = entry
            .file_type()
            .expect("the file system knows it")
            .is_dir();
        visit(from_root.to_string_lossy().replace('\\', "/"), is_folder);
        if is_folder {
            walk(&path, visit);
        }
    }
}

#[test]
fn words_in_comments_and_strings_are_no_tokens() {
    let source = Source::parse(
        "a.rs",
        "//! todo!\n/// todo!\nconst A: &str = \"todo!\"; // todo!\n",
    );
    assert_eq!(source.find(&["todo", "!"]).count(), 0);
    let source = Source::parse("a.rs", "//! A.\nfn a() {\n    todo!()\n}\n");
    assert_eq!(
        source
            .find(&["todo", "!"])
            .map(|(_, line)| line)
            .collect::<Vec<_>>(),
        [3]
    );
}

#[test]
fn comments_are_found_and_strings_are_none() {
    let text = "//! A.\nconst A: &str = \"// b\"; // C.\n/// `d`.\nfn d() {\n    let _ = r\"\n// e\n\"; /* F\n G */\n}\n";
    let source = Source::parse("a.rs", text);
    let found: Vec<_> = source
        .comments
        .iter()
        .map(|(line, text)| (*line, text.as_str()))
        .collect();
    assert_eq!(
        found,
        [(1, "A."), (2, "C."), (3, "`d`."), (7, "F"), (8, "G */")]
    );
}

#[test]
fn lines_of_inline_test_modules_are_recognised() {
    let text = "//! A.\nfn a() {}\n#[cfg(test)]\n#[allow(x, reason = \"y\")]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(not(test))]\nmod d {}\n";
    let source = Source::parse("a/src/a.rs", text);
    assert_eq!(source.own_lines(), 5);
    assert!(source.is_test_line(6));
    assert!(!source.is_test_line(8) && !source.is_test_line(10));
    assert!(Source::parse("a/tests/b.rs", text).is_test_line(1));
    assert!(Source::parse("a/src/wire_tests.rs", text).is_test_file());
}
