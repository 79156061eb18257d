//! YAML as a tree whose nodes know their place, so that each error can point at one.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, Spanned, UserMessageFormatter};

use crate::config::error::{ConfigProblem, shorten};

/// Text that was parsed, and where it was found: a file, a variable or an option.
#[derive(Debug)]
pub(super) struct ConfigSource {
    pub(super) origin: String,
    pub(super) text: String,
    /// Whether a line of the text may be shown.
    pub(super) is_file: bool,
}

/// A range of bytes in a source.
#[derive(Debug, Clone)]
pub(super) struct SourceSpan {
    pub(super) source: Rc<ConfigSource>,
    pub(super) range: Range<usize>,
}

/// A value of the document.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: NodeValue,
    pub(super) span: SourceSpan,
}

#[derive(Debug)]
pub(super) enum NodeValue {
    Null,
    /// A text, or a number or boolean as it was written.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<MapEntry>),
}

/// A key of a map with its value.
#[derive(Debug)]
pub(super) struct MapEntry {
    pub(super) key: String,
    pub(super) key_span: SourceSpan,
    pub(super) node: Node,
}

impl Node {
    /// Parses YAML. An empty file is an empty map, and an empty value is none.
    pub(super) fn parse(source: &Rc<ConfigSource>) -> Result<Self, ConfigProblem> {
        let options = serde_saphyr::options! { with_snippet: false };
        let is_blank = |line: &str| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line == "---"
        };
        if source.text.lines().all(is_blank) {
            let mut node = Self::empty_map(source.whole());
            if !source.is_file {
                node.value = NodeValue::Null;
            }
            return Ok(node);
        }
        let tree = serde_saphyr::from_str_with_options::<Spanned<Tree>>(&source.text, options);
        Ok(tree
            .map_err(|error| syntax_problem(source, &error))?
            .into_node(source))
    }

    pub(super) const fn empty_map(span: SourceSpan) -> Self {
        Self {
            value: NodeValue::Map(Vec::new()),
            span,
        }
    }

    /// Replaces the value at a path of keys; missing maps are created. Fails if a value on the path
    /// is not a map, with the number of keys that lead to it.
    pub(super) fn replace(&mut self, path: &[String], node: Self) -> Result<(), usize> {
        let Some((key, rest)) = path.split_first() else {
            *self = node;
            return Ok(());
        };
        if matches!(self.value, NodeValue::Null) {
            self.value = NodeValue::Map(Vec::new());
        }
        let NodeValue::Map(entries) = &mut self.value else {
            return Err(0);
        };
        let span = node.span.clone();
        let at = entries.iter().position(|entry| entry.key == *key);
        let at = at.unwrap_or_else(|| {
            entries.push(MapEntry {
                key: key.clone(),
                key_span: span.clone(),
                node: Self::empty_map(span),
            });
            entries.len() - 1
        });
        entries[at]
            .node
            .replace(rest, node)
            .map_err(|keys| keys + 1)
    }

    /// Short description of the value for an error.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            NodeValue::Null => "nothing".into(),
            NodeValue::Scalar(text) => format!("`{}`", shorten(text)),
            NodeValue::List(_) => "a list".into(),
            NodeValue::Map(_) => "a map".into(),
        }
    }
}

impl ConfigSource {
    pub(super) fn file(origin: &str, text: &str) -> Rc<Self> {
        // The parser does not count a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self::new(origin, text, true)
    }

    pub(super) fn value(origin: &str, text: &str) -> Rc<Self> {
        Self::new(origin, text, false)
    }

    fn new(origin: &str, text: &str, is_file: bool) -> Rc<Self> {
        Rc::new(Self {
            origin: origin.to_owned(),
            text: text.to_owned(),
            is_file,
        })
    }

    pub(super) fn whole(self: &Rc<Self>) -> SourceSpan {
        self.span(0..self.text.len())
    }

    fn span(self: &Rc<Self>, range: Range<usize>) -> SourceSpan {
        SourceSpan {
            source: Rc::clone(self),
            range,
        }
    }

    /// Byte offset of a line and column, both from 1. The column counts characters.
    fn offset(&self, line: usize, column: usize) -> usize {
        let mut lines = self.text.split_inclusive('\n');
        let before = lines.by_ref().take(line.saturating_sub(1));
        let start: usize = before.map(str::len).sum();
        let within = lines.next().unwrap_or_default().chars();
        let within = within.take(column.saturating_sub(1)).map(char::len_utf8);
        start + within.sum::<usize>()
    }

    fn locate(self: &Rc<Self>, location: Location) -> SourceSpan {
        let span = location.span();
        let start = match span.byte_offset() {
            Some(offset) => offset as usize,
            // Errors of the parser have a line and a column only.
            None => self.offset(location.line() as usize, location.column() as usize),
        };
        let end = start.saturating_add(span.byte_len().unwrap_or_default() as usize);
        self.span(start..end)
    }
}

impl SourceSpan {
    /// The text, if the span is within the source.
    pub(super) fn text(&self) -> Option<&str> {
        self.source.text.get(self.range.clone())
    }
}

fn syntax_problem(source: &Rc<ConfigSource>, error: &Error) -> ConfigProblem {
    let message = match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{}` occurs twice", shorten(key))
        }
        Error::MultipleDocuments { .. } => {
            "there are several documents, separated by `---`; expected one".into()
        }
        Error::Budget { .. } => "the document is too large or nested too deeply".into(),
        Error::UnknownAnchor { .. } => "this alias has no anchor before it".into(),
        Error::InvalidScalar { .. } => "this value does not match its tag".into(),
        other => {
            let text = other.render_with_formatter(&UserMessageFormatter);
            // The location is part of the problem.
            let end = text.find(" at line ").unwrap_or(text.len());
            let text = text[..end].trim_start_matches("error: ");
            format!("not valid YAML: {text}; check indentation, quotes and brackets here")
        }
    };
    match error.location() {
        Some(location) => ConfigProblem::syntax(&source.locate(location), message),
        None => ConfigProblem::whole(&source.origin, message),
    }
}

/// The tree as the parser yields it.
enum Tree {
    Null,
    /// A number or boolean: its text is taken from the source.
    Plain(String),
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<Self>, Spanned<Self>)>),
}

trait IntoNode {
    fn into_node(self, source: &Rc<ConfigSource>) -> Node;
}

impl IntoNode for Spanned<Tree> {
    fn into_node(self, source: &Rc<ConfigSource>) -> Node {
        let span = source.locate(self.defined);
        let value = match self.value {
            Tree::Null => NodeValue::Null,
            Tree::Plain(parsed) => NodeValue::Scalar(span.text().map_or(parsed, str::to_owned)),
            Tree::Text(text) => NodeValue::Scalar(text),
            Tree::List(list) => {
                NodeValue::List(list.into_iter().map(|it| it.into_node(source)).collect())
            }
            Tree::Map(map) => {
                let entry = |(key, value): (Self, Self)| {
                    let key = key.into_node(source);
                    MapEntry {
                        key: match key.value {
                            NodeValue::Scalar(text) => text,
                            _ => key.span.text().unwrap_or_default().to_owned(),
                        },
                        key_span: key.span,
                        node: value.into_node(source),
                    }
                };
                NodeValue::Map(map.into_iter().map(entry).collect())
            }
        };
        Node { value, span }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Plain(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Plain(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Plain(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Tree, E> {
        Ok(Tree::Plain(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Tree, E> {
        Ok(Tree::Plain(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Plain(value.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = access.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = access.next_entry()? {
            map.push(entry);
        }
        Ok(Tree::Map(map))
    }
}
