//! Errors of a configuration: each names the place, the key, and what was expected.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::config::document::SourceSpan;

/// Maximum width of an excerpt, in columns.
const EXCERPT_WIDTH_MAX: usize = 120;

/// Maximum length of a value in a message, and of a marked range, in characters.
const VALUE_LEN_MAX: usize = 60;

/// Number of problems that are reported at once.
const PROBLEMS_MAX: usize = 20;

/// A configuration that cannot be used, with all problems that were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<ConfigProblem>,
    omitted: usize,
}

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The file, environment variable or option.
    pub origin: String,
    /// Line and column in the file, from 1; the column counts characters.
    pub position: Option<(usize, usize)>,
    /// The key, what is wrong, and what was expected.
    pub message: String,
    /// The line up to the end of the range of bytes that is wrong.
    excerpt: Option<(String, Range<usize>)>,
}

impl ConfigError {
    pub(super) fn new(mut problems: Vec<ConfigProblem>) -> Self {
        problems.sort_by_key(|problem| problem.position);
        let omitted = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        Self { problems, omitted }
    }

    /// The problems, in the order of their lines.
    #[must_use]
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.problems
    }

    /// The problems with excerpts of the file, for people.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text: Vec<String> = self.problems.iter().map(ConfigProblem::render).collect();
        if self.omitted > 0 {
            text.push(format!("and {} more problems", self.omitted));
        }
        text.join("\n")
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        f.write_str(&text.join("; "))?;
        match self.omitted {
            0 => Ok(()),
            more => write!(f, "; and {more} more problems"),
        }
    }
}

impl From<ConfigProblem> for ConfigError {
    fn from(problem: ConfigProblem) -> Self {
        Self::new(vec![problem])
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl ConfigProblem {
    /// A problem of a whole file, variable or option.
    pub(super) fn whole(origin: &str, message: impl Into<String>) -> Self {
        Self {
            origin: origin.to_owned(),
            position: None,
            message: message.into(),
            excerpt: None,
        }
    }

    /// A problem of a key or value.
    pub(super) fn at(span: &SourceSpan, message: impl Into<String>) -> Self {
        let (source, message) = (&span.source, message.into());
        let problem = Self::whole(&source.origin, message);
        if !source.is_file {
            return problem;
        }
        let start = span.range.start.min(source.text.len());
        let Some(before) = source.text.get(..start) else {
            return problem;
        };
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_number = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        let line = source.text[line_start..].lines().next().unwrap_or_default();
        let marked = start - line_start;
        let is_secret = line.contains("token");
        Self {
            position: Some((line_number, column)),
            excerpt: (!is_secret).then(|| excerpt(line, marked, span.range.len())),
            ..problem
        }
    }

    /// A problem that the parser found. Its line may continue a token.
    pub(super) fn syntax(span: &SourceSpan, message: String) -> Self {
        let problem = Self::at(span, message);
        let before = span.source.text.get(..span.range.start).unwrap_or_default();
        if before.contains("token") {
            return problem.without_excerpt();
        }
        // A parser marks one place, which is clear only within the whole line.
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = span.source.text[line_start..].lines().next();
        let line = line.unwrap_or_default();
        let (_, marked) = excerpt(line, before.len() - line_start, 0);
        Self {
            excerpt: Some((line.to_owned(), marked)),
            ..problem
        }
    }

    /// Hides the line, which may hold a secret.
    pub(super) fn without_excerpt(self) -> Self {
        Self {
            excerpt: None,
            ..self
        }
    }

    fn render(&self) -> String {
        let (Some((line, marked)), Some((number, _))) = (&self.excerpt, self.position) else {
            return format!("error: {self}");
        };
        let snippet = Snippet::source(line.as_str())
            .line_start(number)
            .path(self.origin.as_str())
            .annotation(AnnotationKind::Primary.span(marked.clone()));
        let title = Level::ERROR.primary_title(self.message.as_str());
        let renderer = Renderer::plain().term_width(EXCERPT_WIDTH_MAX);
        renderer.render(&[title.element(snippet)])
    }
}

/// The line up to the end of what is marked: the rest may hold a secret. A place behind the end of
/// the line, such as its terminator, is moved to the end.
fn excerpt(line: &str, start: usize, len: usize) -> (String, Range<usize>) {
    let start = start.min(line.len());
    let marked = line.get(start..).unwrap_or_default();
    let marked = marked.get(..len).unwrap_or(marked);
    let marked = marked.chars().take(VALUE_LEN_MAX).map(char::len_utf8);
    let end = start + marked.sum::<usize>();
    (line[..end].to_owned(), start..end)
}

/// A value as it is shown in a message.
pub(super) fn shorten(text: &str) -> String {
    let mut shown: String = text.chars().take(VALUE_LEN_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown.replace(['\n', '\r'], " ")
}

/// Completes a message about an unknown word: with the most similar known one, or with all.
pub(super) fn suggest(found: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(found, known), known))
        .min();
    match nearest {
        Some((distance, known)) if distance <= 1 + found.len() / 4 => {
            format!("did you mean `{known}`?")
        }
        _ => {
            let known: Vec<String> = known.iter().map(|it| format!("`{it}`")).collect();
            format!("expected one of {}", known.join(", "))
        }
    }
}
