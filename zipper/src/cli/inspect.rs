//! `zipper status` and `zipper ls`: what a zipper knows, as text or as JSON.

use std::fmt::Write;
use std::time::Duration;

use clap::ValueEnum;
use selvedge_client::wire::{AdminQuery, AdminRow, AdminValue};
use selvedge_client::{AdminClient, ClientOptions, Tag};
use selvedge_hub::NodeId;
use serde_json::{Map, Value};

use crate::cli::connection::ConnectionArgs;
use crate::cli::error::CommandError;
use crate::cli::{OutputFormat, print_line};

/// Time limit for a whole list.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Items that a cell of a table names; JSON has all of them.
const LISTED_MAX: usize = 4;

/// Time limit for a graceful close: everything was answered.
const CLOSE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// What to list.
    #[arg(value_enum, default_value_t)]
    list: ListName,
    /// List the functions that hold sources back, and the sources that wait.
    #[arg(long, conflicts_with = "list")]
    slow: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// A list of a zipper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum ListName {
    /// Sources and functions that are connected or awaited, with their backlog.
    #[default]
    Clients,
    /// Functions of this zipper, with tags, target and policy.
    Functions,
    /// Observed tags, with the functions.
    Tags,
    /// Functions at other zippers, with the path.
    Routes,
    /// Other zippers.
    Neighbours,
    /// Peers that have not acknowledged everything, the largest backlog first.
    Backlog,
}

impl From<ListName> for AdminQuery {
    fn from(list: ListName) -> Self {
        match list {
            ListName::Clients => Self::Clients,
            ListName::Functions => Self::Functions,
            ListName::Tags => Self::Tags,
            ListName::Routes => Self::Routes,
            ListName::Neighbours => Self::Neighbours,
            ListName::Backlog => Self::Backlog,
        }
    }
}

pub(crate) fn status(args: &StatusArgs, output: OutputFormat) -> Result<(), CommandError> {
    let rows = request(&args.connection, AdminQuery::Zipper)?;
    let row = rows.first().cloned().unwrap_or_default();
    match output {
        OutputFormat::Json => print_line(to_json(&row)),
        OutputFormat::Text => {
            let width = row.fields.iter().map(|(name, _)| name.len()).max();
            let width = width.unwrap_or_default();
            for (name, value) in &row.fields {
                let value = match value {
                    AdminValue::Node(node) => NodeId::new(*node).to_string(),
                    value => to_text(name, value),
                };
                let name = heading(name);
                print_line(format_args!("{name:<width$}  {value}"))?;
            }
            Ok(())
        }
    }
}

pub(crate) fn ls(args: &LsArgs, output: OutputFormat) -> Result<(), CommandError> {
    let query = match args.slow {
        true => AdminQuery::Slow,
        false => args.list.into(),
    };
    let mut rows = request(&args.connection, query)?;
    if query == AdminQuery::Backlog {
        rows.sort_by_key(|row| std::cmp::Reverse(backlog(row)));
    }
    match output {
        OutputFormat::Json => rows.iter().try_for_each(|row| print_line(to_json(row))),
        OutputFormat::Text if rows.is_empty() => print_line(match query {
            AdminQuery::Slow => "no function holds a source back",
            _ => "none",
        }),
        OutputFormat::Text => table(&rows).iter().try_for_each(print_line),
    }
}

pub(crate) fn reload(args: &StatusArgs, output: OutputFormat) -> Result<(), CommandError> {
    let rows = request(&args.connection, AdminQuery::Reload)?;
    if output == OutputFormat::Json {
        return rows.iter().try_for_each(|row| print_line(to_json(row)));
    }
    if rows.is_empty() {
        return print_line("nothing has changed");
    }
    rows.iter().try_for_each(|row| {
        let setting = row
            .get("setting")
            .map_or_else(String::new, |it| to_text("", it));
        print_line(match row.get("applied") {
            Some(AdminValue::Flag(true)) => format!("{setting}: in use"),
            _ => format!("{setting}: in use after a restart"),
        })
    })
}

fn request(connection: &ConnectionArgs, query: AdminQuery) -> Result<Vec<AdminRow>, CommandError> {
    let name = format!("zipper-ls-{query}");
    let client = connection.connect(|zippers| ClientOptions::source(name, zippers))?;
    let mut operator = AdminClient::from(client);
    let rows = operator.list(query, ANSWER_MAX)?;
    let _uncertain = operator.client().close(CLOSE_MAX);
    Ok(rows)
}

fn backlog(row: &AdminRow) -> u64 {
    let bytes = |name| match row.get(name) {
        Some(AdminValue::Number(bytes)) => *bytes,
        _ => 0,
    };
    bytes("queued_bytes").saturating_add(bytes("unacknowledged_bytes"))
}

