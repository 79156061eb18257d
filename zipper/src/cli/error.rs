//! Failure of a command, with the exit code that identifies it to programs.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use selvedge_client::ConnectError;
use selvedge_zipper::zipper::ZipperError;

/// Failure of a command.
#[derive(Debug)]
pub(crate) struct CommandError {
    code: u8,
    message: String,
}

impl CommandError {
    /// The command failed while it ran.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self::new(1, message)
    }

    /// The operating system did not start a thread.
    pub(crate) fn thread(error: io::Error) -> Self {
        Self::failed(format!("cannot start a thread: {error}"))
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(2, message)
    }

    /// The WebAssembly function cannot be used.
    pub(crate) fn function(message: impl Display) -> Self {
        Self::new(5, message)
    }

    /// Messages are lost at the end, after a graceful or a forced shutdown.
    pub(crate) fn lost(is_forced: bool, message: impl Display) -> Self {
        match is_forced {
            true => Self::new(130, message),
            false => Self::failed(message),
        }
    }

    /// A write to stdout failed. A closed pipe is no error: its reader has ended.
    pub(crate) fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(0, ""),
            _ => Self::failed(format!("cannot write the output: {error}")),
        }
    }

    fn new(code: u8, message: impl Display) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }

    /// Prints the error on stderr and returns the exit code.
    #[allow(clippy::print_stderr, reason = "errors are shown here")]
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("zipper: {}", self.message);
        }
        self.code.into()
    }
}

impl From<ConnectError> for CommandError {
    fn from(error: ConnectError) -> Self {
        let code = match error {
            ConnectError::NoAddress | ConnectError::Wire(_) => 2,
            ConnectError::Rejected { .. } => 4,
            _ => 3,
        };
        Self::new(code, error)
    }
}

impl From<ZipperError> for CommandError {
    fn from(error: ZipperError) -> Self {
        Self::new(3, error)
    }
}
