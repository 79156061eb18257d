//! Why a command ends, with the exit code that says so to programs.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use selvedge_client::ConnectError;
use selvedge_zipper::zipper::ZipperError;

/// A failure, for people and programs.
#[derive(Debug)]
pub(crate) struct Fault {
    code: u8,
    message: String,
}

impl Fault {
    /// It failed on the way.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self::new(1, message)
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(2, message)
    }

    /// The WebAssembly function cannot be used.
    pub(crate) fn function(message: impl Display) -> Self {
        Self::new(5, message)
    }

    /// Something is lost at the end, which was waited for or given up.
    pub(crate) fn lost(is_given_up: bool, message: impl Display) -> Self {
        match is_given_up {
            true => Self::new(130, message),
            false => Self::failed(message),
        }
    }

    /// Whoever read the output has gone: no fault of anybody, and nobody to tell.
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

    /// Tells it, and gives the exit code.
    #[allow(clippy::print_stderr, reason = "this is where errors are shown")]
    pub(crate) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("zipper: {}", self.message);
        }
        self.code.into()
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        let code = match error {
            ConnectError::NoAddress | ConnectError::Wire(_) => 2,
            ConnectError::Rejected { .. } => 4,
            _ => 3,
        };
        Self::new(code, error)
    }
}

impl From<ZipperError> for Fault {
    fn from(error: ZipperError) -> Self {
        Self::new(3, error)
    }
}
