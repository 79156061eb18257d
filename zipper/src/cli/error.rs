//! Failure of a command, for people and for programs.
//!
//! With `--output json` it is one line on stderr:
//! `{"error": {"kind", "exit", "side", "retry", "message", "details"}}`. [`ErrorKind`] lists the
//! kinds; `details` has one object for each problem of a configuration and is absent otherwise.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::process::ExitCode;

use selvedge_client::{AdminError, ConnectError};
use selvedge_hub::HubError;
use selvedge_zipper::config::{ConfigError, ConfigProblem};
use selvedge_zipper::zipper::ZipperError;
use serde_json::{Value, json};

use crate::cli::OutputFormat;

/// Kinds of failures, with exit code, responsible side, and whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The configuration is wrong.
    Configuration,
    /// No zipper can be reached.
    Connect,
    /// The connection to the zipper ended.
    Disconnected,
    /// A second signal forced the end, and messages may be lost.
    Forced,
    /// The WebAssembly function cannot be used.
    Function,
    /// The input cannot be read or is malformed.
    Input,
    /// The program failed: a bug.
    Internal,
    /// The zipper cannot listen.
    Listen,
    /// The output cannot be written.
    Output,
    /// The zipper refused the client.
    Rejected,
    /// The operating system refused a resource.
    System,
    /// Not everything was delivered in time, and messages may be lost.
    Undelivered,
    /// The command line is wrong.
    Usage,
}

impl ErrorKind {
    /// Name, exit code, side that has to act, and whether the same command can succeed later.
    const fn describe(self) -> (&'static str, u8, &'static str, bool) {
        match self {
            Self::Configuration => ("configuration", 2, "caller", false),
            Self::Connect => ("connect", 3, "zipper", true),
            Self::Disconnected => ("disconnected", 1, "zipper", true),
            Self::Forced => ("forced", 130, "caller", false),
            Self::Function => ("function", 5, "caller", false),
            Self::Input => ("input", 1, "caller", false),
            Self::Internal => ("internal", 1, "program", false),
            Self::Listen => ("listen", 3, "system", true),
            Self::Output => ("output", 1, "system", false),
            Self::Rejected => ("rejected", 4, "caller", false),
            Self::System => ("system", 1, "system", true),
            Self::Undelivered => ("undelivered", 1, "zipper", false),
            Self::Usage => ("usage", 2, "caller", false),
        }
    }
}

/// Failure of a command.
#[derive(Debug)]
pub(crate) struct CommandError {
    kind: ErrorKind,
    message: String,
    config: Option<ConfigError>,
    is_silent: bool,
}

impl CommandError {
    pub(crate) fn new(kind: ErrorKind, message: impl Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
            config: None,
            is_silent: false,
        }
    }

    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    pub(crate) fn function(message: impl Display) -> Self {
        Self::new(ErrorKind::Function, message)
    }

    pub(crate) fn input(message: impl Display) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    pub(crate) fn internal(message: impl Display) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub(crate) fn system(message: impl Display) -> Self {
        Self::new(ErrorKind::System, message)
    }

    pub(crate) fn disconnected(message: impl Display) -> Self {
        Self::new(ErrorKind::Disconnected, message)
    }

    /// The operating system did not start a thread.
    pub(crate) fn thread(error: io::Error) -> Self {
        Self::system(format!("cannot start a thread: {error}"))
    }

    /// Messages may be lost after a graceful or a forced shutdown.
    pub(crate) fn lost(is_forced: bool, message: impl Display) -> Self {
        let kind = match is_forced {
            true => ErrorKind::Forced,
            false => ErrorKind::Undelivered,
        };
        Self::new(kind, message)
    }

    /// A write to stdout failed. A closed pipe is no error: its reader has ended.
    pub(crate) fn output(error: io::Error) -> Self {
        let is_silent = error.kind() == io::ErrorKind::BrokenPipe;
        let message = format!("cannot write the output: {error}");
        Self {
            is_silent,
            ..Self::new(ErrorKind::Output, message)
        }
    }

    /// Prints the error on stderr and returns the exit code.
    pub(crate) fn report(&self, output: OutputFormat) -> ExitCode {
        if self.is_silent {
            return ExitCode::SUCCESS;
        }
        let (_, exit, ..) = self.kind.describe();
        let text = match output {
            OutputFormat::Text => self.to_text(),
            OutputFormat::Json => self.to_json().to_string(),
        };
        // The exit code remains if stderr is closed.
        let _unread = writeln!(io::stderr(), "{text}");
        exit.into()
    }

    fn to_text(&self) -> String {
        match &self.config {
            Some(config) => config.render(),
            None => format!("zipper: {}", self.message),
        }
    }

    fn to_json(&self) -> Value {
        let (kind, exit, side, retry) = self.kind.describe();
        let mut error = json!({
            "kind": kind, "exit": exit, "side": side, "retry": retry, "message": self.message,
        });
        if let Some(config) = &self.config {
            let detail = |problem: &ConfigProblem| {
                let (line, column) = problem.position.unzip();
                json!({
                    "origin": problem.origin, "line": line, "column": column,
                    "message": problem.message,
                })
            };
            error["details"] = config.problems().iter().map(detail).collect();
        }
        json!({ "error": error })
    }
}

impl Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self {
            config: Some(error.clone()),
            ..Self::new(ErrorKind::Configuration, error)
        }
    }
}

impl From<ConnectError> for CommandError {
    fn from(error: ConnectError) -> Self {
        let kind = match error {
            ConnectError::NoAddress
            | ConnectError::Wire(_)
            | ConnectError::Hub(HubError::UnknownScheme(_) | HubError::Address { .. }) => {
                ErrorKind::Usage
            }
            ConnectError::Rejected { .. } => ErrorKind::Rejected,
            _ => ErrorKind::Connect,
        };
        Self::new(kind, error)
    }
}

impl From<AdminError> for CommandError {
    fn from(error: AdminError) -> Self {
        let kind = match error {
            AdminError::Unsupported | AdminError::Refused { .. } => ErrorKind::Rejected,
            _ => ErrorKind::Disconnected,
        };
        Self::new(kind, error)
    }
}

impl From<ZipperError> for CommandError {
    fn from(error: ZipperError) -> Self {
        Self::new(ErrorKind::Listen, error)
    }
}
