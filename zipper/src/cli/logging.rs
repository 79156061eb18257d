//! Logs on stderr: level, filter and format.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use clap::ValueEnum;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::cli::OutputFormat;

/// Format of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line: timestamp, level, target, message and the fields of the event.
    Json,
}

impl From<OutputFormat> for LogFormat {
    fn from(output: OutputFormat) -> Self {
        match output {
            OutputFormat::Text => Self::Text,
            OutputFormat::Json => Self::Json,
        }
    }
}

/// Changes the filter of a program that logs.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Changes the level of logs; the default is that of `zipper serve`.
pub(crate) fn set_level(level: Option<LevelFilter>) {
    let filter = Targets::new().with_default(level.unwrap_or(LevelFilter::INFO));
    if let Some(Err(error)) = FILTER.get().map(|handle| handle.reload(filter)) {
        tracing::error!(%error, "cannot change the log level");
    }
}

/// Starts to write logs to stderr.
pub(crate) fn start(filter: Targets, format: LogFormat) {
    // A failed write is ignored: by default it is printed on stderr, which panics if stderr is a
    // closed pipe.
    let layer = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false);
    let (filter, handle) = reload::Layer::new(filter);
    let _set_once = FILTER.set(handle);
    let logs = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => logs.with(layer.with_target(false)).init(),
        LogFormat::Json => logs.with(layer.json().flatten_event(true)).init(),
    }
}

/// Parses `level` or `level,module=level,...`.
pub(crate) fn filter(text: &str) -> Result<Targets, String> {
    let level = |text: &str| {
        text.parse::<LevelFilter>().map_err(|_| {
            "expected off, error, warn, info, debug or trace, or a filter such as \
             info,selvedge_hub=debug"
        })
    };
    let mut targets = Targets::new();
    for directive in text.split(',').map(str::trim) {
        targets = match directive.split_once('=') {
            Some((module, text)) => targets.with_target(module.trim(), level(text.trim())?),
            None => targets.with_default(level(directive)?),
        };
    }
    Ok(targets)
}
