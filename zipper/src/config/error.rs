//! What is wrong with a configuration, said so that it can be mended.

use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_saphyr::Error;

/// What is wrong with a configuration, and where. Its text is for people: the place, what is wrong,
/// what was meant, and the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, variable or option; with line and column where there are any.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// The line, and how many characters precede what is wrong in it.
    line: Option<(String, usize)>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)?;
        if let Some((line, indent)) = &self.line {
            write!(f, "\n  | {line}\n  | {:indent$}^", "")?;
        }
        Ok(())
    }
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self::at(
            &path.display().to_string(),
            format!("cannot be read: {error}"),
        )
    }

    pub(super) fn whole(path: &Path, what: &str) -> Self {
        Self::at(&path.display().to_string(), what.to_owned())
    }

    pub(super) fn at(place: &str, what: String) -> Self {
        Self {
            place: place.to_owned(),
            what,
            line: None,
        }
    }

    /// A value that reads well and makes no sense: at the first line with its key.
    pub(super) fn check(text: &str, origin: &str, (key, why): (&str, String)) -> Self {
        let what = format!("`{key}`: {why}");
        let has_key = |line: &str| {
            let line = line.trim_start();
            line.strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with(':'))
        };
        match text.lines().position(has_key) {
            Some(at) => {
                let line = text.lines().nth(at).unwrap_or_default();
                let indent = line.len() - line.trim_start().len();
                Self::in_line(text, origin, at + 1, indent + 1, what)
            }
            None => Self::at(origin, what),
        }
    }

    fn in_line(text: &str, origin: &str, line: usize, column: usize, what: String) -> Self {
        let found = text.lines().nth(line.saturating_sub(1));
        // A line with a secret in it is not shown.
        let shown = found.filter(|line| !line.contains("token:"));
        Self {
            place: format!("{origin}:{line}:{column}"),
            what,
            line: shown.map(|line| (line.to_owned(), column.saturating_sub(1))),
        }
    }
}

/// Reads YAML, an empty text as an empty map.
pub(super) fn read<T: DeserializeOwned + Default>(
    text: &str,
    origin: &str,
) -> Result<T, ConfigError> {
    let is_blank = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    };
    if text.lines().all(is_blank) {
        return Ok(T::default());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location();
        let what = describe(&error);
        match place {
            Some(at) => {
                ConfigError::in_line(text, origin, at.line() as usize, at.column() as usize, what)
            }
            None => ConfigError::at(origin, what),
        }
    })
}

fn describe(error: &Error) -> String {
    match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => unknown("key", field, expected),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => unknown("value", variant, expected),
        Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
        other => {
            // The place is said already.
            let text = other.to_string();
            let end = text.find(" at line ").unwrap_or(text.len());
            text[..end].trim_start_matches("error: ").to_owned()
        }
    }
}

/// Says what is not known, and what was meant.
pub(super) fn unknown(kind: &str, found: &str, expected: &[&str]) -> String {
    let near = expected
        .iter()
        .map(|known| (strsim::damerau_levenshtein(found, known), known))
        .min();
    match near {
        Some((distance, known)) if distance <= 1 + found.len() / 4 => {
            format!("unknown {kind} `{found}`; did you mean `{known}`?")
        }
        _ => {
            let known: Vec<String> = expected.iter().map(|it| format!("`{it}`")).collect();
            format!(
                "unknown {kind} `{found}`; expected one of {}",
                known.join(", ")
            )
        }
    }
}