/// A table whose columns are the fields of all rows, in their order.
fn table(rows: &[AdminRow]) -> Vec<String> {
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.fields) {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let cell = |row: &AdminRow, name: &str| {
        row.get(name)
            .map_or_else(String::new, |value| to_text(name, value))
    };
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|name| heading(name)).collect()];
    lines.extend(
        rows.iter()
            .map(|row| columns.iter().map(|name| cell(row, name)).collect()),
    );
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let lines = lines.iter().map(|cells| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _infallible = write!(line, "{cell:<width$}  ");
        }
        line.truncate(line.trim_end().len());
        line
    });
    lines.collect()
}

/// The name of a field without its unit, which [`to_text`] appends to the value.
fn heading(name: &str) -> String {
    let without_unit = name
        .strip_suffix("_bytes")
        .or_else(|| name.strip_suffix("_ms"));
    without_unit.unwrap_or(name).replace('_', " ")
}

/// A value for people. Names are chosen by clients: control characters are escaped.
fn to_text(name: &str, value: &AdminValue) -> String {
    match value {
        AdminValue::Number(bytes) if name.ends_with("_bytes") => size(*bytes),
        AdminValue::Number(millis) if name.ends_with("_ms") => {
            format!("{}.{} s", millis / 1000, millis % 1000 / 100)
        }
        AdminValue::Number(number) => number.to_string(),
        AdminValue::Text(text) => escape(text),
        AdminValue::Flag(true) => "yes".into(),
        AdminValue::Flag(false) => "no".into(),
        AdminValue::Node(node) => format!("{:#}", NodeId::new(*node)),
        AdminValue::Tags(tags) => join(tags.iter().map(Tag::to_string)),
        AdminValue::Nodes(nodes) => {
            join(nodes.iter().map(|node| format!("{:#}", NodeId::new(*node))))
        }
        AdminValue::Texts(texts) => join(texts.iter().map(|text| escape(text))),
    }
}

fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c.is_control() {
            true => c.escape_default().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn join(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(LISTED_MAX);
    let mut shown: Vec<String> = items.take(LISTED_MAX).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}

fn to_json(row: &AdminRow) -> Value {
    let value = |value: &AdminValue| match value {
        AdminValue::Number(number) => Value::from(*number),
        AdminValue::Text(text) => Value::from(text.as_str()),
        AdminValue::Flag(flag) => Value::from(*flag),
        AdminValue::Node(node) => Value::from(NodeId::new(*node).to_string()),
        AdminValue::Tags(tags) => tags.iter().map(Tag::to_string).collect(),
        AdminValue::Nodes(nodes) => {
            let nodes = nodes.iter();
            nodes.map(|node| NodeId::new(*node).to_string()).collect()
        }
        AdminValue::Texts(texts) => texts.iter().map(String::as_str).collect(),
    };
    let fields = row.fields.iter();
    let fields: Map<String, Value> = fields
        .map(|(name, field)| (name.clone(), value(field)))
        .collect();
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_a_table_with_a_column_for_each_field() {
        let mut first = AdminRow::default();
        first.push("name", AdminValue::Text("a\u{1b}[31m\n".into()));
        first.push("queued_bytes", AdminValue::Number(1536));
        let mut second = AdminRow::default();
        second.push("name", AdminValue::Text("ü".into()));
        second.push("queued_bytes", AdminValue::Number(7));
        second.push("away_ms", AdminValue::Number(1250));
        let expected = [
            "name           queued   away",
            "a\\u{1b}[31m\\n  1.5 KiB",
            "ü              7 B      1.2 s",
        ];
        assert_eq!(table(&[first, second]), expected);
        assert_eq!(table(&[]), [""]);
    }

    #[test]
    fn values_are_shown_with_units_and_long_lists_are_cut() {
        let tags = AdminValue::Tags((1..=6).map(Tag).collect());
        let cut = "0x0001, 0x0002, 0x0003, 0x0004, 2 more";
        assert_eq!(to_text("tags", &tags), cut);
        let mut row = AdminRow::default();
        row.push("tags", tags);
        row.push("connected", AdminValue::Flag(false));
        let json =
            r#"{"connected":false,"tags":["0x0001","0x0002","0x0003","0x0004","0x0005","0x0006"]}"#;
        assert_eq!(to_json(&row).to_string(), json);
        assert_eq!(to_text("connected", &AdminValue::Flag(true)), "yes");
        let bytes = |bytes| to_text("queued_bytes", &AdminValue::Number(bytes));
        assert_eq!([bytes(1023), bytes(16 << 20)], ["1023 B", "16.0 MiB"]);
        let node = AdminValue::Node([0xab; 32]);
        assert_eq!(to_text("node", &node), "ab".repeat(5));
    }
}
